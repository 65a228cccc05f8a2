"""Torch devices by name."""

from __future__ import annotations

from .errors import MissingCapabilityError, UsageError


def torch_device(name: str) -> str:
    """Return the name of a usable torch device; "auto" chooses the GPU if there is one.

    Raises UsageError for an unknown name, MissingCapabilityError if this machine has no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.device(name).type not in ("cpu", "cuda"):
            raise UsageError(f"device {name!r} is not supported", "Use auto, cpu, cuda or cuda:N.")
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}", "Use auto, cpu, cuda or cuda:N.") from error
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        reason = str(error).splitlines()[0]
        raise MissingCapabilityError(f"device {name!r} cannot be used: {reason}", "Use --device cpu.") from error
    return name
