"""After slicing, before training: give the kept weights what the dropped channels took away.

``svs`` is singular value scaling (AAAI 2025, arXiv 2412.17387): every weight matrix W = U S V^T of the synthesis
network becomes U sqrt(S) V^T, and every bias is divided by the square root of its norm. It levels the spectrum for
training and does not try to keep the images.

``reconstruct`` keeps the images: layer by layer, on the student's own inputs, it chooses the weights whose
pre-activations come closest to the teacher's in least squares. With x the modulated input (styles times features) in
patches, a convolution is the linear map W x, so the best W follows from the covariances of x with itself and with the
teacher's pre-activation. Three things around that:

* Demodulation normalises whatever W is, so W counts by its direction alone, and the student's pre-activation is the
  teacher's times a gain. Bias and noise take that gain too; the leaky ReLU is positively homogeneous, so it passes
  through, and the next layer, fitted on these inputs, takes it back.
* A toRGB is not demodulated. Its target is the teacher's image at that resolution less what the student's image
  already holds, so that each toRGB also makes up for those before it.
* Ridge keeps W near the sliced weights in directions that the latents do not excite.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...errors import InputError
from ...generators import Generator, StyledConv
from ...generators.latents import draw_latents, stream
from ...generators.ops import demodulation
from ..layers import Layer, Step, layer_count, nth_step, tap_responses

LATENTS = 64
RIDGE = 0.1  # of the mean variance of a patch's entries
POSITIONS = 4096  # of an image that enter the covariances, at most
_BATCH = 4


@torch.no_grad()
def scale_singular_values(student: Generator) -> None:
    """Singular value scaling of the synthesis network, in place.

    A convolution counts as the matrix [C_out, C_in k k]; the affine matrices of the styles and all biases are
    included. StyleGAN3's synthesis input is not: its affine matrix moves the picture.
    """
    for name, parameter in student.synthesis.named_parameters():
        if name.startswith("input."):
            continue
        if name.endswith("weight"):
            left, values, right = torch.linalg.svd(parameter.flatten(1).to(torch.float64), full_matrices=False)
            parameter.copy_(((left * values.sqrt()) @ right).reshape(parameter.shape))
        elif name.endswith("bias") and parameter.any():
            parameter.div_(parameter.norm().sqrt())


@torch.no_grad()
def reconstruct(
    student: Generator, teacher: Generator, kept: tuple[Tensor, ...], *, latents: int = LATENTS, seed: int = 0
) -> None:
    """Fit the student's convolutions and toRGBs, in place, to the features of ``teacher`` (see the module).

    ``kept`` are the channels of the teacher that the student has, as indices per entry of the widths. The result
    depends on the arguments alone. Raises InputError when the teacher draws NaN or infinity.
    """
    device = next(teacher.parameters()).device
    z, c = draw_latents(teacher.config, latents, stream(seed, "reconstruct"))
    ws = teacher.mapping(z.to(device), None if c is None else c.to(device))
    for index in range(layer_count(teacher)):
        layer, gains_wanted = _fit(index, student, teacher, kept, ws, seed)
        if gains_wanted is not None:
            _match_gains(index, layer, student, teacher, gains_wanted, ws)


def _pairs(index: int, student: Generator, teacher: Generator, ws: Tensor) -> Iterator[tuple[Step, Step]]:
    """Layer ``index`` of student and teacher, batch by batch.

    Every call computes the layers before it again: holding the features of all latents would take gigabytes.
    """
    for part in torch.split(ws, _BATCH):
        yield nth_step(student, part, index), nth_step(teacher, part, index)


def _fit(
    index: int, student: Generator, teacher: Generator, kept: tuple[Tensor, ...], ws: Tensor, seed: int
) -> tuple[Layer, Tensor | None]:
    """Fit one layer, given that all before it are as they will be; returns it and, if demodulated, its channels."""
    sums = _Moments()
    for mine, theirs in _pairs(index, student, teacher, ws):
        layer, outputs = mine.layer, mine.outputs
        target = theirs.response()
        norms = torch.ones_like(target[:, :, 0, 0])
        if outputs is None:
            target = target + theirs.layer.bias[:, None, None] + theirs.image - mine.image
        else:
            target = target[:, kept[outputs]]
            norms = demodulation(layer.weight, mine.styles())
        for x, y, norm in zip(mine.modulated(), target, norms, strict=True):
            # Before demodulation, with the weight that demodulation gives a sample's error after it.
            x, y = tap_responses(layer, x), y.flatten(1) / norm[:, None]
            chosen = _positions(x.shape[1], index, seed).to(x.device)
            sums.add(x[:, chosen], y[:, chosen], norm.square().mean())
    weight, offset = sums.solve(layer.weight.flatten(1))
    if outputs is None:
        layer.bias.copy_(offset)
    else:  # only the direction counts; the length stays what a learning rate is used to
        weight = weight * (layer.weight.flatten(1).norm(dim=1) / weight.norm(dim=1))[:, None]
    layer.weight.copy_(weight.reshape(layer.weight.shape))
    return layer, None if outputs is None else kept[outputs]


def _match_gains(
    index: int, layer: Layer, student: Generator, teacher: Generator, channels: Tensor, ws: Tensor
) -> None:
    """Give bias and noise of a fitted layer the gain and the offset which its pre-activation has."""
    totals = torch.zeros(5, len(channels), dtype=torch.float64, device=ws.device)
    for mine, theirs in _pairs(index, student, teacher, ws[: len(ws) // 4 + 1]):  # for two numbers per channel
        a, b = mine.response().to(torch.float64), theirs.response()[:, channels].to(torch.float64)
        parts = (torch.ones_like(a), a, b, a.square(), b.square())
        totals += torch.stack([part.sum(dim=(0, 2, 3)) for part in parts])
    count, a, b, aa, bb = totals
    mean_a, mean_b = a / count, b / count
    spread_a, spread_b = (aa / count - mean_a.square()).sqrt(), (bb / count - mean_b.square()).sqrt()
    gain = torch.where(spread_a.minimum(spread_b) > 0, spread_a / spread_b, 1.0)
    layer.bias.copy_((layer.bias + mean_b) * gain - mean_a)
    if isinstance(layer, StyledConv):
        layer.noise_strength.mul_(gain.mean())


def _positions(count: int, index: int, seed: int) -> Tensor:
    """Which of an image's positions enter the covariances, the same for every image."""
    return torch.randperm(count, generator=stream(seed, "positions", index))[:POSITIONS]


