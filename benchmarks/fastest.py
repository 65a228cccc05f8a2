"""The fastest way to run a model whose images still pass the parity gate.

A bench times one model's files in several backends, some of which compute in lower precision. The fastest of them is
only worth taking if it generates the images of the reference, so candidates are compared with it, the fastest first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..export.parity.gate import ParityReport
    from .candidates.matrix import Spec
    from .results import BenchReport, BenchRow

LATENTS = 8  # at every psi of the gate; `verify` compares many more


@dataclass(frozen=True)
class Tried:
    """One candidate's comparison with the reference, on a few latents."""

    name: str
    p50_ms: float
    passed: bool
    psnr_db: float | None
    """Of all images together; None when they are identical, or could not be generated."""


@dataclass(frozen=True)
class Fastest:
    """Candidates from the fastest on, up to the first that passed. ``reference``: what they were compared with."""

    reference: str
    tried: tuple[Tried, ...]

    @property
    def name(self) -> str | None:
        """Return the fastest candidate that passed; None if none did."""
        return next((one.name for one in self.tried if one.passed), None)

    def sentence(self) -> str:
        """Return the finding in a sentence."""
        failed = [f"{one.name} ({one.p50_ms:.2f} ms)" for one in self.tried if not one.passed]
        but = f" Faster, but with other images: {', '.join(failed)}." if failed else ""
        if self.name is None:
            return f"No backend generates the images of {self.reference} within the limits of its precision.{but}"
        last = self.tried[-1]
        return (
            f"Fastest with the images of {self.reference}: {last.name}, {last.p50_ms:.2f} ms. Checked on {LATENTS} "
            f"latents; dcp-deploy verify checks more.{but}"
        )


def fastest_that_passes(
    report: BenchReport, specs: Sequence[Spec], compare: Callable[[Spec, Spec], ParityReport] | None = None
) -> Fastest | None:
    """Find the fastest candidate of the last model in ``specs`` whose images pass the gate, at the smallest batch.

    Candidates are ONNX files in runtimes for CPUs. The reference is the model's checkpoint in torch, else its float32
    file in ONNX Runtime. Returns None without a reference or a second candidate. By default, ``compare`` is the gate.
    """
    model, batch = specs[-1].model, min(spec.batch for spec in specs)
    rows = [row for row in report.rows if row.labels["model"] == model and row.batch == batch]
    own = [spec for spec in specs if spec.model == model and spec.batch == batch]
    by_row = {row.name: spec for row in rows if (spec := _spec_of(row, own)) is not None}
    choices = [row for row in rows if row.name in by_row and _is_onnx_on_cpu(by_row[row.name])]
    reference = _reference(rows, by_row)
    if reference is None or len(choices) < 2:
        return None
    tried: list[Tried] = []
    for row in sorted(choices, key=lambda row: row.summary.p50_ms):
        try:
            found = (compare or _compare)(by_row[reference], by_row[row.name])
        except InputError:  # a runtime may fail in one of the gate's batches only
            tried.append(Tried(row.name, row.summary.p50_ms, False, None))
            continue
        tried.append(Tried(row.name, row.summary.p50_ms, found.passed, found.psnr_db))
        if found.passed:
            break
    return Fastest(reference, tuple(tried))


def _spec_of(row: BenchRow, specs: Sequence[Spec]) -> Spec | None:
    """Return the spec that a row's labels were made from; None if another file of that name could be meant."""
    fitting = [spec for spec in specs
               if (spec.backend, Path(spec.path).name) == (row.labels["backend"], row.labels["file"])]  # fmt: skip
    return fitting[0] if len(fitting) == 1 else None


def _is_onnx_on_cpu(spec: Spec) -> bool:
    from .candidates.matrix import BACKENDS

    backend = BACKENDS[spec.backend]
    return backend.takes == "onnx" and backend.device == "cpu"


def _reference(rows: Sequence[BenchRow], by_row: Mapping[str, Spec]) -> str | None:
    """Return the row of the checkpoint in torch, else of the float32 file in ONNX Runtime."""
    for backend in ("torch", "onnxruntime"):
        for row in rows:
            if row.name in by_row and (row.labels["backend"], row.labels["precision"]) == (backend, "fp32"):
                return row.name
    return None


def _compare(reference: Spec, other: Spec) -> ParityReport:
    from ..export.parity.gate import verify
    from ..export.runners.loading import load_runner

    pair = [load_runner(Path(one.path), backend=one.backend, threads=one.threads, network=one.network)  # type: ignore[arg-type]
            for one in (reference, other)]  # fmt: skip
    return verify(*pair, latents=LATENTS)
