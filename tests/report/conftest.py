"""A run directory as a build leaves it, with figures of a believable size."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from dcp_deploy.benchmarks import Candidate, benchmark
from dcp_deploy.report import write_report

TEACHER_WIDTHS = [256, 256, 256, 256, 192, 128]
STUDENT_WIDTHS = [77, 77, 77, 77, 58, 39]


@dataclass(frozen=True)
class RunFolder:
    """A run directory, and short ways to change its files."""

    path: Path

    def write(self, name: str, document: Any) -> None:
        (self.path / name).parent.mkdir(exist_ok=True)
        (self.path / name).write_text(json.dumps(document))

    def read(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    def change(self, name: str, **entries: Any) -> None:
        self.write(name, {**self.read(name), **entries})


def faces(columns: int, rows: int, softness: float) -> Image.Image:
    """Draw discs with two eyes on coloured grounds: enough to see scaling, colour and order."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    rng = np.random.default_rng(3)
    tiles = []
    for _ in range(columns * rows):
        ground, skin, hair = rng.uniform(40, 235, (3, 3))
        cx, cy = rng.uniform(-0.15, 0.15, 2)
        image = np.broadcast_to(ground, (64, 64, 3)).copy()
        for colour, dx, dy, radius in (
            (hair, 0, -0.12, 0.72),
            (skin, 0, 0.1, 0.58),
            (0, -0.2, 0, 0.07),
            (0, 0.2, 0, 0.07),
        ):
            inside = np.clip((radius - np.hypot(x - cx - dx, y - cy - dy)) / softness, 0, 1)[..., None]
            image = image * (1 - inside) + inside * colour
        tiles.append(image.astype(np.uint8))
    strips = [np.concatenate(tiles[row * columns : (row + 1) * columns], axis=1) for row in range(rows)]
    return Image.fromarray(np.concatenate(strips, axis=0))


def bench_document() -> dict[str, Any]:
    """Return a real report of the benchmark, run on a clock that the candidates move."""
    now, rng = [0.0], np.random.default_rng(0)

    def candidate(model: str, backend: str, milliseconds: float) -> Candidate:
        def run() -> None:
            now[0] += milliseconds * rng.lognormal(0, 0.06) / 1e3

        return Candidate(run, model, backend, threads=2)

    candidates = {
        "teacher, torch eager": candidate("teacher", "torch", 46.0),
        "student, torch eager": candidate("student", "torch", 17.0),
        "teacher, ONNX Runtime": candidate("teacher", "onnxruntime", 21.0),
        "student, ONNX Runtime": candidate("student", "onnxruntime", 4.6),
    }
    return benchmark(
        candidates,
        baseline="teacher, torch eager",
        min_rounds=120,
        min_seconds=0,
        clock=lambda: now[0],
        sleep=lambda _: None,
    ).to_dict()


def run_document() -> dict[str, Any]:
    def network(widths: list[int], parameters: int, macs: int, size: int) -> dict[str, Any]:
        return {
            "kind": "stylegan2",
            "layers": ["b4.const", "b4.conv1", *(f"b{8 << i}.conv{j}" for i in range(2) for j in range(2))],
            "resolution": 16,
            "widths": widths,
            "parameters": parameters,
            "macs": macs,
            "bytes": size,
        }

    timings = {
        "teacher": (0.4, True, "the same teacher"), "score": (38.2, False, ""), "prune": (0.6, False, ""),
        "distill": (291.0, False, ""), "export": (9.1, False, ""), "engine": (31.7, False, ""),
        "verify": (22.4, False, ""), "evaluate": (64.0, False, ""), "bench": (31.3, False, ""),
    }  # fmt: skip
    small = network(STUDENT_WIDTHS, 1_004_212, 184_000_000, 4_020_000)
    return {
        "schema": 1,
        "tool": {"name": "dcp-deploy", "version": "0.1.0"},
        "command": "dcp-deploy build --dataset demo --ratio 0.7",
        "status": "running",
        "started": "2026-11-22T19:05:11+00:00",
        "finished": None,
        "seconds": 488.7,
        "config": {"dataset": "demo", "ratio": 0.7, "align": 1, "score": "diversity", "seed": 0, "data": None},
        "effort": {"score_latents": 500, "distill_steps": 1200},
        "environment": {
            "cpu": "AMD EPYC", "cores": 2, "usable_cores": 2, "memory_bytes": 8_323_551_232, "gpu": None,
            "os": "Debian 12", "python": "3.11.9", "packages": {"torch": "2.13.0", "onnxruntime": "1.32.0"},
        },
        "networks": {
            "teacher": network(TEACHER_WIDTHS, 6_812_344, 1_930_000_000, 13_650_000), "pruned": small, "student": small,
        },
        "stages": {
            name: {"status": "done", "reused": reused, "reason": why, "seconds": seconds}
            for name, (seconds, reused, why) in timings.items()
        } | {"report": {"status": "running"}},
    }  # fmt: skip


