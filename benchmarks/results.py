"""One benchmark as data: JSON document, Markdown table and terminal table from the same object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .candidates.candidate import ColdStart, Memory, Phases, Skipped
from .machine.clocks import Clocks
from .machine.environment import Environment
from .machine.roofline import Ceilings, Roofline
from .scenarios import SCENARIOS
from .statistics import CONFIDENCE, RESAMPLES, Interval, Stability, Summary

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
MEGA = 1e6
NOT_MEASURED = "not measured"


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
    batch: int = 1
    intervals: dict[str, Interval | None] = field(default_factory=dict)
    """Of p50, p90, p95 and p99; None below the number of samples that one needs."""
    phases: Phases | None = None
    """On the device; None on a CPU, where nothing is copied, and where the backend does not tell them apart."""
    cold_start: ColdStart | None = None
    """None when it had no process of its own."""
    memory: Memory | None = None
    roofline: Roofline | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; samples are rounded to 0.1 microseconds, below what the clock resolves."""
        return {
            "name": self.name,
            "labels": dict(self.labels),
            "warmup_calls": self.warmup_calls,
            **asdict(self.summary),
            "images_per_second": self.images_per_second,
            "speedup": _dict(self.speedup),
            "stability": asdict(self.stability),
            "batch": self.batch,
            "intervals": {name: _dict(interval) for name, interval in self.intervals.items()},
            "phases": _dict(self.phases),
            "cold_start": _dict(self.cold_start),
            "memory": _dict(self.memory),
            "roofline": _dict(self.roofline),
            "samples_ms": [round(sample, 4) for sample in self.samples_ms],
        }

    def cells(self) -> dict[str, str]:
        """What the tables show, by heading."""
        s, hint = self.summary, "~" if self.summary.p99_indicative else ""
        middle = self.intervals.get("p50")
        bounds = "" if middle is None else f" [{middle.low:.2f}, {middle.high:.2f}]"
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
        """What a second table shows of rows that have it, by heading."""
        phases, cold, memory, roof = self.phases, self.cold_start, self.memory, self.roofline
        host, device = (memory.host_bytes, memory.device_bytes) if memory else (None, None)
        parts = phases and f"{phases.copy_in_ms:.3f} + {phases.compute_ms:.3f} + {phases.copy_out_ms:.3f}"
        return {
            "candidate": self.name,
            "file MB": _shown(self.labels.get("file_bytes"), MEGA, 2),
            "build s": _shown(self.labels.get("build_seconds"), 1, 1),
            "copy in + compute + copy out ms": parts or NOT_MEASURED,
            "cold start s": _shown(None if cold is None else cold.total_ms, 1e3, 2),
            "peak host MB": _shown(host, MEGA, 0),
            "device MB": _shown(device, MEGA, 0),
            "GFLOP": _shown(None if roof is None else roof.operations, 1e9, 2),
            "floor ms": _shown(None if roof is None else roof.floor_ms, 1, 3),
            "p50 / floor": NOT_MEASURED if roof is None else f"{roof.of_floor:.1f} ({roof.bound})",
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
    """Every candidate's row, the baseline first or where its caller put it, with method, machine and notes."""

    baseline: str
    batch: int
    rows: tuple[BenchRow, ...]
    method: Method
    environment: Environment
    other_load: float | None = None
    """Cores' worth of time that other processes took while measuring; None when not known."""
    notes: tuple[str, ...] = field(default=())
    """What a reader should know before trusting a figure: unstable rows, other load, few samples, what was skipped."""
    mode: str = "latency"
    skipped: tuple[Skipped, ...] = ()
    """Candidates that could not run here."""
    ceilings: Ceilings = ()
    """What the machine did at most, measured between the rounds."""
    clocks: Clocks | None = None
    capacity: tuple[Capacity, ...] = ()
    """What each artefact serves under a latency bound, when one was given."""

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
            "mode": self.mode,
            "skipped": [asdict(one) for one in self.skipped],
            "ceilings": [asdict(rate) for rate in self.ceilings],
            "clocks": _clocks(self.clocks),
            "capacity": [asdict(one) for one in self.capacity],
        }

    def to_markdown(self) -> str:
        """The table, its notes, and the machine it was measured on."""
        lines: list[str] = []
        for table in self._tables():
            headings = list(table[0])
            lines += [markdown_row(headings), "|---|" + "---:|" * (len(headings) - 2) + "---|"]
            lines += [*(markdown_row(list(cells.values())) for cells in table), ""]
        lines += [*(f"- {note}" for note in self.notes), f"- {self._machine()}"]
        return "\n".join(lines) + "\n"

    def to_tables(self) -> list[Table]:
        """The same for a terminal: times, then all else that was measured."""
        times, *further = self._tables()
        title, caption = f"{SCENARIOS[self.mode].label}, batch {self._batches()}", self._machine()
        return [
            terminal_table(title, list(times[0]), [list(cells.values()) for cells in times], caption=caption),
            *(terminal_table("", list(more[0]), [list(cells.values()) for cells in more]) for more in further),
        ]

    def _tables(self) -> list[list[dict[str, str]]]:
        """Rows by heading. Columns of the second table that no row has anything for are left out, and it with them."""
        further = [row.further_cells() for row in self.rows]
        told = [heading for heading in further[0] if any(cells[heading] != NOT_MEASURED for cells in further)]
        more = [{heading: cells[heading] for heading in told} for cells in further]
        served = [one.cells() for one in self.capacity]
        return [[row.cells() for row in self.rows], *([more] if len(told) > 1 else []), *([served] if served else [])]

    def _batches(self) -> str:
        return ", ".join(str(batch) for batch in sorted({row.batch for row in self.rows}))

    def _machine(self) -> str:
        e = self.environment
        threads = {str(row.labels["threads"]) for row in self.rows if row.labels.get("threads")}
        used = f", {'/'.join(sorted(threads))} threads" if threads else ""
        return (
            f"{e.cpu or 'unknown CPU'}, {e.usable_cores or '?'} cores{used}, {e.gpu or 'no GPU'}, "
            f"batch {self._batches()}, {self.method.rounds} rounds, {e.time_utc}"
        )


def _dict(value: Any) -> dict[str, Any] | None:
    return None if value is None else asdict(value)


def _clocks(clocks: Clocks | None) -> dict[str, Any] | None:
    """JSON has lists only."""
    found = _dict(clocks)
    return found and {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def _shown(value: float | None, unit: float, digits: int) -> str:
    return NOT_MEASURED if value is None else f"{value / unit:.{digits}f}"


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


def markdown_head(*titles: str) -> list[str]:
    """The first two rows of a Markdown table."""
    return [markdown_row(titles), markdown_row(["---"] * len(titles))]


def between(text: str, begin: str, end: str, tables: str) -> str:
    """``text``, which has both marks, with ``tables`` in place of what stood between them."""
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n\n{tables}\n{end}{rest.split(end, 1)[1]}"

