"""Do the teacher's latents work in the student? Its w codes, mixed codes, edits and inverted images, compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.directions import Direction, check_directions
from ..compression.distillation.losses import perceptual_loss
from ..datasets.factors import ENCODED_WIDTH, FACTORS, encode
from ..errors import QualityError, UsageError
from ..generators import Generator, GeneratorConfig, count_macs
from ..generators.latents import draw_latents, stream
from ..metrics.drawing import latents_for, model_device, to_8_bit, to_bytes
from ..metrics.evaluate import Readings
from ..metrics.features import AvatarReader, images_to_tensor, load_avatar_reader
from ..metrics.likeness import ImageDistance, check_alike
from ..progress import Progress
from .editing import STEPS, find_directions
from .projection import ProjectConfig, project

LATENTS = 16
LATENTS_OF_IMAGES = 8  # where whole images are compared: such networks are large
COMPONENTS = 4
INVERTED = 4
INVERSION = ProjectConfig(steps=40, rate=0.02, explore=0.0)
MOST_MACS = 200_000_000  # of a student that is inverted on the CPU, within seconds
_BATCH = 8


@dataclass(frozen=True)
class EditAgreement:
    """Agreement of the changes along one direction, see :class:`Edits`. None if one of the networks does not change."""

    name: str
    correlation: float | None
    slope: float | None


@dataclass(frozen=True)
class Edits:
    """Agreement of what edits along the teacher's directions change in student and teacher.

    Each latent's w moves by ``steps`` standard deviations, in turns forwards and backwards. ``of`` says what is
    compared: "factors" (numbers of the demo's reader: values, sines and cosines of hues, probabilities of categories)
    or "images" (all values). With the changes s of the student and t of the teacher, and sums over latents and numbers,
    correlation is Σst / √(Σs² Σt²) and slope Σst / Σt². Both are 1 if the student changes as its teacher does; a slope
    below 1 is a weaker edit. ``correlation`` and ``slope`` are means over ``directions``.
    """

    correlation: float | None
    slope: float | None
    directions: tuple[EditAgreement, ...]
    of: Literal["factors", "images"]
    steps: float


@dataclass(frozen=True)
class TeacherDistance:
    """Mean distance to the teacher's images. ``l1``: mean absolute difference of values in [-1, 1], in [0, 2].
    ``perceptual`` is None without features for it."""

    l1: float
    perceptual: float | None


@dataclass(frozen=True)
class Inversion:
    """Mean distance of ``images`` images of the teacher to those that a search of w finds in the student.

    The search takes ``steps`` steps from the teacher's own w. ``mse``: mean squared difference of values in [-1, 1],
    ``start_mse``: before the search. In the teacher all three would be 0.
    """

    mse: float
    perceptual: float | None
    start_mse: float
    steps: int
    images: int


@dataclass(frozen=True)
class LatentReport:
    """How well the teacher's latents work in the student, by ``latents`` latents with constant noise at psi 1.

    ``own``: each network maps z by its own mapping network. ``teacher_w``: the student draws the teacher's w.
    ``mixed``: two z of the same class are mixed at one slot, each network by its own w. ``perceptual`` names the
    features of the perceptual distances. ``inversion`` is None for the reason in ``not_inverted``.
    """

    edits: Edits
    own: TeacherDistance
    teacher_w: TeacherDistance
    mixed: TeacherDistance
    perceptual: Literal["lpips", "avatars"] | None
    inversion: Inversion | None
    not_inverted: str | None
    latents: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def factor_directions(teacher: Generator, readings: Readings) -> dict[str, Direction]:
    """Return the teacher's direction in w for each factor of the demo: where w lies if the factor is high or low.

    ``readings`` are of the teacher's images, whose latents their seed determines. The direction is the leading left
    singular vector of the covariance of w and the encoded factor. A factor without any covariance has none.
    """
    z = latents_for(teacher, len(readings.factors), readings.seed).z
    with torch.no_grad():
        w = teacher.mapping.w(z.to(model_device(teacher))).to("cpu", torch.float64)
    w = w - w.mean(dim=0)
    codes = torch.from_numpy(encode(readings.factors)).double()
    found: dict[str, Direction] = {}
    for name, part in _columns().items():
        covariance = w.T @ (codes[:, part] - codes[:, part].mean(dim=0)) / len(w)
        vectors, values, _ = torch.linalg.svd(covariance, full_matrices=False)
        if values[0] > 0:
            sigma = float((w @ vectors[:, 0]).std())
            found[name] = Direction(vectors[:, 0].float(), (0, teacher.config.num_ws - 1), sigma)
    return found


def compare_latents(
    student: Generator,
    teacher: Generator,
    *,
    factors: Mapping[str, Direction] | None = None,
    lpips: ImageDistance | None = None,
    latents: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LatentReport:
    """Measure how well the teacher's latents work in the student.

    ``factors``: the directions of :func:`factor_directions`, for networks whose images the demo's reader reads. Without
    them w moves along its leading principal components, and whole images are compared. The perceptual distance is
    ``lpips``, else that of the reader if there are ``factors``. ``progress`` counts latents.

    Raises UsageError for less than 1 latent, and unless both take the same latents and codes; InputError for a teacher
    that maps every latent to one code; QualityError for NaN.
    """
    count = latents if latents is not None else LATENTS_OF_IMAGES if factors is None else LATENTS
    _check(student, teacher, count)
    reader = None if factors is None else load_avatar_reader(str(model_device(student)))
    if factors is None:
        factors = find_directions(teacher, count=min(COMPONENTS, teacher.config.w_dim), seed=seed)
    check_directions(factors, teacher.config)
    comparison = _Comparison(student, teacher, factors, reader, _perceptual(lpips, reader))
    z, c = draw_latents(teacher.config, count, stream(seed, "latents", "own"))
    partners, _ = draw_latents(teacher.config, count, stream(seed, "latents", "partners"))
    for start in range(0, count, _BATCH):
        rows = slice(start, start + _BATCH)
        comparison.add(z[rows], partners[rows], None if c is None else c[rows], start)
        if progress:
            progress(min(start + _BATCH, count), count)
    own, teacher_w, mixed = comparison.distances(count)
    inversion = why_not_inverted(student.config, model_device(student).type) or _invert(
        student, teacher, z[:INVERTED], lpips, reader
    )
    return LatentReport(
        comparison.edits(),
        own,
        teacher_w,
        mixed,
        perceptual="lpips" if lpips else "avatars" if reader else None,
        inversion=inversion if isinstance(inversion, Inversion) else None,
        not_inverted=inversion if isinstance(inversion, str) else None,
        latents=count,
        seed=seed,
    )


def _check(student: Generator, teacher: Generator, latents: int) -> None:
    if latents < 1:
        raise UsageError(f"{latents} latents cannot be compared", "Choose 1 or more.")
    check_alike(student, teacher)
    mine, others = ((one.config.num_ws, one.config.w_dim) for one in (student, teacher))
    if mine != others:
        raise UsageError(
            f"the student's codes are {list(mine)}, the teacher's {list(others)}",
            "Give the teacher that the student was made from.",
        )


def _perceptual(lpips: ImageDistance | None, reader: AvatarReader | None) -> ImageDistance | None:
    if lpips is not None or reader is None:
        return lpips
    return lambda a, b: perceptual_loss(reader.pyramid(a), reader.pyramid(b)).expand(len(a))


class _Comparison:
    """Sums over latents: of changes along each direction, and of distances to the teacher's images."""

    def __init__(
        self,
        student: Generator,
        teacher: Generator,
        directions: Mapping[str, Direction],
        reader: AvatarReader | None,
        perceptual: ImageDistance | None,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.directions, self.reader, self.perceptual = directions, reader, perceptual
        self.products = {name: torch.zeros(3, dtype=torch.float64) for name in directions}  # Σst, Σs², Σt²
        self.sums = torch.zeros(3, 2, dtype=torch.float64)  # own, teacher's w, mixed: L1 and perceptual

    @torch.no_grad()
    def add(self, z: Tensor, partners: Tensor, c: Tensor | None, place: int) -> None:
        """Add latents [B, z_dim], the first of which is the one with number ``place``."""
        ws, wanted_ws = (_codes(one, z, c) for one in (self.student, self.teacher))
        own, wanted = _draw(self.student, ws), _draw(self.teacher, wanted_ws)
        self._add_distance(0, own, wanted)
        self._add_distance(1, _draw(self.student, wanted_ws), wanted)
        numbers = place + torch.arange(len(z))
        slots = 1 + numbers % max(self.teacher.config.num_ws - 1, 1)
        networks = ((self.student, ws), (self.teacher, wanted_ws))
        self._add_distance(2, *(_draw(one, _mixed(codes, _codes(one, partners, c), slots)) for one, codes in networks))
        before = self._read(own), self._read(wanted)
        for index, (name, direction) in enumerate(self.directions.items()):
            steps = STEPS * (1.0 - 2.0 * ((numbers + index) % 2))
            after = (self._read(_draw(one, direction.move(codes, steps.to(codes)))) for one, codes in networks)
            changes = (new - old for new, old in zip(after, before, strict=True))
            s, t = (change if self.reader is None else change[:, _columns()[name]] for change in changes)
            t = t.to(s.device)
            self.products[name] += torch.stack(
                [(a * b).sum(dtype=torch.float64) for a, b in ((s, t), (s, s), (t, t))]
            ).cpu()

    def edits(self) -> Edits:
        """Return the agreement along each direction."""
        found = tuple(_agreement(name, *sums.tolist()) for name, sums in self.products.items())
        return Edits(
            _mean([one.correlation for one in found]),
            _mean([one.slope for one in found]),
            found,
            "images" if self.reader is None else "factors",
            STEPS,
        )

    def distances(self, count: int) -> list[TeacherDistance]:
        """Return the distances of the images of own codes, of the teacher's codes and of mixed codes."""
        means = (self.sums / count).tolist()
        return [TeacherDistance(l1, perceptual if self.perceptual else None) for l1, perceptual in means]

    def _add_distance(self, row: int, images: Tensor, wanted: Tensor) -> None:
        wanted = wanted.to(images.device)
        self.sums[row, 0] += (images - wanted).abs().double().mean(dim=(1, 2, 3)).sum().cpu()
        if self.perceptual is not None:
            self.sums[row, 1] += self.perceptual(images, wanted).double().sum().cpu()

    def _read(self, images: Tensor) -> Tensor:
        """Return the numbers whose change is compared, [B, N]."""
        return images.flatten(1) if self.reader is None else _factors(self.reader, images)


def _codes(generator: Generator, z: Tensor, c: Tensor | None) -> Tensor:
    device = model_device(generator)
    ws: Tensor = generator.mapping(z.to(device), None if c is None else c.to(device))
    return ws


def _draw(generator: Generator, ws: Tensor) -> Tensor:
    return to_8_bit(generator.synthesis(ws.to(model_device(generator))).float())


def _mixed(first: Tensor, second: Tensor, slots: Tensor) -> Tensor:
    """Return codes [B, num_ws, w_dim] that are those of ``second`` from the slot in ``slots`` [B] on."""
    own = torch.arange(first.shape[1]) < slots[:, None]
    return torch.where(own[:, :, None].to(first.device), first, second)


def _columns() -> dict[str, slice]:
    """Return where each factor is in the encoding."""
    ends = np.cumsum([factor.width for factor in FACTORS]).tolist()
    return {factor.name: slice(end - factor.width, end) for factor, end in zip(FACTORS, ends, strict=True)}


def _factors(reader: AvatarReader, images: Tensor) -> Tensor:
    """Return what the reader finds, [B, ENCODED_WIDTH], with the probabilities of categories."""
    found: Tensor = reader(images.to(next(reader.parameters()).device))[:, :ENCODED_WIDTH]
    parts = torch.split(found, [factor.width for factor in FACTORS], dim=1)
    kinds = (factor.kind for factor in FACTORS)
    return torch.cat(
        [part.softmax(1) if kind == "categorical" else part for part, kind in zip(parts, kinds, strict=True)], 1
    )


def _agreement(name: str, product: float, student: float, teacher: float) -> EditAgreement:
    """Return correlation and slope from Σst, Σs² and Σt²."""
    scale = math.sqrt(student * teacher)
    return EditAgreement(name, product / scale if scale else None, product / teacher if teacher else None)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


# ---- inversion ----


def why_not_inverted(student: GeneratorConfig, device: str) -> str | None:
    """Return why images are not searched in such a student on such a device, "cpu" or "cuda"; None if they are."""
    if student.c_dim:
        return "projection needs an unconditional generator"
    macs = count_macs(student)
    if macs > MOST_MACS and device == "cpu":
        return (
            f"a search in a student of {macs / 1e9:.1f} G MACs takes too long on a CPU; dcp-deploy project measures it"
        )
    return None


def _invert(
    student: Generator, teacher: Generator, z: Tensor, lpips: ImageDistance | None, reader: AvatarReader | None
) -> Inversion | str:
    """Search the teacher's images of ``z`` in the student, from the teacher's w. An image keeps the better code.

    Return the reason if the search diverges.
    """
    with torch.no_grad():
        codes = _codes(teacher, z, None)
        targets = _draw(teacher, codes).to(model_device(student))
        start = _draw(student, codes)
    pixels = to_bytes(targets).permute(0, 2, 3, 1).cpu().numpy()
    features = reader.pyramid if reader else None
    try:
        found = project(student, pixels, INVERSION, lpips=lpips, features=features, first=codes[:, 0])
    except QualityError as error:
        return error.message
    images = images_to_tensor(found.images).to(targets.device)
    before, after = ((one - targets).double().square().mean(dim=(1, 2, 3)) for one in (start, images))
    images = torch.where((after < before)[:, None, None, None], images, start)
    perceptual = _perceptual(lpips, reader)
    with torch.no_grad():
        distance = None if perceptual is None else float(perceptual(images, targets).double().mean())
    mse = float(torch.minimum(before, after).mean())
    return Inversion(mse, distance, float(before.mean()), INVERSION.steps, len(z))
