"""The CUDA sources against the torch reference: every kernel, variant, type and layout, on the host and on a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcp_deploy.kernels import reference
from dcp_deploy.kernels.cuda import calls
from dcp_deploy.kernels.cuda.calls import (
    Variant,
    epilogue_rgb_call,
    fir_epilogue_call,
    modconv_epilogue_call,
    to_rgb_call,
)

Run = Callable[..., None]

TYPES = (torch.float32, torch.float16, torch.bfloat16)
VARIANTS: tuple[Variant, ...] = ("fast", "naive")
# Output sizes (C, H, W): whole 16-byte rows; one pixel; odd widths; channels that fill no 16 bytes; several blocks;
# higher than wide.
SHAPES = ((16, 4, 8), (8, 16, 16), (1, 1, 1), (3, 5, 7), (13, 2, 3), (32, 1, 9), (3, 33, 70), (24, 8, 16), (8, 24, 12))
EVEN_SHAPES = (
    (16, 8, 16),
    (8, 16, 32),
    (1, 2, 2),
    (3, 6, 10),
    (13, 2, 6),
    (32, 4, 8),
    (3, 34, 70),
    (24, 8, 16),
    (8, 24, 12),
)
BATCHES = (1, 2)
GUARD = 64  # elements before and after every output, which no kernel may touch


class Options(NamedTuple):
    noise: str
    clamp: float | None
    next_scale: bool


OPTIONS = (
    Options("none", None, False),
    Options("shared", 0.7, False),
    Options("sample", None, True),
    Options("shared", 256.0, True),
)


class Case(NamedTuple):
    dtype: torch.dtype
    last: bool
    batch: int
    shape: tuple[int, int, int]  # of the output
    options: Options
    variant: Variant = "fast"
    offset: int = 0  # elements by which x misses its 16 bytes
    order: int = 0  # of the emulated threads
    seed: int = 0


def laid_out(tensor: torch.Tensor, last: bool, offset: int = 0) -> torch.Tensor:
    """Return a copy in NCHW or NHWC order that starts ``offset`` elements into its storage."""
    shape = tensor.shape
    buffer = torch.zeros(tensor.numel() + offset, dtype=tensor.dtype)
    if last:
        placed = buffer[offset:].view(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
    else:
        placed = buffer[offset:].view(shape)
    return placed.copy_(tensor)


class Guarded:
    """An output between guards, filled with a value that no kernel writes."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, last: bool = False) -> None:
        count = torch.Size(shape).numel()
        self.poison = 77 if dtype == torch.uint8 else -12345.0
        self.buffer = torch.full((count + 2 * GUARD,), self.poison, dtype=dtype)
        inside = self.buffer[GUARD : GUARD + count]
        if last:
            batch, channels, height, width = shape
            self.tensor = inside.view(batch, height, width, channels).permute(0, 3, 1, 2)
        else:
            self.tensor = inside.view(shape)

    def check_guards(self) -> None:
        untouched = torch.cat([self.buffer[:GUARD], self.buffer[len(self.buffer) - GUARD :]])
        assert (untouched == torch.tensor(self.poison, dtype=self.buffer.dtype)).all(), "written outside the output"


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Allow one rounding step of the stored type, and another order of float32 sums of numbers below about 50."""
    step = torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual.float(), expected.float(), rtol=step, atol=2e-5)


def epilogue_inputs(case: Case, source: tuple[int, ...]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return x of the shape ``source``, and the other tensors by name."""
    random = torch.Generator().manual_seed(case.seed)
    channels, height, width = case.shape
    noise_shapes = {"none": None, "shared": (height, width), "sample": (case.batch, 1, height, width)}
    shape = noise_shapes[case.options.noise]
    x = torch.randn(source, generator=random).to(case.dtype)
    tensors = {
        "scale": torch.rand(case.batch, channels, generator=random) + 0.5,
        "noise": None if shape is None else torch.randn(shape, generator=random),
        "bias": torch.randn(channels, generator=random),
        "clamp": case.options.clamp,
        "next_scale": torch.randn(case.batch, channels, generator=random) if case.options.next_scale else None,
    }
    return laid_out(x, case.last, case.offset), tensors


