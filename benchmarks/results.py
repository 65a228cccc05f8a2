"""One benchmark as data: JSON document, Markdown table and terminal table from the same object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .environment import Environment
from .statistics import CONFIDENCE, RESAMPLES, Interval, Stability, Summary

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
HEADINGS = ("candidate", "p50 ms", "p90 ms", "p99 ms", "mean ± std ms", "images/s", "speedup", "run")


@dataclass(frozen=True)
class Method:
    """How the samples were taken and what the figures mean, in words a reader of the JSON file needs no code for."""

    rounds: int
    seconds: float
    """Wall time of the measured rounds, all candidates together."""
    seed: int
    min_rounds: int
    min_seconds: float
    warmup_calls: int
    warmup_seconds: float
    pause_seconds: float
    order: str = "one call of every candidate per round, order shuffled anew for each round"
    clock: str = "time.perf_counter around one call: arrays of the host in, images on the host out"
    percentiles: str = "linear interpolation between order statistics (type 7)"
    speedup: str = "ratio of medians, baseline over candidate"
    interval: str = (
        f"{CONFIDENCE:.0%} percentile interval of a circular block bootstrap over paired rounds, {RESAMPLES} resamples"
    )


@dataclass(frozen=True)
class BenchRow:
    """One candidate: what it is, its raw latencies in milliseconds in the order of the rounds, and their summary."""

    name: str
    labels: dict[str, Any]
    """What it is: model, backend, precision, threads, file_bytes; empty for a plain callable."""
    warmup_calls: int
    samples_ms: tuple[float, ...]
    summary: Summary
    images_per_second: float
    """Batch over the median latency."""
    speedup: Interval | None
    """Over the baseline; None for the baseline itself."""
    stability: Stability

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; samples are rounded to 0.1 microseconds, below what the clock resolves."""
        return {
            "name": self.name,
            "labels": dict(self.labels),
            "warmup_calls": self.warmup_calls,
            **asdict(self.summary),
            "images_per_second": self.images_per_second,
            "speedup": None if self.speedup is None else asdict(self.speedup),
            "stability": asdict(self.stability),
            "samples_ms": [round(sample, 4) for sample in self.samples_ms],
        }

    def cells(self) -> tuple[str, ...]:
        """The row under ``HEADINGS``."""
        s = self.summary
        hint = "~" if s.p99_indicative else ""
        return (
            self.name,
            f"{s.p50_ms:.2f}",
            f"{s.p90_ms:.2f}",
            f"{hint}{s.p99_ms:.2f}",
            f"{s.mean_ms:.2f} ± {s.std_ms:.2f}",
            f"{self.images_per_second:.1f}",
            "baseline" if self.speedup is None else interval_text(self.speedup),
            self.stability.verdict,
        )


@dataclass(frozen=True)
class BenchReport:
    """Every candidate's row, the baseline first or where its caller put it, with method, machine and notes."""

    baseline: str
    batch: int
    rows: tuple[BenchRow, ...]
    method: Method
    environment: Environment
    other_load: float | None = None
    """Cores' worth of time that other processes took while measuring; None when not known."""
    notes: tuple[str, ...] = field(default=())
    """What a reader should know before trusting a figure: unstable rows, other load, few samples."""

    @property
    def stable(self) -> bool:
        """True when both halves of the run agree for every candidate."""
        return all(row.stability.verdict == "stable" for row in self.rows)

    def row(self, name: str) -> BenchRow:
        """The row of one candidate; KeyError when there is none of that name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document (``bench.json``). Times in milliseconds, sizes in bytes."""
        return {
            "schema": SCHEMA,
            "baseline": self.baseline,
            "batch": self.batch,
            "stable": self.stable,
            "other_load": self.other_load,
            "notes": list(self.notes),
            "rows": [row.to_dict() for row in self.rows],
            "method": asdict(self.method),
            "environment": asdict(self.environment),
        }

    def to_markdown(self) -> str:
        """The table, its notes, and the machine it was measured on."""
        lines = [markdown_row(HEADINGS), "|---|" + "---:|" * (len(HEADINGS) - 2) + "---|"]
        lines += [markdown_row(row.cells()) for row in self.rows]
        lines += ["", *(f"- {note}" for note in self.notes), f"- {self._machine()}"]
        return "\n".join(lines) + "\n"

    def to_table(self) -> Table:
        """The same table for a terminal."""
        cells = [row.cells() for row in self.rows]
        return terminal_table(f"latency, batch {self.batch}", HEADINGS, cells, caption=self._machine())

    def _machine(self) -> str:
        e = self.environment
        threads = {str(row.labels["threads"]) for row in self.rows if row.labels.get("threads")}
        used = f", {'/'.join(sorted(threads))} threads" if threads else ""
        return (
            f"{e.cpu or 'unknown CPU'}, {e.usable_cores or '?'} cores{used}, {e.gpu or 'no GPU'}, batch {self.batch}, "
            f"{self.method.rounds} rounds, {e.time_utc}"
        )


def terminal_table(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str | None = None
) -> Table:
    """Words in the first and the last column, numbers between them."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in (headings[0], headings[-1]) else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a name is shown, not read as markup
    return table


def interval_text(interval: Interval) -> str:
    """``8.41x [8.20, 8.66]``."""
    return f"{interval.value:.2f}x [{interval.low:.2f}, {interval.high:.2f}]"


def markdown_row(cells: Sequence[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
