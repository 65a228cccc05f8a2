"""Compare two runs of the harness, with verdicts that take noise into account.

    for each candidate of both documents: ratio of medians, its interval from the raw samples, widened by the drift
    faster or slower only when the whole interval lies on one side of 1

A candidate gets neither verdict when one of its runs was unstable or when the runs differ in machine, mode, batch or
threads; the reason names the difference.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from ..errors import CorruptFileError, InputError, QualityError
from ..files import read_json
from .results import interval_text, markdown_table, terminal_table
from .scenarios import SCENARIOS
from .statistics import Interval, Stability, ratio_of_runs, stability, widened

if TYPE_CHECKING:
    from rich.table import Table

FASTER, SLOWER, SAME = "faster", "slower", "no difference shown"
HEADINGS = ("candidate", "A p50 ms", "B p50 ms", "B / A", "verdict")
MACHINE = ("cpu", "usable_cores", "cpu_quota", "gpu")
"""Fields of the environment that must agree for a comparison."""
SETTINGS = ("model", "backend", "precision", "device", "threads", "isolated")
"""Labels of a row that must agree for a comparison."""


class Row(BaseModel):
    """The fields of a row that are read; the others follow from the samples."""

    name: str
    labels: dict[str, Any] = {}
    batch: int | None = None
    samples_ms: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(min_length=1)


class BenchRun(BaseModel):
    """The fields of a document that are read."""

    batch: int
    mode: str = "latency"
    seed: int = 0
    rows: list[Row] = Field(min_length=1)
    notes: list[str] = []
    environment: dict[str, Any] = {}


@dataclass(frozen=True)
class ComparedRow:
    """One candidate that both runs have."""

    name: str
    a_ms: float
    """Median of the first run."""
    b_ms: float
    ratio: Interval
    """Median of B over median of A, above 1 when B is slower; widened by the larger drift inside the runs."""
    verdict: str
    """"faster", "slower", "no difference shown", "unstable", "too few samples" or "not comparable"."""
    reason: str = ""
    """Why the verdict is not on speed; empty if it is."""

    @property
    def judged(self) -> bool:
        """Whether there is a verdict on speed."""
        return self.verdict in (FASTER, SLOWER, SAME)

    def cells(self) -> tuple[str, ...]:
        """Return the cells under ``HEADINGS``."""
        verdict = f"{self.verdict}: {self.reason}" if self.reason else self.verdict
        return self.name, f"{self.a_ms:.2f}", f"{self.b_ms:.2f}", interval_text(self.ratio), verdict


@dataclass(frozen=True)
class Comparison:
    """The comparison of two runs, A and B, as JSON, Markdown and table."""

    rows: tuple[ComparedRow, ...]
    only_a: tuple[str, ...]
    """Names of the candidates that B lacks."""
    only_b: tuple[str, ...]
    notes: tuple[str, ...]
    """Versions that changed, and the notes of both runs."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready document."""
        return {name: list(values) for name, values in asdict(self).items()}

    def to_markdown(self) -> str:
        """Return the table and its remarks."""
        lines = markdown_table(HEADINGS, [row.cells() for row in self.rows])
        return "\n".join([*lines, "", *(f"- {line}" for line in self.remarks())]) + "\n"

    def to_table(self) -> Table:
        """Return the table for a terminal."""
        return terminal_table("latency of B over A", HEADINGS, [row.cells() for row in self.rows])

    def remarks(self) -> list[str]:
        """Return which candidates only one run has, and the notes."""
        only = {"A": self.only_a, "B": self.only_b}
        return [*(f"Only in {run}: {', '.join(names)}." for run, names in only.items() if names), *self.notes]

    def raise_above(self, limit: float) -> None:
        """Raise QualityError unless every candidate of A is shown to take at most ``limit`` times as long in B.

        This gate needs the whole interval at or below the limit, so a run that was too short, unstable or on another
        machine does not pass.
        """
        failed = [f"{name} is missing in B" for name in self.only_a]
        for row in self.rows:
            if not row.judged:
                failed.append(f"{row.name}: {row.verdict}")
            elif row.ratio.high > limit:
                shown = "is above" if row.ratio.low > limit else "reaches above"
                failed.append(f"{row.name}: {interval_text(row.ratio)} {shown} {limit:g}")
        if failed:
            raise QualityError(
                f"not shown to be within {limit:g} times the latency of A: {'; '.join(failed)}",
                "Measure again with more --rounds on a quiet machine if the interval is wide or the run unstable.",
            )