def check_epilogue(run: Run, case: Case, depth_to_space: bool) -> None:
    channels, height, width = case.shape
    source = (case.batch, 4 * channels, height // 2, width // 2) if depth_to_space else (case.batch, *case.shape)
    x, tensors = epilogue_inputs(case, source)
    y = Guarded((case.batch, *case.shape), case.dtype, case.last)
    call = modconv_epilogue_call(x, y=y.tensor, **tensors, depth_to_space=depth_to_space, variant=case.variant)
    run(call, case.order)
    close(y.tensor, reference.modconv_epilogue(x, **tensors, depth_to_space=depth_to_space))
    y.check_guards()


def check_fir(run: Run, case: Case) -> None:
    channels, height, width = case.shape
    x, tensors = epilogue_inputs(case, (case.batch, channels, height + 1, width + 1))
    y = Guarded((case.batch, *case.shape), case.dtype, case.last)
    run(fir_epilogue_call(x, y=y.tensor, **tensors, variant=case.variant), case.order)
    close(y.tensor, reference.fir_epilogue(x, **tensors))
    y.check_guards()


def rgb_inputs(case: Case) -> dict[str, Any]:
    """Return styles, weight, bias and skip by name."""
    random = torch.Generator().manual_seed(case.seed + 1)
    channels, height, width = case.shape
    with_skip = height % 2 == 0 and width % 2 == 0 and case.options.noise != "none"
    return {
        "styles": torch.randn(case.batch, channels, generator=random) / channels**0.5,
        "weight": torch.randn(3, channels, generator=random),
        "bias": torch.randn(3, generator=random),
        "skip": torch.randn(case.batch, 3, height // 2, width // 2, generator=random) if with_skip else None,
    }


def guarded_image(case: Case, as_bytes: bool) -> Guarded:
    _, height, width = case.shape
    shape = (case.batch, height, width, 3) if as_bytes else (case.batch, 3, height, width)
    return Guarded(shape, torch.uint8 if as_bytes else torch.float32)


def check_image(image: Guarded, expected: torch.Tensor) -> None:
    """Compare with the float image."""
    if image.tensor.dtype == torch.uint8:
        # A value within the rounding of a sum from a whole number may be truncated to either side of it.
        value = (expected * 127.5 + 128.0).permute(0, 2, 3, 1)
        low, high = ((value + slack).clamp(0, 255).floor() for slack in (-0.01, 0.01))
        assert ((image.tensor >= low) & (image.tensor <= high)).all()
    else:
        close(image.tensor, expected)
    image.check_guards()


def check_rgb(run: Run, case: Case, as_bytes: bool) -> None:
    x, _ = epilogue_inputs(case, (case.batch, *case.shape))
    tensors, clamp = rgb_inputs(case), case.options.clamp
    image = guarded_image(case, as_bytes)
    run(to_rgb_call(x, **tensors, image=image.tensor, clamp=clamp, variant=case.variant), case.order)
    check_image(image, reference.to_rgb(x, **tensors, clamp=clamp))


def check_both(run: Run, case: Case, as_bytes: bool) -> None:
    """Check the epilogue and toRGB in one kernel, which is always channels last."""
    case = case._replace(last=True)
    x, terms = epilogue_inputs(case, (case.batch, *case.shape))
    colours = rgb_inputs(case)
    keeps, rgb_clamp = case.seed % 2 == 0 or as_bytes, case.options.clamp
    y, image = Guarded((case.batch, *case.shape), case.dtype, True), guarded_image(case, as_bytes)
    colours["rgb_bias"] = colours.pop("bias")
    kept = y.tensor if keeps else None
    call = epilogue_rgb_call(
        x, **terms, **colours, y=kept, image=image.tensor, rgb_clamp=rgb_clamp, variant=case.variant
    )
    run(call, case.order)
    expected_y, expected = reference.epilogue_rgb(x, **terms, **colours, rgb_clamp=rgb_clamp)
    if keeps:
        close(y.tensor, expected_y)
    y.check_guards()
    check_image(image, expected)


CHECKS: dict[str, tuple[Callable[[Run, Case], None], tuple[tuple[int, int, int], ...]]] = {
    "modconv": (lambda run, case: check_epilogue(run, case, False), SHAPES),
    "modconv_d2s": (lambda run, case: check_epilogue(run, case, True), EVEN_SHAPES),
    "fir": (check_fir, SHAPES),
    "rgb": (lambda run, case: check_rgb(run, case, False), SHAPES),
    "rgb_bytes": (lambda run, case: check_rgb(run, case, True), EVEN_SHAPES),
    "both": (lambda run, case: check_both(run, case, False), SHAPES),
    "both_bytes": (lambda run, case: check_both(run, case, True), EVEN_SHAPES[::2]),
}
LAYOUTS = [(name, last) for name in CHECKS for last in (False, True) if last or not name.startswith("both")]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "last"), LAYOUTS, ids=lambda value: value if isinstance(value, str) else "nhwc" if value else "nchw"
)
def test_every_shape_and_option(run: Run, name: str, dtype: torch.dtype, last: bool, variant: Variant) -> None:
    check, shapes = CHECKS[name]
    options_here, batches = (OPTIONS, BATCHES) if variant == "fast" else (OPTIONS[::3], BATCHES[1:])
    for number, (shape, batch, options) in enumerate(itertools.product(shapes, batches, options_here)):
        check(run, Case(dtype, last, batch, shape, options, variant, order=number % 3, seed=number))


