"""What each verb can do on this machine, from what the doctor found. Only the standard library, as in doctor.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "limited", "missing"]

_BASE = ("Python", "torch", "base packages")
_ONNX_TOO = {"ONNX Runtime": "no ONNX files and bundles"}

# Without one of these a verb does not work at all; "A or B" wants one of them.
NEEDS: dict[str, tuple[str, ...]] = {
    "build": (*_BASE, "ONNX Runtime"),
    **dict.fromkeys(("inspect", "convert", "score", "prune", "distill", "export", "verify"), _BASE),
    **dict.fromkeys(("bench", "bench compare", "sample", "eval", "directions", "project"), _BASE),
    "engine": (*_BASE, "TensorRT-RTX or TensorRT"),
    "bundle": (*_BASE, "ONNX Runtime"),
    "serve": ("Python", "base packages", "Triton server"),
    **dict.fromkeys(("datasets", "doctor", "schema"), ("Python", "base packages")),
}

_NO_WINOGRAD = {"C++ compiler": "no backends onnxruntime-winograd and openvino-winograd"}
_NO_FID = "no --lpips and no FID against --data"

# Without one of these it does less, in these words.
HELPS: dict[str, dict[str, str]] = {
    "build": {
        "demo teacher": "no demo", "TensorRT-RTX or TensorRT": "no engine", "memory": "may run out of memory",
        "disk": "may run out of disk", "published features": _NO_FID,
    },
    "score": {"ONNX Runtime": "no --mask"},
    "distill": {"memory": "may run out of memory", "ONNX Runtime": "no --mask", "published features": _NO_FID},
    "export": {"ONNX Runtime": "no --precision int8 and no --upsample auto"},
    "verify": {**_ONNX_TOO, "OpenVINO": "no backend openvino", "Triton client": "no running servers", **_NO_WINOGRAD},
    "sample": _ONNX_TOO,
    "bench": {**_ONNX_TOO, "OpenVINO": "no backend openvino", **_NO_WINOGRAD},
    "eval": {
        **_ONNX_TOO, "OpenVINO": "no backend openvino", "published features": "no --data and no LPIPS", **_NO_WINOGRAD,
    },
    "project": {"published features": "no LPIPS"},
}  # fmt: skip


@dataclass(frozen=True)
class VerbStatus:
    """One verb: whether it works here, and what it lacks."""

    verb: str
    verdict: Verdict
    words: str
    """Empty when nothing is lacking."""


def abilities(verdicts: Mapping[str, Verdict]) -> tuple[VerbStatus, ...]:
    """Every verb, from the verdict on each capability. What is limited still counts as there."""
    return tuple(_ability(verb, verdicts) for verb in NEEDS)


def _ability(verb: str, verdicts: Mapping[str, Verdict]) -> VerbStatus:
    gone = [need for need in NEEDS[verb] if not _there(need, verdicts)]
    if gone:
        return VerbStatus(verb, "missing", f"needs {', '.join(gone)}")
    less = [words for help, words in HELPS.get(verb, {}).items() if not _there(help, verdicts)]
    return VerbStatus(verb, "limited", "; ".join(less)) if less else VerbStatus(verb, "ok", "")


def _there(capability: str, verdicts: Mapping[str, Verdict]) -> bool:
    if capability in ("memory", "disk"):  # which are never missing, only little
        return verdicts[capability] == "ok"
    return any(verdicts[one] != "missing" for one in capability.split(" or "))
