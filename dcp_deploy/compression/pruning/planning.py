"""Which channels to keep, and the pruned generator: plans of widths, and slicing of weights.

Layer ``l`` of a plan is entry ``l`` of ``GeneratorConfig.widths``: the input channels of convolution ``l``, which are
the output channels of convolution ``l - 1``. The last layer feeds only the last toRGB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...checkpoints.provenance import tensors_sha256
from ...efforts import ALIGN, EFFORT, EFFORTS, RATIO, REFINE
from ...errors import UsageError, as_share, choose
from ...generators import (
    Generator,
    GeneratorConfig,
    StyleGAN2Synthesis,
    StyleGAN3Synthesis,
    count_macs,
    count_parameters,
)
from ...progress import Progress
from ..layers import Layer
from ..scoring.channel_scores import ChannelScores, check_scores, kept_width
from .budget import Cost, counted_cost, widths_within
from .layer_times import latency_cost
from .refinement import reconstruct, scale_singular_values

FEWEST_LEFT = 0.1  # of all channels, without a caveat
Refinement = Literal["none", "svs", "reconstruct", "svs+reconstruct"]


@dataclass(frozen=True, eq=False)
class PruningPlan:
    """Kept channels per layer as ascending int64 indices, and the costs of the generator before and after.

    ``str(plan)`` is a table. MACs are multiply-accumulates per image.
    """

    teacher: GeneratorConfig
    kept: tuple[Tensor, ...]
    ratio: float
    """Share of the channels that is removed: the requested one, or the one that a target led to."""
    align: int
    target: str | None = None
    """The target, for example "macs 0.09"; None for the same ratio everywhere."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels left in each layer."""
        return tuple(len(indices) for indices in self.kept)

    @property
    def config(self) -> GeneratorConfig:
        """Config of the pruned generator."""
        return replace(self.teacher, widths=self.widths)

    @property
    def caveats(self) -> list[str]:
        """Return sentences on what speaks against the plan; none for a usual one."""
        found = []
        if self.align % 8 and self.widths != self.teacher.widths and any(width % 8 for width in self.widths):
            found.append(
                f"align {self.align} leaves layers whose channels are not multiples of 8, which kernels and TensorRT "
                "handle best"
            )
        if self.widths == self.teacher.widths and (self.ratio > 0 or self.target):
            found.append(f"no channel is removed: with align {self.align} each layer keeps all that it has")
        left = sum(self.widths) / sum(self.teacher.widths)
        if left < FEWEST_LEFT:
            found.append(
                f"only {left:.1%} of the channels are left, {min(self.widths)} to {max(self.widths)} in a layer; "
                "published students keep 30 %"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return widths and costs, ready for JSON, without the indices."""
        costs = {
            name: {"widths": list(config.widths), "parameters": count_parameters(config), "macs": count_macs(config)}
            for name, config in (("teacher", self.teacher), ("student", self.config))
        }
        return {"ratio": self.ratio, "align": self.align, "target": self.target, **costs}

    def __str__(self) -> str:
        names = self.teacher.layer_names
        lines = [f"{'layer':<12} {'channels':>8} {'kept':>6} {'share':>7}"]
        for name, before, after in zip(names, self.teacher.widths, self.widths, strict=True):
            lines.append(f"{name:<12} {before:>8} {after:>6} {after / before:>7.1%}")
        costs = self.to_dict()
        for name in ("parameters", "macs"):
            before, after = costs["teacher"][name], costs["student"][name]
            lines.append(f"{name}: {before:,} -> {after:,} ({before / after:.2f}x fewer)")
        return "\n".join(lines)


def plan(
    generator: Generator | GeneratorConfig,
    scores: ChannelScores,
    *,
    ratio: float = RATIO,
    align: int = ALIGN,
    target_macs: float | None = None,
    target_params: float | None = None,
    target_latency: float | None = None,
) -> PruningPlan:
    """Drop the ``floor(ratio * C)`` lowest-scored channels of every layer, the same share everywhere.

    With ``align`` above 1 the number kept is rounded to the nearest multiple (half rounds up), but to at least one such
    group and never to more channels than the layer has. Equal scores drop the lower index first. Weights stay as is.

    ``target_macs`` or ``target_params``, a share of the teacher's such as 0.09, replaces ``ratio``: each layer gets
    the width by which the network keeps the most of its scores within that cost (:mod:`.budget`).
    ``target_latency`` does the same for milliseconds per image on the generator's device, predicted by
    :mod:`.layer_times`. Every call measures anew, so its plans differ a little.

    Raises UsageError when ``ratio`` is outside [0, 1), ``align`` below 1, a target outside (0, 1] or out of reach, or
    the scores belong to another generator or are those of one shard.
    """
    config = generator if isinstance(generator, GeneratorConfig) else generator.config
    if not 0 <= ratio < 1:
        raise UsageError(f"the pruning ratio must be at least 0 and below 1, got {ratio:g}", as_share(ratio))
    if align < 1:
        raise UsageError(f"align must be at least 1, got {align}", "Write 8 to keep multiples of eight channels.")
    if scores.widths != config.widths:
        raise UsageError(
            f"the scores are for layers of {list(scores.widths)} channels, the generator has {list(config.widths)}",
            "Score this generator: dcp-deploy score TEACHER",
        )
    if "shard" in scores.settings:
        raise UsageError(
            "these are the scores of shard {}/{} alone".format(*scores.settings["shard"]),
            "Add all shards of the run: merge_scores(parts, generator).",
        )
    scored = scores.settings.get("network")
    if scored is not None and not isinstance(generator, GeneratorConfig) and scored != tensors_sha256(generator):
        raise UsageError(
            "the scores are of another network with the same widths", "Score this generator: dcp-deploy score TEACHER"
        )
    check_scores(scores)
    targets = given_targets(ratio, macs=target_macs, parameters=target_params, latency=target_latency)
    target = None
    widths = tuple(kept_width(len(layer), ratio, align) for layer in scores.scores)
    for name, value in targets.items():
        cost, most = _cost_limit(generator, name, value)
        widths = widths_within(scores.scores, cost, most, align)
        if cost(widths) > most:
            raise _out_of_reach(name, value, cost(widths), cost(config.widths), align)
        ratio = 1 - sum(widths) / sum(config.widths)
        target = f"{name} {value:g}" + (" ms" if name == "latency" else "")
    kept = []
    for layer, width in zip(scores.scores, widths, strict=True):
        best = torch.argsort(layer, stable=True)[len(layer) - width :]
        kept.append(best.sort().values)
    return PruningPlan(config, tuple(kept), ratio, align, target)


def given_targets(ratio: float, **options: float | None) -> dict[str, float]:
    """Return the target that was given, if any. Raises UsageError for several, and for one beside a ratio."""
    targets = {name: value for name, value in options.items() if value is not None}
    if len(targets) > 1:
        raise UsageError(f"several targets: {', '.join(targets)}", "Give one of them.")
    if targets and ratio != RATIO:
        raise UsageError(f"a ratio of {ratio:g} and a target for {next(iter(targets))}", "Give one of them.")
    return targets


def _cost_limit(generator: Generator | GeneratorConfig, name: str, value: float) -> tuple[Cost, float]:
    """Return the cost that a target is about, and its highest allowed value."""
    if name == "latency":
        if isinstance(generator, GeneratorConfig) or not (math.isfinite(value) and value > 0):
            raise UsageError(f"a latency of {value} ms cannot be planned", "Give a positive time and a generator.")
        return latency_cost(generator), value
    if not 0 < value <= 1:
        raise UsageError(f"the {name} to keep must be above 0 and at most 1, got {value:g}", as_share(value))
    config = generator if isinstance(generator, GeneratorConfig) else generator.config
    cost = counted_cost(config, count_macs if name == "macs" else count_parameters)
    return cost, value * cost(config.widths)


def _out_of_reach(name: str, value: float, least: float, full: float, align: int) -> UsageError:
    smallest = f"the smallest network ({align} channels a layer)"
    found = f"takes about {least:.3g} ms here" if name == "latency" else f"has {least / full:.3g} of the {name}"
    wanted = f"{value:g} ms" if name == "latency" else f"{value:g} of the {name}"
    return UsageError(f"{wanted} is out of reach: {smallest} {found}", "Raise the target, or give a smaller --align.")


def prune(
    generator: Generator,
    plan: PruningPlan,
    *,
    refine: Refinement = REFINE,
    latents: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Generator:
    """Return a new generator with only the planned channels; ``generator`` is left untouched.

    The contribution of dropped channels is lost; everything else computes as before. Each toRGB is scaled by
    sqrt(C_new / C_old): it has no demodulation, so its 1 / sqrt(C) gain would otherwise grow as C shrinks. Mapping
    network, noise maps and strengths, and StyleGAN3's input gains (``magnitude_ema``) are inherited. A plan that keeps
    everything returns the teacher bit for bit.

    ``refine`` then adjusts the remaining weights (:mod:`.refinement`). "reconstruct" fits them to the teacher's
    features of ``latents`` latents drawn by ``seed`` (by default as many as ``build`` takes for a generator of this
    size, 64 at most), "svs" scales their singular values, and "svs+reconstruct" does
    one after the other. ``progress`` counts the layers that "reconstruct" has fitted.

    Raises UsageError when the plan was made for another generator or ``refine`` is unknown.
    """
    if generator.config != plan.teacher:
        raise UsageError(
            f"the plan is for a generator of widths {list(plan.teacher.widths)}, this one has "
            f"{list(generator.widths)} or differs in another setting",
            "Make the plan from this generator.",
        )
    if refine not in get_args(Refinement):
        raise UsageError(f"unknown refinement {refine!r}", choose(refine, get_args(Refinement)))
    if latents is None:
        latents = EFFORTS[EFFORT].for_teacher(count_macs(generator)).refine_latents
    device = next(generator.parameters()).device
    kept = [indices.to(device) for indices in plan.kept]
    state = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    state |= {f"synthesis.{name}": tensor.detach() for name, tensor in _sliced(generator.synthesis, kept).items()}
    with torch.device("meta"):  # no memory or random numbers for weights that are replaced at once
        student = Generator(plan.config)
    student.load_state_dict(state, assign=True)
    if "svs" in refine:
        scale_singular_values(student)
    if "reconstruct" in refine:
        reconstruct(student, generator, tuple(kept), latents=latents, seed=seed, progress=progress)
    return student.train(generator.training)


def _sliced(network: StyleGAN2Synthesis | StyleGAN3Synthesis, kept: list[Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the synthesis network that carry channels, cut down to ``kept``."""
    layers: list[tuple[str, Layer]]
    torgbs: list[tuple[str, Layer]]
    if isinstance(network, StyleGAN2Synthesis):
        first, layers, torgbs = "b4.const", [*network.convs()], [*network.torgbs()]
    else:  # the frequencies of its input all stay
        first, layers, torgbs = "input.weight", [*network.layers()[:-1]], [*network.layers()[-1:]]
    state = {first: network.get_parameter(first)[kept[0]]}
    for inputs, outputs, (name, layer) in zip(kept[:-1], kept[1:], layers, strict=True):
        state |= _sliced_inputs(name, layer, inputs)
        state[f"{name}.weight"] = state[f"{name}.weight"][outputs]
        state[f"{name}.bias"] = layer.bias[outputs]
    # One toRGB follows every second layer of a StyleGAN2, and the last of a StyleGAN3.
    for inputs, (name, layer) in zip(kept[::-2], torgbs[::-1], strict=False):
        state |= _sliced_inputs(name, layer, inputs)
        state[f"{name}.weight"] = state[f"{name}.weight"] * math.sqrt(len(inputs) / layer.weight.shape[1])
    return state


def _sliced_inputs(name: str, layer: Layer, inputs: Tensor) -> dict[str, Tensor]:
    return {
        f"{name}.weight": layer.weight[:, inputs],
        f"{name}.affine.weight": layer.affine.weight[inputs],
        f"{name}.affine.bias": layer.affine.bias[inputs],
    }
