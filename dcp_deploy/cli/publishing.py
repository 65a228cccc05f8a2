"""The verb that publishes a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DryRun, option
from .output import Output
from .verb import verb


@verb()
def push(
    output: Output,
    run: Annotated[Path, typer.Argument(help="A run directory of build.")],
    repository: Annotated[str, typer.Argument(help="Where to publish it: hf://OWNER/NAME, or hf://OWNER/NAME@BRANCH.")],
    public: Annotated[bool, option("Make a new repository public. By default it is private.", "--public")] = False,
    dry_run: DryRun = False,
) -> None:
    """Publish a student on the Hugging Face Hub: network, ONNX file, figures, and a card with the licence.

    The teacher's weights are never sent. HF_TOKEN holds the token, HF_ENDPOINT another server's address.

    Example: dcp-deploy push build/demo hf://OWNER/NAME --dry-run
    """
    from ..report.text import size
    from ..shipping.publishing import publication_of, publish
    from ..teachers.hub import parse_repository

    address = parse_repository(repository)
    publication = publication_of(run, address)
    files = publication.facts()
    listed = [f"{file['name']} ({size(file['bytes'])})" for file in files]
    facts = {"repository": str(address), "licence": publication.licence, "files": files}
    if dry_run:
        words = f"push would send README.md, {', '.join(listed)} to {address}; licence: {publication.licence}"
        output.result({**facts, "commit": None, "url": None}, words)
        return
    output.message(f"sending README.md, {', '.join(listed)} to {address}; licence: {publication.licence}")
    sent = publish(publication, address, public=public)
    output.result({**facts, **sent}, sent["url"])
