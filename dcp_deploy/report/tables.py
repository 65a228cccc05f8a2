"""The report's tables, made from the files of a run. No HTML here.

Every cell is a text or None. None is printed as "not measured".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from . import text
from .run_directory import MODELS, Pair, RunDirectory

Cell = str | None

# Field of Quality -> heading, digits, whether a higher value is better.
QUALITY = {
    "fid": ("FID", 2, False),
    "precision": ("precision", 3, True),
    "recall": ("recall", 3, True),
    "density": ("density", 3, True),
    "coverage": ("coverage", 3, True),
    "mode_coverage": ("mode coverage", 3, True),
    "frequency_error": ("frequency error of factors", 3, False),
}
_BACKENDS = {"torch": "torch eager", "onnxruntime": "ONNX Runtime"}


@dataclass(frozen=True)
class Table:
    """Headings and rows of equal length; the first column names the row."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Cell]], notes: Iterable[str] = ()) -> Table:
        """Make a table of rows that give each cell by its heading."""
        return cls(tuple(rows[0]) if rows else (), tuple(tuple(row.values()) for row in rows), tuple(notes))


def comparison_table(run: RunDirectory) -> Table:
    """Compare teacher, pruned and student, with the student's gain over the teacher."""
    networks = [run.run.networks.get(name) for name in MODELS]
    onnx = [run.file_bytes.get(f"{name}.onnx") for name in MODELS]
    rows = [
        _gain_row("parameters", [getattr(n, "parameters", None) for n in networks], text.amount, "fewer"),
        _gain_row("MACs per image", [getattr(n, "macs", None) for n in networks], text.amount, "fewer"),
        _gain_row("weights file", [getattr(n, "bytes", None) for n in networks], text.size, "smaller"),
        _gain_row("ONNX file", onnx, text.size, "smaller"),
        *(_latency_row(run, backend) for backend in _measured_backends(run)),
        *(_quality_row(run, key) for key in QUALITY),
    ]
    notes = ["“Pruned” is the student before distillation. It has the same shape, so the same size and speed."]
    if run.metrics and run.metrics.reason:
        notes.append(f"Quality not measured: {run.metrics.reason}")
    notes += _quality_settings(run)
    return Table(("", *MODELS, "student against teacher"), tuple(rows), tuple(notes))


def _gain_row(
    label: str, values: Sequence[int | None], show: Callable[[int | None], Cell], word: str
) -> tuple[Cell, ...]:
    gain = text.times(text.ratio(values[0], values[-1]))
    return (label, *(show(value) for value in values), f"{gain} {word}" if gain else None)


def _measured_backends(run: RunDirectory) -> list[str]:
    return list(dict.fromkeys(row.label("backend") for row in run.bench_rows if row.label("backend"))) or [""]


def _latency_row(run: RunDirectory, backend: str) -> tuple[Cell, ...]:
    medians = {row.label("model"): row.p50_ms for row in run.bench_rows if row.label("backend") == backend}
    label = f"median latency, {_BACKENDS.get(backend, backend)}" if backend else "median latency"
    teacher, student = medians.get("teacher"), medians.get("student")
    gain = text.times(text.ratio(teacher, student))
    return (
        label,
        text.milliseconds(teacher),
        text.milliseconds(medians.get("pruned")),
        text.milliseconds(student),
        f"{gain} faster" if gain else None,
    )


def _quality_row(run: RunDirectory, key: str) -> tuple[Cell, ...]:
    label, digits, more_is_better = QUALITY[key]
    values = [getattr(run.quality(name), key) for name in MODELS]
    teacher, student = values[0], values[-1]
    change = None
    if teacher is not None and student is not None:
        word = "same" if student == teacher else "better" if (student > teacher) == more_is_better else "worse"
        change = f"{student - teacher:+.{digits}f} ({word})"
    return (label, *(text.plain(value, digits) for value in values), change)


def latency_table(run: RunDirectory) -> Table:
    """List every candidate of the benchmark."""
    rows: list[dict[str, Cell]] = []
    for row in run.bench_rows:
        p99, mean, speedup = text.milliseconds(row.p99_ms), row.mean_ms, row.speedup
        rows.append({
            "candidate": row.name,
            "p50": text.milliseconds(row.p50_ms),
            "p90": text.milliseconds(row.p90_ms),
            "p99": f"~{p99}" if p99 and row.p99_indicative else p99,
            "mean ± std": None if mean is None or row.std_ms is None else f"{mean:.2f} ± {row.std_ms:.2f} ms",
            "images/s": text.plain(row.images_per_second, 1),
            "speedup": "baseline" if speedup is None else _with_bounds(speedup.value, speedup.low, speedup.high),
            "run": row.stability.verdict,
        })  # fmt: skip
    notes = list(run.bench.notes) if run.bench else []
    if run.bench and run.bench.reason:
        notes.append(run.bench.reason)
    return Table.of(rows, notes)


def _with_bounds(value: float, low: float | None, high: float | None) -> str:
    bounds = f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else ""
    return f"{value:.2f}×{bounds}"


