"""Two runs of the harness compared, with a verdict that knows noise.

    for each candidate of both documents: ratio of medians, its interval from the raw samples, widened by the drift
    faster or slower only when the whole interval lies on one side of 1

A candidate gets no such verdict when one of its runs was not stable, or when the two were not measured alike: on
another machine, in another mode, at another batch, with other threads. What differs is named.
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
from .results import interval_text, markdown_row, terminal_table
from .scenarios import SCENARIOS
from .statistics import Interval, Stability, ratio_of_runs, stability, widened

if TYPE_CHECKING:
    from rich.table import Table

FASTER, SLOWER, SAME = "faster", "slower", "no difference shown"
HEADINGS = ("candidate", "A p50 ms", "B p50 ms", "B / A", "verdict")
MACHINE = ("cpu", "usable_cores", "cpu_quota", "gpu")
"""Fields of the environment that must agree."""
SETTINGS = ("model", "backend", "precision", "device", "threads", "isolated")
"""Labels of a row that must agree."""


class Row(BaseModel):
    """What is read of a row; the rest of it follows from the samples."""

    name: str
    labels: dict[str, Any] = {}
    batch: int | None = None
    samples_ms: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(min_length=1)


class BenchRun(BaseModel):
    """What is read of a document."""

    batch: int
    mode: str = "latency"
    seed: int = 0
    rows: list[Row] = Field(min_length=1)
    notes: list[str] = []
    environment: dict[str, Any] = {}


@dataclass(frozen=True)
class ComparedRow:
    """One candidate of both runs."""

    name: str
    a_ms: float
    """Median of the first run."""
    b_ms: float
    ratio: Interval
    """Median of B over median of A: above 1 when B is slower. Widened by the larger drift inside the runs."""
    verdict: str
    """"faster", "slower", "no difference shown", "unstable", "too few samples" or "not comparable"."""
    reason: str = ""
    """Why there is no verdict on speed."""

    @property
    def judged(self) -> bool:
        """Whether the ratio may be believed within its interval."""
        return self.verdict in (FASTER, SLOWER, SAME)

    def cells(self) -> tuple[str, ...]:
        """The row under ``HEADINGS``."""
        verdict = f"{self.verdict}: {self.reason}" if self.reason else self.verdict
        return self.name, f"{self.a_ms:.2f}", f"{self.b_ms:.2f}", interval_text(self.ratio), verdict


@dataclass(frozen=True)
class Comparison:
    """All candidates of both runs; JSON, Markdown and table from it."""

    rows: tuple[ComparedRow, ...]
    only_a: tuple[str, ...]
    """Candidates that B lacks."""
    only_b: tuple[str, ...]
    notes: tuple[str, ...]
    """What the runs themselves warn of, and versions that changed."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rows = [asdict(row) for row in self.rows]
        return {"rows": rows, "only_a": list(self.only_a), "only_b": list(self.only_b), "notes": list(self.notes)}

    def to_markdown(self) -> str:
        """The table and what to know about it."""
        lines = [markdown_row(HEADINGS), "|---|---:|---:|---:|---|", *(markdown_row(row.cells()) for row in self.rows)]
        return "\n".join([*lines, "", *(f"- {line}" for line in self.remarks())]) + "\n"

    def to_table(self) -> Table:
        """The same for a terminal."""
        return terminal_table("latency of B over A", HEADINGS, [row.cells() for row in self.rows])

    def remarks(self) -> list[str]:
        """Candidates of one run only, and the notes."""
        missing = [
            f"Only in {run}: {', '.join(names)}." for run, names in (("A", self.only_a), ("B", self.only_b)) if names
        ]
        return [*missing, *self.notes]

    def raise_above(self, limit: float) -> None:
        """The gate: QualityError unless every candidate of A is shown to take at most ``limit`` times as long in B.

        Shown means that the whole interval lies at or below the limit, so a run that was too short, unstable or on
        another machine does not pass.
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
                "Where the interval is wide or the run unstable, measure again with more --rounds on a quiet machine.",
            )


def read_run(path: str | os.PathLike[str]) -> BenchRun:
    """A document of ``bench``. InputError when the file cannot be read, CorruptFileError when it holds none."""
    try:
        return BenchRun.model_validate(read_json(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise CorruptFileError(
            f"{path} is no benchmark: {where}: {first['msg']}", "make one: dcp-deploy bench"
        ) from error
    except ValueError as error:
        raise CorruptFileError(f"{path} is not JSON: {error}", "make one: dcp-deploy bench --out") from error


def compare_runs(a: BenchRun, b: BenchRun, *, seed: int = 0) -> Comparison:
    """Compare the candidates that both runs have, by name, in the order of ``a``. ``seed`` is the bootstrap's."""
    of_a, of_b = ({row.name: row for row in run.rows} for run in (a, b))
    everywhere = [
        *_differing(a.environment, b.environment, MACHINE),
        *_differing({"mode": a.mode}, {"mode": b.mode}, ("mode",)),
    ]
    rows = tuple(_compared(row, of_b[name], a, b, everywhere, seed) for name, row in of_a.items() if name in of_b)
    return Comparison(
        rows=rows,
        only_a=tuple(name for name in of_a if name not in of_b),
        only_b=tuple(name for name in of_b if name not in of_a),
        notes=_notes(a, b),
    )


def _compared(row_a: Row, row_b: Row, a: BenchRun, b: BenchRun, everywhere: Sequence[str], seed: int) -> ComparedRow:
    batch_a, batch_b = {"batch": row_a.batch or a.batch}, {"batch": row_b.batch or b.batch}
    differing = [
        *everywhere, *_differing(batch_a, batch_b, ("batch",)), *_differing(row_a.labels, row_b.labels, SETTINGS),
    ]  # fmt: skip
    halves = stability(row_a.samples_ms), stability(row_b.samples_ms)
    drift = max(abs(half.drift or 0.0) for half in halves)
    burst = SCENARIOS[a.mode].burst if a.mode in SCENARIOS else 1
    ratio = widened(ratio_of_runs(row_a.samples_ms, row_b.samples_ms, seed=seed, burst=burst), drift)
    verdict, reason = _verdict(ratio, differing, halves)
    return ComparedRow(row_a.name, median(row_a.samples_ms), median(row_b.samples_ms), ratio, verdict, reason)


def _verdict(ratio: Interval, differing: Sequence[str], halves: tuple[Stability, Stability]) -> tuple[str, str]:
    """What can be said, and why nothing can be said about speed."""
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
    """``cpu: X, then Y`` for each key whose values differ; a key that one of them lacks is not known to differ."""
    return [f"{key}: {a[key]}, then {b[key]}" for key in keys if key in a and key in b and a[key] != b[key]]


def _notes(a: BenchRun, b: BenchRun) -> tuple[str, ...]:
    before, after = (run.environment.get("packages") or {} for run in (a, b))
    changed = _differing(before, after, sorted(before))
    changed += _differing(a.environment, b.environment, ("python", "os", "git_commit", "torch_threads"))
    told = [f"{run}: {note}" for run, document in (("A", a), ("B", b)) for note in document.notes]
    return (*([f"Changed between the runs: {'; '.join(changed)}."] if changed else []), *told)
