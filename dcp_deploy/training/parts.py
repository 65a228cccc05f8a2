"""Parts that the trainings of the demo teacher and of the photograph teacher share."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CorruptFileError
from ..files import atomic_path, write_bytes, write_text
from ..generators import Generator
from ..generators.latents import draw_latents

STATE = "state.pt"
W_AVG_LATENTS = 100_000
LINES = (("#0072b2", "-"), ("#d55e00", "--"), ("#56606b", ":"))  # they differ for any colour vision
Entry = Mapping[str, float]
"""Figures of one step, with "step"."""


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Update the parameters. Raises FloatingPointError for a loss that is not finite, before it spoils the weights."""
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def cosine(progress: float, warm_up: float) -> float:
    """Return the learning-rate factor: a linear warm-up over a share of the run, times half a cosine down to 2 %."""
    rise = min(1.0, (progress + 1e-3) / warm_up) if warm_up else 1.0
    return float(rise * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * min(1.0, progress)))))


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Update the exponential moving average of the parameters. The buffers are equal from the start."""
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


@torch.no_grad()
def set_mean_code(generator: Generator, seed: int) -> None:
    """Set ``w_avg``, which truncation pulls towards, to the mean code of 100,000 latents."""
    device = generator.mapping.w_avg.device
    z, c = draw_latents(generator.config, W_AVG_LATENTS, torch.Generator().manual_seed(seed), device)
    generator.mapping.w_avg.copy_(generator.mapping.w(z, c).mean(dim=0))


# ---- the state of a run ----


def save_state(folder: Path, stateful: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the file STATE, atomically: the state of networks and optimisers, and ``facts``; and facts' "history"."""
    state = {name: module.state_dict() for name, module in stateful.items()}
    with atomic_path(folder / STATE) as path:
        torch.save({**facts, **state}, path)
    write_text(folder / "history.json", json.dumps(facts["history"]))


def read_state(folder: Path) -> dict[str, Any] | None:
    """Return what :func:`save_state` wrote, or None without a state. Raises CorruptFileError if it is damaged."""
    path = folder / STATE
    if not path.exists():
        return None
    try:
        return cast("dict[str, Any]", torch.load(path, weights_only=True))
    except (OSError, RuntimeError, EOFError, LookupError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise CorruptFileError(f"{path} cannot be read: {reason}", f"Remove {folder} and start again.") from error


def restore(stateful: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Load the state of networks and optimisers."""
    for name, module in stateful.items():
        module.load_state_dict(state[name])


# ---- curves ----


@contextmanager
def panels(path: Path, count: int) -> Iterator[Sequence[Any]]:
    """Yield ``count`` axes side by side; write them as a PNG file at the end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    yield list(np.atleast_1d(figure.subplots(1, count)))
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    write_bytes(path, stream.getbuffer())


def plot(axes: Any, entries: Sequence[Entry], names: Mapping[str, str], *, title: str, log: bool = False) -> None:
    """Plot the figures ``names`` (name: label) of the entries that have them against their step."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for (name, label), (colour, dashes) in zip(names.items(), LINES, strict=False):
        having = [entry for entry in entries if name in entry]
        steps, values = [entry["step"] for entry in having], [entry[name] for entry in having]
        axes.plot(steps, values, dashes, color=colour, label=label)
    axes.set(title=title, xlabel="step", yscale="log" if log else "linear")
    if log:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", alpha=0.3)
    if entries and names:
        axes.legend(frameon=False, fontsize=9)
