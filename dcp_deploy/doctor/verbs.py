"""What each verb can do on this machine, from the findings of the probes. Imports only the standard library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "limited", "missing"]

_BASE = ("Python", "torch", "base packages")
_NO_ONNX = {"ONNX Runtime": "no ONNX files and bundles"}

# Capabilities that a verb cannot work without; "A or B" needs one of the two.
NEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("build", "sweep"), (*_BASE, "ONNX Runtime")),
    **dict.fromkeys(("inspect", "convert", "score", "prune", "distill", "export", "verify", "compare"), _BASE),
    **dict.fromkeys(("bench", "bench compare", "sample", "eval", "directions", "project"), _BASE),
    "engine": (*_BASE, "TensorRT-RTX or TensorRT"),
    "bundle": (*_BASE, "ONNX Runtime"),
    "bundle verify": ("Python", "base packages"),
    "push": (*_BASE, "Hub client"),
    "serve": ("Python", "base packages", "Triton server"),
    **dict.fromkeys(("datasets", "doctor", "schema", "cache list", "cache clear"), ("Python", "base packages")),
}

_NO_WINOGRAD = {"C++ compiler": "no backends onnxruntime-winograd and openvino-winograd"}
_NO_FID = "no --lpips and no FID against --data"

_OF_BUILD = {
    "demo teacher": "no demo", "TensorRT-RTX or TensorRT": "no engine", "memory": "may run out of memory",
    "disk": "may run out of disk", "published features": _NO_FID,
}  # fmt: skip

# Capabilities that a verb can work without, and what it then cannot do.
LIMITS: dict[str, dict[str, str]] = {
    **dict.fromkeys(("build", "sweep"), _OF_BUILD),
    "score": {"ONNX Runtime": "no --mask"},
    "distill": {"memory": "may run out of memory", "ONNX Runtime": "no --mask", "published features": _NO_FID},
    "export": {"ONNX Runtime": "no --precision int8"},
    "verify": {**_NO_ONNX, "OpenVINO": "no backend openvino", "Triton client": "no running servers", **_NO_WINOGRAD},
    "sample": {**_NO_ONNX, "MP4 writer": "no .mp4"},
    "bench": {**_NO_ONNX, "OpenVINO": "no backend openvino", **_NO_WINOGRAD},
    "eval": {
        **_NO_ONNX, "OpenVINO": "no backend openvino", "published features": "no --data and no LPIPS", **_NO_WINOGRAD,
    },
    "project": {"published features": "no LPIPS"},
}  # fmt: skip


@dataclass(frozen=True)
class VerbStatus:
    """One verb: whether it works on this machine, and what is missing."""

    verb: str
    verdict: Verdict
    words: str
    """What is missing or does not work; empty if nothing."""


def verb_statuses(verdicts: Mapping[str, Verdict]) -> tuple[VerbStatus, ...]:
    """Return the status of every verb, from the verdict on each capability. A limited capability counts as present."""

    def lacks(capability: str) -> bool:
        if capability in ("memory", "disk"):  # never missing, only too small
            return verdicts[capability] != "ok"
        return all(verdicts[one] == "missing" for one in capability.split(" or "))

    statuses = []
    for verb, needs in NEEDS.items():
        missing = [need for need in needs if lacks(need)]
        limits = [words for capability, words in LIMITS.get(verb, {}).items() if lacks(capability)]
        if missing:
            statuses.append(VerbStatus(verb, "missing", f"needs {', '.join(missing)}"))
        else:
            statuses.append(VerbStatus(verb, "limited" if limits else "ok", "; ".join(limits)))
    return tuple(statuses)
