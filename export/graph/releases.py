"""The oldest ONNX Runtime and Triton that can open a file, by its IR version and its opset.

The table is in one place, here. The limits of ONNX Runtime are what its packages accept: ``python -m tests.runtimes
--limits`` opens a small model for each IR version and opset. Triton's column has only releases whose ONNX Runtime is
documented: from 24.04 on by docs/introduction/compatibility.md of triton-inference-server/server, 23.12 by build.py
there (1.16.3), 23.04 by README.md of triton-inference-server/onnxruntime_backend (1.14.1). Earlier ones may open the
files, too. Imports only the standard library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """A release of ONNX Runtime, what it accepts at most, and the first Triton documented to have it or a later one."""

    onnxruntime: str
    ir: int
    opset: int
    triton: str | None
    """None: no Triton is documented to have it."""


RELEASES = (
    Release("1.13", 8, 17, "23.04"),
    Release("1.14", 8, 18, "23.04"),
    Release("1.15", 9, 18, "23.12"),
    Release("1.16", 9, 19, "23.12"),
    Release("1.17", 9, 20, "24.04"),
    Release("1.18", 10, 21, "24.05"),
    Release("1.21", 10, 22, "25.03"),
    Release("1.23", 11, 23, "25.09"),
    Release("1.24", 13, 25, "26.02"),
    Release("1.26", 13, 26, "26.07"),
    Release("1.32", 14, 28, None),
)
"""Oldest first. Releases that accept no more than the one before are left out."""

OLDEST_FLAGS = f"dcp-deploy export --ir {RELEASES[0].ir} --opset {RELEASES[0].opset}"
"""What makes a file for the oldest releases; also what export does without flags."""

_TOO_NEW = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_OPSET = re.compile(r"Opset (\d+) is under development.*till opset (\d+)", re.DOTALL)


def oldest_release(ir: int, opset: int) -> Release | None:
    """Return the oldest release that opens a file of this IR version and opset; None if it is newer than the table."""
    return next((one for one in RELEASES if one.ir >= ir and one.opset >= opset), None)


def release_of(onnxruntime: str) -> Release | None:
    """Return what a version of ONNX Runtime such as "1.22.1" accepts, by the table; None if it is older than that."""
    numbers = _numbers(onnxruntime)
    return next((one for one in reversed(RELEASES) if _numbers(one.onnxruntime) <= numbers), None)


def shortfall(onnxruntime: str, ir: int, opset: int) -> tuple[str, str] | None:
    """Return why a version of ONNX Runtime does not open such a file, and the remedy; None if it does or may."""
    have, needed = release_of(onnxruntime), oldest_release(ir, opset)
    if have is None or needed is None or (ir <= have.ir and opset <= have.opset):
        return None
    return (
        f"it has IR version {ir} and opset {opset}, and onnxruntime {onnxruntime} reads at most {have.ir} "
        f"and {have.opset}",
        f"Install onnxruntime {needed.onnxruntime} or later there, or export the generator again: {OLDEST_FLAGS}.",
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def runtime_words(ir: int, opset: int) -> str:
    """Return a phrase such as "ONNX Runtime 1.13 and Triton 23.04, or later"."""
    release = oldest_release(ir, opset)
    if release is None:
        return f"an ONNX Runtime newer than {RELEASES[-1].onnxruntime}"
    if release.triton is None:
        return f"ONNX Runtime {release.onnxruntime} or later"
    return f"ONNX Runtime {release.onnxruntime} and Triton {release.triton}, or later"


def too_new(reason: str) -> tuple[str, str] | None:
    """Return what an error of ONNX Runtime about versions means, and what to do; None for any other error.

    Both are whole sentences without the name of the file. A server's answers and its log quote the same errors.
    """
    if found := _TOO_NEW.search(reason):
        ir, most = map(int, found.groups())
        words, needed = f"IR version {ir}, and this ONNX Runtime reads up to {most}", (ir, RELEASES[0].opset)
    elif found := _OPSET.search(reason):
        opset, most = map(int, found.groups())
        words, needed = f"opset {opset}, and this ONNX Runtime knows up to {most}", (RELEASES[0].ir, opset)
    else:
        return None
    return (
        f"The file has {words}.",
        f"Use {runtime_words(*needed)}; or export the generator again, for older ones: {OLDEST_FLAGS}.",
    )
