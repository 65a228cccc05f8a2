"""Results as tables and lines for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from ..config import BuildConfig
from ..pipeline.summary import as_lines
from ..progress import duration
from ..report.text import amount, remark
from ..teachers.presets import Dataset

if TYPE_CHECKING:
    from ..doctor.caches import Cache
    from ..doctor.diagnosis import Diagnosis
    from ..export import Bisection, ParityReport
    from ..gates import Verdict
    from ..pipeline.plan import BuildPlan, Estimate
    from ..report.comparing import RunComparison

_COLOURS = {"ok": "green", "limited": "yellow", "missing": "red", "passed": "green", "FAILED": "bold red"}


def _table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Make a table. Cells are shown as they are, not read as markup."""
    table = Table(*headings, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def _verdict(word: str) -> Text:
    return Text(word, _COLOURS[word])


def facts_lines(facts: Mapping[str, Any], indent: str = "") -> list[str]:
    """Write one line per fact, name and value, with nested facts indented below."""
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


def summary_lines(facts: dict[str, Any], *, omit: str = "") -> list[str]:
    """Write the figures that end a build, without the one called ``omit``."""
    return [f"{name:<12} {words}" for name, words in as_lines(facts) if name != omit]


def gate_lines(verdict: Verdict) -> list[str]:
    """Write one line for each requirement; nothing without any."""
    return [f"{'met    ' if one.passed else 'NOT MET'} {one.text}" for one in verdict.requirements]


def _stored(types: Mapping[str, int]) -> str:
    """Write "589,824 bytes int8, 2,580 float32", the most first."""
    (first, most), *others = sorted(types.items(), key=lambda item: -item[1])
    return ", ".join([f"{most:,} bytes {first}", *(f"{count:,} {kind}" for kind, count in others)])


def inspected_lines(facts: Mapping[str, Any]) -> list[str]:
    """Write what is known of a file, with its networks in one line and each layer of an ONNX file in one."""
    named: dict[str, Any] = {"networks": _networks(facts["networks"])} if facts.get("networks") else {}
    if "weights" in facts:
        named["weights"] = {row["layer"]: _stored(row["types"]) for row in facts["weights"]}
    return facts_lines({name: value for name, value in {**facts, **named}.items() if name != "networks" or value})


def _networks(networks: Sequence[Mapping[str, Any]]) -> str:
    """Write "G_ema (read), G (other weights: --network G)"."""
    words = []
    for network in networks:
        name = network["name"]
        same = "the same weights" if network["same_weights"] else f"other weights: --network {name}"
        words.append(f"{name} ({'read' if network['chosen'] else same})")
    return ", ".join(words)


def run_lines(facts: Mapping[str, Any]) -> list[str | Table]:
    """Write how far a run is, its settings other than the defaults, its stages and its figures."""
    took = "" if facts["seconds"] is None else f", {duration(facts['seconds'])}"
    config = {name: value for name, value in facts["config"].items() if name != "out" and value != _default(name)}
    head = {
        "path": facts["path"],
        "status": f"{facts['status'] or 'unknown'}{took}",
        "started": facts["started"],
        "settings": ", ".join(f"{name} {value}" for name, value in config.items()) or "the defaults",
    }
    stages = [
        (
            name,
            stage["status"],
            "" if stage["seconds"] is None else f"{stage['seconds']:.1f} s",
            remark(stage["reason"]),
        )
        for name, stage in facts["stages"].items()
    ]
    has_report = facts["stages"].get("report", {}).get("status") == "done"
    figures = summary_lines(facts["summary"], omit="" if has_report else "report")
    return [*facts_lines(head), _table(("stage", "", "took", ""), stages), *figures]


def _default(setting: str) -> Any:
    """Return the default of a setting of build; None for one that this version does not have."""
    field = BuildConfig.model_fields.get(setting)
    return None if field is None else field.default


def plan_lines(estimate: Estimate | None) -> list[str]:
    """Write time, memory and disk of a planned build; nothing without an estimate."""
    if estimate is None:
        return []
    stages = ", ".join(f"{name} {duration(seconds)}" for name, seconds in estimate.seconds.items())
    return [
        f"time: about {duration(estimate.total_seconds)} ({stages}), "
        f"from the teacher's {estimate.images_per_second:.1f} images/s measured just now",
        f"memory: about {estimate.memory_bytes / 1e9:.1f} GB; disk: about {estimate.disk_bytes / 1e6:.0f} MB",
    ]


def checks_table(report: ParityReport) -> Table:
    """Show the checks of the parity gate."""
    rows = [(check.name, _verdict("passed" if check.passed else "FAILED"), check.detail) for check in report.checks]
    return _table(("check", "", "measured"), rows)


def layers_table(layers: Bisection) -> Table:
    """Show the layers of the two networks that the parity gate compared, in the order of computation."""
    rows: list[tuple[str | Text, ...]] = []
    for row in layers.rows:
        measured = ("-" if value is None else f"{value:.3g}" for value in (row.max_abs, row.mean_abs, row.relative))
        verdict = _verdict("passed" if row.passed else "FAILED")
        rows.append((row.name, verdict, *measured, f"{row.limit:g}", row.note))
    return _table(("layer", "", "max", "mean", "relative error", "allowed", ""), rows)


def evaluation_lines(measured: Mapping[str, Any]) -> list[str]:
    """Write the figures of ``eval`` without the table of modes, and the reason for each missing figure.

    What ``fid`` was measured on and the caveats stand directly below it.
    """
    below = {name: measured[name] for name in ("recipe", "classes") if measured.get(name)}
    if "classes" in below:
        below["classes"] = {"data": "as frequent as in the data", "even": "all equally frequent"}[below["classes"]]
    facts: dict[str, Any] = {}
    for name, value in measured.items():
        if name not in ("modes", "not_measured", "caveats", "gates", *below):
            facts[name] = value
        if name == "fid":
            facts |= below | {f"caveat {index}": text for index, text in enumerate(measured["caveats"], 1)}
    reasons = [f"{name:<20} not measured: {reason}" for name, reason in measured["not_measured"].items()]
    return [*facts_lines(facts), *reasons]


def modes_table(modes: Sequence[Mapping[str, Any]]) -> Table:
    """Show how often each value or bin of a factor occurs in the data and among the samples."""
    rows = []
    for mode in modes:
        ratio = "-" if mode["ratio"] is None else f"{mode['ratio']:.2f}"
        rows.append((mode["factor"], mode["value"], f"{mode['data']:.4f}", f"{mode['samples']:.4f}", ratio))
    return _table(("factor", "value", "data", "samples", "ratio"), rows)


def datasets_table(presets: Sequence[Dataset], cached: Collection[str]) -> Table:
    """Show the presets; ``cached`` names those whose teacher is in the cache."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("name", no_wrap=True)
    table.add_column("px", justify="right")
    table.add_column("images")
    table.add_column("teacher", no_wrap=True)
    for preset in presets:
        megabytes = preset.teacher.megabytes
        teacher = Text(f"{megabytes} MB to fetch" if megabytes else "to fetch")
        if preset.ready or preset.name in cached:
            teacher = Text("in the package" if preset.ready else "in the cache", "green")
        table.add_row(preset.name, str(preset.resolution), preset.title, teacher)
    return table


DATASETS_NOTE = """\
Before build fetches a teacher, it says which file, how large, from where and
under which licence (NVIDIA's: research only). --teacher FILE uses your own.
dcp-deploy datasets NAME shows addresses, licences and published figures."""


def caches_table(caches: Sequence[Cache]) -> Table:
    """Show each kind of cached files, and where they lie."""
    rows = [(one.name, f"{one.files}", f"{one.bytes / 1e6:.1f} MB", one.holds, one.path) for one in caches]
    return _table(("", "files", "size", "holds", "in"), rows)


def doctor_table(diagnosis: Diagnosis) -> Table:
    """Show each capability, and below what is missing or limited how to fix it."""
    rows = []
    for finding in diagnosis.findings:
        found = Text(finding.found)
        if finding.verdict != "ok" and finding.fix:
            found.append(f"\n{finding.fix}", "dim")
        rows.append((finding.name, _verdict(finding.verdict), found, finding.purpose))
    return _table(("", "", "found", "for"), rows)


def verbs_table(diagnosis: Diagnosis) -> Table:
    """Show whether each verb works on this machine, and what it lacks."""
    rows = [(status.verb, _verdict(status.verdict), status.words) for status in diagnosis.verbs]
    return _table(("verb", "works", "lacking"), rows)


def comparison_table(comparison: RunComparison) -> Table:
    """Show a column for each run and a row for each figure, in the colours of the page."""
    from ..report.comparing.table import figures_table

    found = figures_table(comparison)
    rows = ([_toned(cell) for cell in row] for row in found.rows)
    return _table(found.headings, rows)


def _toned(cell: str | None) -> Text:
    colours = {"good": "green", "warn": "yellow", "bad": "red"}
    return Text("not measured", "dim") if cell is None else Text(cell, colours.get(getattr(cell, "tone", ""), ""))


def sweep_table(planned: Sequence[tuple[BuildConfig, BuildPlan]]) -> Table:
    """Show what each student of a sweep would cost, and the time of all."""
    rows: list[tuple[str, ...]] = []
    for config, one in planned:
        student, estimate = one.facts.get("student", {}), one.estimate
        rows.append((
            config.directory.name,
            amount(student.get("parameters")) or "-",
            amount(student.get("macs")) or "-",
            "-" if estimate is None else f"about {duration(estimate.total_seconds)}",
            str(config.directory),
        ))  # fmt: skip
    known = [one.estimate.total_seconds for _, one in planned if one.estimate is not None]
    if known:
        rows.append(("all", "", "", f"about {duration(sum(known))}", ""))
    return _table(("student", "parameters", "MACs", "time", "folder"), rows)
