"""EfficientNet-Lite0: its weights, and its maps and features against the published network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dcp_deploy.errors import CorruptFileError, MissingCapabilityError
from dcp_deploy.metrics import efficientnet
from dcp_deploy.metrics.efficientnet import STAGES, Conv, EfficientNetLite0, load_efficientnet, load_features

installed = pytest.mark.skipif(find_spec(efficientnet.PACKAGE) is None, reason="needs the extra 'efficientnet'")


def published_state() -> dict[str, Tensor]:
    """Return random tensors with the names and shapes of the published file, of a network that keeps its scale."""
    source = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    network = EfficientNetLite0()
    for ours, conv, norm in efficientnet._layers():
        layer = network.get_submodule(ours)
        assert isinstance(layer, Conv)
        shape = layer.conv.weight.shape
        state[f"{conv}.weight"] = torch.randn(shape, generator=source) / shape[1:].numel() ** 0.5
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{name}"] = torch.rand(shape[0], generator=source) + 0.5
    return state


def test_folding_keeps_convolution_and_normalisation() -> None:
    state = published_state()
    network = EfficientNetLite0().eval()
    network.load_state_dict(efficientnet.folded(state))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    y = F.conv2d(F.pad(x, (0, 1, 0, 1)), state["_conv_stem.weight"], stride=2)
    norm = (state[f"_bn0.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    torch.testing.assert_close(network.stem(x), F.relu6(F.batch_norm(y, *norm, eps=1e-3)))


def test_a_missing_tensor_is_named() -> None:
    state = published_state()
    del state["_blocks.3._bn1.running_var"]
    with pytest.raises(KeyError, match=r"_blocks\.3\._bn1\.running_var"):
        efficientnet.folded(state)


@pytest.mark.parametrize("size", [32, 64])
def test_maps_have_the_documented_shapes(size: int) -> None:
    maps = EfficientNetLite0().maps(torch.zeros(1, 3, size, size))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (STAGES[stage].channels, size // factor, size // factor)
        for stage, factor in zip(efficientnet.MAPPED, (4, 8, 16, 32), strict=True)
    ]


@installed
def test_features_are_those_of_the_published_network() -> None:
    """The values were computed once by the package efficientnet-lite-pytorch 0.1.0 with the same weights."""
    x = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        features = load_efficientnet()(x)[0]
    found = [features.mean().item(), features.std().item(), *features[GOLDEN_PLACES].tolist()]
    assert found == pytest.approx(GOLDEN, abs=2e-4)


GOLDEN_PLACES = [113, 146, 833, 970, 1215]
GOLDEN = [0.04811, 0.28863, 4.1152, 1.68946, 0.90429, 0.5072, 0.23367]


@installed
def test_the_extractor_takes_bytes_of_any_size() -> None:
    extractor = load_features()
    image = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = extractor(image)
    assert features.shape == (1, 1280) and features.dtype.name == "float32"
    larger = F.interpolate(image.float(), size=(128, 128), mode="bilinear", align_corners=False)
    # Rounding to bytes is all that differs.
    assert abs(extractor(larger.round().byte()) - features).mean() < 0.02


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(MissingCapabilityError) as caught:
        load_efficientnet()
    assert "dcp-deploy[efficientnet]" in caught.value.remedy


def test_a_file_with_other_weights_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    monkeypatch.setattr(efficientnet, "weights_file", lambda: path)
    with pytest.raises(CorruptFileError, match=r"weights\.pth"):
        load_efficientnet()
