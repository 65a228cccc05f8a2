"""Our ONNX operators by name: families, optional parts, inputs and attributes. This module needs no other package.

    ModConvEpilogue[Shuffle][Noise][Next][Clamp](x, scale, [noise], bias, [next_scale])
    FirEpilogue[Noise][Next][Clamp](x, scale, [noise], bias, [next_scale])
    ToRGB[Skip][Clamp][Bytes](x, styles, weight, bias, [skip])

Every combination of optional parts is an operator type of its own, so that a node has only the inputs it uses and a
body only the passes it needs. :mod:`...kernels.reference` defines what each computes.
"""

from __future__ import annotations

DOMAIN = "dcp_deploy"
VERSION = 1
PLUGIN: dict[str, str | int] = {"plugin_namespace": DOMAIN, "plugin_version": "1", "aot": 1}

OPTIONAL_PARTS = {
    "ModConvEpilogue": ("Shuffle", "Noise", "Next", "Clamp"),
    "FirEpilogue": ("Noise", "Next", "Clamp"),
    "ToRGB": ("Skip", "Clamp", "Bytes"),
}


def operator_types() -> list[str]:
    """Return all operator types: 16 of ModConvEpilogue, 8 of FirEpilogue, 8 of ToRGB."""
    return [
        family + "".join(part for bit, part in enumerate(parts) if number >> bit & 1)
        for family, parts in OPTIONAL_PARTS.items()
        for number in range(2 ** len(parts))
    ]


def parts_of(op_type: str) -> tuple[str, frozenset[str]]:
    """Split "FirEpilogueNoiseClamp" into ("FirEpilogue", {"Noise", "Clamp"}); ValueError for an unknown type."""
    if op_type not in operator_types():
        raise ValueError(f"{op_type} is not an operator of {DOMAIN}")
    family = next(family for family in OPTIONAL_PARTS if op_type.startswith(family))
    return family, frozenset(part for part in OPTIONAL_PARTS[family] if part in op_type[len(family) :])


def inputs_of(op_type: str) -> list[str]:
    """Return the names of an operator's inputs, in order."""
    family, parts = parts_of(op_type)
    if family == "ToRGB":
        return ["x", "styles", "weight", "bias", *(["skip"] if "Skip" in parts else [])]
    noise, following = (["noise"] if "Noise" in parts else []), (["next_scale"] if "Next" in parts else [])
    return ["x", "scale", *noise, "bias", *following]


def attributes_of(op_type: str) -> list[str]:
    """Return the names of an operator's attributes: its own, then those that TensorRT reads.

    Only the body of FirEpilogue needs ``channels``, for its depthwise convolution.
    """
    family, parts = parts_of(op_type)
    own = (["clamp"] if "Clamp" in parts else []) + (["channels"] if family == "FirEpilogue" else [])
    return [*own, *PLUGIN]
