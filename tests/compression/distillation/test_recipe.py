from __future__ import annotations

import pickle
from dataclasses import asdict, replace

import pytest

from dcp_deploy.compression import RECIPES, DistillConfig
from dcp_deploy.errors import UsageError


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch": 1},
        {"checkpoint_every": 0},
        {"l1": -1.0},
        {"gan": float("nan")},
        {"lr": 0.0},
        {"beta1": 1.0},
        {"lr": float("inf")},
        {"mixing": 1.5},
        {"gan_start": 1.0},
        {"ema_half_life": 0.0},
        {"discriminator_width": 0.0},
        {"noise": "loud"},
        {"relation": -1.0},
        {"l1": float("nan")},
        {"steps": 1.5},
        {"mirror": "left"},
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(UsageError, match=f"^{name} cannot be {value!r}\nGive a value that is"):
        DistillConfig(**change)  # type: ignore[arg-type]


def test_a_number_keeps_its_type_since_keys_of_runs_differ_between_0_and_0_0() -> None:
    recipe = replace(DistillConfig(), gan=0, l1=1)
    assert asdict(recipe)["gan"] is recipe.gan and isinstance(recipe.gan, int)
    assert recipe == eval(repr(recipe)) == pickle.loads(pickle.dumps(recipe))


def test_a_recipe_without_losses_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to train"):
        DistillConfig(gan=0, l1=0, perceptual=0, relation=0)


def test_a_first_part_without_any_loss_is_refused() -> None:
    with pytest.raises(UsageError, match="starts at step 50"):
        DistillConfig(steps=100, l1=0, perceptual=0, relation=0, gan_start=0.5)


def test_the_discriminator_joins_after_its_share_of_the_steps() -> None:
    assert DistillConfig(steps=100).first_gan_step == 0
    assert DistillConfig(steps=101, gan_start=0.75).first_gan_step == 75
    # The last step has one for every share.
    assert DistillConfig(steps=1, gan_start=0.999).first_gan_step == 0


def test_the_paper_recipe_is_the_published_one() -> None:
    recipe = RECIPES["paper"]
    assert (recipe.gan, recipe.l1, recipe.perceptual, recipe.relation) == (1, 3, 3, 30)
    assert (recipe.r1, recipe.path_length, recipe.mixing, recipe.lr) == (10, 2, 0.9, 0.002)
    assert (recipe.steps, recipe.batch, recipe.noise, recipe.gan_start) == (450_000, 16, "random", 0)


def test_the_moving_average_has_the_published_decay() -> None:
    # Published as 0.5 ** (32 / 10000) at batch 16.
    assert DistillConfig(batch=16).ema_decay == pytest.approx(0.5 ** (32 / 10_000), rel=1e-12)


def test_the_learning_rate_is_constant_by_default() -> None:
    config = DistillConfig(steps=100)
    assert {config.learning_rate(step) for step in range(100)} == {0.002}


def test_the_learning_rate_falls_to_its_end_along_a_half_cosine() -> None:
    config = DistillConfig(steps=101, lr=0.01, lr_end=0.2)
    rates = [config.learning_rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[50] == pytest.approx(0.006)
    assert rates[100] == pytest.approx(0.002)
    assert rates == sorted(rates, reverse=True)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(UsageError, match="stepz"):
        DistillConfig(stepz=5)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="stepz"):
        replace(RECIPES["quick"], stepz=5)  # type: ignore[call-arg]
