"""Our CPU operators as operators of OpenVINO, in Python: it calls ``evaluate`` with arrays, we call the library.

This module imports openvino: whoever imports it has it.
"""

from __future__ import annotations

from typing import Any

import openvino
from openvino.frontend.onnx import ConversionExtension

from ..kernels.cpu_library import Floats, cpu_operators
from .winograd import CPU_DOMAIN


class _Operator(openvino.Op):  # type: ignore[misc]  # its stubs do not type it
    """What OpenVINO asks of any. ``attributes`` are the node's, in the file."""

    def __init__(self, inputs: Any = None, attributes: dict[str, Any] | None = None) -> None:
        self.attributes = attributes or {}
        super().__init__(self, inputs)

    def clone_with_new_inputs(self, new_inputs: Any) -> Any:
        """One like this, of other inputs."""
        return type(self)(new_inputs, self.attributes)

    def visit_attributes(self, visitor: Any) -> bool:
        """Nothing that OpenVINO would have to write into a file."""
        return True

    def has_evaluate(self) -> bool:
        """Yes."""
        return True

    def _shape(self, place: int) -> Any:
        return self.get_input_partial_shape(place)


class ModulatedConv(_Operator):
    """See :mod:`.winograd`."""

    packed: Floats | None = None

    def validate_and_infer_types(self) -> None:
        """[B, H, W, stored outputs]; B is the style's, for x may be a constant."""
        x, style, scale = self._shape(0), self._shape(1), self._shape(3)
        grow = 2 if self.attributes["up"] else 1
        stored = cpu_operators().stored(scale[1].get_length())
        sizes = [style[0], *(openvino.Dimension(x[axis].get_length() * grow) for axis in (1, 2))]
        self.set_output_type(0, openvino.Type.f32, openvino.PartialShape([*sizes, openvino.Dimension(stored)]))

    def evaluate(self, outputs: Any, inputs: Any) -> bool:
        """Compute; the weight, a constant, is packed at the first call."""
        operators, up = cpu_operators(), bool(self.attributes["up"])
        x, style, weight, scale, bias, *noise = (tensor.data for tensor in inputs)
        if self.packed is None:
            self.packed = operators.pack(weight, up=up)
        operators.modulated_conv(
            x, self.packed, style, scale, bias, noise[0] if noise else None, outputs[0].data,
            up=up, clamp=self.attributes["clamp"], threads=self.attributes["threads"],
        )  # fmt: skip
        return True


class ToRGB(_Operator):
    """See :mod:`.winograd`; one class for planes of float32 and rows of bytes."""

    def validate_and_infer_types(self) -> None:
        """[B, 3, H, W] in float32 or [B, H, W, 3] in bytes."""
        batch, height, width = (self._shape(0)[axis] for axis in range(3))
        three = openvino.Dimension(3)
        if self.attributes["bytes"]:
            self.set_output_type(0, openvino.Type.u8, openvino.PartialShape([batch, height, width, three]))
        else:
            self.set_output_type(0, openvino.Type.f32, openvino.PartialShape([batch, three, height, width]))

    def evaluate(self, outputs: Any, inputs: Any) -> bool:
        """Compute."""
        x, styles, weight, bias, *skip = (tensor.data for tensor in inputs)
        cpu_operators().to_rgb(
            x, styles, weight, bias, skip[0] if skip else None, outputs[0].data,
            clamp=self.attributes["clamp"], threads=self.attributes["threads"],
        )  # fmt: skip
        return True


def extensions() -> list[ConversionExtension]:
    """What makes a ``Core`` read the nodes of our domain."""

    def attributes(node: Any, *names: str) -> dict[str, Any]:
        return {name: node.get_attribute(name) for name in ("clamp", "threads", *names)}

    def inputs(node: Any) -> list[Any]:
        return [node.get_input(place) for place in range(node.get_input_size())]

    def convolution(node: Any) -> Any:
        return ModulatedConv(inputs(node), attributes(node, "up")).outputs()

    def colours(node: Any) -> Any:
        return ToRGB(inputs(node), {**attributes(node), "bytes": False}).outputs()

    def bytes_of_colours(node: Any) -> Any:
        return ToRGB(inputs(node), {**attributes(node), "bytes": True}).outputs()

    converters = {"ModulatedConv": convolution, "ToRGB": colours, "ToRGBBytes": bytes_of_colours}
    return [ConversionExtension(name, CPU_DOMAIN, converter) for name, converter in converters.items()]
