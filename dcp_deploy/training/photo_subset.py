"""A zip file with some classes of a set of images, for training, ``build --data`` and ``eval --data``."""

from __future__ import annotations

import filecmp
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..datasets.containers import LABELS, open_container
from ..errors import UsageError, choose
from ..files import atomic_path


def subset(data: Path, classes: Sequence[str], target: Path) -> None:
    """Make ``target`` with the classes of ``data``, or keep it if it has the same images already.

    Raises UsageError if it has others, and what :func:`write_subset` raises.
    """
    if not target.exists():
        write_subset(data, classes, target)
        return
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / target.name
        write_subset(data, classes, wanted)
        if not filecmp.cmp(wanted, target, shallow=False):
            raise UsageError(
                f"{target} holds other images than the classes {', '.join(classes)} of {data}",
                "Give the data and the classes with which it was made, or choose another --out.",
            )


def write_subset(data: Path, classes: Sequence[str], target: Path) -> None:
    """Copy the images of ``data`` in the folders ``classes`` into a zip file, as they are, labelled 0, 1, ...

    The same images give the same bytes. Raises UsageError for an unknown or repeated class, and what opening
    the set raises.
    """
    container = open_container(data)
    folders = [PurePosixPath(name).parent.name for name in container.names]
    known = sorted(set(folders) - {""})
    if not known:
        raise UsageError(f"{data} has no folders of classes", "Leave --classes out to train on all images.")
    for name in classes:
        if name not in known:
            raise UsageError(f"{data} has no class {name!r}", choose(name, known))
    if len(set(classes)) < len(classes):
        raise UsageError(f"--classes names one twice: {', '.join(classes)}", "Name each class once.")
    number = {name: index for index, name in enumerate(classes)}
    chosen = [index for index, folder in enumerate(folders) if folder in number]
    labels = [[container.names[index], number[folders[index]]] for index in chosen]
    with atomic_path(target) as path, zipfile.ZipFile(path, "w") as file:
        for index in chosen:
            file.writestr(zipfile.ZipInfo(container.names[index]), container.read(index))
        file.writestr(zipfile.ZipInfo(LABELS), json.dumps({"labels": labels}))
