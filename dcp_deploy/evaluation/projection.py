"""Images found again in a generator: the codes whose picture comes closest, searched for by gradient descent.

What is compared for teacher and student is how close they come: a student that lost a part of the data cannot draw it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..compression.distillation.losses import FeatureMaps, perceptual_loss
from ..datasets.canvas import RESOLUTION
from ..datasets.decoding import Resize, UnusableImageError, decode
from ..errors import InputError, QualityError, UsageError
from ..export.runners.sampling import grid, save_png
from ..files import atomic_path, write_json
from ..generators import Generator, StyleGAN2Synthesis
from ..generators.latents import draw_latents, stream
from ..metrics.drawing import to_8_bit, to_bytes
from ..metrics.features import images_to_tensor, load_avatar_reader
from ..metrics.likeness import ImageDistance
from ..progress import Progress, Reporter
from .quality import lpips_or_reason, open_model

Space = Literal["w", "w+"]
SPACES: tuple[Space, ...] = ("w", "w+")
MEAN_LATENTS = 10_000
_BATCH = 8  # images at once
_SMALLEST_NOISE = 8  # px of the coarsest scale at which the noise is kept free of structure


@dataclass(frozen=True)
class ProjectConfig:
    """How to search. ``space`` "w" moves one code for all slots, "w+" one for each.

    ``rate`` is Adam's, with a warm-up over 5 % and half a cosine down over the last quarter. ``explore`` is the spread
    of the random offset of w at the start, in units of w's own, which falls to zero over three quarters of the steps.
    ``noise`` optimises the noise maps too (StyleGAN2), weighed by ``noise_weight``.
    """

    space: Space = "w"
    steps: int = 1000
    rate: float = 0.1
    explore: float = 0.05
    noise: bool = False
    noise_weight: float = 1e5
    seed: int = 0


@dataclass(frozen=True)
class Projection:
    """``ws`` [N, num_ws, w_dim] and what they draw, uint8 [N, R, R, 3]; ``mse`` of each, mean over pixels in [-1, 1];
    ``lpips`` of each, None where it was not measured."""

    ws: Tensor
    images: NDArray[np.uint8]
    mse: tuple[float, ...]
    lpips: tuple[float, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """The figures of each image and their means, as JSON takes them."""
        means = {"mse": float(np.mean(self.mse)), "lpips": None if self.lpips is None else float(np.mean(self.lpips))}
        return {**means, "mse_of_each": list(self.mse), "lpips_of_each": self.lpips and list(self.lpips)}


def project(
    generator: Generator,
    images: NDArray[np.uint8],
    config: ProjectConfig | None = None,
    *,
    lpips: ImageDistance | None = None,
    features: FeatureMaps | None = None,
    progress: Progress | None = None,
) -> Projection:
    """Search the codes of images uint8 [N, R, R, 3] in an unconditional generator.

    The loss is the mean squared error plus LPIPS, or, where only feature maps are at hand, the distance between those
    (``features``); after StyleGAN2's projector (Karras et al. 2020, appendix D): from the mean of 10,000 codes, with
    an exploration of w that dies away, and noise maps that must stay noise. An image's result depends on its place and
    ``config``, not on the other images, up to rounding. ``progress`` counts steps.

    Raises UsageError for settings that cannot work or images that do not fit, QualityError when the search diverges.
    """
    config = config or ProjectConfig()
    _check(generator, images, config)
    device = next(generator.parameters()).device
    generator = copy.deepcopy(generator).eval().requires_grad_(False)
    mean, spread = _code_statistics(generator, config.seed)
    found: list[_Found] = []
    for start in range(0, len(images), _BATCH):
        target = images_to_tensor(images[start : start + _BATCH]).to(device)
        search = _Search(generator, target, mean, config, lpips, features)
        search.run(spread * config.explore, start, _counted(progress, start, len(images), config.steps))
        found.append(search.result())
    measured = [one.lpips for one in found if one.lpips is not None]
    return Projection(
        torch.cat([one.ws for one in found]),
        np.concatenate([one.images for one in found]),
        tuple(torch.cat([one.mse for one in found]).tolist()),
        tuple(torch.cat(measured).tolist()) if measured else None,
    )


@dataclass(frozen=True)
class _Found:
    ws: Tensor
    images: NDArray[np.uint8]
    mse: Tensor
    lpips: Tensor | None


class _Search:
    """Codes, and noise maps where wanted, of one batch of targets on their way."""

    def __init__(
        self,
        generator: Generator,
        target: Tensor,
        mean: Tensor,
        config: ProjectConfig,
        lpips: ImageDistance | None,
        features: FeatureMaps | None,
    ) -> None:
        self.generator, self.target, self.config = generator, target, config
        self.lpips, self.features = lpips, features
        with torch.no_grad():
            self.wanted = None if features is None else features(target)
        slots = 1 if config.space == "w" else generator.config.num_ws
        self.w = mean.repeat(len(target), slots, 1).requires_grad_(True)
        self.maps = {name: tensor.requires_grad_(True) for name, tensor in self._noise().items()}

    def _noise(self) -> dict[str, Tensor]:
        """A copy of every stored noise map for every target, [B, 1, r, r], by the name of its buffer."""
        if not self.config.noise:
            return {}
        stored = {name: value for name, value in self.generator.synthesis.named_buffers() if "noise_const" in name}
        return {name: value.repeat(len(self.target), 1, 1, 1) for name, value in stored.items()}

    def run(self, explore: Tensor, first: int, progress: Progress | None) -> None:
        """Every step of the search; ``first``: the place of the first target among all images."""
        config = self.config
        optimiser = torch.optim.Adam([self.w, *self.maps.values()], lr=config.rate, betas=(0.9, 0.999))
        draws = [stream(config.seed, "project", first + row) for row in range(len(self.target))]
        for step in range(config.steps):
            share = step / config.steps
            for group in optimiser.param_groups:
                group["lr"] = config.rate * schedule(share)
            offsets = torch.stack([torch.randn(self.w.shape[1:], generator=draw) for draw in draws]).to(self.w)
            ws = self.w + offsets * explore * max(0.0, 1.0 - share / 0.75) ** 2
            loss = self._loss(self._draw(ws)) + config.noise_weight * noise_structure(self.maps.values())
            if not bool(loss.isfinite()):
                raise QualityError(f"the search diverged at step {step}", "Try a lower --rate.")
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            _renormalise(self.maps.values())
            if progress:
                progress(step + 1, config.steps)

    def _draw(self, ws: Tensor) -> Tensor:
        synthesis = self.generator.synthesis
        ws = ws.expand(-1, self.generator.config.num_ws, -1)
        drawn: Tensor = torch.func.functional_call(synthesis, dict(self.maps), (ws,)) if self.maps else synthesis(ws)
        return drawn

    def _loss(self, images: Tensor) -> Tensor:
        """Summed over the targets, so that each is searched for as if it were alone."""
        loss = (images - self.target).square().mean(dim=(1, 2, 3)).sum()
        if self.lpips is not None:
            return loss + self.lpips(images, self.target).sum()
        if self.features is not None and self.wanted is not None:
            return loss + len(images) * perceptual_loss(self.features(images), self.wanted)
        return loss

    @torch.no_grad()
    def result(self) -> _Found:
        seen = to_8_bit(self._draw(self.w))
        mse = (seen - self.target).square().mean(dim=(1, 2, 3)).cpu()
        lpips = None if self.lpips is None else self.lpips(seen, self.target).cpu()
        pixels = to_bytes(seen).permute(0, 2, 3, 1).cpu().numpy()
        ws = self.w.expand(-1, self.generator.config.num_ws, -1).contiguous().cpu()
        return _Found(ws, pixels, mse, lpips)


def schedule(share: float) -> float:
    """Factor of the learning rate after this share of the steps: up over 5 %, down a cosine over the last 25 %."""
    return min(1.0, share / 0.05 + 1e-3) * 0.5 * (1.0 - math.cos(math.pi * min(1.0, (1.0 - share) / 0.25)))


def noise_structure(maps: Iterable[Tensor]) -> Tensor:
    """How far noise maps [B, 1, r, r] are from white noise: squared correlations of neighbours along both axes, at
    every scale down to 8 px (the 2 x 2 means of the last, doubled to keep their spread); summed over maps and batch."""
    total = torch.zeros(())
    for scale in maps:
        while True:
            for axis in (2, 3):
                neighbours = (scale * scale.roll(1, dims=axis)).mean(dim=(1, 2, 3))
                total = total.to(neighbours) + neighbours.square().sum()
            if scale.shape[2] <= _SMALLEST_NOISE:
                break
            scale = 2.0 * nn.functional.avg_pool2d(scale, 2)
    return total


@torch.no_grad()
def _renormalise(maps: Iterable[Tensor]) -> None:
    """Mean 0 and spread 1 of every map, so that no picture hides in its size."""
    for noise in maps:
        noise -= noise.mean(dim=(2, 3), keepdim=True)
        noise *= noise.square().mean(dim=(2, 3), keepdim=True).clamp(min=1e-12).rsqrt()


def _code_statistics(generator: Generator, seed: int) -> tuple[Tensor, Tensor]:
    """Mean [w_dim] of 10,000 codes, and their root mean squared distance from it per number, []."""
    device = next(generator.parameters()).device
    z, _ = draw_latents(generator.config, MEAN_LATENTS, stream(seed, "mean"))
    with torch.no_grad():
        w = generator.mapping.w(z.to(device), None)
    mean = w.mean(dim=0)
    return mean, (w - mean).square().mean().sqrt()


def _check(generator: Generator, images: NDArray[np.uint8], config: ProjectConfig) -> None:
    size = generator.config.resolution
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3) or not len(images):
        raise UsageError(
            f"images are {images.dtype} {list(images.shape)}, the generator draws uint8 [N, {size}, {size}, 3]"
        )
    if generator.config.c_dim:
        raise UsageError("this generator is class-conditional", "Images can be projected into unconditional ones only.")
    if config.space not in SPACES:
        raise UsageError(f"space is {config.space!r}", f"Use one of: {', '.join(SPACES)}.")
    if config.steps < 1 or not config.rate > 0:
        raise UsageError(f"{config.steps} steps at rate {config.rate:g}", "Choose 1 or more, above 0.")
    if config.noise and not isinstance(generator.synthesis, StyleGAN2Synthesis):
        raise UsageError("a StyleGAN3 has no noise maps to optimise", "Leave --noise out.")


def _counted(progress: Progress | None, start: int, images: int, steps: int) -> Progress | None:
    """Steps over all batches."""
    batches = -(-images // _BATCH)
    return None if progress is None else lambda done, _: progress(start // _BATCH * steps + done, batches * steps)


# ---- files ----


def read_images(paths: Sequence[Path], resolution: int, *, resize: Resize = "error") -> NDArray[np.uint8]:
    """Image files as uint8 [N, R, R, 3], see :func:`~.datasets.decoding.decode`.

    Raises UsageError for none, and for one of another size that ``resize`` does not allow, InputError for one that
    cannot be read.
    """
    if not paths:
        raise UsageError("there is no image to project", "Name one file or more.")
    return np.stack([_read_image(path, resolution, resize) for path in paths])


def _read_image(path: Path, resolution: int, resize: Resize) -> NDArray[np.uint8]:
    try:
        return decode(path.read_bytes(), resolution=resolution, resize=resize)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "Check the path.") from error
    except UnusableImageError as error:
        if not error.wrong_size:
            raise InputError(f"{path} {error}", "Give a whole image file.") from error
        crop = f"--resize crop takes the centred square, scaled down to {resolution} px"
        remedy = crop if resize == "error" else "An image must not be smaller than what the generator draws."
        raise UsageError(f"{path} {error}", remedy) from error


def project_files(
    images: Sequence[Path],
    models: Mapping[str, Path],
    out: Path,
    config: ProjectConfig | None = None,
    *,
    resize: Resize = "error",
    lpips: Path | None = None,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Project image files into every model, by its name, and write what was found into the folder ``out``.

    ``ws.safetensors`` holds the codes [N, num_ws, w_dim] by model, ``<image>.png`` the image and what each model draws
    for it, side by side, ``projection.json`` the figures, which are returned. Raises as :func:`read_images` and
    :func:`project`, and UsageError for a file that is no checkpoint or models of different sizes.
    """
    config, reporter = config or ProjectConfig(), reporter or Reporter()
    generators = {name: _open(path, device) for name, path in models.items()}
    sizes = {one.config.resolution for one in generators.values()}
    if len(sizes) != 1:
        raise UsageError(f"the models draw {sorted(sizes)} px", "Give a teacher of the student's size.")
    targets = read_images(images, sizes.pop(), resize=resize)
    not_measured: dict[str, str] = {}
    distance = lpips_or_reason(lpips, device, not_measured)
    features = None
    if distance is None and targets.shape[1] == RESOLUTION:
        features = load_avatar_reader(device).pyramid
    found = {}
    for name, generator in generators.items():
        with reporter.task(f"project into the {name}") as progress:
            found[name] = project(generator, targets, config, lpips=distance, features=features, progress=progress)
    save_codes(found, out / "ws.safetensors")
    for row, name in enumerate(_names(images)):
        pictures = [targets[row], *(one.images[row] for one in found.values())]
        save_png(grid(np.stack(pictures)), out / f"{name}.png")
    document: dict[str, Any] = {
        "schema": 1,
        "images": [str(path) for path in images],
        "models": {name: {"file": str(models[name]), **one.to_dict()} for name, one in found.items()},
        "loss": "mse + lpips" if distance else "mse + avatars' features" if features else "mse",
        **asdict(config),
        "not_measured": not_measured,
    }
    write_json(out / "projection.json", document)
    return document


def _open(path: Path, device: str) -> Generator:
    model = open_model(path, device)
    if not isinstance(model, Generator):
        raise UsageError(f"{path} is an exported file, and projection needs gradients", "Give the checkpoint.")
    return model


def _names(images: Sequence[Path]) -> list[str]:
    """Of the pictures: the files' own, numbered where two are the same."""
    stems = [path.stem for path in images]
    return [stem if stems.count(stem) == 1 else f"{stem}-{row}" for row, stem in enumerate(stems)]


def save_codes(projections: Mapping[str, Projection], path: Path) -> None:
    """``ws`` of each model by its name, [N, num_ws, w_dim], as safetensors."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({name: one.ws for name, one in projections.items()}, temporary)