@pytest.mark.parametrize("name", CHECKS)
def test_an_empty_batch_needs_no_launch(run: Run, name: str) -> None:
    check, shapes = CHECKS[name]
    for dtype, last in itertools.product(TYPES, (False, True)):
        check(run, Case(dtype, last, 0, shapes[0], OPTIONS[3]))


@pytest.mark.parametrize("name", CHECKS)
def test_a_batch_beyond_the_grid_is_walked(run: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_GRID_Y", 2)
    check, shapes = CHECKS[name]
    for dtype, last, variant, shape in itertools.product(TYPES[:2], (False, True), VARIANTS, shapes[:4:3]):
        check(run, Case(dtype, last, 3, shape, OPTIONS[3], variant, order=1))


@pytest.mark.parametrize("name", CHECKS)
def test_a_tensor_that_starts_off_its_16_bytes(run: Run, name: str) -> None:
    check, shapes = CHECKS[name]
    for dtype, last in itertools.product(TYPES, (False, True)):
        check(run, Case(dtype, last, 2, shapes[0], OPTIONS[3], offset=1))


@pytest.mark.parametrize("name", CHECKS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape(run: Run, name: str, data: st.DataObject) -> None:
    check, _ = CHECKS[name]
    step = 2 if name in ("modconv_d2s", "rgb_bytes", "both_bytes") else 1
    side = st.integers(1, 40 // step)
    case = Case(
        dtype=data.draw(st.sampled_from(TYPES)),
        last=data.draw(st.booleans()),
        batch=data.draw(st.integers(0, 3)),
        shape=(data.draw(st.integers(1, 40)), step * data.draw(side), step * data.draw(side)),
        options=data.draw(st.sampled_from(OPTIONS)),
        variant=data.draw(st.sampled_from(VARIANTS)),
        offset=data.draw(st.integers(0, 3)),
        order=data.draw(st.integers(0, 2)),
        seed=data.draw(st.integers(0, 2**31)),
    )
    check(run, case)


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_more_channels_than_a_tile_of_weights(run: Run, last: bool) -> None:
    for dtype, channels in itertools.product(TYPES, (512, 513, 1032)):
        check_rgb(run, Case(dtype, last, 2, (channels, 2, 4), OPTIONS[1]), False)
        check_both(run, Case(dtype, last, 2, (channels, 2, 4), OPTIONS[1]), False)


@pytest.mark.parametrize("channels", [3, 40, 264, 272])  # with 264 the members have different numbers of slots
def test_blocks_walk_over_tiles_of_pixels(run: Run, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "BLOCKS", 1)
    for dtype, (height, width) in itertools.product(TYPES, ((12, 14), (46, 6))):
        check_rgb(run, Case(dtype, True, 2, (channels, height, width), OPTIONS[1], order=1), False)
        check_both(run, Case(dtype, True, 2, (channels, height, width), OPTIONS[3], order=2), False)


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_not_a_number_is_not_hidden_by_the_clamp(run: Run, last: bool) -> None:
    x = laid_out(torch.full((1, 8, 2, 8), torch.nan).half(), last)
    y = torch.empty_like(x)
    run(modconv_epilogue_call(x, torch.ones(1, 8), None, torch.zeros(8), y, clamp=1.0))
    assert y.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_stored_value_is_read_and_rounded_as_torch_does(run: Run, dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    every = every[every.isfinite()]
    x = every[: len(every) // 8 * 8].view(1, 8, 1, -1)
    scale, bias = torch.rand(1, 8, generator=torch.Generator().manual_seed(0)) + 0.5, torch.zeros(8)
    scale[:, ::2] = 1.5  # odd significands end half-way between two neighbours
    y = torch.empty_like(x)
    run(modconv_epilogue_call(x, scale, None, bias, y))
    # Subnormals, halves between two neighbours and overflow to infinity included: exactly equal.
    assert torch.equal(y, reference.modconv_epilogue(x, scale, None, bias))
