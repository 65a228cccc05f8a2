"""What a distillation starts from: checked arguments, the parts that stay fixed, the first state, and the run's key."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from ...datasets.images import ImageSet
from ...distributed.team import Team
from ...errors import UsageError
from ...gates import QUALITY
from ...generators import Discriminator, DiscriminatorConfig, Generator
from ...generators.latents import draw_latents, seeded, stream
from ...metrics.published import Lpips
from ...sizes import pixels
from ..identity import identity_of, name_of, run_key
from ..layers import copy_to
from ..masks import Mask
from . import losses
from .optimizers import adam, lazy_share, student_optimizers
from .own_losses import find_losses
from .rare import code_distances
from .real_images import ImageSequence, ImageSource, check_labels
from .recipe import R1_INTERVAL, DistillConfig
from .state import TrainingSetup, TrainingState

PROBE_LATENTS = 32
NOT_IN_KEY = ("checkpoint_every", "measure_every")  # measure_at, which follows from the latter, is in the key
TERMS = (
    "step", "l1_to_teacher", "total", "gan", "l1", "perceptual", "relation", "path_length", "discriminator", "r1",
    "learning_rate", "images_per_second", *QUALITY,
)  # fmt: skip
"""The figures that a history or a logger can have without losses of users."""
FIRST_SCALE = 2.0**10  # of fp16's loss; it doubles after 2000 updates without overflow


@dataclass(frozen=True)
class Task:
    """The arguments of :func:`.distill` that every process of a team needs."""

    student: Generator
    teacher: Generator
    config: DistillConfig
    data: ImageSource | None = None
    perceptual: losses.FeatureMaps | Lpips | None = None
    mask: Mask | None = None
    discriminator: Discriminator | None = None
    checkpoint_dir: Path | None = None
    measure_at: frozenset[int] = frozenset()
    keep_best: str | None = None
    devices: int = 1

    def check(self) -> None:
        """Raise UsageError unless the arguments fit together."""
        config, teacher = self.config, self.teacher.config
        if replace(self.student.config, widths=self.teacher.widths) != teacher:
            raise UsageError(
                f"student and teacher differ in more than their widths: {self.student.config} and {teacher}",
                "Distil a student that was pruned from this teacher.",
            )
        if config.perceptual and self.perceptual is None:
            raise UsageError(
                f"the perceptual loss has weight {config.perceptual:g} but no network to compute features with",
                "Pass perceptual=load_avatar_reader().pyramid (the demo's images) or load_lpips(weights), which is "
                "--lpips FILE, or set perceptual to 0.",
            )
        self._check_discriminator()
        find_losses(config, TERMS)
        if self.data is not None and config.gan:
            check_labels(self.data, teacher.c_dim)
        discriminator = self.discriminator.config if self.discriminator else DiscriminatorConfig.mirror(teacher)
        check_split(config, self.devices, discriminator.mbstd_group)

    def _check_discriminator(self) -> None:
        config, wanted = self.config, (self.teacher.config.image_size, self.teacher.config.c_dim)
        if self.discriminator is None:
            return
        found = (self.discriminator.config.image_size, self.discriminator.config.c_dim)
        if found != wanted:
            raise UsageError(
                f"the discriminator is for {pixels(found[0])} and {found[1]} classes, the teacher is for "
                f"{pixels(wanted[0])} and {wanted[1]}",
                "Give the discriminator that this teacher was trained with.",
            )
        if not config.gan or config.discriminator_width != 1:
            raise UsageError(
                "a discriminator is given, and the recipe uses none, or one of another width",
                "Set gan to a weight and leave discriminator_width at 1, or leave the discriminator out.",
            )

    def on(self, device: torch.device) -> Task:
        """Return a copy with the networks on ``device``; the discriminator is copied where it is used."""
        return replace(
            self,
            student=copy.deepcopy(self.student).to(device),
            teacher=copy.deepcopy(self.teacher).to(device),
            perceptual=_perceptual_on(self.perceptual, device),
        )

    def setup(self, device: torch.device, team: Team) -> TrainingSetup:
        """Return the parts that stay fixed."""
        teacher = copy_to(self.teacher, device).eval().requires_grad_(False)
        z, c = draw_latents(teacher.config, PROBE_LATENTS, stream(self.config.seed, "probe"), device)
        with torch.no_grad():
            probe = (z, c, teacher(z, c))
        directions = losses.offset_directions(teacher)
        own = find_losses(self.config, TERMS)
        distances = code_distances(teacher, self.config.seed) if self.config.rare else None
        return TrainingSetup(
            self.config, teacher, self.perceptual, self.data, directions, probe, device, self.mask, team, own, distances
        )

    def state(self, device: torch.device) -> TrainingState:
        """Return the state before the first step, the same in every process."""
        config = self.config
        student = copy_to(self.student, device).train().requires_grad_(True)
        discriminator = copy_to(self.discriminator or self._new_discriminator(), device).train().requires_grad_(True)
        student_optimizer, kernel_optimizer = student_optimizers(student, config)
        return TrainingState(
            student=student,
            ema=copy.deepcopy(student).eval().requires_grad_(False),
            discriminator=discriminator,
            student_optimizer=student_optimizer,
            kernel_optimizer=kernel_optimizer,
            discriminator_optimizer=adam(discriminator.parameters(), lazy_share(config.r1, R1_INTERVAL)),
            path_mean=torch.zeros([], device=device),
            student_scaler=GradScaler(device.type, FIRST_SCALE, enabled=config.precision == "fp16"),
            discriminator_scaler=GradScaler(device.type, FIRST_SCALE, enabled=config.precision == "fp16"),
        )

    def _new_discriminator(self) -> Discriminator:
        """Return a discriminator that mirrors the teacher; its random weights depend on the seed alone."""
        mirrored = DiscriminatorConfig.mirror(self.teacher.config)
        widths = tuple(max(1, round(width * self.config.discriminator_width)) for width in mirrored.widths)
        with seeded(self.config.seed, "discriminator"):
            return Discriminator(replace(mirrored, widths=widths))

    def key(self, device: torch.device) -> str:
        """Return the hex sha256 of everything that decides the result bit for bit; how often it is saved does not."""
        settings = {name: value for name, value in self.config.to_dict().items() if name not in NOT_IN_KEY}
        discriminators = {} if self.discriminator is None else {"discriminator": self.discriminator}
        optional = {
            "measure_at": sorted(self.measure_at),
            "keep_best": self.keep_best,
            "mask": None if self.mask is None else identity_of(self.mask),
            **{name: network.config.to_dict() for name, network in discriminators.items()},
        }
        about = {"config": settings, "data": self._data_identity(), "torch": torch.__version__, "device": device.type}
        perceptual = _network_of(self.perceptual)
        networks = {"student": self.student, "teacher": self.teacher, **discriminators}
        networks |= {} if perceptual is None else {"perceptual": perceptual}
        return run_key({**about, **{name: value for name, value in optional.items() if value}}, networks)

    def _data_identity(self) -> Any:
        if self.data is None:
            return "teacher samples"
        if isinstance(self.data, ImageSet):
            return self.data.identity
        return name_of(self.data) + (f"[{len(self.data)}]" if isinstance(self.data, ImageSequence) else "")


def _network_of(perceptual: losses.FeatureMaps | Lpips | None) -> nn.Module | None:
    """Return the network behind a bound method such as ``reader.pyramid``: its weights are part of the run's key."""
    owner = perceptual.network if isinstance(perceptual, Lpips) else getattr(perceptual, "__self__", perceptual)
    return owner if isinstance(owner, nn.Module) else None


