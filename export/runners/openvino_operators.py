"""Our CPU operators as Python operators of OpenVINO, which calls ``evaluate`` with arrays; that calls our library.

This module imports openvino at the top: import it only where openvino is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino
from openvino.frontend.onnx import ConversionExtension

from ...kernels.cpu.library import Floats, cpu_operators
from ..graph.winograd import CPU_DOMAIN


class _Operator(openvino.Op):  # type: ignore[misc]  # its stubs do not type it
    """The methods that OpenVINO requires of every operator.

    ``settings`` hold the node's attributes and constants. The constants are not inputs, because reading a tensor from
    Python takes as long as a small layer.
    """

    def __init__(self, inputs: Any = None, settings: Any = None) -> None:
        self.settings = settings
        super().__init__(self, inputs)

    def clone_with_new_inputs(self, new_inputs: Any) -> Any:
        """Return the same operator with other inputs."""
        return type(self)(new_inputs, self.settings)

    def visit_attributes(self, visitor: Any) -> bool:
        """Write nothing: these operators are never saved to a file."""
        return True

    def has_evaluate(self) -> bool:
        """Return True: OpenVINO is to call ``evaluate``."""
        return True

    def _shape(self, place: int) -> Any:
        return self.get_input_partial_shape(place)


@dataclass(frozen=True)
class _Conv:
    """Settings of a convolution. ``noise`` is None if there is none, or if it is computed and the last input."""

    packed: Floats
    bias: Floats
    noise: Floats | None
    up: bool
    clamp: float
    threads: int


class ModulatedConv(_Operator):
    """Compute y from x, style, scale and optional noise, see :mod:`~..graph.winograd`."""

    def validate_and_infer_types(self) -> None:
        """Set the shape to [B, H, W, stored outputs]; B is the style's, because x may be a constant."""
        x, style = self._shape(0), self._shape(1)
        grow = 2 if self.settings.up else 1
        stored = cpu_operators().stored(len(self.settings.bias))
        sizes = [style[0], *(openvino.Dimension(x[axis].get_length() * grow) for axis in (1, 2))]
        self.set_output_type(0, openvino.Type.f32, openvino.PartialShape([*sizes, openvino.Dimension(stored)]))

    def evaluate(self, outputs: Any, inputs: Any) -> bool:
        """Call our library."""
        own: _Conv = self.settings
        x, style, scale, *noise = (tensor.data for tensor in inputs)
        cpu_operators().modulated_conv(
            x, own.packed, style, scale, own.bias, noise[0] if noise else own.noise, outputs[0].data,
            up=own.up, clamp=own.clamp, threads=own.threads,
        )  # fmt: skip
        return True


@dataclass(frozen=True)
class _ToRGB:
    """Settings of ToRGB. ``as_bytes``: the output is rows of bytes, not planes of float32."""

    weight: Floats
    bias: Floats
    as_bytes: bool
    clamp: float
    threads: int


class ToRGB(_Operator):
    """Compute an image from x, styles and an optional skip, see :mod:`~..graph.winograd`."""

    def validate_and_infer_types(self) -> None:
        """Set the shape to [B, 3, H, W] in float32 or [B, H, W, 3] in bytes."""
        batch, height, width = (self._shape(0)[axis] for axis in range(3))
        three = openvino.Dimension(3)
        if self.settings.as_bytes:
            self.set_output_type(0, openvino.Type.u8, openvino.PartialShape([batch, height, width, three]))
        else:
            self.set_output_type(0, openvino.Type.f32, openvino.PartialShape([batch, three, height, width]))

    def evaluate(self, outputs: Any, inputs: Any) -> bool:
        """Call our library."""
        own: _ToRGB = self.settings
        x, styles, *skip = (tensor.data for tensor in inputs)
        cpu_operators().to_rgb(
            x, styles, own.weight, own.bias, skip[0] if skip else None, outputs[0].data,
            clamp=own.clamp, threads=own.threads,
        )  # fmt: skip
        return True


# ---- conversion of a file's nodes ----


def extensions() -> list[ConversionExtension]:
    """Return the extensions with which a ``Core`` can read the nodes of our domain."""
    converters = {
        "ModulatedConv": _convolution,
        "ToRGB": lambda node: _to_rgb(node, as_bytes=False),
        "ToRGBBytes": lambda node: _to_rgb(node, as_bytes=True),
    }
    return [ConversionExtension(name, CPU_DOMAIN, converter) for name, converter in converters.items()]


def _convolution(node: Any) -> Any:
    x, style, weight, scale, bias, *noise = _inputs(node)
    up = bool(node.get_attribute("up"))
    fixed = _constant(noise[0]) if noise else None
    settings = _Conv(
        cpu_operators().pack(_required(weight), up=up), _required(bias), fixed, up,
        node.get_attribute("clamp"), node.get_attribute("threads"),
    )  # fmt: skip
    computed = noise if fixed is None else []
    return ModulatedConv([x, style, scale, *computed], settings).outputs()


def _to_rgb(node: Any, *, as_bytes: bool) -> Any:
    x, styles, weight, bias, *skip = _inputs(node)
    settings = _ToRGB(
        _required(weight), _required(bias), as_bytes, node.get_attribute("clamp"), node.get_attribute("threads")
    )
    return ToRGB([x, styles, *skip], settings).outputs()


def _inputs(node: Any) -> list[Any]:
    return [node.get_input(place) for place in range(node.get_input_size())]


def _constant(value: Any) -> Floats | None:
    """Return the array of a constant, None for a computed value."""
    node = value.get_node()
    return np.array(node.get_data(), np.float32) if node.get_type_name() == "Constant" else None


def _required(value: Any) -> Floats:
    constant = _constant(value)
    if constant is None:
        raise ValueError(f"{value.get_any_name()} is not a constant of the file")
    return constant
