"""Projection: images of known codes are found again, and impossible inputs are refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.errors import InputError, QualityError, UsageError
from dcp_deploy.evaluation import projection
from dcp_deploy.evaluation.projection import (
    ProjectConfig,
    noise_structure,
    project,
    project_files,
    read_images,
    schedule,
)
from dcp_deploy.export import load_runner
from dcp_deploy.export.runners.sampling import as_uint8
from dcp_deploy.generators import Generator, GeneratorConfig

QUICK = ProjectConfig(steps=60, rate=0.05)


@pytest.fixture
def small() -> Generator:
    """Make an 8 px generator whose colours stay within range."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        generator = Generator(GeneratorConfig(8, (8,) * 4, z_dim=8, w_dim=8, mapping_layers=2)).eval()
        for _, torgb in generator.synthesis.torgbs():
            torgb.weight.data.mul_(0.3)
        for _, conv in generator.synthesis.convs():
            conv.noise_strength.data.fill_(0.3)
    return generator.requires_grad_(False)


def generated(generator: Generator, count: int, seed: int = 5) -> np.ndarray:
    z = torch.randn(count, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    return as_uint8(generator(z).numpy())


def test_images_of_known_codes_are_found_again(small: Generator) -> None:
    targets = generated(small, 2)
    found = project(small, targets, QUICK)
    spread = float(np.square((generated(small, 50) - targets[:1].astype(float)) / 127.5).mean())
    assert max(found.mse) < 1e-3 < 0.02 * spread  # a fiftieth of another image's distance, near 8-bit rounding
    assert found.ws.shape == (2, small.config.num_ws, 8)
    assert torch.equal(found.ws[:, :1].expand_as(found.ws), found.ws)  # space w: one code
    assert np.array_equal(as_uint8(small.synthesis(found.ws).numpy()).shape, found.images.shape)
    again = small.synthesis(found.ws).clamp(-1, 1)
    assert float((again - torch.from_numpy(found.images / 127.5 - 1).permute(0, 3, 1, 2)).abs().max()) < 0.6 / 127.5


def test_a_search_can_start_from_given_codes(small: Generator) -> None:
    """Ten images are two batches; each starts from its own code, which is already right."""
    z = torch.randn(10, small.config.z_dim, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        codes = small.mapping.w(z)
        images = (small(z).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    settings = ProjectConfig(steps=1, rate=1e-6, explore=0.0)
    assert max(project(small, images, settings, first=codes).mse) < 1e-4 < min(project(small, images, settings).mse)


def test_a_rectangular_image_is_projected_with_noise_maps() -> None:
    config = GeneratorConfig(8, (8,) * 4, z_dim=8, w_dim=8, mapping_layers=2, base=(6, 3))
    generator = Generator(config).eval().requires_grad_(False)
    found = project(generator, generated(generator, 1), replace(QUICK, steps=2, noise=True))
    assert found.images.shape == (1, 12, 6, 3)
    with pytest.raises(UsageError, match=r"uint8 \[N, 12, 6, 3\]"):
        project(generator, np.zeros((1, 12, 12, 3), np.uint8), QUICK)


def test_one_code_per_layer_comes_closer_to_a_foreign_image(small: Generator) -> None:
    foreign = np.random.default_rng(0).integers(60, 200, size=(1, 8, 8, 3), dtype=np.uint8)
    one, each = (project(small, foreign, replace(QUICK, space=space)) for space in ("w", "w+"))
    assert each.mse[0] < 0.9 * one.mse[0]
    assert not torch.equal(each.ws[:, 0], each.ws[:, 1])


def test_noise_maps_help_and_those_of_the_generator_stay_unchanged(small: Generator) -> None:
    before = copy.deepcopy(small.state_dict())
    foreign = np.random.default_rng(1).integers(60, 200, size=(2, 8, 8, 3), dtype=np.uint8)
    plain = project(small, foreign, QUICK)
    noisy = project(small, foreign, replace(QUICK, noise=True, noise_weight=0.0))
    assert np.mean(noisy.mse) < 0.9 * np.mean(plain.mse)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


def test_the_noise_weight_keeps_the_image_out_of_the_noise(small: Generator) -> None:
    foreign = np.random.default_rng(1).integers(60, 200, size=(1, 8, 8, 3), dtype=np.uint8)
    free, held = (project(small, foreign, replace(QUICK, noise=True, noise_weight=w)).mse[0] for w in (0.0, 1e5))
    assert free < held


def test_structured_noise_has_a_larger_penalty_than_white_noise() -> None:
    random = torch.Generator().manual_seed(0)
    white = torch.randn(1, 1, 32, 32, generator=random)
    smooth = torch.nn.functional.interpolate(torch.randn(1, 1, 8, 8, generator=random), scale_factor=4)
    assert float(noise_structure([smooth])) > 20 * float(noise_structure([white]))
    twice = float(noise_structure([white, white]))
    assert twice == pytest.approx(2 * float(noise_structure([white])))
    assert float(noise_structure([])) == 0.0


def test_structure_at_coarser_scales_is_penalised() -> None:
    """A checkerboard cancels the correlation of neighbours in a smooth map, and vanishes in the 2 x 2 means."""
    board = 1.0 - 2.0 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2)
    blocks = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate((blocks - blocks.mean()) / blocks.std(), scale_factor=4)
    hidden = smooth + board * 0.75**0.5  # in blocks of 4, neighbours correlate by about 0.75
    fine = sum(float((hidden * hidden.roll(1, dims=axis)).mean()) ** 2 for axis in (2, 3))
    assert float(noise_structure([hidden])) > 10 * fine


def test_the_rate_rises_holds_and_falls() -> None:
    assert schedule(0.0) < 0.01
    assert schedule(0.05) == schedule(0.5) == schedule(0.75) == 1.0
    assert 0.4 < schedule(0.875) < 0.6 and schedule(1.0) == 0.0


def test_the_seed_determines_the_codes(small: Generator) -> None:
    target, few = generated(small, 1), replace(QUICK, steps=10)
    first = project(small, target, few).ws
    assert torch.equal(project(small, target, few).ws, first)
    assert not torch.equal(project(small, target, replace(few, seed=1)).ws, first)


def test_a_result_does_not_depend_on_the_other_images(small: Generator) -> None:
    targets, few = generated(small, 10), replace(QUICK, steps=10)
    together = project(small, targets, few)
    assert torch.allclose(project(small, targets[:1], few).ws[0], together.ws[0], atol=1e-4)  # rounding after ten steps
    assert len(together.mse) == 10  # more than one batch


def test_a_perceptual_distance_is_used_and_reported(small: Generator) -> None:
    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.mean(dim=(1, 2, 3)) - b.mean(dim=(1, 2, 3))).abs()

    found = project(small, generated(small, 2), replace(QUICK, steps=20), lpips=distance)
    assert found.lpips is not None and len(found.lpips) == 2 and max(found.lpips) < 0.1
    assert found.to_dict()["lpips"] == pytest.approx(np.mean(found.lpips))


def test_progress_counts_the_steps_of_all_batches(small: Generator) -> None:
    calls: list[tuple[int, int]] = []
    targets, two_steps = generated(small, 9), replace(QUICK, steps=2)
    project(small, targets, two_steps, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"rate": 0.0}, {"space": "z"}, {"rate": float("nan")}], ids=lambda one: str(one)
)
def test_settings_that_cannot_work_are_refused(small: Generator, settings: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        project(small, generated(small, 1), replace(QUICK, **settings))  # type: ignore[arg-type]


def test_images_of_another_size_and_conditional_generators_are_refused(small: Generator) -> None:
    with pytest.raises(UsageError, match="uint8 \\[N, 8, 8, 3\\]"):
        project(small, np.zeros((1, 16, 16, 3), np.uint8), QUICK)
    conditional = Generator(GeneratorConfig(8, (4,) * 4, z_dim=4, w_dim=4, c_dim=3, mapping_layers=1))
    with pytest.raises(UsageError, match="class-conditional"):
        project(conditional, np.zeros((1, 8, 8, 3), np.uint8), QUICK)


def test_a_diverging_search_is_an_error(small: Generator) -> None:
    with pytest.raises(QualityError, match="diverged at step"):
        project(small, generated(small, 1), replace(QUICK, rate=1e30))


# ---- files ----


def test_files_of_both_models_are_written(small: Generator, tmp_path: Path) -> None:
    targets = generated(small, 2)
    paths = [tmp_path / "a" / "face.png", tmp_path / "b" / "face.png"]
    for path, target in zip(paths, targets, strict=True):
        path.parent.mkdir()
        Image.fromarray(target).save(path)
    save_generator(small, tmp_path / "g.safetensors")
    models = {"model": tmp_path / "g.safetensors", "teacher": tmp_path / "g.safetensors"}
    out = tmp_path / "out"
    document = project_files(paths, models, out, replace(QUICK, steps=20))
    assert json.loads((out / "projection.json").read_text()) == document
    assert document["loss"] == "mse" and document["models"]["model"]["lpips"] is None
    assert "vgg16-397923af.pth" in document["not_measured"]["lpips"]
    codes = load_file(out / "ws.safetensors")
    assert set(codes) == {"model", "teacher"} and codes["model"].shape == (2, small.config.num_ws, 8)
    with Image.open(out / "face-1.png") as picture:
        assert picture.size == (24, 8)  # the image and the projections of both models
        assert np.array_equal(np.asarray(picture)[:, :8], targets[1])


def test_images_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.png"):
        read_images([tmp_path / "nowhere.png"], 8)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png is not an image"):
        read_images([tmp_path / "text.png"], 8)
    with pytest.raises(UsageError, match="no image to project"):
        read_images([], 8)


def test_an_image_of_another_size_needs_to_be_cropped(tmp_path: Path) -> None:
    Image.new("RGB", (20, 12), "red").save(tmp_path / "large.png")
    with pytest.raises(UsageError, match="20x12") as caught:
        read_images([tmp_path / "large.png"], 8)
    assert "--resize crop" in caught.value.remedy
    assert read_images([tmp_path / "large.png"], 8, resize="crop").shape == (1, 8, 8, 3)
    Image.new("RGB", (4, 4)).save(tmp_path / "small.png")
    with pytest.raises(UsageError, match="4x4") as caught:
        read_images([tmp_path / "small.png"], 8, resize="crop")
    assert "smaller" in caught.value.remedy


def test_an_exported_file_is_refused(small: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "open_model", lambda *_, network: load_runner(small, backend="fused"))
    with pytest.raises(UsageError, match="gradients"):
        project_files([tmp_path / "a.png"], {"model": tmp_path / "g.onnx"}, tmp_path / "out")


def test_models_of_different_sizes_are_refused(small: Generator, tmp_path: Path) -> None:
    save_generator(small, tmp_path / "g.safetensors")
    other = Generator(GeneratorConfig(16, (8,) * 6, z_dim=8, w_dim=8, mapping_layers=2))
    save_generator(other, tmp_path / "o.safetensors")
    models = {"model": tmp_path / "g.safetensors", "teacher": tmp_path / "o.safetensors"}
    with pytest.raises(UsageError, match="8 px and 16 px"):
        project_files([tmp_path / "a.png"], models, tmp_path / "out")
