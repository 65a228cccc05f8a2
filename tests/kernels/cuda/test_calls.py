from __future__ import annotations

import pytest
import torch

from dcp_deploy.errors import UsageError
from dcp_deploy.kernels.cuda.calls import (
    MAX_SAMPLE,
    KernelCall,
    channels_last,
    fir_epilogue_call,
    modconv_epilogue_call,
    to_rgb_call,
)


def epilogue(x: torch.Tensor, y: torch.Tensor | None = None, **changes: torch.Tensor | None) -> KernelCall | None:
    batch, channels, height, width = x.shape
    tensors = {
        "scale": torch.ones(batch, channels),
        "noise": torch.zeros(height, width),
        "bias": torch.zeros(channels),
        **changes,
    }
    return modconv_epilogue_call(x, y=torch.empty_like(x) if y is None else y, **tensors)  # type: ignore[arg-type]


def name(call: KernelCall | None) -> str:
    assert call is not None
    return call.kernel


def test_whole_rows_at_16_bytes_take_the_wide_kernel() -> None:
    x = torch.zeros(2, 6, 4, 4, dtype=torch.float16)
    assert name(epilogue(x)) == "modconv_nchw_wide_f16"
    assert name(epilogue(x.contiguous(memory_format=torch.channels_last))) == "modconv_nhwc_narrow_f16"
    assert name(epilogue(x[:, :, :3].contiguous())) == "modconv_nchw_narrow_f16"


def test_any_tensor_off_its_16_bytes_takes_the_narrow_kernel() -> None:
    x = torch.zeros(1, 8, 4, 4)
    assert name(epilogue(x)) == "modconv_nchw_wide_f32"
    assert name(epilogue(x, noise=torch.zeros(17)[1:].view(4, 4))) == "modconv_nchw_narrow_f32"


def test_the_strides_determine_the_layout() -> None:
    x = torch.zeros(2, 3, 4, 5)
    assert not channels_last(x)
    assert channels_last(x.contiguous(memory_format=torch.channels_last))
    with pytest.raises(UsageError, match="neither all as NCHW nor all as NHWC"):
        channels_last(x.transpose(2, 3))


def test_the_output_decides_the_layout_of_one_pixel() -> None:
    x, tensors = torch.zeros(1, 8, 1, 1), (torch.ones(1, 2), None, torch.zeros(2))
    for layout, kernel in ((torch.contiguous_format, "nchw"), (torch.channels_last, "nhwc")):
        y = torch.zeros(1, 2, 2, 2).contiguous(memory_format=layout)
        call = modconv_epilogue_call(x, *tensors, y, depth_to_space=True)
        assert name(call) == f"modconv_d2s_{kernel}_narrow_f32"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"scale": torch.ones(2, 5)}, r"scale is \[2, 5\], not \[2, 6\]"),
        ({"bias": torch.zeros(6, dtype=torch.float16)}, "bias is torch.float16, not torch.float32"),
        ({"noise": torch.zeros(1, 1, 4, 4)}, r"noise is \[1, 1, 4, 4\], not \[2, 1, 4, 4\]"),
        ({"noise": torch.zeros(4, 5)[:, :4]}, "noise is not contiguous"),
        ({"scale": torch.ones(6, 2).T}, "scale is not contiguous"),
        ({"next_scale": torch.ones(6)}, r"next_scale is \[6\]"),
        ({"y": torch.empty(2, 6, 4, 4, dtype=torch.float16)}, "differ in type"),
    ],
)
def test_tensors_that_do_not_fit_are_named(changes: dict[str, torch.Tensor], complaint: str) -> None:
    x = torch.zeros(2, 6, 4, 4)
    with pytest.raises(UsageError, match=complaint):
        epilogue(x, **changes)


def test_types_that_are_not_stored_are_refused() -> None:
    with pytest.raises(UsageError, match=r"x is torch\.float64"):
        epilogue(torch.zeros(1, 2, 2, 2, dtype=torch.float64))


def test_the_fir_takes_one_row_and_column_more() -> None:
    tensors = (torch.ones(1, 2), None, torch.zeros(2))
    y = torch.zeros(1, 2, 4, 4)
    assert name(fir_epilogue_call(torch.zeros(1, 2, 5, 5), *tensors, y)) == "fir_nchw_wide_f32"
    with pytest.raises(UsageError, match=r"needs \[1, 2, 5, 5\]"):
        fir_epilogue_call(torch.zeros(1, 2, 4, 4), *tensors, y)


def test_a_skip_image_is_half_as_large() -> None:
    x, tensors = torch.zeros(1, 2, 5, 4), (torch.ones(1, 2), torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(UsageError, match="even sizes, not 5x4"):
        to_rgb_call(x, *tensors, torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 5, 4))


def test_a_sample_too_large_for_32_bit_indices_is_refused() -> None:
    x = torch.empty(1, 1, 1, MAX_SAMPLE + 1, dtype=torch.float16, device="meta")
    with pytest.raises(UsageError, match="too large"):
        modconv_epilogue_call(x, torch.ones(1, 1), None, torch.zeros(1), torch.empty_like(x))


def test_the_last_arguments_are_integers_then_the_output() -> None:
    """TensorRT's order for ahead-of-time plugins: inputs, int32 scalars, outputs."""
    call = epilogue(torch.zeros(1, 2, 4, 4))
    assert call is not None
    kinds = "".join("i" if isinstance(argument, int) else "p" for argument in call.arguments)
    assert kinds == "ppppp" + 7 * "i" + "p"
