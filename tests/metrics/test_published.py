"""Inception and LPIPS: the packages' figures from a weights file, and other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcp_deploy.errors import CorruptFileError, InputError, MissingCapabilityError, UnsafeFileError
from dcp_deploy.metrics import published as published_module
from dcp_deploy.metrics.published import Inception, Lpips, load_inception, load_lpips, read_weights


def pictures(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@pytest.fixture(scope="module")
def inception(inception_file: Path) -> Inception:
    return load_inception(inception_file)


@pytest.fixture(scope="module")
def lpips(vgg16_file: Path) -> Lpips:
    return load_lpips(vgg16_file)


def test_inception_gives_the_features_of_torch_fidelity(inception: Inception, inception_file: Path) -> None:
    import torch_fidelity

    own = torch_fidelity.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(inception_file))
    images = pictures(2, 16)
    features = inception(images)
    assert features.shape == (2, 2048) and features.dtype == np.float32
    assert np.array_equal(features, own(images)[0].numpy())
    assert len(np.unique(features[0])) > 100  # the random network distinguishes images


def test_inceptions_key_names_its_version_and_weights(inception: Inception, inception_file: Path) -> None:
    from dcp_deploy.files import sha256_file

    assert inception.key.startswith("torch-fidelity 0.") and sha256_file(inception_file) in inception.key


def test_lpips_is_the_published_formula(lpips: Lpips, vgg16_file: Path) -> None:
    a, b = (pictures(2, 32, seed).float() / 127.5 - 1 for seed in (0, 1))
    found = lpips(a, b)
    expected = torch.zeros(2)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = ((image - shift[:, None, None]) / scale[:, None, None] for image in (a, b))
    state = torch.load(vgg16_file, weights_only=True)
    for head, last in enumerate((3, 8, 15, 22, 29)):  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
        maps = [through(image, state, last) for image in (x, y)]
        unit = [m / m.square().sum(dim=1, keepdim=True).sqrt() for m in maps]
        weights = lpips.network.lins[head].state_dict()["model.1.weight"]
        expected += ((unit[0] - unit[1]).square() * weights).sum(dim=1).mean(dim=(1, 2))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)  # sums of float32 in another order
    assert lpips(a, a).tolist() == [0.0, 0.0]


def through(x: torch.Tensor, state: dict[str, torch.Tensor], last: int) -> torch.Tensor:
    """Return the output of layer ``last`` of VGG16's ``features``."""
    for layer in range(last + 1):
        if f"features.{layer}.weight" in state:
            x = torch.conv2d(x, state[f"features.{layer}.weight"], state[f"features.{layer}.bias"], padding=1)
        elif f"features.{layer - 1}.weight" in state:
            x = torch.relu(x)
        else:
            x = torch.max_pool2d(x, 2)
    return x


def test_large_images_are_scaled_down_before_lpips(lpips: Lpips, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [lpips._fitted(torch.zeros(1, 3, size, size)).shape[-1] for size in (64, 256, 512)] == [64, 256, 256]
    assert lpips._fitted(torch.zeros(1, 3, 1024, 512)).shape[2:] == (256, 128)
    monkeypatch.setattr(published_module, "_LPIPS_SIZE", 64)  # 256 px take seconds
    small = pictures(1, 64).float() / 127.5 - 1
    other = -small
    large = [image.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) for image in (small, other)]
    assert lpips(*large).item() == pytest.approx(lpips(small, other).item(), rel=1e-5)


def test_lpips_has_a_gradient(lpips: Lpips) -> None:
    image = (pictures(1, 32).float() / 127.5 - 1).requires_grad_(True)
    lpips(image, torch.zeros(1, 3, 32, 32)).sum().backward()
    assert image.grad is not None and float(image.grad.abs().sum()) > 0


def test_the_maps_of_lpips_are_those_of_vgg16(lpips: Lpips, vgg16_file: Path) -> None:
    image = pictures(1, 32).float() / 127.5 - 1
    network: Any = lpips.network
    maps = list(network.net(network.scaling_layer(image)))
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    state = torch.load(vgg16_file, weights_only=True)
    assert [tuple(x.shape[1:]) for x in maps] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    for found, last in zip(maps, (3, 8, 15, 22, 29), strict=True):
        expected = through((image - shift[:, None, None]) / scale[:, None, None], state, last)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # float32 sums in another order


def test_weights_of_another_network_are_refused(inception_file: Path, vgg16_file: Path) -> None:
    with pytest.raises(CorruptFileError, match="torch-fidelity's Inception"):
        load_inception(vgg16_file)
    with pytest.raises(CorruptFileError, match="VGG16"):
        load_lpips(inception_file)


def test_a_weights_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    path = tmp_path / "weights.pth"
    torch.save({"fc.weight": Trap()}, path)
    with pytest.raises(UnsafeFileError):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


def test_a_file_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save([1, 2], path)
    with pytest.raises(CorruptFileError, match="not a dictionary of tensors"):
        read_weights(path)
    with pytest.raises(InputError, match="cannot read"):
        read_weights(tmp_path / "nowhere.pth")


def test_the_error_for_a_missing_package_has_the_install_command(tmp_path: Path, no_metrics_packages: None) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(MissingCapabilityError, match="torch-fidelity cannot be used") as caught:
        load_inception(path)
    assert "dcp-deploy[metrics]" in caught.value.remedy
