"""What the GPU experiment prints of its record: the shares by kernel, and each goal beside its measured value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import cuda_path

SHARE = 0.85  # of a copy's rate: the goal of every kernel that is compared below
LATENCY_MS, SPEEDUP, OF_FLOOR = 0.30, 26.0, 2.5
COMPARED = ("fir", "rgb", "rgb_bytes", "epilogue_rgb", "epilogue_rgb_bytes", "modconv_d2s")


@dataclass(frozen=True)
class Goal:
    """A goal and what was measured; ``met`` is None without a measurement."""

    name: str
    goal: str
    measured: str
    met: bool | None


def judged(record: Mapping[str, Any]) -> list[Goal]:
    """Return every goal beside the record's figures."""
    tests = record.get("tests")
    passed = None if tests is None or tests["exit_code"] is None else tests["exit_code"] == 0
    goals = [Goal("pytest -m gpu", "passed", tests["summary"] if tests else "not run", passed)]
    one, many = (_ours(record, batch) for batch in (1, 32))
    goals.append(
        _least_or_most("student fp16 graph, batch 1", one["gpu_ms"] if one else None, LATENCY_MS, "ms", most=True)
    )
    goals.append(
        _least_or_most("the same against the eager teacher", one["speedup"]["value"] if one else None, SPEEDUP, "x")
    )
    near = (many.get("roofline") or {}).get("of_floor") if many else None
    goals.append(_least_or_most("batch 32 over its roofline", near, OF_FLOOR, "x", most=True))
    for layout in ("nhwc", "nchw"):
        for operator in COMPARED:
            shares = _shares(record["kernels"], operator, layout, "f16")
            if shares or not (operator.startswith("epilogue") and layout == "nchw"):  # these are channels last only
                lowest = 100 * min(shares) if shares else None
                goals.append(_least_or_most(f"{operator} {layout} fp16, share of a copy", lowest, 100 * SHARE, "%"))
    return goals


def _ours(record: Mapping[str, Any], batch: int) -> dict[str, Any] | None:
    rows = record["latency"]
    return next((row for row in rows if (row["name"], row["batch"]) == (cuda_path.OURS, batch)), None)


def _least_or_most(name: str, value: float | None, limit: float, unit: str, *, most: bool = False) -> Goal:
    goal = f"{'at most' if most else 'at least'} {limit:g} {unit}"
    if value is None:
        return Goal(name, goal, "not run", None)
    return Goal(name, goal, f"{value:.3g} {unit}", value <= limit if most else value >= limit)


def goals_table(goals: Sequence[Goal]) -> str:
    """Return the goals as text, one a line."""
    met = {True: "met", False: "missed", None: ""}
    lines = [f"{goal.name:46} {goal.goal:>18}   {goal.measured:28} {met[goal.met]}" for goal in goals]
    return "\n".join([f"{'':46} {'goal':>18}   {'measured':28}", *lines])


def speed_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the lowest share of the wide kernels as a Markdown table: a row for each kernel and layout."""
    columns = sorted({(row["kernel"].rpartition("_")[2], row["channels"]) for row in rows}, key=lambda kind: kind[::-1])
    kinds = sorted(
        {(row["operator"], row["kernel"].split("_wide")[0][-4:]) for row in rows if "_wide" in row["kernel"]}
    )
    lines = [f"| kernel, layout | {' | '.join(f'{tag}, {channels}' for tag, channels in columns)} |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    for operator, layout in kinds:
        found = [_shares(rows, operator, layout, tag, channels) for tag, channels in columns]
        cells = [f"{min(shares):.0%}" if shares else "" for shares in found]
        lines.append(f"| {operator}, {layout.upper()} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shares(
    rows: Sequence[Mapping[str, Any]], operator: str, layout: str, tag: str, channels: int | None = None
) -> list[float]:
    """Return the shares of an operator's wide kernel of one layout and type, at one width or at all."""
    return [
        float(row["share"])
        for row in rows
        if row["operator"] == operator
        and row["kernel"].endswith(f"_{layout}_wide_{tag}")
        and channels in (None, row["channels"])
    ]


def summary(part: Mapping[str, Any]) -> str:
    """Return a part's state, seconds and reason in one line."""
    return f"{part['state']} in {part['seconds']:.0f} s{': ' if part['reason'] else ''}{part['reason']}"
