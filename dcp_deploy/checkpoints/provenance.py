"""The story of a file: where its weights come from, their licence, and what made it.

``build`` and the single verbs write the same story: into the ``extra`` of native files, into ONNX metadata and into
layouts of other code. It names no folder, machine or time, so equal work gives equal bytes. The entries, as JSON:

    licence, licence_source   the terms of the weights, and what states them
    source                    of a converted file: the original's name, format, sha256 and notes
    teacher                   of a student: the file that it was pruned from, with its ``tensors_sha256``
    pruning                   plan, scores and refinement
    distillation              recipe and further settings; ``teacher`` in it only if it was not the one above

A student does not inherit other facts of its teacher's file, such as measured quality.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..files import sha256_file
from ..version import __version__
from .checkpoint import Checkpoint
from .pickles.values import printable

UNKNOWN_LICENCE = (
    "unknown: the file that the weights come from states none, and its author's terms apply (NVIDIA's networks, "
    "converted ones too: research or evaluation only)"
)
"""The statement wherever no licence is known."""

_STORY = ("teacher", "pruning", "distillation")


def tensors_sha256(network: nn.Module) -> str:
    """Return the identity of a network: the hex sha256 over its tensors, sorted by name, each with type and shape.

    It does not depend on the file: a network that was converted without loss has the same. The config does not enter,
    because other layouts leave out entries of it that no tensor depends on.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ---- licence ----


