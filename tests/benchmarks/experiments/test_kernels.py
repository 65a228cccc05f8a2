from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dcp_deploy.benchmarks.experiments.kernels import OPERATORS, Buffers, Case, bytes_of, cases
from dcp_deploy.kernels.cuda.calls import TAGS

SMALL = {case: replace(case, channels=8, size=4, batch=2) for case in cases()}


def test_every_fast_kernel_is_measured_in_the_variant_of_its_case() -> None:
    buffers = Buffers(list(SMALL.values()), torch.device("cpu"))
    for case in SMALL.values():
        kernel = buffers.call(case).kernel
        layout, variant = "nhwc" if case.channels_last else "nchw", "wide" if case.wide else "narrow"
        # Four pixels, two input columns: too few for 16 bytes of a row in NCHW.
        if case.channels_last or case.operator == "modconv":
            assert kernel == f"{case.operator.removesuffix('_bytes')}_{layout}_{variant}_{TAGS[case.dtype]}"
    kinds = {(case.operator, case.dtype, case.channels_last, case.wide) for case in SMALL}
    planar = [operator for operator in OPERATORS if not operator.startswith("epilogue")]
    assert len(kinds) == 6 * (len(OPERATORS) + len(planar))


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("modconv", 2 * (2 * 8 * 16)),
        ("modconv_d2s", 2 * (2 * 8 * 16)),
        ("fir", 2 * 8 * 25 + 2 * 8 * 16),
        ("rgb", 2 * 8 * 16 + 2 * 3 * (16 + 4)),
        ("rgb_bytes", 2 * 8 * 16 + 2 * 3 * (16 / 4 + 4)),
        ("epilogue_rgb", 2 * (2 * 8 * 16) + 2 * 3 * (16 + 4)),
        ("epilogue_rgb_bytes", 2 * 8 * 16 + 2 * 3 * (16 / 4 + 4)),
    ],
)
def test_bytes_are_each_tensor_once(operator: str, expected: int) -> None:
    case = Case(operator, torch.float32, True, True, channels=8, size=4, batch=2)  # type: ignore[arg-type]
    call = Buffers([case], torch.device("cpu")).call(case)
    terms, next_scale, colours = 2 * 8 + 8 + 16, 2 * 8, 2 * 8 + 3 * 8 + 3
    before = terms if operator == "epilogue_rgb_bytes" else terms + next_scale
    small = colours if operator.startswith("rgb") else before + colours * operator.startswith("epilogue")
    assert bytes_of(call) == 4 * (expected + small)
