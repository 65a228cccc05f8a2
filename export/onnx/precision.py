"""Which convolutions may be stored in half precision: their value ranges over random latents, and the rule.

In an fp16 or bf16 file a convolution's weight, input and output have the half type (its sums are float32 on every
backend we know). Styles, demodulation, noise, biases, toRGB and the image stay float32. Two things can go wrong.

*Overflow.* float16 ends at 65504. Weights and styles are normalised to one, so even large styles do no harm. But
features can be large where nothing clamps them. bfloat16 has the range of float32.

*Underflow and cancellation.* Below 6e-5 float16 loses bits, and below 3e-8 it is zero; bfloat16 has 8 bits everywhere.
Rounding the weight, the input, the output and the result changes each by at most one part in 2^11 (float16) or 2^8
(bfloat16), half of that on average. A layer whose result changes by more loses more than its type explains.

A layer with either problem stays float32; it is called an island.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...errors import UsageError, choose
from ...generators import Generator, GeneratorConfig
from ...progress import Progress
from ..fused.generator import FusedGenerator
from ..fused.stylegan2 import Upsample
from ..parity.tolerance import Precision
from ..runners.runner import classes_of, latents_of

HalfPrecision = Literal["fp16", "bf16"]
TYPES: dict[HalfPrecision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}

CALIBRATION_SEED = 1_000_000  # far from the gate's seeds, which start at 0
CALIBRATION_PSIS = (0.5, 0.7, 1.0)

MARGIN = 8.0
"""The type's largest number must be this many times the measured maximum. For the demo's teacher the maxima over 1500
images at psi 1 are up to 1.8 times those over the default's 24 images, over 200 images at psi 1.5 up to 2.2 times."""

ROUNDINGS = 4.0
"""Unit roundings by which a layer's result may change: weight, input, output and result, each once."""

Watch = Callable[[Mapping[str, nn.Module]], AbstractContextManager[object]]
"""From a network's convolutions by layer to a context that records what they compute."""

_BATCH = 4


@dataclass(frozen=True)
class LayerRange:
    """One convolution over all images: the largest magnitudes, and how much half precision changes it.

    ``input`` is taken after the styles, ``result`` after the epilogue. ``fp16`` and ``bf16`` are the change of the
    result when only this layer is stored in that type: the root mean square over that of the result, infinite on
    overflow.
    """

    layer: str
    input: float
    output: float
    result: float
    fp16: float
    bf16: float
    places: int = 1
    """Height times width of the output."""

    @property
    def largest(self) -> float:
        """Return the largest magnitude that has to be stored."""
        return max(self.input, self.output, self.result)


