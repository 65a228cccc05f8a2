"""Published feature extractors: Inception for distances, LPIPS for likeness.

Packages bring the code. The weights come from a file: torch-fidelity's Inception and torchvision's VGG16. Our own
reader loads the file, because the packages would unpickle anything, and so run code from it.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checkpoints.pickles.tensors import TensorView
from ..checkpoints.pickles.torch_file import read_torch_file
from ..distributed.joining import on
from ..errors import CorruptFileError, InputError, MissingCapabilityError
from ..files import sha256_file

INSTALL = "Install it: pip install 'dcp-deploy[metrics]'"
_LPIPS_SIZE = 256  # px; larger images are scaled down to it, as in StyleKD's loss


class FeatureExtractor(Protocol):
    """A network whose features of images are compared: :class:`Inception` or another."""

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str:
        """Everything but the images that the features depend on."""

    @property
    def device(self) -> torch.device: ...

    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """Return features [B, D] of images uint8 [B, 3, H, W] of any size."""

    def on(self, device: torch.device) -> FeatureExtractor:
        """Return it on ``device``; the network is copied only if it is elsewhere."""


@dataclass(frozen=True)
class Inception:
    """The Inception of torch-fidelity: a port of the network that FID was first measured with."""

    network: nn.Module
    key: str
    """Package version and hash of the weights: everything but the images that the features depend on."""
    device: torch.device
    name: str = "inception"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> NDArray[np.float32]:
        """Return features [B, 2048] of images uint8 [B, 3, H, W] of any size; the network scales them to 299 px."""
        features = cast(Tensor, self.network(images.to(self.device))[0])
        return features.float().cpu().numpy()

    def on(self, device: torch.device) -> Inception:
        """Return it on ``device``; the network is copied only if it is elsewhere."""
        return replace(self, network=on(self.network, device), device=device)


def check_fidelity() -> None:
    """Raise MissingCapabilityError unless torch-fidelity can be used here."""
    _package("torch_fidelity")


def load_inception(weights: Path, *, device: torch.device | str = "cpu") -> Inception:
    """Load torch-fidelity's extractor of 2048 features from its weights file.

    Raises MissingCapabilityError if the package or its torchvision is missing, InputError (UnsafeFileError,
    CorruptFileError) for a file that does not hold these weights.
    """
    state = read_weights(weights)
    package = _package("torch_fidelity")
    with tempfile.TemporaryDirectory() as folder:  # the constructor unpickles a file: give it a safe one
        plain = Path(folder) / "inception.pth"
        torch.save(state, plain)
        make = package.FeatureExtractorInceptionV3
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
        """Return distances [B] >= 0 of images [B, 3, H, W] in [-1, 1], differentiable.

        A larger image is scaled down until its longer side has 256 px.
        """
        return cast(Tensor, self.network(self._fitted(a), self._fitted(b))).flatten()

    def _fitted(self, images: Tensor) -> Tensor:
        images = images.to(self.device)
        longest = max(images.shape[2:])
        if longest <= _LPIPS_SIZE:
            return images
        size = [max(1, round(side * _LPIPS_SIZE / longest)) for side in images.shape[2:]]
        return nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False)


def load_lpips(weights: Path, *, device: torch.device | str = "cpu") -> Lpips:
    """Load the LPIPS distance of the lpips package; ``weights`` is torchvision's VGG16 file, vgg16-397923af.pth.

    The package brings the weights of its linear layers. Raises what :func:`load_inception` raises.
    """
    state = read_weights(weights)
    package = _package("lpips")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision warns about the arguments that lpips gives
        network = package.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    own = network.net.state_dict()  # "slice2.5.weight" is torchvision's "features.5.weight"
    try:
        network.net.load_state_dict({name: state[f"features.{name.split('.', 1)[1]}"] for name in own})
    except (KeyError, RuntimeError) as error:
        raise _unfit(weights, "torchvision's VGG16", error) from error
    return Lpips(network.to(device).eval().requires_grad_(False), torch.device(device))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict that torch.save wrote, without running code from the file.

    Raises InputError if it cannot be read, UnsafeFileError if it references anything but tensors, CorruptFileError if
    it is damaged or not a dictionary of tensors.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "Check the path of the weights.") from error
    file = read_torch_file(memoryview(data), str(path))
    views = file.value
    if not isinstance(views, Mapping) or not all(isinstance(view, TensorView) for view in views.values()):
        raise CorruptFileError(f"{path} is not a dictionary of tensors", "Give the published weights file, unchanged.")
    return file.tensors({str(name): view for name, view in views.items()})


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:  # a torchvision for another torch raises RuntimeError
        raise MissingCapabilityError(
            f"{name.replace('_', '-')} cannot be used here: {error}",
            f"{INSTALL}; make sure that torchvision matches your torch.",
        ) from error


def _unfit(path: Path, what: str, error: Exception) -> CorruptFileError:
    reason = str(error).splitlines()[0][:200]
    return CorruptFileError(f"{path} does not hold the weights of {what}: {reason}", "Give the published file.")