def read_run(path: str | os.PathLike[str]) -> BenchRun:
    """Read a document of ``bench``. InputError for an unreadable file, CorruptFileError for other contents."""
    remedy = "Give what dcp-deploy bench wrote with --out, or a run's bench.json."
    try:
        return BenchRun.model_validate(read_json(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "Check the path.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        fault = "missing" if first["type"] == "missing" else first["msg"].lower()
        message = f"{path} does not hold the timings of bench ({where}: {fault})"
        raise CorruptFileError(message, remedy) from error
    except ValueError as error:
        reason = "" if isinstance(error, UnicodeDecodeError) else f": {error}"
        raise CorruptFileError(f"{path} is not JSON{reason}", remedy) from error


def compare_runs(a: BenchRun, b: BenchRun, *, seed: int = 0) -> Comparison:
    """Compare the candidates that both runs have, by name, in the order of ``a``. ``seed`` is for the bootstrap."""
    of_a, of_b = ({row.name: row for row in run.rows} for run in (a, b))
    rows = tuple(_compared(row, of_b[name], a, b, seed) for name, row in of_a.items() if name in of_b)
    return Comparison(
        rows=rows,
        only_a=tuple(name for name in of_a if name not in of_b),
        only_b=tuple(name for name in of_b if name not in of_a),
        notes=_notes(a, b),
    )


def _compared(row_a: Row, row_b: Row, a: BenchRun, b: BenchRun, seed: int) -> ComparedRow:
    conditions_a, conditions_b = (
        {**run.environment, "mode": run.mode, "batch": row.batch or run.batch, **row.labels}
        for run, row in ((a, row_a), (b, row_b))
    )
    differing = _differing(conditions_a, conditions_b, (*MACHINE, "mode", "batch", *SETTINGS))
    halves = stability(row_a.samples_ms), stability(row_b.samples_ms)
    drift = max(abs(half.drift or 0.0) for half in halves)
    burst = SCENARIOS[a.mode].burst if a.mode in SCENARIOS else 1
    ratio = widened(ratio_of_runs(row_a.samples_ms, row_b.samples_ms, seed=seed, burst=burst), drift)
    verdict, reason = _verdict(ratio, differing, halves)
    return ComparedRow(row_a.name, median(row_a.samples_ms), median(row_b.samples_ms), ratio, verdict, reason)


def _verdict(ratio: Interval, differing: Sequence[str], halves: tuple[Stability, Stability]) -> tuple[str, str]:
    """Return the verdict, and the reason where it is not one on speed."""
    if differing:
        return "not comparable", "; ".join(differing)
    for run, half in zip("AB", halves, strict=True):
        if half.verdict == "drifting":
            return "unstable", f"the halves of {run} differ by {half.drift:+.1%}"
        if half.verdict != "stable":
            return half.verdict, f"in {run}"
    if ratio.low <= 1.0 <= ratio.high:
        return SAME, ""
    return (SLOWER if ratio.low > 1.0 else FASTER), ""


def _differing(a: dict[str, Any], b: dict[str, Any], keys: Sequence[str]) -> list[str]:
    """Return ``cpu: X, then Y`` for each key that both have with different values."""
    return [f"{key}: {a[key]}, then {b[key]}" for key in keys if key in a and key in b and a[key] != b[key]]


def _notes(a: BenchRun, b: BenchRun) -> tuple[str, ...]:
    before, after = (run.environment.get("packages") or {} for run in (a, b))
    changed = _differing(before, after, sorted(before))
    changed += _differing(a.environment, b.environment, ("python", "os", "git_commit", "torch_threads"))
    notes = [f"{name}: {note}" for name, run in (("A", a), ("B", b)) for note in run.notes]
    return (*([f"Changed between the runs: {'; '.join(changed)}."] if changed else []), *notes)
