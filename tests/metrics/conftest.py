"""Published packages to compare with, which need an environment of their own, and random weights for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

BESIDE = Path(__file__).parents[2] / ".venv-metrics"
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # channels; 0: halve the size


@pytest.fixture(scope="module")
def published() -> Iterator[None]:
    """Make torch-fidelity, lpips and prdc importable while the tests of a module run.

    ``make test`` installs them into a folder of their own without their dependencies, because torchvision would bring
    another torch. If torchvision is missing, a fake module with the few names that they import replaces it.
    """
    import torchmetrics.image  # noqa: F401  # looks for torch-fidelity on first import

    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("torch_fidelity") is None:
            if not (BESIDE / "torch_fidelity").is_dir():
                pytest.skip(f"needs the packages that 'make test' installs into {BESIDE.name}")
            patch.syspath_prepend(str(BESIDE))
        if find_spec("torchvision") is None:
            for name, module in _torchvision().items():
                patch.setitem(sys.modules, name, module)
        yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("torch_fidelity", "lpips", "prdc", "torchvision"):
            del sys.modules[name]


def _torchvision() -> dict[str, ModuleType]:
    parts = ("", ".models", ".datasets", ".transforms", ".transforms.functional")
    modules = {f"torchvision{part}": ModuleType(f"torchvision{part}") for part in parts}
    for name, module in modules.items():
        if "." in name:
            parent, _, child = name.rpartition(".")
            setattr(modules[parent], child, module)
    modules["torchvision.models"].vgg16 = lambda pretrained: SimpleNamespace(features=vgg16_features())  # type: ignore[attr-defined]
    for name in ("CIFAR10", "STL10", "CIFAR100"):
        setattr(modules["torchvision.datasets"], name, type(name, (), {}))
    return modules


def vgg16_features() -> nn.Sequential:
    """Return VGG16's convolutions (Simonyan & Zisserman 2015, configuration D) in torchvision's order, random."""
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG16:
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=False)]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def inception_file(published: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a weights file of torch-fidelity's Inception with random weights."""
    import torch_fidelity

    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, path)
    network = torch_fidelity.FeatureExtractorInceptionV3
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(network, "load_state_dict", lambda self, state: None)  # keep the initial weights
        made = network("inception", ["2048"], feature_extractor_weights_path=str(path))
    torch.save(made.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def vgg16_file(published: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a weights file of torchvision's VGG16 with random weights."""
    path = tmp_path_factory.mktemp("vgg16") / "vgg16.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = vgg16_features().state_dict()
    torch.save({f"features.{name}": value for name, value in state.items()}, path)
    return path