def metrics_document() -> dict[str, Any]:
    def quality(fid: float, coverage: float, modes: float, rare: dict[str, float]) -> dict[str, Any]:
        return {
            "fid": fid, "precision": 0.81 - fid / 900, "recall": coverage - 0.1, "density": 0.93, "coverage": coverage,
            "mode_coverage": modes, "frequency_error": 0.02 + fid / 800, "rare": rare, "samples": 5000, "seed": 0,
            "psi": 1.0, "features": "avatars", "modes": shares_of_modes(0.048 if fid < 8 else 0.001),
        }  # fmt: skip

    def shares_of_modes(top_hats: float) -> list[dict[str, Any]]:
        shares = (("hat", "none", 0.4, 0.8), ("hat", "top_hat", 0.05, top_hats), ("skin", "0 to 0.5", 0.25, 0.26))
        return [
            {"factor": factor, "value": value, "data": data, "samples": share, "ratio": share / data}
            for factor, value, data, share in shares
        ]

    return {
        "schema": 1,
        "measured": True,
        "models": {
            "teacher": quality(6.31, 0.87, 0.981, {"glasses_round": 0.97, "hat_beanie": 1.08, "hair_blue": 0.92}),
            "pruned": quality(148.2, 0.11, 0.213, {"glasses_round": 0.02, "hat_beanie": 3.4, "hair_blue": 0.0}),
            "student": quality(9.84, 0.81, 0.958, {"glasses_round": 0.83, "hat_beanie": 1.14, "hair_blue": 0.71}),
        },
        "latents": {
            "edits": {
                "correlation": 0.985, "slope": 0.946, "of": "factors", "steps": 2.0,
                "directions": [
                    {"name": "beard", "correlation": 0.999, "slope": 0.998},
                    {"name": "hair_hue", "correlation": 0.951, "slope": 0.828},
                    {"name": "hat", "correlation": None, "slope": None},
                ],
            },
            "own": {"l1": 0.0648, "perceptual": 0.169},
            "teacher_w": {"l1": 0.0706, "perceptual": 0.195},
            "mixed": {"l1": 0.0773, "perceptual": 0.31},
            "perceptual": "avatars",
            "inversion": {"mse": 0.00714, "perceptual": 0.101, "start_mse": 0.00962, "steps": 40, "images": 4},
            "not_inverted": None, "latents": 16, "seed": 0,
        },
    }  # fmt: skip


def history_document() -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    entries: list[dict[str, Any]] = []
    for step in range(10, 1210, 10):
        decay = np.exp(-step / 250)
        noise = rng.lognormal(0, 0.15, 4)
        entry = {
            "step": step, "seconds": 0.24 * step,
            "gan": 0.7 + 0.6 * decay * noise[0], "l1": 0.05 + 0.2 * decay * noise[1],
            "l1_to_teacher": 0.03 + 0.2 * decay,
            "perceptual": 0.2 + 0.9 * decay * noise[2], "relation": 0.01 + 0.05 * decay * noise[3],
        }  # fmt: skip
        entries.append(entry)
    return entries