def rare_table(run: RunDirectory) -> Table:
    """Give each rare factor's frequency over its true rate: 1 is right, 0 is a lost mode."""
    rare = {name: run.quality(name).rare for name in MODELS if run.quality(name).rare}
    factors = dict.fromkeys(factor for found in rare.values() for factor in found)
    return Table.of([
        {"rare factor": factor.replace("_", " "), **{name: text.plain(rare[name].get(factor), 2) for name in rare}}
        for factor in factors
    ])  # fmt: skip


def _quality_settings(run: RunDirectory) -> Iterable[str]:
    student = run.quality("student")
    if student.samples is not None:
        yield (
            f"Quality is measured on {student.samples} samples, seed {student.seed}, ψ {student.psi}, in the feature "
            f"space “{student.features or 'unnamed'}”. Compare FID and similar scores only within one feature space."
        )


def parity_table(run: RunDirectory) -> Table:
    """Show how far each exported file's images are from its network's."""
    pairs = run.parity.pairs if run.parity else {}
    rows: list[dict[str, Cell]] = [
        {
            "exported file": name,
            "images": text.plain(pair.images, 0),
            "largest": text.short(pair.max_abs),
            "99.9 %": text.short(pair.p999_abs),
            "mean": text.short(pair.mean_abs),
            "largest, 8-bit": text.short(pair.max_steps),
            "mean, 8-bit": text.short(pair.mean_steps),
            "differing": None if pair.differing is None else f"{pair.differing:.3%}",
            "PSNR": _psnr(pair),
            "least SSIM": text.plain(pair.least_ssim, 4),
            "gate": _verdict(pair.passed),
        }
        for name, pair in pairs.items()
    ]
    psis = next((pair.psis for pair in pairs.values() if pair.psis), [])
    notes = [
        f"Each latent at ψ {', '.join(f'{psi:g}' for psi in psis)}. Largest difference, 99.9 % quantile and mean of "
        "images in [-1, 1]; largest and mean difference of their 8-bit values; the share of 8-bit values that differ; "
        "the structural similarity of the least similar image."
    ] if psis else []  # fmt: skip
    notes += [f"{name}: {p.layers.verdict}." for name, p in pairs.items() if not p.passed and p.layers]
    if run.parity and run.parity.reason:
        notes.append(run.parity.reason)
    return Table.of(rows, notes)


def _verdict(passed: bool) -> str:
    return "passed" if passed else "FAILED"


def _psnr(pair: Pair) -> Cell:
    if pair.psnr_db is not None:
        return f"{pair.psnr_db:.1f} dB"
    return "identical" if pair.max_abs == 0 else None


def checks_table(run: RunDirectory) -> Table:
    """List every check of the gate, the failed ones first."""
    checks = [(name, check) for name, pair in (run.parity.pairs if run.parity else {}).items() for check in pair.checks]
    return Table.of([
        {
            "exported file": name,
            "check": check.name,
            "measured": text.short(check.value),
            "limit": None if check.limit is None else f"{check.bound} {text.short(check.limit)}",
            "result": _verdict(check.passed),
        }
        for name, check in sorted(checks, key=lambda entry: entry[1].passed)
    ])  # fmt: skip


def worst_difference(run: RunDirectory) -> str:
    """Return the student's largest 8-bit difference in words, empty if unknown."""
    pair = run.parity.pairs.get("student") if run.parity else None
    if pair is None or pair.max_steps is None:
        return ""
    if pair.max_steps == 0:
        return "identical 8-bit images"
    share = pair.differing or 0.0
    return (
        f"at most {pair.max_steps:g} of 255 apart, in {f'{share:.1%}' if share >= 1e-3 else 'under 0.1%'} of the values"
    )


def widths_table(run: RunDirectory) -> Table:
    """List the channels of each layer before and after."""
    teacher, student = run.widths()
    return Table.of([
        {"layer": name, "teacher": str(before), "student": str(after), "kept": f"{after / before:.0%}"}
        for name, before, after in zip(run.layer_names(len(teacher)), teacher, student, strict=True)
        if before
    ])  # fmt: skip


def stages_table(run: RunDirectory) -> Table:
    """List each stage's result and time. The report's own stage is left out: it is still running."""
    stages = {name: stage for name, stage in run.run.stages.items() if name != "report"}
    rows: list[tuple[Cell, ...]] = [
        (name, "reused" if stage.reused else stage.status, stage.reason or "", text.seconds(stage.seconds))
        for name, stage in stages.items()
    ]
    known = [stage.seconds for stage in stages.values() if stage.seconds is not None]
    if known:
        rows.append(("total", "", "", text.seconds(sum(known))))
    return Table(("stage", "status", "", "time"), tuple(rows))


def mapping_table(values: Mapping[str, JsonValue]) -> Table:
    """List a JSON object; entries of nested objects have dotted names."""
    return Table(("", ""), tuple((key, _scalar(value)) for key, value in flat(values)))


def flat(values: Mapping[str, JsonValue], prefix: str = "") -> Iterable[tuple[str, JsonValue]]:
    """Yield the entries of a nested JSON object under dotted names."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _scalar(value: JsonValue) -> Cell:
    if value is None:
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(_scalar(item) or "none" for item in value)
    return str(value)
