"""Networks whose features others publish figures in: Inception for distances, LPIPS for likeness.

Their packages bring the code, and the weights come from a file: torch-fidelity's Inception and torchvision's VGG16.
Such a file is read by our own reader, which cannot run code from it, where the packages would unpickle anything.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checkpoints.pickles.tensors import TensorView
from ..checkpoints.pickles.torch_file import read_torch_file
from ..errors import CorruptFileError, InputError, MissingCapabilityError
from ..files import sha256_file

INSTALL = "pip install 'dcp-deploy[metrics]'"
_LPIPS_SIZE = 256  # larger images are scaled down to it, as StyleKD's loss does


@dataclass(frozen=True)
class Inception:
    """The Inception of torch-fidelity: what FID has been measured in since TensorFlow's first script."""

    network: nn.Module
    key: str
    """What its features depend on beside the images: package version and weights."""
    device: torch.device
    name: str = "inception"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """Features [B, 2048] of images uint8 [B, 3, R, R] of any size, which it scales to 299 px itself."""
        features = cast(Tensor, self.network(images.to(self.device))[0])
        return features.float().cpu().numpy()


def check_fidelity() -> None:
    """Raise MissingCapabilityError unless torch-fidelity can be used here."""
    _package("torch_fidelity")


def load_inception(weights: Path, *, device: torch.device | str = "cpu") -> Inception:
    """torch-fidelity's extractor of 2048 features, from its weights file.

    Raises MissingCapabilityError without the package (or the torchvision that it imports), InputError (UnsafeFileError,
    CorruptFileError) for a file that is not those weights.
    """
    state = read_weights(weights)
    found = _package("torch_fidelity")
    with tempfile.TemporaryDirectory() as folder:  # its constructor loads a file, and would unpickle any object in it
        plain = Path(folder) / "inception.pth"
        torch.save(state, plain)
        make = found.FeatureExtractorInceptionV3
        try:
            network = make("inception", ["2048"], feature_extractor_weights_path=str(plain))
        except RuntimeError as error:
            raise _unfit(weights, "torch-fidelity's Inception", error) from error
    key = f"torch-fidelity {version('torch-fidelity')} inception 2048 {sha256_file(weights)}"
    return Inception(network.to(device), key, torch.device(device))


@dataclass(frozen=True)
class Lpips:
    """LPIPS of VGG16, version 0.1 (Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features)."""

    network: nn.Module
    device: torch.device

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances [B] >= 0 of images [B, 3, R, R] in [-1, 1], scaled down to 256 px where larger. Differentiable."""
        return cast(Tensor, self.network(self._fitted(a), self._fitted(b))).flatten()

    def maps(self, images: Tensor) -> list[Tensor]:
        """VGG16's five maps that are compared, [B, 64, R, R] down to [B, 512, R / 16, R / 16], of such images."""
        network: Any = self.network
        return list(network.net(network.scaling_layer(self._fitted(images))))

    def _fitted(self, images: Tensor) -> Tensor:
        images = images.to(self.device)
        if images.shape[-1] <= _LPIPS_SIZE:
            return images
        size = (_LPIPS_SIZE, _LPIPS_SIZE)
        return nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False)


def load_lpips(weights: Path, *, device: torch.device | str = "cpu") -> Lpips:
    """The lpips package's distance on torchvision's VGG16, whose weights file (vgg16-397923af.pth) is ``weights``.

    The package brings the weights of its linear layers. Errors as :func:`load_inception`.
    """
    state = read_weights(weights)
    found = _package("lpips")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about the argument by which lpips asks for no weights
        network = found.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    own = network.net.state_dict()  # "slice2.5.weight": the layer that torchvision calls "features.5.weight"
    try:
        network.net.load_state_dict({name: state[f"features.{name.split('.', 1)[1]}"] for name in own})
    except (KeyError, RuntimeError) as error:
        raise _unfit(weights, "torchvision's VGG16", error) from error
    return Lpips(network.to(device).eval().requires_grad_(False), torch.device(device))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that torch.save wrote from a state dict. Runs nothing from it.

    Raises InputError when it cannot be read, UnsafeFileError when it names anything but tensors, CorruptFileError when
    it is damaged or no dictionary of tensors.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "Check the path of the weights.") from error
    file = read_torch_file(memoryview(data), str(path))
    views = file.value
    if not isinstance(views, Mapping) or not all(isinstance(view, TensorView) for view in views.values()):
        raise CorruptFileError(f"{path} is no dictionary of tensors", "Give the published weights file as it is.")
    return file.tensors({str(name): view for name, view in views.items()})


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:  # a torchvision made for another torch answers with a RuntimeError
        raise MissingCapabilityError(
            f"{name.replace('_', '-')} cannot be used here: {error}",
            f"{INSTALL}; it imports torchvision, which must be the one made for your torch.",
        ) from error


def _unfit(path: Path, what: str, error: Exception) -> CorruptFileError:
    reason = str(error).splitlines()[0][:200]
    return CorruptFileError(f"{path} does not hold the weights of {what}: {reason}", "Give the published file.")
