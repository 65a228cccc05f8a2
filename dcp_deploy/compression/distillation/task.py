"""What a distillation starts from: checks, the parts that stay fixed, the first state, and the name of it all."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from ...datasets.images import ImageSet
from ...errors import UsageError
from ...generators import Discriminator, DiscriminatorConfig, Generator
from ...generators.latents import draw_latents, stream
from ...metrics.published import Lpips
from ..identity import identity_of, name_of, run_key
from ..layers import copy_to
from ..masks import Mask
from . import losses
from .feature_adversary import FeatureDiscriminator, judged_maps
from .optimizers import adam, lazy_share
from .real_images import ImageSequence, ImageSource, check_labels
from .recipe import PATH_INTERVAL, R1_INTERVAL, DistillConfig
from .state import TrainingSetup, TrainingState
from .team import Team

PROBE_LATENTS = 32
NOT_DECIDING = ("checkpoint_every", "measure_every")  # measure_at, which follows from the latter, is told apart
FIRST_SCALE = 2.0**10  # of fp16's loss; it doubles after 2000 updates without overflow


@dataclass(frozen=True)
class Task:
    """What is to be distilled, as :func:`.distill` was told; every process of a team is given it."""

    student: Generator
    teacher: Generator
    config: DistillConfig
    data: ImageSource | None = None
    perceptual: losses.FeatureMaps | Lpips | None = None
    mask: Mask | None = None
    discriminator: Discriminator | None = None
    guide: Discriminator | None = None
    checkpoint_dir: Path | None = None
    measure_at: frozenset[int] = frozenset()
    keep_best: str | None = None
    devices: int = 1

    def check(self) -> None:
        """Raise UsageError unless the parts fit together."""
        if replace(self.student.config, widths=self.teacher.widths) != self.teacher.config:
            raise UsageError(
                f"student and teacher differ in more than their widths: {self.student.config} and "
                f"{self.teacher.config}",
                "distil a student that was pruned from this teacher",
            )
        if self.config.perceptual and self.perceptual is None:
            raise UsageError(
                f"the perceptual loss has weight {self.config.perceptual:g} but no network to compare features with",
                "pass perceptual=load_avatar_reader().pyramid (the demo's images) or load_lpips(weights), or set its "
                "weight to 0",
            )
        if self.config.feature_gan and self.perceptual is None:
            raise UsageError(
                f"the discriminator of features has weight {self.config.feature_gan:g} but no network that gives them",
                "pass perceptual=load_avatar_reader().pyramid (the demo's images) or load_lpips(weights), which is "
                "--lpips FILE, or set feature_gan to 0",
            )
        judge = (
            DiscriminatorConfig.mirror(self.teacher.config) if self.discriminator is None else self.discriminator.config
        )
        for given in (self.discriminator, self.guide):
            if given is not None:
                self._check_discriminator(given.config)
        self._check_use()
        if self.data is not None and self.config.gan:
            check_labels(self.data, self.teacher.config.c_dim)
        check_split(self.config, self.devices, judge.mbstd_group)

    def _check_discriminator(self, found: DiscriminatorConfig) -> None:
        wanted = (self.teacher.config.resolution, self.teacher.config.c_dim)
        if (found.resolution, found.c_dim) != wanted:
            raise UsageError(
                f"the discriminator judges {found.resolution} px and {found.c_dim} classes, the teacher draws "
                f"{wanted[0]} px of {wanted[1]}",
                "give the one that this teacher was trained with",
            )

    def _check_use(self) -> None:
        """Raise UsageError for a discriminator that the recipe does not use, or misses."""
        if self.discriminator is not None and (not self.config.gan or self.config.discriminator_width != 1):
            raise UsageError(
                "a discriminator is given, and the recipe has none, or one of another width",
                "give gan a weight and leave discriminator_width at 1, or leave the discriminator out",
            )
        if self.config.guide and self.guide is None:
            raise UsageError(
                f"the guide has weight {self.config.guide:g} but there is no discriminator to compare features of",
                "pass guide=read_discriminator(the file that this teacher was trained into), or set its weight to 0",
            )
        if self.guide is not None and not self.config.guide:
            raise UsageError("a guide is given, and its weight is 0", "set guide to 10, or leave the guide out")

    def on(self, device: torch.device) -> Task:
        """A copy of the networks there; discriminators are copied where they are used."""
        return replace(
            self,
            student=copy.deepcopy(self.student).to(device),
            teacher=copy.deepcopy(self.teacher).to(device),
            perceptual=_moved(self.perceptual, device),
        )

    def run(self, device: torch.device, team: Team) -> TrainingSetup:
        """The parts that stay fixed."""
        teacher = copy_to(self.teacher, device).eval().requires_grad_(False)
        z, c = draw_latents(teacher.config, PROBE_LATENTS, stream(self.config.seed, "probe"))
        z, c = z.to(device), None if c is None else c.to(device)
        with torch.no_grad():
            images = teacher(z, c)
        directions = losses.offset_directions(teacher)
        probe = (z, c, images)
        guide = None
        if self.guide is not None:
            guide = copy_to(self.guide, device).eval().requires_grad_(False)
        return TrainingSetup(
            self.config, teacher, self.perceptual, self.data, directions, probe, device, self.mask, guide, team
        )

    def state(self, device: torch.device) -> TrainingState:
        """The state before the first step, the same in every process."""
        config = self.config
        student = copy_to(self.student, device).train().requires_grad_(True)
        judge = self.discriminator or _new_discriminator(self.teacher, config)
        discriminator = copy_to(judge, device).train().requires_grad_(True)
        features = self._feature_discriminator(device)
        return TrainingState(
            student=student,
            ema=copy.deepcopy(student).eval().requires_grad_(False),
            discriminator=discriminator,
            student_optimizer=adam(student, lazy_share(config.path_length, PATH_INTERVAL), config.beta1),
            discriminator_optimizer=adam(discriminator, lazy_share(config.r1, R1_INTERVAL)),
            path_mean=torch.zeros([], device=device),
            feature_discriminator=features,
            feature_optimizer=None if features is None else adam(features, 1.0),
            student_scaler=GradScaler(device.type, FIRST_SCALE, enabled=config.precision == "fp16"),
            discriminator_scaler=GradScaler(device.type, FIRST_SCALE, enabled=config.precision == "fp16"),
        )

    def _feature_discriminator(self, device: torch.device) -> FeatureDiscriminator | None:
        """One for the maps that the perceptual network has of such images, its weights drawn from the seed alone."""
        if not self.config.feature_gan:
            return None
        assert self.perceptual is not None  # as check demands
        resolution = self.teacher.config.resolution
        with torch.no_grad():
            maps = judged_maps(self.perceptual, torch.zeros(1, 3, resolution, resolution, device=device))
        shapes = [(x.shape[1], x.shape[2]) for x in maps]
        with _drawn_from(self.config.seed, "feature discriminator"):
            return FeatureDiscriminator(shapes).to(device)

    def key(self, device: torch.device) -> str:
        """Hex sha256 of everything that decides the result, to the last bit; how often it is saved does not."""
        settings = {name: value for name, value in asdict(self.config).items() if name not in NOT_DECIDING}
        given = {"discriminator": self.discriminator, "guide": self.guide}
        judges = {name: network for name, network in given.items() if network is not None}
        optional = {
            "measure_at": sorted(self.measure_at),
            "keep_best": self.keep_best,
            "devices": self.devices if self.devices > 1 else None,
            "mask": None if self.mask is None else identity_of(self.mask),
            **{name: asdict(network.config) for name, network in judges.items()},
        }
        about = {"config": settings, "data": self._data_identity(), "torch": torch.__version__, "device": device.type}
        networks = {"student": self.student, "teacher": self.teacher, **_perceptual_network(self.perceptual), **judges}
        return run_key({**about, **{name: value for name, value in optional.items() if value}}, networks)

    def _data_identity(self) -> Any:
        if self.data is None:
            return "teacher samples"
        if isinstance(self.data, ImageSet):
            return self.data.identity
        return name_of(self.data) + (f"[{len(self.data)}]" if isinstance(self.data, ImageSequence) else "")


def _new_discriminator(teacher: Generator, settings: DistillConfig) -> Discriminator:
    """A fresh discriminator that mirrors the teacher, its weights drawn from the seed alone."""
    config = DiscriminatorConfig.mirror(teacher.config)
    widths = tuple(max(1, round(width * settings.discriminator_width)) for width in config.widths)
    config = replace(config, widths=widths)
    with _drawn_from(settings.seed, "discriminator"):
        return Discriminator(config)


@contextmanager
def _drawn_from(seed: int, name: str) -> Iterator[None]:
    """New weights come from torch's global state: a state of their own, and the caller's stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, name).initial_seed() % 2**63)
        yield


