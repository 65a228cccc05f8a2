"""What to do with a run: the commands that fit its state, and its files."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import quote

from . import text
from .judgement import QUALITY, quality_tone, unstable_because
from .run_directory import RunDirectory

WEB_PAGE = "web/index.html"

_PURPOSES = {
    "student.onnx": "the student for ONNX Runtime, OpenVINO and TensorRT",
    "student.safetensors": "the student's weights, for further training and export",
    "engines/student.engine": "the student as TensorRT engine",
    "pruned.safetensors": "the student before distillation",
    "teacher.onnx": "the teacher, exported in the same way",
    "teacher.safetensors": "the teacher's weights",
    "scores.safetensors": "channel scores",
    "metrics.json": "quality",
    "gates.json": "requirements and whether they were met",
    "bench.json": "every measured latency",
    WEB_PAGE: "page that generates images in a browser, for: dcp-deploy serve",
    "parity.json": "comparison of exported files and networks",
    "history.json": "losses of the training",
    "run.json": "settings, stages, machine",
    "config.toml": "settings, for build --config",
}


@dataclass(frozen=True)
class Step:
    """A command and why to run it."""

    why: str
    command: str


@dataclass(frozen=True)
class File:
    """A file of the run: its link relative to the page, size and purpose."""

    name: str
    link: str
    size: str
    purpose: str


def next_steps(run: RunDirectory) -> list[Step]:
    """Return commands for what a reader of this run probably wants next, repairs first."""
    return [*_repairs(run), *_uses(run)]


def _repairs(run: RunDirectory) -> Iterable[Step]:
    folder, again = _folder(run), run.run.command or "dcp-deploy build"
    if run.run.status in ("failed", "interrupted") or "student.safetensors" not in run.files:
        yield Step("Continue the build; finished stages are reused", again)
    if run.parity is not None and run.parity.passed is False:
        pair = f"{shlex.quote(f'{folder}/student.safetensors')} {shlex.quote(f'{folder}/student.onnx')}"
        yield Step("See the least similar images", f"dcp-deploy verify {pair} --worst worst.png")
    if unstable_because(run):
        student, teacher = (shlex.quote(f"{folder}/{model}.onnx") for model in ("student", "teacher"))
        command = f"dcp-deploy bench {student} --teacher {teacher} --wait 60"
        yield Step("Measure the speed again, after waiting for a quiet moment", command)
    if _too_bad(run) and run.run.config.get("effort", "quick") == "quick":
        dataset = run.run.config.get("dataset")
        kept = [
            f"--{key} {shlex.quote(str(run.run.config[key]))}" for key in ("teacher", "data") if run.run.config.get(key)
        ]
        words = ["dcp-deploy build", f"--dataset {shlex.quote(str(dataset))}" if dataset else "", *kept]
        command = " ".join(filter(None, [*words, "--effort standard", f"--out {shlex.quote(folder + '-standard')}"]))
        yield Step("Train longer, which closes most of the gap in quality", command)


def _uses(run: RunDirectory) -> Iterable[Step]:
    folder = _folder(run)
    if "student.onnx" in run.files:
        yield Step("Look at more images of the student", f"dcp-deploy sample {shlex.quote(f'{folder}/student.onnx')}")
        bundle = shlex.quote(f"{PurePath(folder).name}-bundle")
        yield Step("Package it for an inference server", f"dcp-deploy bundle {shlex.quote(folder)} --out {bundle}")
        page = shlex.quote(f"{folder}/web")
        if WEB_PAGE in run.files:
            yield Step("Generate images in a browser", f"dcp-deploy serve {page}")
        else:
            command = f"dcp-deploy bundle {shlex.quote(folder)} --web --out {page}"
            yield Step("Make a page that generates images in browsers", command)


def _too_bad(run: RunDirectory) -> bool:
    if run.gates is not None and not run.gates.passed:
        return True
    pairs = ((getattr(run.quality("teacher"), key), getattr(run.quality("student"), key), key) for key in QUALITY)
    return any(quality_tone(key, teacher, student) in ("warn", "bad") for teacher, student, key in pairs)


def _folder(run: RunDirectory) -> str:
    return str(run.run.config.get("out") or "RUN")


def files_of(run: RunDirectory) -> list[File]:
    """Return the files of the run, the student's first."""
    order = [*_PURPOSES, *run.files]
    return [
        File(name, quote(name), text.size(run.files[name]) or "", _PURPOSES.get(name, _purpose(name)))
        for name in sorted(run.files, key=order.index)
    ]


def _purpose(name: str) -> str:
    if name.startswith("grids/"):
        return "images in full size"
    if name.startswith("parity_"):
        return "the least similar images"
    return "engine" if name.endswith(".engine") else ""