class _Moments:
    """Sums of a weighted least-squares fit with an intercept, in float64."""

    def __init__(self) -> None:
        self.weight = self.x = self.y = self.xx = self.yx = torch.zeros([], dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Positions of one sample: inputs [F, P], targets [Co, P], and the sample's weight."""
        parts = (torch.ones_like(x[0]).sum(), x.sum(dim=1), y.sum(dim=1), x @ x.T, y @ x.T)
        count, sum_x, sum_y, xx, yx = ((weight * part).to(torch.float64) for part in parts)
        self.weight = self.weight.to(count.device) + count
        self.x, self.y = self.x.to(count.device) + sum_x, self.y.to(count.device) + sum_y
        self.xx, self.yx = self.xx.to(count.device) + xx, self.yx.to(count.device) + yx

    def solve(self, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [Co, F] and intercepts [Co]; ridge pulls towards ``prior`` [Co, F]."""
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        covariance = self.xx / self.weight - torch.outer(mean_x, mean_x)
        cross = self.yx / self.weight - torch.outer(mean_y, mean_x)
        if not (covariance.isfinite().all() and cross.isfinite().all()):
            raise InputError("the teacher draws NaN or infinite features, so nothing can be fitted", "check the file")
        prior = prior.to(torch.float64)
        identity = torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
        # The floor keeps a layer whose inputs never vary solvable; its weights then stay what they were.
        system = covariance + (RIDGE * covariance.trace() / len(covariance)).clamp(min=1e-30) * identity
        weights = prior + torch.linalg.solve(system, (cross - prior @ covariance).T).T
        return weights, mean_y - weights @ mean_x
