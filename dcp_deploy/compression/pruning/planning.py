"""Which channels to keep, and the generator that is left: uniform plans and weight slicing.

Layer ``l`` of a plan is entry ``l`` of ``GeneratorConfig.widths``: the input channels of convolution ``l``, that is
the output channels of convolution ``l - 1``; the last layer feeds only the last toRGB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...errors import UsageError
from ...generators import (
    Generator,
    GeneratorConfig,
    StyledConv,
    StyleGAN2Synthesis,
    StyleGAN3Synthesis,
    SynthesisLayer,
    ToRGB,
    count_macs,
    count_parameters,
)
from ..scoring.channel_scores import ChannelScores, check_scores, kept_width
from .budget import macs_cost, parameters_cost, widths_within
from .layer_times import latency_cost
from .refinement import LATENTS as REFINE_LATENTS
from .refinement import reconstruct, scale_singular_values

Refinement = Literal["none", "svs", "reconstruct", "svs+reconstruct"]


@dataclass(frozen=True, eq=False)
class PruningPlan:
    """Kept channels per layer, ascending int64 indices, with what the generator costs before and after.

    ``str(plan)`` is a table. MACs are multiply-accumulates per image.
    """

    teacher: GeneratorConfig
    kept: tuple[Tensor, ...]
    ratio: float
    """Share of the channels that goes: as asked for, or what a target came to."""
    align: int
    target: str | None = None
    """The budget, such as "macs 0.09"; None for the same ratio everywhere."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels left in each layer."""
        return tuple(len(indices) for indices in self.kept)

    @property
    def config(self) -> GeneratorConfig:
        """Config of the pruned generator."""
        return replace(self.teacher, widths=self.widths)

    def to_dict(self) -> dict[str, Any]:
        """Widths and costs, ready for JSON; without the indices."""
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
    ratio: float = 0.7,
    align: int = 1,
    target_macs: float | None = None,
    target_params: float | None = None,
    target_latency: float | None = None,
) -> PruningPlan:
    """Drop the ``floor(ratio * C)`` lowest-scored channels of every layer, the same share everywhere.

    With ``align`` above 1 the number kept becomes the nearest multiple of it (half rounds up), but at least one such
    group and never more than there are. Equal scores drop the lower index first. No weights are touched.

    ``target_macs`` or ``target_params``, a share of the teacher's such as 0.09, takes the place of ``ratio``: each
    layer then gets the width by which the network keeps the most of its scores within that cost (:mod:`.budget`).
    ``target_latency``, in milliseconds, does the same for the time of one image on the device that the generator is
    on, as :mod:`.layer_times` predicts it. It is measured anew in every call, so its plans differ a little.

    Raises UsageError when ``ratio`` is outside [0, 1), ``align`` below 1, a target outside (0, 1] or out of reach, or
    the scores belong to another generator.
    """
    config = generator if isinstance(generator, GeneratorConfig) else generator.config
    if not 0 <= ratio < 1:
        raise UsageError(f"the pruning ratio must be at least 0 and below 1, got {ratio}", "0.7 removes 70 percent")
    if align < 1:
        raise UsageError(f"align must be at least 1, got {align}", "8 keeps multiples of eight channels")
    if scores.widths != config.widths:
        raise UsageError(
            f"the scores are for layers of {list(scores.widths)} channels, the generator has {list(config.widths)}",
            "score this generator: dcp-deploy score TEACHER",
        )
    check_scores(scores)
    target = None
    widths = tuple(kept_width(len(layer), ratio, align) for layer in scores.scores)
    targets = {"macs": target_macs, "parameters": target_params, "latency": target_latency}
    targets = {name: value for name, value in targets.items() if value is not None}
    if targets:
        target, widths = _within_target(generator, scores, align, targets)
        ratio = 1 - sum(widths) / sum(config.widths)
    kept = []
    for layer, width in zip(scores.scores, widths, strict=True):
        best = torch.argsort(layer, stable=True)[len(layer) - width :]
        kept.append(best.sort().values)
    return PruningPlan(config, tuple(kept), ratio, align, target)


def _within_target(
    generator: Generator | GeneratorConfig, scores: ChannelScores, align: int, targets: dict[str, float | None]
) -> tuple[str, tuple[int, ...]]:
    """The target in words, and the widths within it."""
    if len(targets) > 1:
        raise UsageError(f"several targets: {', '.join(targets)}", "give one of them")
    (name, value), config = targets.popitem(), generator if isinstance(generator, GeneratorConfig) else generator.config
    assert value is not None
    if name == "latency":
        if isinstance(generator, GeneratorConfig) or not (math.isfinite(value) and value > 0):
            raise UsageError(f"a latency of {value} ms cannot be planned", "give a positive time and a generator")
        return f"latency {value:g} ms", widths_within(scores.scores, latency_cost(generator), value, align)
    if not 0 < value <= 1:
        raise UsageError(f"a target is a share of the teacher's {name}, above 0 and at most 1, got {value}")
    cost = macs_cost(config) if name == "macs" else parameters_cost(config)
    return f"{name} {value:g}", widths_within(scores.scores, cost, value * cost(config.widths), align)