def parity_document() -> dict[str, Any]:
    """Return parity.json as a build writes it, for a float network and a uint8 file."""

    def pair(max_steps: int, differing: float) -> dict[str, Any]:
        checks = [
            {"name": "largest 8-bit difference", "value": max_steps, "limit": 1, "passed": True, "detail": ""},
            {
                "name": "share of 8-bit values that differ",
                "value": differing,
                "limit": 5e-3,
                "passed": True,
                "detail": "",
            },
            {"name": "images of b have several colours", "value": 0, "limit": 0, "passed": True, "detail": ""},
        ]
        return {
            "passed": True, "checks": checks, "images": 768, "psis": [0.5, 0.7, 1.0], "max_steps": max_steps,
            "mean_steps": differing, "differing": differing, "max_abs": max_steps / 127.5,
            "mean_abs": differing / 127.5, "psnr_db": 82.4 if max_steps else None,
            "p999_abs": max_steps * 0.0042, "least_ssim": 0.99987, "precision": "fp32",
            "layers": {"first": None, "verdict": "no layer is out of tolerance on this batch", "rows": []},
        }  # fmt: skip

    return {"schema": 1, "passed": True, "pairs": {"student": pair(1, 3.1e-4), "teacher": pair(0, 0.0)}}


@pytest.fixture(scope="session")
def complete_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Write a complete run directory, without its report."""
    folder = RunFolder(tmp_path_factory.mktemp("complete"))
    engine = {
        "engine": "student.engine", "flavour": "tensorrt-rtx", "version": "1.7.1", "targets": ["sm89", "sm120"],
        "profile": {"z": {"min": [1, 256], "opt": [8, 256], "max": [64, 256]}}, "onnx_sha256": "9f" * 32,
    }  # fmt: skip
    for name, document in {
        "run.json": run_document(),
        "metrics.json": metrics_document(),
        "parity.json": parity_document(),
        "bench.json": bench_document(),
        "history.json": history_document(),
        "engines/student.json": engine,
    }.items():
        folder.write(name, document)
    rng = np.random.default_rng(2)
    scores = {f"layer{i:02d}": rng.lognormal(0, 0.4 + 0.15 * i, width) for i, width in enumerate(TEACHER_WIDTHS)}
    save_file(scores, folder.path / "scores.safetensors", {"format": "dcp-deploy scores 1"})
    (folder.path / "grids").mkdir()
    for name, softness in (("teacher", 0.05), ("pruned", 0.9), ("student", 0.12)):
        faces(8, 2, softness).save(folder.path / "grids" / f"{name}.png")
    for name, size in (("teacher.onnx", 27_400), ("student.onnx", 4_090)):
        with (folder.path / name).open("wb") as file:
            file.truncate(size)
    return folder


@pytest.fixture
def run_folder(tmp_path: Path, complete_run: RunFolder) -> RunFolder:
    """Copy the complete run directory, so that the test may change it."""
    shutil.copytree(complete_run.path, tmp_path, dirs_exist_ok=True)
    return RunFolder(tmp_path)


@pytest.fixture
def run_without_charts(run_folder: RunFolder) -> RunFolder:
    """Drop what charts are drawn from: drawing takes seconds, and these tests look at words."""
    (run_folder.path / "scores.safetensors").unlink()
    (run_folder.path / "history.json").unlink()
    bench, run = run_folder.read("bench.json"), run_folder.read("run.json")
    rows = [{**row, "samples_ms": [], "labels": {**row["labels"], "precision": "fp16"}} for row in bench["rows"]]
    run_folder.change("bench.json", rows=rows)
    run_folder.change("run.json", networks={k: {**v, "widths": []} for k, v in run["networks"].items()})
    return run_folder


@pytest.fixture(scope="session")
def finished_run(complete_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Copy the complete run directory and write its report, for tests that only read."""
    folder = RunFolder(tmp_path_factory.mktemp("finished") / "run")
    shutil.copytree(complete_run.path, folder.path)
    write_report(folder.path)
    return folder
