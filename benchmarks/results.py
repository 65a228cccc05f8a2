"""One benchmark as data: JSON document, Markdown table and terminal table from the same object."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..gates import UNSTABLE
from .candidates.candidate import ColdStart, Memory, Phases, Skipped
from .machine.clocks import Clocks
from .machine.environment import Environment
from .machine.roofline import Ceilings, Roofline
from .scenarios import SCENARIOS
from .statistics import CONFIDENCE, RESAMPLES, Interval, Stability, Summary

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Method:
    """How the samples were taken and what the figures mean, so that the JSON file can be read without the code."""

    rounds: int
    seconds: float
    """Wall time of the measured rounds, all candidates together."""
    seed: int
    min_rounds: int
    min_seconds: float
    warmup_calls: int
    warmup_seconds: float
    pause_seconds: float
    calls_per_round: int = 1
    images_per_second: str = SCENARIOS["latency"].figure
    order: str = "one turn of every candidate per round, order shuffled anew for each round"
    clock: str = "time.perf_counter around one call: arrays of the host in, images on the host out"
    percentiles: str = "linear interpolation between order statistics (type 7)"
    speedup: str = "ratio of medians, baseline over candidate"
    interval: str = (
        f"{CONFIDENCE:.0%} percentile interval of a circular block bootstrap over paired rounds, {RESAMPLES} resamples"
    )


@dataclass(frozen=True)
class BenchRow:
    """One candidate: its labels, its raw latencies in milliseconds in the order of the rounds, and their summary."""

    name: str
    labels: dict[str, Any]
    """Model, backend, precision, threads, file_bytes and so on; empty for a plain callable."""
    warmup_calls: int
    samples_ms: tuple[float, ...]
    summary: Summary
    images_per_second: float
    """Batch over the median latency; over the mean in offline mode."""
    speedup: Interval | None
    """Speed-up over the baseline; None for the baseline itself."""
    stability: Stability
    batch: int = 1
    intervals: dict[str, Interval | None] = field(default_factory=dict)
    """Intervals of p50, p90, p95 and p99; None for a percentile that has too few samples."""
    phases: Phases | None = None
    """Parts of a call on a GPU; None on a CPU, where nothing is copied, and where the backend has no events."""
    cold_start: ColdStart | None = None
    """None unless the candidate had its own process."""
    memory: Memory | None = None
    roofline: Roofline | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready row, samples rounded to 0.1 microseconds, which is below the clock's resolution."""
        document = asdict(self)
        summary = document.pop("summary")
        return {**document, **summary, "samples_ms": [round(sample, 4) for sample in self.samples_ms]}

    def cells(self) -> dict[str, str]:
        """Return the cells of the first table by heading."""
        s, hint = self.summary, "~" if self.summary.p99_indicative else ""
        median = self.intervals.get("p50")
        bounds = "" if median is None else f" [{median.low:.2f}, {median.high:.2f}]"
        return {
            "candidate": self.name,
            "p50 ms": f"{s.p50_ms:.2f}{bounds}",
            "p90 ms": f"{s.p90_ms:.2f}",
            "p95 ms": f"{s.p95_ms:.2f}",
            "p99 ms": f"{hint}{s.p99_ms:.2f}",
            "mean ± std ms": f"{s.mean_ms:.2f} ± {s.std_ms:.2f}",
            "images/s": f"{self.images_per_second:.1f}",
            "speedup": "baseline" if self.speedup is None else interval_text(self.speedup),
            "run": self.stability.verdict,
        }

    def further_cells(self) -> dict[str, str]:
        """Return the cells of the second table by heading."""
        phases, cold, memory, roof = self.phases, self.cold_start, self.memory, self.roofline
        parts = phases and f"{phases.copy_in_ms:.3f} + {phases.compute_ms:.3f} + {phases.copy_out_ms:.3f}"
        return {
            "candidate": self.name,
            "file MB": _number(self.labels.get("file_bytes"), 1e6, 2),
            "build s": _number(self.labels.get("build_seconds"), 1, 1),
            "copy in + compute + copy out ms": parts or NOT_MEASURED,
            "cold start s": _number(cold.total_ms if cold else None, 1e3, 2),
            "peak host MB": _number(memory.host_bytes if memory else None, 1e6, 0),
            "device MB": _number(memory.device_bytes if memory else None, 1e6, 0),
            "GFLOP": _number(roof.operations if roof else None, 1e9, 2),
            "floor ms": _number(roof.floor_ms if roof else None, 1, 3),
            "p50 / floor": f"{roof.of_floor:.1f} ({roof.bound})" if roof else NOT_MEASURED,
        }


@dataclass(frozen=True)
class Capacity:
    """Throughput of one artefact within a latency bound; null where even the smallest measured batch exceeds it."""

    name: str
    bound_ms: float
    batch: int | None
    """Largest measured batch whose p99 is within the bound."""
    p99_ms: float | None
    """The p99 of that batch."""
    images_per_second: float | None
    """Images per second of that batch, calls back to back."""
    requests_per_second: float | None
    """Always null: rates under load are not measured."""
    indicative: bool
    """True when some batch has too few samples for its p99."""

    def cells(self) -> dict[str, str]:
        """Return the cells of its table row by heading."""
        hint = "~" if self.indicative else ""
        return {
            "candidate": self.name,
            "p99 bound ms": f"{self.bound_ms:g}",
            "largest batch": "none" if self.batch is None else str(self.batch),
            "its p99 ms": "" if self.p99_ms is None else f"{hint}{self.p99_ms:.2f}",
            "images/s back to back": "" if self.images_per_second is None else f"{self.images_per_second:.1f}",
        }