@dataclass(frozen=True)
class RangeTable:
    """The ranges of all convolutions of a generator, in the order of computation. ``str()`` is a printable table."""

    layers: tuple[LayerRange, ...]
    latents: int
    psis: tuple[float, ...]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; a value that is not finite becomes None."""
        rows = [{name: _finite(value) for name, value in asdict(row).items()} for row in self.layers]
        return {"latents": self.latents, "psis": list(self.psis), "seed": self.seed, "layers": rows}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RangeTable:
        """Read the result of :meth:`to_dict`."""
        rows: list[dict[str, Any]] = [
            {name: math.inf if value is None else value for name, value in row.items()} for row in values["layers"]
        ]
        layers = tuple(LayerRange(**row) for row in rows)
        return cls(layers, values["latents"], tuple(values["psis"]), values["seed"])

    def __str__(self) -> str:
        lines = [f"{'layer':<14}{'input':>10}{'output':>10}{'result':>10}{'fp16':>10}{'bf16':>10}"]
        for row in self.layers:
            values = (row.input, row.output, row.result, row.fp16, row.bf16)
            lines.append(f"{row.layer:<14}" + "".join(f"{value:>10.3g}" for value in values))
        psis = ", ".join(f"{psi:g}" for psi in self.psis)
        return "\n".join(
            [
                *lines,
                "input, output, result: largest absolute values. fp16, bf16: change of the result if this layer alone "
                f"is rounded ({self.latents} latents, psi {psis})",
            ]
        )


def measure_ranges(
    generator: Generator,
    *,
    upsample: Upsample = "transposed",
    latents: int = 8,
    psis: Sequence[float] = CALIBRATION_PSIS,
    seed: int = CALIBRATION_SEED,
    beside: Watch | None = None,
    progress: Progress | None = None,
) -> RangeTable:
    """Generate ``latents`` seeds from ``seed`` on, each at every psi, in float32, and record all convolutions' ranges.

    ``upsample`` is the method that will be exported, because an up-sampling convolution's output depends on it. The
    change by rounding is an average, so it is measured on the first batch only. Runs on the generator's device: on one
    CPU core about one second per image of a full-width 256 px network. ``beside`` gets the convolutions by layer and
    returns a context in which they compute, for another measurement on the same images. ``progress`` counts batches.
    """
    exact = FusedGenerator(generator, upsample=upsample)
    layers = convolutions(exact)
    twins = {
        name: FusedGenerator(generator, upsample=upsample, storage=dict.fromkeys(layers, kind))
        for name, kind in TYPES.items()
    }
    device = next(generator.parameters()).device
    recorder = _Recorder(layers, {name: convolutions(twin.to(device)) for name, twin in twins.items()})
    batches = list(calibration_images(generator.config, latents, psis, seed, device))
    exact = exact.to(device)
    also = nullcontext() if beside is None else beside(layers)
    with torch.inference_mode(), also, recorder.watching(exact):
        for done, (z, psi, c) in enumerate(batches, start=1):
            exact(z, psi, c)
            recorder.rounding = False
            if progress:
                progress(done, len(batches))
    rows = tuple(recorder.row(layer) for layer in layers)
    return RangeTable(rows, latents, tuple(float(psi) for psi in psis), seed)


def decide(table: RangeTable | None, precision: Precision) -> tuple[dict[str, torch.dtype], dict[str, str]]:
    """Return the storage type of every convolution for ``precision``, and the metadata that record the choice.

    These are "precision", "ranges" (the table as JSON) and, for half precision, "islands" (JSON, layer to reason).
    """
    facts = {"precision": str(precision)}
    if table is not None:
        facts["ranges"] = json.dumps(table.to_dict())
    if table is None or precision not in TYPES:
        return {}, facts
    facts["islands"] = json.dumps(islands(table, precision))
    return choose_storage(table, precision), facts


def choose_storage(table: RangeTable, precision: HalfPrecision) -> dict[str, torch.dtype]:
    """Return the type of every convolution: the half type, or float32 for the layers that :func:`islands` names."""
    kept = islands(table, precision)
    return {row.layer: torch.float32 if row.layer in kept else TYPES[precision] for row in table.layers}


def islands(table: RangeTable, precision: HalfPrecision) -> dict[str, str]:
    """Return the layers that have to stay float32 in an fp16 or bf16 file, each with the reason in words."""
    if precision not in TYPES:
        raise UsageError(f"{precision!r} is not a half precision", choose(precision, TYPES))
    limits = torch.finfo(TYPES[precision])
    most = ROUNDINGS * limits.eps / 2
    reasons = {}
    for row in table.layers:
        moved = getattr(row, precision)
        if not row.largest * MARGIN < limits.max:
            reasons[row.layer] = f"reaches {row.largest:.3g}, more than {limits.max:.3g} / {MARGIN:g}"
        elif not moved <= most:
            reasons[row.layer] = f"changes by {moved:.2g} of its size when rounded, more than {most:.2g}"
    return reasons


def convolutions(fused: FusedGenerator) -> dict[str, nn.Module]:
    """Return the modulated convolutions by layer ("b8.conv0"; "L3" of a StyleGAN3), in the order of computation."""
    modules = dict(fused.synthesis.named_modules())
    if fused.config.layout is not None:
        return {name.removesuffix(".conv"): module for name, module in modules.items() if name.endswith(".conv")}
    return {name: module for name, module in modules.items() if name.endswith((".conv0", ".conv1"))}


def calibration_images(
    config: GeneratorConfig, latents: int, psis: Sequence[float], seed: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield z, psi and classes in batches: ``latents`` seeds from ``seed`` on, each at every psi, the largest first.

    Raises UsageError without latents or psis.
    """
    if latents < 1 or not psis:
        message = f"latents {latents} and psis {tuple(psis)} give no images"
        raise UsageError(message, "Use at least 1 latent and 1 psi.")
    pairs = [(seed + index, float(psi)) for index in range(latents) for psi in sorted(psis, reverse=True)]
    for start in range(0, len(pairs), _BATCH):
        seeds, batch_psis = zip(*pairs[start : start + _BATCH], strict=True)
        c = classes_of(seeds, config.c_dim)
        z = torch.from_numpy(latents_of(seeds, config.z_dim)).to(device)
        yield z, torch.tensor(batch_psis, device=device), None if c is None else torch.from_numpy(c).to(device)


def _number(value: Tensor) -> float:
    """Return a scalar; NaN becomes infinity, so that no comparison misses it."""
    return float(value.nan_to_num(math.inf, math.inf))


def _finite(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else None


class _Recorder(TorchFunctionMode):
    """Records every convolution that torch runs, identified by its weight; hooks record the results of layers."""

    def __init__(self, layers: Mapping[str, nn.Module], twins: Mapping[str, Mapping[str, nn.Module]]) -> None:
        super().__init__()
        self.layers, self.twins = layers, twins
        self.rounding = True
        self.maxima = {layer: dict.fromkeys(("input", "output", "result"), 0.0) for layer in layers}
        self.places = dict.fromkeys(layers, 1)
        self.moves = {layer: dict.fromkeys(twins, 0.0) for layer in layers}

    @contextmanager
    def watching(self, fused: FusedGenerator) -> Iterator[None]:
        """Record what ``fused`` computes inside this context."""
        self.weights = {id(module.weight): layer for layer, module in self.layers.items()}
        with ExitStack() as stack:
            for layer, module in self.layers.items():
                stack.callback(module.register_forward_hook(self._hook(layer)).remove)
            stack.enter_context(self)
            yield

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.conv2d, torch.conv_transpose2d) and id(args[1]) in self.weights:
            layer = self.weights[id(args[1])]
            self._note(layer, "input", args[0])
            self._note(layer, "output", result)
            self.places[layer] = result[0, 0].numel()
        return result

    def _hook(self, layer: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], result: Tensor) -> None:
            self._note(layer, "result", result)
            if self.rounding:
                for name, twins in self.twins.items():
                    error = (twins[layer](*args) - result).square().mean()
                    self.moves[layer][name] = _number((error / result.square().mean()).sqrt())

        return hook

    def _note(self, layer: str, what: str, values: Tensor) -> None:
        least, most = torch.aminmax(values)  # a third of the time of abs, which makes a copy
        self.maxima[layer][what] = max(self.maxima[layer][what], _number(torch.maximum(-least, most)))

    def row(self, layer: str) -> LayerRange:
        """Return the ranges of one layer."""
        maxima, moves = self.maxima[layer], self.moves[layer]
        return LayerRange(layer, **maxima, **moves, places=self.places[layer])
