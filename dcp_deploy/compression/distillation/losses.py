"""The losses of distillation, each a plain function of tensors. All are means over the batch.

GAN, L1, perceptual and relation losses with the weights 1, 3, 3 and 30 are the recipe of StyleKD (Xu et al.,
"Mind the Gap in Distilling StyleGANs", ECCV 2022), which DCP-GAN uses too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...generators import Generator, GeneratorConfig
from ...sizes import pixels

FeatureMaps = Callable[[Tensor], Sequence[Tensor]]
"""Images [B, 3, H, W] in [-1, 1] to feature maps [B, C_i, H_i, W_i], fine to coarse."""

DIRECTIONS_PER_BLOCK = 5
OFFSET_LENGTH = 5.0

# ---- adversarial ----


def generator_gan_loss(fake_logits: Tensor) -> Tensor:
    """Return the non-saturating logistic loss ``mean softplus(-D(G))`` (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).mean()


def discriminator_gan_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the logistic loss ``mean softplus(-D(x)) + mean softplus(D(G))``."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(real_images: Tensor, real_logits: Tensor) -> Tensor:
    """Return ``mean ||grad_x D(x)||^2``, from ``real_images`` [B, 3, H, W] that require gradients and their logits [B].

    Mescheder et al. 2018, "Which Training Methods for GANs do actually Converge?", equation 9.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor, *, graph: bool = True) -> Tensor:
    """Return how far images move per step in ``ws``, [B] (Karras et al. 2020, StyleGAN2, section 3.2).

    This is ``||J^T y||`` for a random image ``y = noise / sqrt(H W)``, noise ~ N(0, I) of the images' shape. Squares
    are summed over w_dim and averaged over the slots of ``ws`` [B, num_ws, w_dim], which must require gradients. The
    result can be differentiated only with ``graph``.
    """
    y = noise / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * y).sum(), ws, create_graph=graph)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


# ---- the same image as the teacher ----


def l1_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ``mean |student - teacher|`` over final images."""
    return (student - teacher).abs().mean()


def perceptual_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the distance between feature maps, each position's feature vector scaled to unit length first.

    Squared differences are summed over channels, averaged over positions and batch, and summed over maps: LPIPS (Zhang
    et al. 2018, "The Unreasonable Effectiveness of Deep Features", equation 1) with all channel weights equal to one.
    """
    distances = []
    for a, b in zip(student, teacher, strict=True):
        difference = F.normalize(a.float(), dim=1, eps=1e-6) - F.normalize(b.float(), dim=1, eps=1e-6)
        distances.append(difference.square().sum(dim=1).mean())
    return torch.stack(distances).sum()


# ---- the same relations between images ----


def relation_loss(
    student: Mapping[str, Tensor],
    student_moved: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    teacher_moved: Mapping[str, Tensor],
    *,
    group: int = 4,
) -> Tensor:
    """Return StyleKD's latent-direction relation loss: ``sum over layers of KL(P_teacher || P_student)``, batch mean.

    Each argument maps block names to features [B, C, H, W], of the latents and of the same latents moved by an offset;
    the layers of ``teacher`` are compared. Images are compared in groups of ``group``, spread over the batch like the
    discriminator's; a batch that the group does not divide is one group. ``P[a, b]`` is the softmax over b in the group
    of a of the cosine between the features of image a and of moved image b. Only these matrices are compared, so the
    student may have other channel counts. StyleKD compares within a GPU's share, which is 4 of 16 images.
    """
    divergences = []
    for name in teacher:
        target = F.log_softmax(_cosines(teacher[name], teacher_moved[name], group), dim=2)
        actual = F.log_softmax(_cosines(student[name], student_moved[name], group), dim=2)
        divergence = F.kl_div(actual, target, reduction="sum", log_target=True)
        divergences.append(divergence / len(teacher[name]))
    return torch.stack(divergences).sum()


def _cosines(a: Tensor, b: Tensor, group: int) -> Tensor:
    """Return the cosine of every image of ``a`` with every image of ``b`` in its group: [B / group, group, group]."""
    size = group if len(a) % group == 0 else len(a)
    units = (F.normalize(x.flatten(1).float(), dim=1).reshape(size, -1, x[0].numel()).transpose(0, 1) for x in (a, b))
    a, b = units
    return a @ b.transpose(1, 2)


def mimic_layers(config: GeneratorConfig) -> list[str]:
    """Return the outputs that the relation loss compares, by their names in ``synthesis.features``.

    StyleGAN2: blocks ``b16`` to ``b128`` and at most half the image (256 px: all four); an image too small for any of
    them is compared at its own resolution. StyleGAN3: L1 and L2, as in DCP-GAN.
    """
    if config.layout is not None:
        return [f"L{i}" for i in (1, 2) if i < config.layout.num_layers]
    return [f"b{r}" for r in (16, 32, 64, 128) if r <= config.resolution // 2] or [f"b{config.resolution}"]


def offset_directions(teacher: Generator) -> Tensor:
    """Return the pool of unit directions [n, w_dim] along which the relation loss moves latents.

    They come from each block from 8 px to the last mimic layer (StyleGAN3: each layer up to it). The affine weights of
    its convolutions side by side are M [w_dim, C], every column (one style channel) scaled to unit length. The pool has
    the five leading eigenvectors of M M^T: the directions in w to which the block's styles are most sensitive ("main"
    directions in StyleKD).
    """
    last = mimic_layers(teacher.config)[-1]
    blocks: dict[str, list[Tensor]] = {}
    for name, layer in teacher.synthesis.scored()[:-1]:  # without toRGB
        block = name.split(".")[0]
        if blocks and block not in blocks and last in blocks:
            break
        blocks.setdefault(block, []).append(layer.affine.weight.detach())
    blocks.pop("b4", None)
    if not blocks:
        raise ValueError(f"a generator of {pixels(teacher.config.image_size)} has no block to take directions from")
    pool = []
    for weights in blocks.values():
        columns = F.normalize(torch.cat(weights).to("cpu", torch.float64), dim=1)  # [C, w_dim]: M transposed
        _, vectors = torch.linalg.eigh(columns.T @ columns)  # ascending
        pool.append(vectors.flip(1).T[:DIRECTIONS_PER_BLOCK])
    return torch.cat(pool).to(torch.float32)


def draw_offsets(directions: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """Draw one offset per sample, [batch, w_dim]: a random direction of the pool, times N(0, 1) * 5."""
    chosen = torch.randint(len(directions), (batch,), generator=generator)
    return directions[chosen] * (OFFSET_LENGTH * torch.randn(batch, 1, generator=generator))
