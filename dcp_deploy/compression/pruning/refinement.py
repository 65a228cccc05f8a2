"""Adjust the kept weights after slicing and before training, to compensate for the dropped channels.

``svs`` is singular value scaling (AAAI 2025, arXiv 2412.17387): every weight matrix W = U S V^T of the synthesis
network becomes U sqrt(S) V^T, and every bias is divided by the square root of its norm. It flattens the spectrum for
training and does not try to preserve the images.

``reconstruct`` preserves the images. Layer by layer, on the student's own inputs, it chooses the weights whose
pre-activations come closest to the teacher's in least squares. With x the modulated input (styles times features) in
patches, a convolution is the linear map W x. So the best W follows from the covariances of x with itself and with the
teacher's pre-activation. Three details:

* Demodulation normalises W, so only its direction counts, and the student's pre-activation is the teacher's times a
  gain. Bias and noise get that gain too. The leaky ReLU is positively homogeneous, so the gain passes through, and the
  next layer, fitted on these inputs, cancels it.
* A toRGB is not demodulated. Its target is the teacher's image at that resolution minus the student's image so far, so
  that each toRGB also corrects the errors of those before it.
* Ridge keeps W near the sliced weights in directions that the latents do not excite.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ...errors import InputError
from ...generators import Generator, StyledConv
from ...generators.latents import draw_latents, stream
from ...generators.ops import demodulation
from ...progress import Progress
from ..layers import Layer, Step, layer_count, tap_responses
from .paired_walks import PairedWalks

RIDGE = 0.1  # of the mean variance of a patch's entries
POSITIONS = 4096  # most positions of an image that enter the covariances


@torch.no_grad()
def scale_singular_values(student: Generator) -> None:
    """Singular value scaling of the synthesis network, in place.

    A convolution counts as the matrix [C_out, C_in k k]. The affine matrices of the styles and all biases are included,
    StyleGAN3's synthesis input is not, because its affine matrix moves the picture.
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
    student: Generator,
    teacher: Generator,
    kept: tuple[Tensor, ...],
    *,
    latents: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Fit the student's convolutions and toRGBs, in place, to the features of ``teacher`` (see the module).

    ``kept`` are the channels of the teacher that the student has, as indices per entry of the widths. The result
    depends on the arguments alone. ``progress`` counts layers. Raises InputError when the teacher produces NaN or
    infinity.
    """
    device = next(teacher.parameters()).device
    z, c = draw_latents(teacher.config, latents, stream(seed, "reconstruct"), device)
    ws = teacher.mapping(z, c)
    count = layer_count(teacher)
    fits, gains = PairedWalks(student, teacher, ws), PairedWalks(student, teacher, ws[: len(ws) // 4 + 1])
    if progress:
        progress(0, count)
    for index in range(count):
        layer, channels = _fit(index, fits.at(index), kept, seed)
        if channels is not None:
            _match_gains(layer, gains.at(index), channels)
        if progress:
            progress(index + 1, count)


def _fit(
    index: int, steps: Iterable[tuple[Step, Step]], kept: tuple[Tensor, ...], seed: int
) -> tuple[Layer, Tensor | None]:
    """Fit one layer, once all before it are final; return it and, if it is demodulated, its channels of the teacher."""
    sums = _Moments()
    for of_student, of_teacher in steps:
        layer, outputs = of_student.layer, of_student.outputs
        target = of_teacher.response()
        norms = torch.ones_like(target[:, :, 0, 0])
        if outputs is None:
            target = target + of_teacher.layer.bias[:, None, None] + of_teacher.image - of_student.image
        else:
            target = target[:, kept[outputs]]
            norms = demodulation(layer.weight, of_student.styles())
        for x, y, norm in zip(of_student.modulated(), target, norms, strict=True):
            # Fit before demodulation, and weight each sample by what demodulation makes of its error.
            x, y = tap_responses(layer, x), y.flatten(1) / norm[:, None]
            chosen = torch.randperm(x.shape[1], generator=stream(seed, "positions", index))[:POSITIONS].to(x.device)
            sums.add(x[:, chosen], y[:, chosen], norm.square().mean())
    weight, offset = sums.solve(layer.weight.flatten(1))
    if outputs is None:
        layer.bias.copy_(offset)
    else:  # only the direction counts; the learning rate suits the present length
        present, fitted = layer.weight.flatten(1).norm(dim=1), weight.norm(dim=1)
        weight = weight * torch.where(fitted > 0, present / fitted, 1.0)[:, None]  # 0 if a target never varies
    layer.weight.copy_(weight.reshape(layer.weight.shape))
    return layer, None if outputs is None else kept[outputs]


def _match_gains(layer: Layer, steps: Iterable[tuple[Step, Step]], channels: Tensor) -> None:
    """Apply the gain and the offset of a fitted layer's pre-activation to its bias and noise.

    A quarter of the latents is enough for two numbers a channel.
    """
    totals = torch.zeros(5, len(channels), dtype=torch.float64, device=channels.device)
    for of_student, of_teacher in steps:
        a, b = of_student.response().to(torch.float64), of_teacher.response()[:, channels].to(torch.float64)
        parts = (torch.ones_like(a), a, b, a.square(), b.square())
        totals += torch.stack([part.sum(dim=(0, 2, 3)) for part in parts])
    count, a, b, aa, bb = totals
    mean_a, mean_b = a / count, b / count
    spread_a, spread_b = (aa / count - mean_a.square()).sqrt(), (bb / count - mean_b.square()).sqrt()
    gain = torch.where(spread_a.minimum(spread_b) > 0, spread_a / spread_b, 1.0)
    layer.bias.copy_((layer.bias + mean_b) * gain - mean_a)
    if isinstance(layer, StyledConv):
        layer.noise_strength.mul_(gain.mean())


class _Moments:
    """Sums of a weighted least-squares fit with an intercept, in float64."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor, weight: Tensor) -> None:
        """Add the positions of one sample: inputs [F, P], targets [Co, P], and the sample's weight."""
        parts = (torch.ones_like(x[0]).sum(), x.sum(dim=1), y.sum(dim=1), x @ x.T, y @ x.T)
        sums = [(weight * part).to(torch.float64) for part in parts]
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._sums else sums

    def solve(self, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights [Co, F] and intercepts [Co]; ridge pulls towards ``prior`` [Co, F]."""
        mean_x, mean_y, mean_xx, mean_yx = (total / self._sums[0] for total in self._sums[1:])
        covariance, cross = mean_xx - torch.outer(mean_x, mean_x), mean_yx - torch.outer(mean_y, mean_x)
        if not (covariance.isfinite().all() and cross.isfinite().all()):
            raise InputError("the teacher produces NaN or infinite features: nothing can be fitted", "Check the file.")
        prior = prior.to(torch.float64)
        identity = torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
        # The floor keeps the system solvable if a layer's inputs never vary; its weights then stay unchanged.
        system = covariance + (RIDGE * covariance.trace() / len(covariance)).clamp(min=1e-30) * identity
        weights = prior + torch.linalg.solve(system, (cross - prior @ covariance).T).T
        return weights, mean_y - weights @ mean_x
