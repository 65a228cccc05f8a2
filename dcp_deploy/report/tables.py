"""The report's tables, made from the files of a run. No HTML here.

Every cell is a text or None, which is printed as "not measured". A cell with a good or bad figure has a tone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..gates import UNSTABLE
from . import text
from .judgement import QUALITY, Toned, change_word, features_words, quality_tone, rarity, speed_tone, unstable_because
from .latents import EditAgreement, Latents, TeacherDistance
from .run_directory import MODELS, Mode, Pair, RunDirectory

Cell = str | None

NO_CHANGE = "no change"
"""Stands for the agreement of edits that change nothing in one of the networks."""


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
    """Compare the student with its teacher and with itself before distillation; the student and its change first."""
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
    return Table(("", "student", "change", "teacher", "pruned"), tuple(rows), tuple(notes))


def _ordered(label: str, cells: Sequence[Cell], change: Cell) -> tuple[Cell, ...]:
    """Return a row of the comparison from cells in the order of ``MODELS``."""
    teacher, pruned, student = cells
    return (label, student, change, teacher, pruned)


def _of_one_shape(cells: Sequence[Cell]) -> list[Cell]:
    """Fill in what the pruned network shares with the student and is not measured a second time."""
    teacher, pruned, student = cells
    return [teacher, pruned if pruned or not student else "as the student", student]


def _gain_row(
    label: str, values: Sequence[int | None], show: Callable[[int | None, float | None], Cell], word: str
) -> tuple[Cell, ...]:
    gain, like = text.ratio(values[0], values[-1]), text.largest(values)
    change = None if gain is None else Toned(f"{text.times(gain)} {word}", speed_tone(gain))
    return _ordered(label, _of_one_shape([show(value, like) for value in values]), change)


def _measured_backends(run: RunDirectory) -> list[str]:
    return list(dict.fromkeys(row.label("backend") for row in run.bench_rows if row.label("backend"))) or [""]


def _latency_row(run: RunDirectory, backend: str) -> tuple[Cell, ...]:
    rows = [row for row in run.bench_rows if row.label("backend") == backend]
    medians = {row.label("model"): row.p50_ms for row in rows}
    label = f"median latency, {rows[0].way or backend}" if backend else "median latency"
    gain = text.ratio(medians.get("teacher"), medians.get("student"))
    change = None if gain is None else Toned(f"{text.times(gain)} as fast", speed_tone(gain))
    if change is not None and unstable_because(run):
        change = Toned(UNSTABLE, "warn")
    return _ordered(label, _of_one_shape([text.milliseconds(medians.get(model)) for model in MODELS]), change)


def _quality_row(run: RunDirectory, key: str) -> tuple[Cell, ...]:
    scale = QUALITY[key]
    values = [getattr(run.quality(name), key) for name in MODELS]
    teacher, student = values[0], values[-1]
    change = None
    if teacher is not None and student is not None:
        words = f"{student - teacher:+.{scale.digits}f} ({change_word(key, teacher, student)})"
        change = Toned(words, quality_tone(key, teacher, student))
    return _ordered(f"{scale.label} ({scale.direction})", [text.plain(value, scale.digits) for value in values], change)


def latency_table(run: RunDirectory) -> Table:
    """List every candidate of the benchmark."""
    rows: list[dict[str, Cell]] = []
    heading = "speedup, unstable" if unstable_because(run) else "speedup"
    for row in run.bench_rows:
        p99, mean, speedup = text.milliseconds(row.p99_ms), row.mean_ms, row.speedup
        rows.append({
            "candidate": row.name,
            "p50": text.milliseconds(row.p50_ms),
            "p90": text.milliseconds(row.p90_ms),
            "p99": f"~{p99}" if p99 and row.p99_indicative else p99,
            "mean ± std": None if mean is None or row.std_ms is None else f"{mean:.2f} ± {row.std_ms:.2f} ms",
            "images/s": text.plain(row.images_per_second, 1),
            heading: "baseline" if speedup is None else _with_bounds(speedup.value, speedup.low, speedup.high),
            "run": row.stability.verdict,
        })  # fmt: skip
    notes = list(run.bench.notes) if run.bench else []
    if run.bench and run.bench.reason:
        notes.append(run.bench.reason)
    return Table.of(rows, notes)


def _with_bounds(value: float, low: float | None, high: float | None) -> str:
    bounds = f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else ""
    return f"{value:.2f}×{bounds}"


def modes_table(run: RunDirectory) -> Table:
    """List every value of every factor with its share of data, student and teacher; what is most rare first."""
    ours, theirs = ({(mode.factor, mode.value): mode for mode in run.quality(m).modes} for m in ("student", "teacher"))
    rows = [_mode_row(mode, theirs.get(key)) for key, mode in sorted(ours.items(), key=lambda item: _rareness(item[1]))]
    return Table.of(rows)


def _rareness(mode: Mode) -> float:
    return float("inf") if mode.ratio is None else mode.ratio


def _mode_row(mode: Mode, teacher: Mode | None) -> dict[str, Cell]:
    verdict = None if mode.ratio is None else rarity(mode.ratio)
    return {
        "value": f"{mode.factor.replace('_', ' ')}: {mode.value.replace('_', ' ')}",
        "student over data": None if verdict is None else Toned(f"{mode.ratio:.2f} ({verdict})", verdict.tone),
        "in the data": text.share(mode.data),
        "student": text.share(mode.samples),
        "teacher": text.share(teacher.samples) if teacher else None,
    }


def _quality_settings(run: RunDirectory) -> Iterable[str]:
    student = run.quality("student")
    if student.samples is not None:
        yield (
            f"Quality is measured on {student.samples} samples, seed {student.seed}, ψ {student.psi}, "
            f"{features_words(student.features) or 'in unnamed features'}. Compare FID and similar scores only with "
            "runs that use the same features."
        )


def latents_table(run: RunDirectory) -> Table:
    """List how well the teacher's latents work in the student, each figure beside what it can be compared with."""
    found = run.metrics.latents if run.metrics else None
    if found is None:
        return Table(("", "student", "to compare with"), ())
    own, inversion = found.own, found.inversion
    rows: list[tuple[Cell, ...]] = [
        ("edits, correlation (higher is better)", text.plain(found.edits.correlation) or NO_CHANGE, "1 in the teacher"),
        (
            "edits, slope (1 is best, less is a weaker edit)",
            text.plain(found.edits.slope) or NO_CHANGE,
            "1 in the teacher",
        ),
        *_distance_rows("the teacher's w codes", found.teacher_w, "own codes", own, found.perceptual),
        *_distance_rows("mixed codes", found.mixed, "unmixed", own, found.perceptual),
        (
            "inverted images, mean squared error (lower is better)",
            None if inversion is None else text.plain(inversion.mse, 5),
            found.not_inverted
            if inversion is None
            else f"{text.plain(inversion.start_mse, 5)} before the search; 0 in the teacher",
        ),
    ]
    return Table(("", "student", "to compare with"), tuple(rows), tuple(_latents_notes(found)))


