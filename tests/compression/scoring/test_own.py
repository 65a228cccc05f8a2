"""Channel scores by a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from dcp_deploy.compression import load_scores, save_scores, score
from dcp_deploy.compression.scoring.baselines import weight_out_scores
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Generator


def widest_weights(
    generator: Generator, *, latents: int, seed: int, progress: Callable[[int, int], None]
) -> Mapping[str, Tensor]:
    """Score by outgoing weights, as "weight-out" does, and misuse the generator: it is a copy."""
    progress(latents, latents)
    found = {name: layer.weight.abs().mean(dim=(0, 2, 3)) for name, layer in generator.synthesis.scored()}
    for parameter in generator.parameters():
        parameter.data.zero_()
    return dict(reversed(found.items()))


def drawn(generator: Generator, **options: Any) -> Mapping[str, Tensor]:
    """Draw from torch's global random state."""
    return {name: torch.rand(layer.weight.shape[1]) for name, layer in generator.synthesis.scored()}


def test_a_function_scores_as_the_method_that_it_imitates(any_generator: Generator, tmp_path: Any) -> None:
    before = {name: tensor.clone() for name, tensor in any_generator.state_dict().items()}
    counts: list[tuple[int, int]] = []
    scores = score(
        any_generator, method=f"{__name__}:widest_weights", latents=7, progress=lambda *done: counts.append(done)
    )
    for ours, theirs in zip(scores.scores, weight_out_scores(any_generator), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)  # float32 means against float64 ones
        assert ours.dtype == torch.float64
    assert counts == [(7, 7)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in any_generator.state_dict().items())
    settings = scores.settings
    assert settings["method"] == settings["function"]["function"] == f"{__name__}:widest_weights"
    assert len(settings["function"]["sha256"]) == 64 and settings["latents"] == 7
    assert load_scores(save_scores(scores, tmp_path / "scores.safetensors")).settings == settings


def test_a_function_itself_is_a_method_too(small_teacher: Generator) -> None:
    assert score(small_teacher, method=drawn).settings["method"] == f"{__name__}:drawn"


def test_the_seed_decides_and_the_global_random_state_stays(small_teacher: Generator) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (score(small_teacher, method=drawn, seed=seed) for seed in (1, 1, 2))
    assert first.sha256 == again.sha256 != other.sha256
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: [*found.values()], "returned a list, not a mapping"),
        (lambda found: {**found, "b4.conv2": torch.ones(3)}, r"scores of 'b4.conv2', .*Did you mean b4.conv1\?"),
        (lambda found: {"b8.conv0": found["b8.conv0"]}, "no scores of b4.conv1, b8.conv1, b8.torgb"),
        (
            lambda found: {**found, "b4.conv1": torch.ones(3)},
            r"shape \[3\] for b4.conv1, whose 10 channels need \[10\]",
        ),
        (lambda found: {**found, "b4.conv1": [1.0] * 10}, "a list for b4.conv1, not a tensor"),
        (lambda found: {**found, "b4.conv1": torch.full((10,), torch.nan)}, "NaN or infinity for b4.conv1"),
        (lambda found: found["nothing"], "failed: KeyError: 'nothing'"),
    ],
    ids=["no mapping", "an unknown layer", "missing layers", "another shape", "no tensor", "not finite", "an error"],
)
def test_what_comes_back_is_checked_and_the_function_named(
    small_teacher: Generator, change: Callable[[Any], Any], words: str
) -> None:
    def mine(generator: Generator, **options: Any) -> Any:
        return change(dict(drawn(generator)))

    with pytest.raises(UsageError, match=f"the score {__name__}:.*mine (returned (the )?)?{words}"):
        score(small_teacher, method=mine)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latents": "auto"}, "does not choose its latents"),
        ({"shard": (0, 2)}, "shard does not apply"),
        ({"released": True}, "released does not apply"),
        ({"mask": lambda images: images[:, :1]}, "with a mask"),
        ({"latents": 0}, "nothing to score with 0 latents"),
    ],
)
def test_settings_of_other_methods_are_refused(small_teacher: Generator, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        score(small_teacher, method=drawn, **options)