def licence_of(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> dict[str, str]:
    """Return ``licence`` and ``licence_source`` of a checkpoint that was read from ``path``.

    Without a known licence the first is UNKNOWN_LICENCE, and the second is missing.
    """
    story, file = checkpoint.story, Path(path).name
    terms = stated_licence(story) or checkpoint.licence
    if terms is None or terms == UNKNOWN_LICENCE:
        return {"licence": UNKNOWN_LICENCE}
    source = story.get("licence_source")
    if not isinstance(source, str):
        source = file if stated_licence(story) else f"the format of {file} ({checkpoint.format})"
    return {"licence": terms, "licence_source": source}


def stated_licence(story: Mapping[str, Any]) -> str | None:
    """Return the licence in a story, or in one of an older release; None if it holds none."""
    source = story.get("source")
    older = source.get("licence") if isinstance(source, Mapping) else None
    return next((terms for terms in (story.get("licence"), older) if isinstance(terms, str) and terms), None)


# ---- stories ----


def full_story(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the story of a checkpoint that was read from ``path``, always with its licence."""
    return {**checkpoint.story, **licence_of(checkpoint, path)}


def provenance(
    checkpoint: Checkpoint, path: str | os.PathLike[str], *, published: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Return the story of a converted generator: that of the file, with the file as ``source`` and its licence.

    A story that has a source keeps it, so that converting twice loses nothing. ``published`` are the terms that the
    preset of a file states, and the page; a licence inside the file goes before them, and they before a format's.
    """
    story = dict(checkpoint.story)
    if "source" not in story:
        facts = {} if checkpoint.format == "native" else checkpoint.extra
        story["source"] = {**_original(checkpoint, path), "notes": list(checkpoint.notes), **facts}
        story["source"].pop("provenance", None)
    if published is not None and stated_licence(checkpoint.story) is None:
        return {**story, **dict(zip(("licence", "licence_source"), published, strict=True))}
    return {**story, **licence_of(checkpoint, path)}


def pruned_story(teacher: Checkpoint, path: str | os.PathLike[str], pruning: Mapping[str, Any]) -> dict[str, Any]:
    """Return the story of a generator that was pruned from the one that was read from ``path``."""
    return {**licence_of(teacher, path), "teacher": _teacher(teacher, path), "pruning": {**pruning, **_versions()}}


def distilled_story(
    student: Checkpoint, teacher: Checkpoint, path: str | os.PathLike[str], distillation: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the story of a distilled ``student``, whose ``teacher`` was read from ``path``.

    If the student was pruned from another generator, the licences of both hold.
    """
    own, used, terms = student.story, _teacher(teacher, path), dict(licence_of(teacher, path))
    recorded, step = teacher_of(student), {**distillation, **_versions()}
    pruned_from = recorded or used
    if pruned_from["tensors_sha256"] != used["tensors_sha256"]:
        step["teacher"] = used
        terms = {name: _both(own.get(name), terms.get(name)) for name in ("licence", "licence_source")}
    elif recorded and stated_licence(own):  # the same teacher, perhaps in a file of another name
        terms = {name: own[name] for name in ("licence", "licence_source") if isinstance(own.get(name), str)}
    story = {**terms, "teacher": pruned_from, "pruning": own.get("pruning"), "distillation": step}
    return {name: value for name, value in story.items() if value}


def teacher_of(student: Checkpoint) -> dict[str, Any] | None:
    """Return what a student records of the teacher that it was pruned from; None if it records none."""
    teacher = student.story.get("teacher")
    return teacher if isinstance(teacher, dict) and isinstance(teacher.get("tensors_sha256"), str) else None


def check_teacher(
    student: Checkpoint,
    student_path: str | os.PathLike[str],
    teacher: Checkpoint,
    teacher_path: str | os.PathLike[str],
    *,
    force: bool = False,
) -> str | None:
    """Return a sentence for the user if the student's teacher cannot be checked, or is another one and ``force`` is on.

    Networks are compared by their tensors, so a converted teacher is the same. Raises UsageError for another teacher.
    """
    recorded, name = teacher_of(student), Path(student_path).name
    if recorded is None:
        return f"{name} does not record which teacher it was pruned from, so --teacher is not checked"
    given = tensors_sha256(teacher.generator)
    if recorded["tensors_sha256"] == given:
        return None
    message = (
        f"{name} was pruned from {printable(str(recorded.get('file')))} "
        f"(tensors {printable(recorded['tensors_sha256'][:12])}), "
        f"not from {Path(teacher_path).name} (tensors {given[:12]})"
    )
    if force:
        return f"{message}; --force-teacher takes it nevertheless"
    raise UsageError(message, "Give the teacher that it was pruned from, or --force-teacher to distil from this one.")


def as_texts(story: Mapping[str, Any]) -> dict[str, str]:
    """Return a story as metadata of an ONNX file: texts, with nested entries as JSON; the source is left out."""
    words = {"licence": stated_licence(story) or UNKNOWN_LICENCE, "licence_source": story.get("licence_source")}
    nested = {name: json.dumps(story[name], sort_keys=True) for name in _STORY if isinstance(story.get(name), dict)}
    return {**{name: text for name, text in words.items() if isinstance(text, str)}, **nested}


def of_texts(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the story in an ONNX file's metadata. An entry that is not JSON is left out."""
    story: dict[str, Any] = {name: metadata[name] for name in ("licence", "licence_source") if name in metadata}
    return {**story, **{name: value for name in _STORY if (value := _object(metadata.get(name))) is not None}}


def story_in(value: Any) -> dict[str, Any]:
    """Return the story that ``convert --to`` wrote beside the weights of another layout; empty without one."""
    places = (value, getattr(value, "attributes", None))
    texts = (place.get("provenance") for place in places if isinstance(place, dict))
    return next((story for text in texts if (story := _object(text)) is not None), {})


def _object(text: Any) -> dict[str, Any] | None:
    try:
        # int refuses NaN and Infinity, which are not JSON, with a ValueError.
        value = json.loads(text, parse_constant=int) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _original(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return name, format and sha256 of the file that a generator first came in."""
    source = checkpoint.story.get("source")
    if isinstance(source, Mapping):
        return {name: source[name] for name in ("file", "format", "sha256") if name in source}
    return {"file": Path(path).name, "format": checkpoint.format, "sha256": sha256_file(path)}


def _teacher(teacher: Checkpoint, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a student records of its teacher, with the teacher's own teacher if it has one."""
    own = teacher_of(teacher)
    facts = {**_original(teacher, path), "tensors_sha256": tensors_sha256(teacher.generator)}
    return facts if own is None else {**facts, "teacher": own}


def _both(first: Any, second: Any) -> str:
    return "; ".join(dict.fromkeys(text for text in (first, second) if isinstance(text, str)))


def _versions() -> dict[str, Any]:
    return {"versions": {"dcp-deploy": __version__, "torch": torch.__version__}}