@dataclass(frozen=True)
class BenchReport:
    """The rows of all candidates in the caller's order, with method, machine and notes."""

    baseline: str
    batch: int
    rows: tuple[BenchRow, ...]
    method: Method
    environment: Environment
    other_load: float | None = None
    """Cores' worth of time that other processes took while measuring; None when not known."""
    notes: tuple[str, ...] = ()
    """Caveats for the reader: unstable rows, other load, few samples, skipped candidates."""
    unstable_because: tuple[str, ...] = ()
    """Reasons not to trust the figures: a drift, other load, too few rounds, a wide interval. Empty for a good run."""
    mode: str = "latency"
    skipped: tuple[Skipped, ...] = ()
    """Candidates that cannot run on this machine."""
    ceilings: Ceilings = ()
    """The machine's highest rates, measured between the rounds."""
    clocks: Clocks | None = None
    capacity: tuple[Capacity, ...] = ()
    """Throughput of each artefact under a latency bound; empty without a bound."""

    @property
    def stable(self) -> bool:
        """Whether ``unstable_because`` names nothing, so that the figures can be trusted."""
        return not self.unstable_because

    def row(self, name: str) -> BenchRow:
        """Return the row of one candidate; KeyError for an unknown name."""
        return {row.name: row for row in self.rows}[name]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document (``bench.json``). Times in milliseconds, sizes in bytes."""
        rows = [row.to_dict() for row in self.rows]
        document = {"schema": SCHEMA, **asdict(self), "stable": self.stable, "rows": rows}
        lists_for_tuples: dict[str, Any] = json.loads(json.dumps(document))
        return lists_for_tuples

    def to_markdown(self) -> str:
        """Return the tables, the notes, and the machine."""
        lines: list[str] = []
        for table in self._tables():
            lines += [*markdown_table(list(table[0]), [list(cells.values()) for cells in table]), ""]
        lines += [*(f"- {note}" for note in self.notes), f"- {self._machine()}"]
        return "\n".join(lines) + "\n"

    def to_tables(self) -> list[Table]:
        """Return the same tables for a terminal."""
        titles = [f"{SCENARIOS[self.mode].label}, batch {self._batches()}", "", ""]
        captions = [self._machine(), None, None]
        return [
            terminal_table(title, list(table[0]), [list(cells.values()) for cells in table], caption=caption)
            for title, caption, table in zip(titles, captions, self._tables(), strict=False)
        ]

    def _tables(self) -> list[list[dict[str, str]]]:
        """Return times, then what else was measured, then capacities; without empty columns and tables."""
        further = [row.further_cells() for row in self.rows]
        measured = [heading for heading in further[0] if any(cells[heading] != NOT_MEASURED for cells in further)]
        second = [{heading: cells[heading] for heading in measured} for cells in further] if len(measured) > 1 else []
        tables = self._times(), second, [one.cells() for one in self.capacity]
        return [table for table in tables if table]

    def _times(self) -> list[dict[str, str]]:
        """Return the first table; without speed-ups if the run was unstable."""
        times = [row.cells() for row in self.rows]
        if not self.stable:
            for row, cells in zip(self.rows, times, strict=True):
                cells["speedup"] = cells["speedup"] if row.speedup is None else UNSTABLE
        return times

    def _batches(self) -> str:
        return ", ".join(str(batch) for batch in sorted({row.batch for row in self.rows}))

    def _machine(self) -> str:
        e = self.environment
        threads = {str(row.labels["threads"]) for row in self.rows if row.labels.get("threads")}
        used = f", CPU threads: {'/'.join(sorted(threads))}" if threads else ""
        return (
            f"{e.cpu or 'unknown CPU'}, CPU cores: {e.usable_cores or '?'}{used}, {e.gpu or 'no GPU'}, "
            f"batch {self._batches()}, {self.method.rounds} rounds, {e.time_utc}"
        )


def _number(value: float | None, unit: float, digits: int) -> str:
    return NOT_MEASURED if value is None else f"{value / unit:.{digits}f}"


def terminal_table(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str | None = None
) -> Table:
    """Return a table for a terminal, with text in the first and the last column and numbers between them."""
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
    """Return ``8.41x [8.20, 8.66]``."""
    return f"{interval.value:.2f}x [{interval.low:.2f}, {interval.high:.2f}]"


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], rule: str | None = None) -> list[str]:
    """Return the lines of a Markdown table.

    ``rule`` is its second line; by default the first and the last column hold text and those between them numbers.
    """
    rule = rule or "|---|" + "---:|" * (len(headings) - 2) + "---|"
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in (headings, *rows)]
    return [lines[0], rule, *lines[1:]]
