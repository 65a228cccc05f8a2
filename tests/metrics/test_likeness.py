"""Likeness to a teacher and diversity around seeds, of models with known images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from dcp_deploy.datasets.labels import Labels
from dcp_deploy.errors import QualityError, UsageError
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.metrics.drawing import draw, latents_for
from dcp_deploy.metrics.likeness import likeness, seed_diversity


@dataclass
class Flat:
    """Runner whose pixels are ``scale`` times the latent's first number, plus ``shift`` and 0.1 per class."""

    scale: float = 0.1
    shift: float = 0.0
    z_dim: int = 4
    c_dim: int = 0
    image_size: tuple[int, int] = (8, 8)

    def __call__(self, *, z: np.ndarray, psi: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
        level = self.scale * psi * z[:, 0] + self.shift
        if c is not None:
            level = level + 0.1 * c.argmax(axis=1)
        return np.broadcast_to(level[:, None, None, None], (len(z), 3, 8, 8)).astype(np.float32)


STEP = 1 / 127.5  # between 8-bit colours


def test_a_model_has_no_distance_to_itself() -> None:
    assert likeness(Flat(), Flat(), samples=50).l1 == 0.0


def test_the_l1_of_a_shift_is_the_shift() -> None:
    found = likeness(Flat(shift=20 * STEP), Flat(), samples=50)
    assert found.l1 == pytest.approx(20 * STEP, abs=1e-6)
    assert found.lpips is None and found.samples == 50


def test_models_of_other_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="the model's image size is 4x8 px, the teacher's 8 px"):
        likeness(Flat(image_size=(8, 4)), Flat(), samples=50)


def test_another_distance_is_averaged_over_images() -> None:
    def squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).square().mean(dim=(1, 2, 3))

    found = likeness(Flat(shift=20 * STEP), Flat(), samples=50, batch=7, lpips=squared)
    assert found.lpips == pytest.approx((20 * STEP) ** 2, rel=1e-4)


def test_a_generator_and_its_runner_make_the_same_images(tiny_generator: Generator) -> None:
    from dcp_deploy.export import load_runner

    assert likeness(load_runner(tiny_generator), tiny_generator, samples=5).l1 == 0.0


def test_another_teacher_is_refused() -> None:
    with pytest.raises(UsageError, match="z_dim is 4, the teacher's 5"):
        likeness(Flat(), Flat(z_dim=5), samples=5)


def test_seed_diversity_matches_the_formula_for_normal_steps() -> None:
    # Neighbours differ by scale * reach * (e1 - e2): their mean distance is scale * reach * 2 / sqrt(pi).
    found = seed_diversity(Flat(scale=0.2), seeds=200, neighbours=8, reach=0.5)
    assert found.l1 == pytest.approx(0.2 * 0.5 * 2 / np.sqrt(np.pi), rel=0.05)  # 1600 latents: a standard error of 2 %


def test_seed_diversity_is_proportional_to_the_response_and_zero_for_a_constant() -> None:
    full, half = (seed_diversity(Flat(scale=scale), seeds=50).l1 for scale in (0.2, 0.1))
    assert half == pytest.approx(full / 2, rel=0.02)  # 8-bit rounding
    assert seed_diversity(Flat(scale=0.0), seeds=3).l1 == 0.0


def test_neighbours_keep_the_class_of_their_seed() -> None:
    assert seed_diversity(Flat(scale=0.0, c_dim=5), seeds=20).l1 == 0.0


@pytest.mark.parametrize("settings", [{"seeds": 0}, {"neighbours": 1}, {"reach": 0.0}, {"reach": 1.5}], ids=str)
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        seed_diversity(Flat(), **settings)  # type: ignore[arg-type]


def test_classes_are_drawn_for_conditional_models() -> None:
    latents = latents_for(Flat(c_dim=3), 300, 0)
    assert latents.c is not None and latents.c.sum(dim=0).min() > 70
    images = torch.cat(list(draw(Flat(scale=0.0, c_dim=3), latents, batch=64)))
    assert torch.allclose(images[:, 0, 0, 0], 0.1 * latents.c.argmax(dim=1), atol=STEP)


def test_classes_have_the_frequencies_of_given_labels() -> None:
    labels = Labels(np.array([0] * 15 + [1] * 5))
    found = latents_for(Flat(c_dim=3), 2000, 0, labels)
    assert found.c is not None
    # Binomial: a standard deviation of 19 around 1500.
    assert found.c.sum(dim=0).tolist() == pytest.approx([1500, 500, 0], abs=80)
    assert torch.equal(found.z, latents_for(Flat(c_dim=3), 2000, 0).z)
    assert torch.equal(found.c, latents_for(Flat(c_dim=3), 2000, 0, labels).c)


def test_labels_that_are_vectors_are_drawn_as_they_are() -> None:
    vectors = np.array([[0.25, -1.0], [0.5, 2.0]], np.float32)
    found = latents_for(Flat(c_dim=2), 100, 0, Labels(vectors))
    assert found.c is not None
    assert np.array_equal(np.unique(found.c.numpy(), axis=0), vectors)


def test_draws_without_labels_stay_the_same() -> None:
    found = latents_for(Flat(c_dim=3), 5, 7)
    assert found.c is not None
    assert torch.equal(found.z, torch.randn(5, 4, generator=torch.Generator().manual_seed(7)))
    classes = torch.randint(3, (5,), generator=torch.Generator().manual_seed(8))
    assert found.c.argmax(dim=1).tolist() == classes.tolist()


def test_the_largest_change_around_a_seed_is_reported() -> None:
    assert seed_diversity(Flat(scale=0.0, c_dim=5), seeds=20).largest == 0.0
    one = seed_diversity(Flat(scale=0.2), seeds=1, neighbours=2)
    assert one.largest == pytest.approx(one.l1, abs=1e-6)  # a single pair of flat images


def test_a_conditional_generator_and_its_runner_make_the_same_images() -> None:
    from dcp_deploy.export import load_runner

    config = GeneratorConfig(8, (4,) * 4, z_dim=4, w_dim=4, c_dim=3, mapping_layers=1)
    torch.manual_seed(0)
    generator = Generator(config).eval()
    latents = latents_for(generator, 6, 0)
    one, other = (torch.cat(list(draw(model, latents))) for model in (generator, load_runner(generator)))
    assert torch.equal(one, other)


def test_nan_is_refused() -> None:
    with pytest.raises(QualityError, match="NaN"):
        likeness(Flat(shift=float("nan")), Flat(), samples=5)
