from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dcp_deploy.kernels import operators, reference

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
Example = tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor], tuple[Any, ...], dict[str, Any]]


def examples(x_type: torch.dtype, layout: torch.memory_format, device: str = "cpu") -> dict[str, Example]:
    """Return for each case the operator, its reference, and tensors and options for both."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random).to(device)

    def features(*shape: int) -> torch.Tensor:
        return draw(*shape).to(x_type).contiguous(memory_format=layout)

    plain = {"clamp": 0.8, "next_scale": draw(2, 8)}
    rgb = (features(2, 8, 4, 6), draw(2, 8), draw(3, 8), draw(3), draw(2, 3, 2, 3))
    tensors = (draw(2, 8), draw(4, 6), draw(8))
    epilogue = operators.modconv_epilogue, reference.modconv_epilogue
    return {
        "modconv": (*epilogue, (features(2, 8, 4, 6), *tensors), plain),
        "no noise": (*epilogue, (features(2, 8, 4, 6), tensors[0], None, tensors[2]), {}),
        "noise per sample": (*epilogue, (features(2, 8, 4, 6), tensors[0], draw(2, 1, 4, 6), tensors[2]), {}),
        "depth to space": (*epilogue, (features(2, 32, 2, 3), *tensors), {**plain, "depth_to_space": True}),
        "empty": (*epilogue, (features(0, 8, 4, 6), draw(0, 8), tensors[1], tensors[2]), {}),
        "fir": (operators.fir_epilogue, reference.fir_epilogue, (features(2, 8, 5, 7), *tensors), plain),
        "rgb": (operators.to_rgb, reference.to_rgb, rgb, {"clamp": 2.0}),
        "rgb, no skip": (operators.to_rgb, reference.to_rgb, rgb[:4], {}),
    }


NAMES = tuple(examples(torch.float32, torch.contiguous_format))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_torch_accepts_the_operator(name: str, layout: str) -> None:
    """Schema, fake tensors (shapes and strides, fixed and symbolic), no derivative, traced and compiled dispatch."""
    operator, _, tensors, options = examples(torch.float16, LAYOUTS[layout])[name]
    results = torch.library.opcheck(operator, tensors, options)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_on_a_cpu_it_returns_the_reference_in_the_layout_of_its_input(name: str, layout: str) -> None:
    operator, expected, tensors, options = examples(torch.bfloat16, LAYOUTS[layout])[name]
    result = operator(*tensors, **options)
    assert torch.equal(result, expected(*tensors, **options))
    if "rgb" not in name and result.numel():  # an empty tensor has both layouts
        assert result.is_contiguous(memory_format=LAYOUTS[layout])
        assert result.dtype == torch.bfloat16


def test_bytes_are_channels_last_and_truncated() -> None:
    _, _, tensors, options = examples(torch.float32, torch.channels_last)["rgb"]
    image = operators.to_rgb(*tensors, **options, as_bytes=True)
    value = operators.to_rgb(*tensors, **options) * 127.5 + 128.0
    assert torch.equal(image, value.clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8))
    results = torch.library.opcheck(operators.to_rgb, tensors, {**options, "as_bytes": True})
    assert set(results.values()) == {"SUCCESS"}


def both_arguments(dtype: torch.dtype, layout: str, device: str = "cpu") -> tuple[Any, ...]:
    """Return the arguments of ``epilogue_rgb`` up to the skip image."""
    _, _, (x, scale, noise, bias), _ = examples(dtype, LAYOUTS[layout], device)["modconv"]
    _, _, (_, styles, weight, rgb_bias, skip), _ = examples(dtype, LAYOUTS[layout], device)["rgb"]
    return x, scale, noise, bias, styles, weight, rgb_bias, skip


@pytest.mark.parametrize("last", [False, True], ids=["a resolution", "the last resolution"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_epilogue_and_colours_are_the_two_operators_in_turn(layout: str, last: bool) -> None:
    x, scale, noise, bias, *colours = both_arguments(torch.float16, layout)
    next_scale = None if last else scale + 1
    options = {"clamp": 0.8, "rgb_clamp": 2.0, "as_bytes": last, "keep": not last, "next_scale": next_scale}
    y, image = operators.epilogue_rgb(x, scale, noise, bias, *colours, **options)
    features = operators.modconv_epilogue(x.float(), scale, noise, bias, clamp=0.8)
    assert torch.equal(image, operators.to_rgb(features, *colours, clamp=2.0, as_bytes=last))
    if last:
        assert y.numel() == 0
    else:
        assert torch.equal(y, operators.modconv_epilogue(x, scale, noise, bias, next_scale, 0.8))
        assert y.stride() == x.stride()
    results = torch.library.opcheck(operators.epilogue_rgb, (x, scale, noise, bias, *colours), options)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_gpu_code_launches_kernels_that_compute_the_reference(
    name: str, layout: str, emulator: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is registered for CUDA, on CPU tensors, with the host emulator in place of the launch."""
    monkeypatch.setattr(operators, "launch", lambda call, device: emulator(call))
    operator, expected, tensors, options = examples(torch.float16, LAYOUTS[layout])[name]
    result = operator._backend_fns["cuda"](*tensors, **options)  # type: ignore[attr-defined]
    assert result.stride() == operator(*tensors, **options).stride()
    torch.testing.assert_close(result, expected(*tensors, **options), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gpu_code_of_epilogue_and_colours_computes_the_reference(
    layout: str, keep: bool, emulator: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "launch", lambda call, device: emulator(call))
    arguments = both_arguments(torch.float16, layout)
    results = operators.epilogue_rgb._backend_fns["cuda"](*arguments, clamp=0.8, keep=keep)  # type: ignore[attr-defined]
    for result, expected in zip(results, operators.epilogue_rgb(*arguments, clamp=0.8, keep=keep), strict=True):
        assert result.stride() == expected.stride()
        torch.testing.assert_close(result, expected, rtol=1e-3, atol=2e-5)


def test_operators_have_no_derivative() -> None:
    operator, _, tensors, options = examples(torch.float32, torch.contiguous_format)["modconv"]
    x = tensors[0].requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"autograd"):
        operator(x, *tensors[1:], **options).sum().backward()


@pytest.mark.gpu
@pytest.mark.parametrize("stream", ["default", "other"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_it_is_the_reference(name: str, layout: str, dtype: torch.dtype, stream: str) -> None:
    operator, _, tensors, options = examples(dtype, LAYOUTS[layout])[name]
    expected = operator(*tensors, **options)
    moved = [None if tensor is None else tensor.cuda() for tensor in tensors]
    on_gpu = {key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in options.items()}
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.default_stream() if stream == "default" else torch.cuda.Stream()):
        result = operator(*moved, **on_gpu)
        result = result * 1  # on the same stream: must wait for the kernel
    torch.cuda.synchronize()
    step = torch.finfo(result.dtype).eps
    torch.testing.assert_close(result.cpu().float(), expected.float(), rtol=step, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_a_gpu_epilogue_and_colours_are_the_reference(layout: str, dtype: torch.dtype, keep: bool) -> None:
    y, image = operators.epilogue_rgb(*both_arguments(dtype, layout, "cuda"), clamp=0.8, keep=keep)
    expected_y, expected = operators.epilogue_rgb(*both_arguments(dtype, layout), clamp=0.8, keep=keep)
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(y.cpu().float(), expected_y.float(), rtol=step, atol=2e-5)
    torch.testing.assert_close(image.cpu(), expected, rtol=1e-6, atol=2e-5)
