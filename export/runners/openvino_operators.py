"""Our CPU operators as Python operators of OpenVINO, which calls ``evaluate`` with arrays; that calls our library.

This module imports openvino at the top: import it only where openvino is installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
from openvino.frontend.onnx import ConversionExtension

from ...kernels.cpu.library import Floats, cpu_operators
from ..graph.winograd import CPU_DOMAIN


class _Operator(openvino.Op):  # type: ignore[misc]  # its stubs do not type it
    """The methods that OpenVINO requires of every operator.

    ``settings`` are the node's attributes and constants by the names of our library's parameters. The constants are not
    inputs, because reading a tensor from Python takes as long as a small layer.
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


class ModulatedConv(_Operator):
    """Compute y from x, style, scale and optional noise, see :mod:`~..graph.winograd`.

    The setting ``noise`` is None if there is none, or if it is computed and the last input.
    """

    def validate_and_infer_types(self) -> None:
        """Set the shape to [B, H, W, stored outputs]; B is the style's, because x may be a constant."""
        x, style = self._shape(0), self._shape(1)
        grow = 2 if self.settings["up"] else 1
        stored = cpu_operators().stored(len(self.settings["bias"]))
        sizes = [style[0], *(openvino.Dimension(x[axis].get_length() * grow) for axis in (1, 2))]
        self.set_output_type(0, openvino.Type.f32, openvino.PartialShape([*sizes, openvino.Dimension(stored)]))

    def evaluate(self, outputs: Any, inputs: Any) -> bool:
        """Call our library."""
        x, style, scale, *noise = (tensor.data for tensor in inputs)
        settings = self.settings | ({"noise": noise[0]} if noise else {})
        cpu_operators().modulated_conv(x=x, style=style, scale=scale, y=outputs[0].data, **settings)
        return True


class ToRGB(_Operator):
    """Compute an image from x, styles and an optional skip, see :mod:`~..graph.winograd`.

    The setting ``as_bytes`` means that the output is rows of bytes, not planes of float32.
    """

    def validate_and_infer_types(self) -> None:
        """Set the shape to [B, 3, H, W] in float32 or [B, H, W, 3] in bytes."""
        batch, height, width = (self._shape(0)[axis] for axis in range(3))
        three = openvino.Dimension(3)
        if self.settings["as_bytes"]:
            self.set_output_type(0, openvino.Type.u8, openvino.PartialShape([batch, height, width, three]))
        else:
            self.set_output_type(0, openvino.Type.f32, openvino.PartialShape([batch, three, height, width]))

    def evaluate(self, outputs: Any, inputs: Any) -> bool:
        """Call our library."""
        x, styles, *skip = (tensor.data for tensor in inputs)
        settings = {name: value for name, value in self.settings.items() if name != "as_bytes"}
        cpu_operators().to_rgb(x=x, styles=styles, skip=next(iter(skip), None), image=outputs[0].data, **settings)
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
    settings = {name: node.get_attribute(name) for name in ("clamp", "threads")}
    settings |= {"up": bool(node.get_attribute("up")), "noise": _constant(noise[0]) if noise else None}
    settings |= {"packed": cpu_operators().pack(_required(weight), up=settings["up"]), "bias": _required(bias)}
    computed = noise if settings["noise"] is None else []
    return ModulatedConv([x, style, scale, *computed], settings).outputs()


def _to_rgb(node: Any, *, as_bytes: bool) -> Any:
    x, styles, weight, bias, *skip = _inputs(node)
    settings = {name: node.get_attribute(name) for name in ("clamp", "threads")}
    settings |= {"weight": _required(weight), "bias": _required(bias), "as_bytes": as_bytes}
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
