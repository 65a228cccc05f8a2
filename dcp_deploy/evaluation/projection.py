"""Projection: find the codes whose generated images come closest to given images, by gradient descent.

Compare how close teacher and student come: a student that lost a part of the data cannot generate it.
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
from safetensors.torch import save
from torch import Tensor, nn

from ..compression.distillation.losses import FeatureMaps, perceptual_loss
from ..datasets.canvas import RESOLUTION
from ..datasets.decoding import Resize, UnusableImageError, decode
from ..errors import InputError, QualityError, UsageError
from ..export.runners.picture_files import save_picture
from ..export.runners.sampling import grid
from ..files import write_bytes, write_json
from ..generators import Generator, StyleGAN2Synthesis
from ..generators.latents import draw_latents, stream
from ..metrics.drawing import to_8_bit, to_bytes
from ..metrics.features import images_to_tensor, load_avatar_reader
from ..metrics.likeness import ImageDistance
from ..progress import Progress, Reporter, shifted
from ..sizes import Resolution, as_size, cropping, pixels
from .quality import lpips_or_reason, open_model

Space = Literal["w", "w+"]
SPACES: tuple[Space, ...] = ("w", "w+")
MEAN_LATENTS = 10_000
_BATCH = 8  # images projected together
_SMALLEST_NOISE = 8  # px of the coarsest scale at which structure in the noise is penalised


@dataclass(frozen=True)
class ProjectConfig:
    """Settings of the search. ``space`` "w" searches one code for all slots, "w+" one for each slot.

    ``rate`` is Adam's learning rate, see :func:`schedule`. ``explore`` is the standard deviation of the random offset
    of w at the start, in units of w's own; it falls to zero over three quarters of the steps. ``noise`` also optimises
    the noise maps (StyleGAN2); ``noise_weight`` weighs the penalty on their structure.
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
    """Codes ``ws`` [N, num_ws, w_dim] and their images, uint8 [N, H, W, 3], with distances to the targets: ``mse``,
    the mean over pixels in [-1, 1], and ``lpips``, None if it was not measured."""

    ws: Tensor
    images: NDArray[np.uint8]
    mse: tuple[float, ...]
    lpips: tuple[float, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of each image and their means, ready for JSON."""
        means = {"mse": float(np.mean(self.mse)), "lpips": None if self.lpips is None else float(np.mean(self.lpips))}
        return {**means, "mse_of_each": list(self.mse), "lpips_of_each": self.lpips and list(self.lpips)}


def project(
    generator: Generator,
    images: NDArray[np.uint8],
    config: ProjectConfig | None = None,
    *,
    lpips: ImageDistance | None = None,
    features: FeatureMaps | None = None,
    first: Tensor | None = None,
    progress: Progress | None = None,
) -> Projection:
    """Search the codes of images uint8 [N, H, W, 3] in an unconditional generator.

    The method follows StyleGAN2's projector (Karras et al. 2020, appendix D). It starts from the mean of 10,000 codes,
    adds a decaying random offset to w, and penalises structure in the noise maps. The loss is the mean squared error
    plus LPIPS or, without ``lpips``, the distance of the feature maps ``features``. Up to rounding, the result of an
    image depends on its position and ``config``, not on the other images. ``first``: codes [N, w_dim] to start from in
    place of the mean, such as those of another generator. ``progress`` counts steps.

    Raises UsageError for wrong settings or images that do not fit, QualityError if the search diverges.
    """
    config = config or ProjectConfig()
    _check(generator, images, config)
    device = next(generator.parameters()).device
    generator = copy.deepcopy(generator).eval().requires_grad_(False)
    mean, spread = _code_statistics(generator, config.seed)
    begin = (mean.expand(len(images), -1) if first is None else first).to(mean)
    starts = range(0, len(images), _BATCH)
    parts: list[Projection] = []
    for batch, start in enumerate(starts):
        target = images_to_tensor(images[start : start + _BATCH]).to(device)
        search = _Search(generator, target, begin[start : start + _BATCH], config, lpips, features)
        done = shifted(progress, batch * config.steps, len(starts) * config.steps)
        search.run(spread * config.explore, start, done)
        parts.append(search.result())
    return Projection(
        torch.cat([part.ws for part in parts]),
        np.concatenate([part.images for part in parts]),
        tuple(value for part in parts for value in part.mse),
        None if lpips is None else tuple(value for part in parts for value in part.lpips or ()),
    )


class _Search:
    """The search for one batch of targets: its codes and, optionally, noise maps."""

    def __init__(
        self,
        generator: Generator,
        target: Tensor,
        begin: Tensor,
        config: ProjectConfig,
        lpips: ImageDistance | None,
        features: FeatureMaps | None,
    ) -> None:
        self.generator, self.target, self.config = generator, target, config
        self.lpips, self.features = lpips, features
        with torch.no_grad():
            self.wanted = None if features is None else features(target)
        slots = 1 if config.space == "w" else generator.config.num_ws
        self.w = begin[:, None].repeat(1, slots, 1).requires_grad_(True)
        stored = generator.synthesis.named_buffers() if config.noise else ()
        maps = {name: value.repeat(len(target), 1, 1, 1) for name, value in stored if "noise_const" in name}
        self.maps = {name: value.requires_grad_(True) for name, value in maps.items()}
        """A copy of every stored noise map for every target, [B, 1, h, w], by the name of its buffer."""

    def run(self, explore: Tensor, first: int, progress: Progress | None) -> None:
        """Take all steps of the search. ``first`` is the position of the first target among all images."""
        config = self.config
        optimiser = torch.optim.Adam([self.w, *self.maps.values()], lr=config.rate, betas=(0.9, 0.999))
        streams = [stream(config.seed, "project", first + row) for row in range(len(self.target))]
        for step in range(config.steps):
            share = step / config.steps
            for group in optimiser.param_groups:
                group["lr"] = config.rate * schedule(share)
            offsets = torch.stack([torch.randn(self.w.shape[1:], generator=one) for one in streams]).to(self.w)
            ws = self.w + offsets * explore * max(0.0, 1.0 - share / 0.75) ** 2
            loss = self._loss(self._draw(ws)) + config.noise_weight * noise_structure(self.maps.values())
            if not bool(loss.isfinite()):
                raise QualityError(f"the search diverged at step {step}", "Give a lower --rate.")
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
        """Sum the losses of the targets, so that their searches do not depend on each other."""
        loss = (images - self.target).square().mean(dim=(1, 2, 3)).sum()
        if self.lpips is not None:
            return loss + self.lpips(images, self.target).sum()
        if self.features is not None and self.wanted is not None:
            return loss + len(images) * perceptual_loss(self.features(images), self.wanted)
        return loss

    @torch.no_grad()
    def result(self) -> Projection:
        """Return codes, images and distances of the batch."""
        seen = to_8_bit(self._draw(self.w))
        mse = (seen - self.target).square().mean(dim=(1, 2, 3)).tolist()
        lpips = None if self.lpips is None else tuple(self.lpips(seen, self.target).tolist())
        shown = to_bytes(seen).permute(0, 2, 3, 1).cpu().numpy()
        ws = self.w.expand(-1, self.generator.config.num_ws, -1).contiguous().cpu()
        return Projection(ws, shown, tuple(mse), lpips)


def schedule(share: float) -> float:
    """Return the factor of the learning rate at this share of the steps: up over 5 %, a cosine down over 25 %."""
    return min(1.0, share / 0.05 + 1e-3) * 0.5 * (1.0 - math.cos(math.pi * min(1.0, (1.0 - share) / 0.25)))


def noise_structure(maps: Iterable[Tensor]) -> Tensor:
    """Return how far noise maps [B, 1, h, w] are from white noise, summed over maps and batch: squared correlations of
    neighbours along both axes, at every scale down to 8 px. A scale holds the 2 x 2 means of the last, doubled to keep
    their standard deviation."""
    total = torch.zeros(())
    for scale in maps:
        while True:
            for axis in (2, 3):
                neighbours = (scale * scale.roll(1, dims=axis)).mean(dim=(1, 2, 3))
                total = total.to(neighbours) + neighbours.square().sum()
            if min(scale.shape[2:]) <= _SMALLEST_NOISE:
                break
            scale = 2.0 * nn.functional.avg_pool2d(scale, 2)
    return total


@torch.no_grad()
def _renormalise(maps: Iterable[Tensor]) -> None:
    """Give every map mean 0 and standard deviation 1, so that its size cannot encode the picture."""
    for noise in maps:
        noise -= noise.mean(dim=(2, 3), keepdim=True)
        noise *= noise.square().mean(dim=(2, 3), keepdim=True).clamp(min=1e-12).rsqrt()


def _code_statistics(generator: Generator, seed: int) -> tuple[Tensor, Tensor]:
    """Return the mean [w_dim] of 10,000 codes and the root mean square [] of their deviations from it."""
    device = next(generator.parameters()).device
    z, _ = draw_latents(generator.config, MEAN_LATENTS, stream(seed, "mean"), device)
    with torch.no_grad():
        w = generator.mapping.w(z)
    mean = w.mean(dim=0)
    return mean, (w - mean).square().mean().sqrt()


def _check(generator: Generator, images: NDArray[np.uint8], config: ProjectConfig) -> None:
    height, width = generator.config.image_size
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (height, width, 3) or not len(images):
        raise UsageError(
            f"images are {images.dtype} {list(images.shape)}, the generator makes uint8 [N, {height}, {width}, 3]"
        )
    if generator.config.c_dim:
        raise UsageError("this generator is class-conditional", "Project into an unconditional one.")
    if config.space not in SPACES:
        raise UsageError(f"space is {config.space!r}", f"Use one of: {', '.join(SPACES)}.")
    if config.steps < 1 or not config.rate > 0:
        raise UsageError(f"{config.steps} steps at rate {config.rate:g}", "Choose at least 1 step, and a rate above 0.")
    if config.noise and not isinstance(generator.synthesis, StyleGAN2Synthesis):
        raise UsageError("a StyleGAN3 has no noise maps to optimise", "Omit --noise.")


# ---- files ----


def read_images(paths: Sequence[Path], resolution: Resolution, *, resize: Resize = "error") -> NDArray[np.uint8]:
    """Read image files as uint8 [N, H, W, 3], see :func:`~.datasets.decoding.decode`.

    Raises UsageError without images or if ``resize`` does not allow the size of one, InputError for one that cannot be
    read.
    """
    if not paths:
        raise UsageError("no image to project was given", "Give at least one file.")
    return np.stack([_read_image(path, resolution, resize) for path in paths])


def _read_image(path: Path, resolution: Resolution, resize: Resize) -> NDArray[np.uint8]:
    try:
        return decode(path.read_bytes(), resolution=resolution, resize=resize)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "Check the path.") from error
    except UnusableImageError as error:
        if not error.wrong_size:
            raise InputError(f"{path} {error}", "Give a complete image file.") from error
        crop = f"Give --resize crop to {cropping(as_size(resolution))}."
        remedy = crop if resize == "error" else "Give an image that is not smaller than the generator's."
        raise UsageError(f"{path} {error}", remedy) from error


def project_files(
    images: Sequence[Path],
    models: Mapping[str, Path],
    out: Path,
    config: ProjectConfig | None = None,
    *,
    network: str | None = None,
    resize: Resize = "error",
    lpips: Path | None = None,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Project image files into every model (a name and a file each) and write the results into the folder ``out``.

    ``ws.safetensors`` holds the codes [N, num_ws, w_dim] by model. ``<image>.png`` shows the image and each model's
    projection side by side. ``projection.json`` holds the figures, which are returned. ``network`` chooses among
    several generators of the last model's file. Raises as :func:`read_images` and :func:`project`, and UsageError for a
    file that is not a checkpoint or models of different sizes.
    """
    config, reporter = config or ProjectConfig(), reporter or Reporter()
    chosen = {list(models)[-1]: network}
    generators = {name: _open(path, device, chosen.get(name)) for name, path in models.items()}
    sizes = {one.config.image_size for one in generators.values()}
    if len(sizes) != 1:
        differing = " and ".join(map(pixels, sorted(sizes)))
        raise UsageError(f"the models make images of {differing}", "Give the teacher that the student was made from.")
    targets = read_images(images, sizes.pop(), resize=resize)
    not_measured: dict[str, str] = {}
    distance = lpips_or_reason(lpips, device, not_measured)
    features = None
    if distance is None and targets.shape[1:3] == (RESOLUTION, RESOLUTION):
        features = load_avatar_reader(device).pyramid
    found = {}
    for name, generator in generators.items():
        with reporter.task(f"project into the {name}") as progress:
            found[name] = project(generator, targets, config, lpips=distance, features=features, progress=progress)
    write_bytes(out / "ws.safetensors", save({name: one.ws for name, one in found.items()}))
    for row, name in enumerate(_names(images)):
        pictures = [targets[row], *(one.images[row] for one in found.values())]
        save_picture(grid(np.stack(pictures)), out / f"{name}.png")
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


def _open(path: Path, device: str, network: str | None) -> Generator:
    model = open_model(path, device, network=network)
    if not isinstance(model, Generator):
        raise UsageError(
            f"{path} is an exported file, but projection needs gradients", "Give the checkpoint that it was made from."
        )
    return model


def _names(images: Sequence[Path]) -> list[str]:
    """Return the stems of the files, numbered if two are equal."""
    stems = [path.stem for path in images]
    return [stem if stems.count(stem) == 1 else f"{stem}-{row}" for row, stem in enumerate(stems)]