def _perceptual_on(
    perceptual: losses.FeatureMaps | Lpips | None, device: torch.device
) -> losses.FeatureMaps | Lpips | None:
    """Return the same maps by a copy of their network on ``device``."""
    if (network := _network_of(perceptual)) is None:
        return perceptual
    copied = copy.deepcopy(network).to(device)
    if isinstance(perceptual, Lpips):
        return Lpips(copied, device)
    maps: losses.FeatureMaps = copied if network is perceptual else getattr(copied, perceptual.__name__)  # type: ignore[union-attr]
    return maps


def check_split(config: DistillConfig, devices: int, std_group: int) -> None:
    """Raise UsageError unless the batch can be split so that the parts' gradients add up to the whole batch's.

    The relation loss compares the images of a group with each other, and the discriminator's minibatch deviation is
    computed over groups of ``std_group``: every part must hold whole groups.
    """
    parts = devices * config.accumulate
    if parts == 1:
        return
    split = f"{devices} devices x {config.accumulate} parts in turn"
    if config.batch % parts or config.batch // parts < 2:
        raise UsageError(
            f"a batch of {config.batch} cannot be split evenly over {split}, two images or more in each",
            f"Make batch a multiple of {2 * parts}.",
        )
    groups = {"the relation loss": config.relation_group if config.relation else 1}
    groups["the discriminator"] = std_group if config.gan else 1
    for term, group in groups.items():
        if config.batch // parts % group:
            raise UsageError(
                f"{term} needs groups of {group} images, and {split} leave {config.batch // parts} of a batch of "
                f"{config.batch} in each",
                f"Make batch a multiple of {group * parts}, or use fewer parts.",
            )
