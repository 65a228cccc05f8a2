"""The report's tables, from the files of a run. No HTML here.

Every cell is a text or None, and None is printed as "not measured".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from . import text
from .run_directory import MODELS, Check, Pair, RunDirectory

Cell = str | None

# Field of Quality -> heading, digits, whether more is better.
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


def comparison_table(run: RunDirectory) -> Table:
    """Teacher, pruned and student side by side, with what the student gained over the teacher."""
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
    notes = ["“Pruned” is the student before distillation: same shape, so the same size and speed."]
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
    """Every candidate of the benchmark."""
    rows: list[tuple[Cell, ...]] = []
    for row in run.bench_rows:
        p99 = text.milliseconds(row.p99_ms)
        speedup = row.speedup
        rows.append((
            row.name,
            text.milliseconds(row.p50_ms),
            text.milliseconds(row.p90_ms),
            f"~{p99}" if p99 and row.p99_indicative else p99,
            f"{row.mean_ms:.2f} ± {row.std_ms:.2f} ms" if row.mean_ms is not None and row.std_ms is not None else None,
            text.plain(row.images_per_second, 1),
            "baseline" if speedup is None else _with_bounds(speedup.value, speedup.low, speedup.high),
            row.stability.verdict,
        ))  # fmt: skip
    headings = ("candidate", "p50", "p90", "p99", "mean ± std", "images/s", "speedup", "run")
    notes = list(run.bench.notes) if run.bench else []
    if run.bench and run.bench.reason:
        notes.append(run.bench.reason)
    return Table(headings, tuple(rows), tuple(notes))


def _with_bounds(value: float, low: float | None, high: float | None) -> str:
    bounds = f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else ""
    return f"{value:.2f}×{bounds}"


def rare_table(run: RunDirectory) -> Table:
    """How often each rare factor appears, over its true rate: 1 is right, 0 is a lost mode."""
    models = [name for name in MODELS if run.quality(name).rare]
    factors = list(dict.fromkeys(factor for name in models for factor in run.quality(name).rare))
    rows = tuple(
        (factor.replace("_", " "), *(text.plain(run.quality(name).rare.get(factor), 2) for name in models))
        for factor in factors
    )
    return Table(("rare factor", *models), rows)


def _quality_settings(run: RunDirectory) -> Iterable[str]:
    student = run.quality("student")
    if student.samples is not None:
        yield (
            f"Quality is measured on {student.samples} samples, seed {student.seed}, ψ {student.psi}, in the feature "
            f"space “{student.features or 'unnamed'}”: FID and its like compare only within one feature space."
        )


def parity_table(run: RunDirectory) -> Table:
    """How far each exported file's images are from those of its network."""
    pairs = run.parity.pairs if run.parity else {}
    headings = (
        "exported file",
        "images",
        "largest",
        "99.9 %",
        "mean",
        "largest, 8-bit",
        "mean, 8-bit",
        "differing",
        "PSNR",
        "least SSIM",
        "gate",
    )
    rows = tuple(
        (
            name,
            text.plain(pair.images, 0),
            text.short(pair.max_abs),
            text.short(pair.p999_abs),
            text.short(pair.mean_abs),
            text.short(pair.max_steps),
            text.short(pair.mean_steps),
            None if pair.differing is None else f"{pair.differing:.3%}",
            _psnr(pair),
            None if pair.least_ssim is None else f"{pair.least_ssim:.4f}",
            "passed" if pair.passed else "FAILED",
        )
        for name, pair in pairs.items()
    )
    psis = next((pair.psis for pair in pairs.values() if pair.psis), [])
    notes = [
        f"Each latent at ψ {', '.join(f'{psi:g}' for psi in psis)}. Largest difference, 99.9 % quantile and mean in "
        "images of [-1, 1], largest and mean of their 8-bit values; the share of 8-bit values that differ at all; the "
        "structural similarity of the least alike image."
    ] if psis else []  # fmt: skip
    notes += [f"{name}: {p.layers.verdict}." for name, p in pairs.items() if not p.passed and p.layers]
    if run.parity and run.parity.reason:
        notes.append(run.parity.reason)
    return Table(headings, rows, tuple(notes))


def _psnr(pair: Pair) -> Cell:
    if pair.psnr_db is not None:
        return f"{pair.psnr_db:.1f} dB"
    return "identical" if pair.max_abs == 0 else None


def checks_table(run: RunDirectory) -> Table:
    """Every check of the gate, the failed ones first."""
    pairs = run.parity.pairs if run.parity else {}
    checks = [(name, check) for name, pair in pairs.items() for check in pair.checks]
    rows = tuple(
        (name, check.name, text.short(check.value), _limit(check), "passed" if check.passed else "FAILED")
        for name, check in sorted(checks, key=lambda entry: entry[1].passed)
    )
    return Table(("exported file", "check", "measured", "limit", "result"), rows)


def _limit(check: Check) -> Cell:
    limit = text.short(check.limit)
    return None if limit is None else f"{check.bound} {limit}"


def worst_difference(run: RunDirectory) -> str:
    """The student's largest 8-bit difference in words, empty when not known."""
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
    """Channels per layer before and after."""
    teacher, student = run.widths()
    rows = tuple(
        (name, str(before), str(after), f"{after / before:.0%}")
        for name, before, after in zip(run.layer_names(len(teacher)), teacher, student, strict=False)
        if before
    )
    return Table(("layer", "teacher", "student", "kept"), rows)


def stages_table(run: RunDirectory) -> Table:
    """What each stage did and how long it took; the report's own stage is still running when this is written."""
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
    """A flat listing of a JSON object; nested ones by dotted names."""
    return Table(("", ""), tuple((key, _scalar(value)) for key, value in flat(values)))


def flat(values: Mapping[str, JsonValue], prefix: str = "") -> Iterable[tuple[str, JsonValue]]:
    """Entries of a nested JSON object under dotted names."""
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