def _perceptual_network(perceptual: losses.FeatureMaps | Lpips | None) -> Mapping[str, nn.Module]:
    """The network behind a bound method such as ``reader.pyramid``: its weights are part of the run's identity."""
    owner = perceptual.network if isinstance(perceptual, Lpips) else getattr(perceptual, "__self__", perceptual)
    return {"perceptual": owner} if isinstance(owner, nn.Module) else {}


def _moved(perceptual: losses.FeatureMaps | Lpips | None, device: torch.device) -> losses.FeatureMaps | Lpips | None:
    """The same maps by a copy of their network there."""
    for network in _perceptual_network(perceptual).values():
        moved = copy.deepcopy(network).to(device)
        if isinstance(perceptual, Lpips):
            return Lpips(moved, device)
        maps: losses.FeatureMaps = moved if network is perceptual else getattr(moved, perceptual.__name__)  # type: ignore[union-attr]
        return maps
    return perceptual


def check_split(config: DistillConfig, devices: int, std_group: int) -> None:
    """Raise UsageError unless the batch can be split so that the parts' gradients add up to the whole batch's.

    The relation loss compares the images of a group with each other, and the discriminator's minibatch deviation is
    taken over groups of ``std_group``: every part must hold whole groups.
    """
    parts = devices * config.accumulate
    if parts == 1:
        return
    how = f"{devices} devices x {config.accumulate} parts in turn"
    if config.batch % parts or config.batch // parts < 2:
        raise UsageError(
            f"a batch of {config.batch} cannot be split evenly over {how}, two images or more in each",
            f"make batch a multiple of {2 * parts}",
        )
    groups = {"the relation loss": config.relation_group if config.relation else 1}
    groups["the discriminator"] = std_group if config.gan else 1
    for who, group in groups.items():
        if config.batch // parts % group:
            raise UsageError(
                f"{who} looks at groups of {group} images, and {how} leave {config.batch // parts} of a batch of "
                f"{config.batch} in each",
                f"make batch a multiple of {group * parts}, or use fewer parts",
            )
