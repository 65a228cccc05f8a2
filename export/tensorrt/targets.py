"""The GPUs that an engine can be built for and the TensorRT flavour that builds it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal

from ...errors import MissingCapabilityError, UsageError, choose

Flavour = Literal["auto", "tensorrt-rtx", "tensorrt"]

FLAVOURS = {"tensorrt-rtx": ("tensorrt_rtx", "rtx"), "tensorrt": ("tensorrt", "gpu")}  # module, our extra to install
RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
OLDEST_TENSORRT = (10, 13)

# Compute capabilities by NVIDIA's product names (developer.nvidia.com/cuda-gpus).
PRODUCTS: dict[str, tuple[str, ...]] = {
    "sm75": ("T4", "RTX 2060", "RTX 2070", "RTX 2080", "RTX 2080 Ti", "GTX 1660", "Quadro RTX 6000"),
    "sm80": ("A100", "A30"),
    "sm86": ("A10", "A16", "A2", "A40", "RTX 3060", "RTX 3070", "RTX 3080", "RTX 3090", "RTX A4000", "RTX A6000"),
    "sm89": ("L4", "L40", "L40S", "RTX 4060", "RTX 4070", "RTX 4080", "RTX 4090", "RTX 6000 Ada"),
    "sm90": ("H100", "H200", "GH200"),
    "sm100": ("B200", "GB200"),
    "sm103": ("B300", "GB300"),
    "sm120": ("RTX 5060", "RTX 5070", "RTX 5080", "RTX 5090", "RTX PRO 6000"),
    "sm121": ("GB10", "DGX Spark"),
}


def parse_targets(target: str) -> tuple[str, ...]:
    """Return the compute capabilities of a list of names: ("sm89", "sm120") for "sm89, RTX 5090".

    "auto" is this machine's GPU. Raises UsageError for an unknown name, and for "auto" without a GPU.
    """
    if target.strip().lower() == "auto":
        gpu = present_gpu()
        if gpu is None:
            raise UsageError("this machine has no GPU to take as the target", f"Name one: {_known_targets()}.")
        return (gpu,)
    by_name = {_plain(product): sm for sm, products in PRODUCTS.items() for product in products}
    found = []
    for name in target.split(","):
        sm = _plain(name) if _plain(name) in PRODUCTS else by_name.get(_plain(name))
        if sm is None:
            raise UsageError(f"target {name.strip()!r} is not known", f"Name one: {_known_targets()}.")
        found.append(sm)
    return tuple(dict.fromkeys(found))


def _plain(name: str) -> str:
    return re.sub(r"nvidia|geforce|tesla|[^a-z0-9]", "", name.lower())


def _known_targets() -> str:
    return "; ".join(f"{sm} ({', '.join(products)})" for sm, products in PRODUCTS.items())


def present_gpu() -> str | None:
    """Return the compute capability of the GPU that torch uses, as "sm89"; None without a GPU."""
    import torch

    return "sm{}{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else None


def choose_flavour(flavour: str, targets: Sequence[str]) -> str:
    """Return the flavour that builds for ``targets``; "auto" is TensorRT for RTX if it supports all, else TensorRT.

    Raises UsageError for an unknown flavour, MissingCapabilityError if RTX was chosen and lacks a target.
    """
    if flavour not in ("auto", *FLAVOURS):
        raise UsageError(f"flavour is {flavour!r}", choose(flavour, ("auto", *FLAVOURS)))
    beyond = [sm for sm in targets if sm not in RTX_TARGETS]
    if flavour == "tensorrt-rtx" and beyond:
        raise MissingCapabilityError(
            f"TensorRT for RTX does not serve {', '.join(beyond)}; it serves {', '.join(RTX_TARGETS)}",
            f"Build it on the target GPU: pip install 'dcp-deploy[gpu]', then --flavour tensorrt --target {beyond[0]}.",
        )
    if flavour == "auto":
        return "tensorrt" if beyond else "tensorrt-rtx"
    return flavour


def import_flavour(flavour: str) -> Any:
    """Return the Python package of a flavour. MissingCapabilityError if it is missing or refused."""
    module, extra = FLAVOURS[flavour]
    try:
        package = import_module(module)
    except ImportError as error:
        message = f"the flavour {flavour} needs the package {module}, which is not installed"
        raise MissingCapabilityError(message, f"Install it: pip install 'dcp-deploy[{extra}]'") from error
    if flavour == "tensorrt":
        refuse_version(str(package.__version__))
    return package


def refuse_version(version: str) -> None:
    """Raise MissingCapabilityError for a TensorRT that cannot build our engines: older than 10.13, or 10.14."""
    release = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    remedy = "Install it: pip install --upgrade 'dcp-deploy[gpu]'"
    if release < OLDEST_TENSORRT:
        raise MissingCapabilityError(f"TensorRT {version} is installed; engines need 10.13 or later", remedy)
    if release == (10, 14):  # Torch-TensorRT refuses this series for the same reason
        raise MissingCapabilityError(
            f"TensorRT {version} is refused: the 10.14 series builds wrong engines from Python plugins, which hold "
            "our kernels",
            remedy,
        )
