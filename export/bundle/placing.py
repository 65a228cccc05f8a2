"""Put a bundle in its place, whole or not at all, without losing what is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import InputError, UsageError
from ...files import exchange, inputs_in, scratch_folder
from ..integrity import ARCHIVE, SEAL, check_bundle, pack


def place_bundle(
    out: str | os.PathLike[str], fill: Callable[[Path], dict[str, Any]], *, force: bool = False
) -> dict[str, Any]:
    """Let ``fill`` write a sealed folder, move it to ``out``, a folder or ``*.tar.zst``, and return its manifest.

    An earlier bundle is replaced. UsageError for an ``out`` that holds something else; ``force`` replaces such a
    folder.
    """
    out = Path(os.path.realpath(out))  # so that a bundle goes through a link
    _check_replaceable(out, force=force)
    with scratch_folder(out) as temporary:
        folder = temporary / out.name.removesuffix(ARCHIVE)
        folder.mkdir()
        manifest = fill(folder)
        if out.name.endswith(ARCHIVE):
            pack(folder, out)
        elif out.exists():
            exchange(folder, out)
        else:
            folder.replace(out)
    return manifest


def _check_replaceable(out: Path, *, force: bool) -> None:
    """Raise UsageError unless ``out`` is new, or an earlier bundle as it was made: then no file of the user's is lost.

    ``force`` accepts other folders too, but none with an input of the command, and none that the user works in.
    """
    if out.name == ARCHIVE:
        raise UsageError(f"{out} has no name before {ARCHIVE}", f"Write for example faces{ARCHIVE}.")
    if out.is_dir() and (inside := inputs_in(out)):
        raise UsageError(f"{inside[0]} would be lost: it is in {out}, which is replaced", "Give another place.")
    if out.is_dir() and any(Path(used).resolve().is_relative_to(out) for used in (Path.cwd(), Path.home())):
        raise UsageError(f"{out} is the folder that you work in, or one above it", "Give another place.")
    if out.is_dir() and any(out.iterdir()) and not force:
        remedy = "Give a new name, or replace the folder and all that is in it with --force."
        if not (out / SEAL).is_file():
            raise UsageError(f"{out} is a folder with other things in it", remedy)
        try:
            check_bundle(out)
        except InputError as error:
            raise UsageError(f"{out} is an earlier bundle with changes: {error.message}", remedy) from error
    packed = out.name.endswith(ARCHIVE)
    if (out.is_dir() and packed) or (out.is_file() and not packed):
        raise UsageError(f"{out} exists and is something else", f"Give a folder's name, or one ending in {ARCHIVE}.")
