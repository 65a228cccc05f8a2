"""The layer schedule against the published networks, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.generators import GeneratorConfig, StyleGAN3Layout, layer_specs
from dcp_deploy.generators.schedule import lowpass

FIELDS = {
    "in_size": "in_size", "out_size": "out_size", "in_rate": "in_sr", "out_rate": "out_sr", "tmp_rate": "tmp_sr",
    "up": "up", "down": "down", "up_taps": "up_taps", "down_taps": "down_taps", "kernel": "kernel", "torgb": "torgb",
    "radial": "radial", "in_cutoff": "in_cutoff", "out_cutoff": "out_cutoff", "in_half_width": "in_half_width",
    "out_half_width": "out_half_width",
}  # fmt: skip


@pytest.mark.parametrize("name", ["sg3t_32", "sg3t_64_cond_clamp", "sg3r_64"])
def test_every_layer_has_the_schedule_of_the_reference(name: str, golden: Callable[[str], Any]) -> None:
    record = json.loads(str(golden(name)["config"]))
    r = record["family"] == "sg3r"
    layout = StyleGAN3Layout(record["input"]["channels"], conv_kernel=1 if r else 3, radial=r)
    for spec, expected in zip(layer_specs(record["img_resolution"], layout), record["layers"], strict=True):
        actual = {theirs: getattr(spec, ours) for ours, theirs in FIELDS.items()}
        assert actual == pytest.approx({key: expected[key] for key in actual}), spec.name
        assert [*spec.padding, *spec.padding] == expected["padding"], spec.name


@pytest.mark.parametrize(
    ("resolution", "variant", "channel_base", "sizes", "outputs"),
    [
        (256, "t", 16384, [36, 36, 36, 52, 52, 84, 84, 148, 148, 148, 276, 276, 276, 256, 256],
         [512] * 7 + [362, 256, 181, 128, 91, 64, 64]),
        (1024, "t", 32768, [36, 36, 52, 52, 84, 148, 148, 276, 276, 532, 1044, 1044, 1044, 1024, 1024],
         [512] * 7 + [323, 203, 128, 81, 51, 32, 32]),
        (256, "r", 16384, [36, 36, 36, 52, 52, 84, 84, 148, 148, 148, 276, 276, 276, 256, 256],
         [1024] * 7 + [724, 512, 362, 256, 181, 128, 128]),
        (1024, "r", 32768, [36, 36, 52, 52, 84, 148, 148, 276, 276, 532, 1044, 1044, 1044, 1024, 1024],
         [1024] * 7 + [645, 406, 256, 161, 102, 64, 64]),
    ],
)  # fmt: skip
def test_published_networks_have_their_published_layers(
    resolution: int, variant: Any, channel_base: int, sizes: list[int], outputs: list[int]
) -> None:
    config = GeneratorConfig.stylegan3(resolution, variant, channel_base=channel_base)
    assert config.layout is not None
    assert [spec.out_size for spec in layer_specs(resolution, config.layout)] == sizes
    assert config.widths == (outputs[0], *outputs)


@given(
    resolution=st.sampled_from([16, 32, 64, 256, 1024]),
    num_layers=st.integers(4, 20),
    kernel=st.sampled_from([1, 3]),
    margin=st.integers(4, 16),
)
def test_padding_makes_every_layer_meet_its_size(resolution: int, num_layers: int, kernel: int, margin: int) -> None:
    layout = StyleGAN3Layout(8, conv_kernel=kernel, num_layers=num_layers, margin=margin)
    try:
        specs = layer_specs(resolution, layout)
    except ValueError:
        return  # too few layers for the growth in resolution: refused, which is all that is promised
    for spec in specs:
        size = (spec.in_size + spec.kernel - 1) * spec.up + sum(spec.padding) - (spec.up_taps - 1)
        assert (size - spec.down_taps) // spec.down + 1 == spec.out_size


def test_filters_pass_a_constant_and_stop_the_highest_frequency() -> None:
    for radial in (False, True):
        kernel = lowpass(12, 4.0, 4.0, 32.0, radial=radial)
        alternating = (-1.0) ** np.arange(12)
        response = kernel @ alternating if not radial else alternating @ kernel @ alternating
        assert kernel.sum() == pytest.approx(1.0)
        assert abs(response) < 0.02
        assert np.allclose(kernel, np.flip(kernel))


@pytest.mark.parametrize(
    "changes", [{"conv_kernel": 2}, {"num_layers": 2}, {"first_cutoff": 0.0}, {"margin": -1}, {"num_layers": 1000}]
)
def test_impossible_layouts_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"conv_kernel|schedule|first_cutoff|filter"):
        layer_specs(64, StyleGAN3Layout(**{"fourier_features": 4, **changes}))
