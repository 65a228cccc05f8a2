"""Results as a person reads them on a terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..pipeline.summary import as_lines
from ..progress import duration
from ..teachers.presets import Dataset

if TYPE_CHECKING:
    from ..doctor.diagnosis import Diagnosis
    from ..export import Bisection, ParityReport
    from ..pipeline.plan import Estimate

_COLOURS = {"ok": "green", "limited": "yellow", "missing": "red"}


def facts_lines(facts: Mapping[str, Any], indent: str = "") -> list[str]:
    """One line per fact, name and value; the facts of a fact below it, indented."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{name}", *facts_lines(value, f"{indent}  ")]
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            lines += [f"{indent}{name}", *(f"{indent}  {_pairs(part)}" for part in value)]
        else:
            lines.append(f"{indent}{name:<{20 - len(indent)}} {_words(value)}")
    return lines


def _pairs(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_words(value)}" for name, value in facts.items() if value is not None)


def _words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple | Mapping):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def summary_lines(facts: dict[str, Any]) -> list[str]:
    """The end of a build."""
    return [f"{name:<12} {words}" for name, words in as_lines(facts)]


def plan_lines(estimate: Estimate | None) -> list[str]:
    """Time, memory and disk below the plan's table; nothing where nothing could be estimated."""
    if estimate is None:
        return []
    stages = ", ".join(f"{name} {duration(seconds)}" for name, seconds in estimate.seconds.items())
    return [
        f"time: about {duration(estimate.total_seconds)} ({stages}), "
        f"from the teacher's {estimate.images_per_second:.1f} images/s measured just now",
        f"memory: about {estimate.memory_bytes / 1e9:.1f} GB; disk: about {estimate.disk_bytes / 1e6:.0f} MB",
    ]


def checks_table(report: ParityReport) -> Table:
    """One row per check of the parity gate."""
    table = Table("check", "", "measured", box=box.SIMPLE_HEAD)
    for check in report.checks:
        verdict = Text("passed", "green") if check.passed else Text("FAILED", "bold red")
        table.add_row(check.name, verdict, Text(check.detail))
    return table


def layers_table(layers: Bisection) -> Table:
    """One row per layer of the two networks that the parity gate compared, in the order of computation."""
    table = Table("layer", "", "max", "mean", "relative error", "allowed", "", box=box.SIMPLE_HEAD)
    for row in layers.rows:
        verdict = Text("passed", "green") if row.passed else Text("FAILED", "bold red")
        found = ("-" if value is None else f"{value:.3g}" for value in (row.max_abs, row.mean_abs, row.relative))
        table.add_row(row.name, verdict, *found, f"{row.limit:g}", Text(row.note))
    return table


def evaluation_lines(measured: Mapping[str, Any]) -> list[str]:
    """What ``eval`` found, without the table of modes; a figure that is missing says why."""
    facts = {name: value for name, value in measured.items() if name not in ("modes", "not_measured")}
    reasons = [f"{name:<20} not measured: {reason}" for name, reason in measured["not_measured"].items()]
    return [*facts_lines(facts), *reasons]


def modes_table(modes: Sequence[Mapping[str, Any]]) -> Table:
    """One row per value or bin of a factor: how often in the data, how often among the samples."""
    table = Table("factor", "value", "data", "samples", "ratio", box=box.SIMPLE_HEAD)
    for mode in modes:
        ratio = "-" if mode["ratio"] is None else f"{mode['ratio']:.2f}"
        table.add_row(mode["factor"], mode["value"], f"{mode['data']:.4f}", f"{mode['samples']:.4f}", ratio)
    return table


def datasets_table(presets: Sequence[Dataset], here: Collection[str]) -> Table:
    """One row per preset; ``here`` names those whose teacher lies in the cache."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("name", no_wrap=True)
    table.add_column("px", justify="right")
    table.add_column("images")
    table.add_column("teacher", no_wrap=True)
    for preset in presets:
        if preset.ready:
            teacher = Text("in the package", "green")
        elif preset.name in here:
            teacher = Text("in the cache", "green")
        else:
            megabytes = preset.teacher.megabytes
            teacher = Text(f"{megabytes} MB to fetch" if megabytes else "to fetch")
        table.add_row(preset.name, str(preset.resolution), preset.title, teacher)
    return table


DATASETS_NOTE = """\
build fetches a teacher that is not here, once it has said what, how large, from
where and under which licence (NVIDIA's: research only). --teacher FILE: yours.
dcp-deploy datasets NAME: addresses, licences and published figures of one."""


def doctor_table(diagnosis: Diagnosis) -> Table:
    """One row per capability, the remedy below what is not there."""
    table = Table("", "", "found", "for", box=box.SIMPLE_HEAD)
    for finding in diagnosis.findings:
        found = Text(finding.found)
        if finding.verdict != "ok" and finding.fix:
            found.append(f"\n{finding.fix}", "dim")
        verdict = Text(finding.verdict, _COLOURS[finding.verdict])
        table.add_row(finding.name, verdict, found, Text(finding.purpose))
    return table


def verbs_table(diagnosis: Diagnosis) -> Table:
    """One row per verb: whether it works here, and what it lacks."""
    table = Table("verb", "here", "lacking", box=box.SIMPLE_HEAD)
    for status in diagnosis.verbs:
        table.add_row(status.verb, Text(status.verdict, _COLOURS[status.verdict]), Text(status.words))
    return table