def prune(
    generator: Generator,
    plan: PruningPlan,
    *,
    refine: Refinement = "none",
    latents: int = REFINE_LATENTS,
    seed: int = 0,
) -> Generator:
    """A new generator with only the planned channels; ``generator`` is left untouched.

    What a dropped channel contributed is gone; all else computes as before. In particular each toRGB is scaled by
    sqrt(C_new / C_old): it has no demodulation, so its 1 / sqrt(C) gain would otherwise grow as C shrinks. Mapping
    network, noise maps and strengths, and StyleGAN3's input gains (``magnitude_ema``) are inherited. A plan that keeps
    everything gives back the teacher bit for bit.

    ``refine`` then adjusts the weights that are left (:mod:`.refinement`): "reconstruct" fits them to the teacher's
    features of ``latents`` latents drawn by ``seed``, "svs" levels their singular values, and "svs+reconstruct" does
    one after the other.

    Raises UsageError when the plan was made for another generator or ``refine`` is unknown.
    """
    if generator.config != plan.teacher:
        raise UsageError(
            f"the plan is for a generator of widths {list(plan.teacher.widths)}, this one has "
            f"{list(generator.widths)} or differs in another setting",
            "make the plan from this generator",
        )
    if refine not in get_args(Refinement):
        raise UsageError(f"unknown refinement {refine!r}", f"choose one of: {', '.join(get_args(Refinement))}")
    device = next(generator.parameters()).device
    kept = [indices.to(device) for indices in plan.kept]
    state = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    state |= _sliced(generator, kept)
    with torch.device("meta"):  # no memory or random numbers for weights that are replaced at once
        student = Generator(plan.config)
    student.load_state_dict(state, assign=True)
    if "svs" in refine:
        scale_singular_values(student)
    if "reconstruct" in refine:
        reconstruct(student, generator, tuple(kept), latents=latents, seed=seed)
    return student.train(generator.training)


def _sliced(generator: Generator, kept: list[Tensor]) -> dict[str, Tensor]:
    """The tensors of the synthesis network that carry channels, cut down to ``kept``."""
    network = generator.synthesis
    cut = _sliced_stylegan2 if isinstance(network, StyleGAN2Synthesis) else _sliced_stylegan3
    return {f"synthesis.{name}": tensor.detach() for name, tensor in cut(network, kept).items()}  # type: ignore[arg-type]


def _sliced_stylegan2(network: StyleGAN2Synthesis, kept: list[Tensor]) -> dict[str, Tensor]:
    state = {"b4.const": network.get_parameter("b4.const")[kept[0]]}
    for layer, (name, conv) in enumerate(network.convs()):
        state |= _sliced_inputs(name, conv, kept[layer])
        outputs = kept[layer + 1]
        state[f"{name}.weight"] = state[f"{name}.weight"][outputs]
        state[f"{name}.bias"] = conv.bias[outputs]
    for level, (name, torgb) in enumerate(network.torgbs()):
        state |= _sliced_torgb(name, torgb, kept[2 * level + 1])
    return state


def _sliced_stylegan3(network: StyleGAN3Synthesis, kept: list[Tensor]) -> dict[str, Tensor]:
    state = {"input.weight": network.input.weight[kept[0]]}  # the waves that it mixes all stay
    *layers, (last, torgb) = network.layers()
    for (name, layer), inputs, outputs in zip(layers, kept[:-1], kept[1:], strict=True):
        state |= _sliced_inputs(name, layer, inputs)
        state[f"{name}.weight"] = state[f"{name}.weight"][outputs]
        state[f"{name}.bias"] = layer.bias[outputs]
    return state | _sliced_torgb(last, torgb, kept[-1])


def _sliced_torgb(name: str, torgb: ToRGB | SynthesisLayer, inputs: Tensor) -> dict[str, Tensor]:
    state = _sliced_inputs(name, torgb, inputs)
    state[f"{name}.weight"] = state[f"{name}.weight"] * math.sqrt(len(inputs) / torgb.weight.shape[1])
    return state


def _sliced_inputs(name: str, layer: StyledConv | ToRGB | SynthesisLayer, inputs: Tensor) -> dict[str, Tensor]:
    return {
        f"{name}.weight": layer.weight[:, inputs],
        f"{name}.affine.weight": layer.affine.weight[inputs],
        f"{name}.affine.bias": layer.affine.bias[inputs],
    }
