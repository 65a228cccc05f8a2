"""Publish a finished run on the Hugging Face Hub: the student, its records, and its card with the licence.

The teacher's weights never leave this machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import sha256_file
from ..teachers.hub import HubAddress, hub_api, hub_errors, require_hub
from .contents import finished_run
from .model_card import card_of_run

CARD = "README.md"
NEEDED = ("student.safetensors", "student.onnx")
RECORDS = ("parity.json", "metrics.json", "bench.json")
# Licences that the Hub knows by an identifier; all others are "other" with our words as the name.
_KNOWN = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc0-1.0")


@dataclass(frozen=True)
class Publication:
    """What a run publishes: file name in the repository -> local file, and the card."""

    files: Mapping[str, Path]
    card: str
    licence: str

    def facts(self) -> list[dict[str, Any]]:
        """Return name, bytes and sha256 of each file, the card left out."""
        return [
            {"name": name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for name, path in self.files.items()
        ]


def publication_of(run: Path, repository: HubAddress) -> Publication:
    """Gather what ``push`` sends of a run directory.

    Raises InputError if ``run`` is not a finished run, its export did not pass the parity gate, or a file is missing.
    """
    from ..checkpoints import read_checkpoint
    from ..checkpoints.provenance import full_story, licence_of

    facts = finished_run(run)
    missing = [name for name in NEEDED if not (run / name).is_file()]
    if missing:
        raise InputError(f"{run} lacks {missing[0]}", "Run the same dcp-deploy build again.")
    student = read_checkpoint(run / NEEDED[0])
    story = full_story(student, run / NEEDED[0])
    licence = licence_of(student, run / NEEDED[0])["licence"]
    name = repository.repository.partition("/")[2]
    return Publication(
        files={name: run / name for name in (*NEEDED, *RECORDS) if (run / name).is_file()},
        card=f"---\n{_front_matter(licence)}---\n\n{card_of_run(name, run, facts, story)}{_usage(repository)}",
        licence=licence,
    )


def publish(publication: Publication, repository: HubAddress, *, public: bool) -> dict[str, Any]:
    """Send everything in one commit. A repository that does not exist is made, private unless ``public``.

    Returns the commit and the address of its page. Raises MissingCapabilityError if the Hub refuses, cannot be
    reached, or needs a token; the repository is then as it was.
    """
    require_hub(str(repository))
    from huggingface_hub import CommitOperationAdd

    api, place = hub_api(), str(repository)
    with hub_errors(place, "Nothing was published."), tempfile.TemporaryDirectory() as folder:
        card = Path(folder) / CARD
        card.write_text(publication.card, encoding="utf-8")
        files = {CARD: card, **publication.files}
        if not api.repo_exists(repository.repository):
            api.create_repo(repository.repository, private=not public)
        commit = api.create_commit(
            repository.repository,
            [CommitOperationAdd(name, str(path)) for name, path in files.items()],
            commit_message="Upload a student made by dcp-deploy",
            revision=repository.revision,
        )
    return {"commit": commit.oid, "url": commit.commit_url}


def _front_matter(licence: str) -> str:
    """Return the card's metadata as YAML."""
    require_hub("the card's metadata")
    from huggingface_hub import ModelCardData

    identifier = licence.lower().replace(" ", "-")
    known = identifier in _KNOWN
    data = ModelCardData(
        library_name="dcp-deploy",
        pipeline_tag="unconditional-image-generation",
        tags=["stylegan", "pruning", "distillation", "onnx"],
        license=identifier if known else "other",
        license_name=None if known else licence,
    )
    return f"{data.to_yaml()}\n"


def _usage(repository: HubAddress) -> str:
    return (
        "\n## Use\n\n"
        f"    dcp-deploy sample {repository}/student.safetensors --out sample.png\n\n"
        "`student.onnx` runs in every ONNX runtime.\n"
    )