def _distance_rows(
    codes: str, found: TeacherDistance, others: str, own: TeacherDistance, features: str | None
) -> Iterable[tuple[Cell, ...]]:
    """Yield the row of L1 and, where it was measured, of the perceptual distance."""
    yield f"{codes}, L1 (lower is better)", text.plain(found.l1, 4), f"{text.plain(own.l1, 4)} for {others}"
    if found.perceptual is not None:
        space = "LPIPS" if features == "lpips" else f"distance in the features of {features}"
        reference = f"{text.plain(own.perceptual, 4)} for {others}"
        yield f"{codes}, {space} (lower is better)", text.plain(found.perceptual, 4), reference


def _latents_notes(found: Latents) -> Iterable[str]:
    edits, inversion = found.edits, found.inversion
    if edits.of is not None:
        what = "factors that the demo's reader finds" if edits.of == "factors" else "whole images"
        along = "the direction of each factor in the teacher's w" if edits.of == "factors" else "principal components"
        yield (
            f"Edits: {found.latents} latents moved by {edits.steps:g} standard deviations of w along {along}. Their "
            f"changes of {what} in student and teacher are compared."
        )
    yield "Mixed codes: two latents mixed at one layer. L1 is the mean absolute difference of values in [-1, 1]."
    if inversion is not None:
        yield (
            f"Inverted images: {inversion.images} images of the teacher, searched in the student for {inversion.steps} "
            "steps from the teacher's codes."
        )


def edits_table(run: RunDirectory) -> Table:
    """List the agreement along each direction, the lowest correlation first."""
    found = run.metrics.latents if run.metrics else None
    directions = sorted(found.edits.directions if found else [], key=_disagreement)
    return Table.of([
        {
            "direction": one.name.replace("_", " "),
            "correlation": text.plain(one.correlation) or NO_CHANGE,
            "slope": text.plain(one.slope) or NO_CHANGE,
        }
        for one in directions
    ])  # fmt: skip


def _disagreement(one: EditAgreement) -> float:
    return math.inf if one.correlation is None else one.correlation


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


def _verdict(passed: bool) -> Toned:
    return Toned("passed", "good") if passed else Toned("FAILED", "bad")


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
        (name, "reused" if stage.reused else stage.status, text.seconds(stage.seconds) or "", text.remark(stage.reason))
        for name, stage in stages.items()
    ]
    known = [stage.seconds for stage in stages.values() if stage.seconds is not None]
    if known:
        rows.append(("total", "", text.seconds(sum(known)), ""))
    return Table(("stage", "status", "time", "reason"), tuple(rows))
