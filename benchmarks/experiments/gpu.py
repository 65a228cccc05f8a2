"""Run every GPU check and measurement within one deadline: the tests, correctness, latency, bandwidth, and the goals.

    python -m dcp_deploy.benchmarks.experiments.gpu --out DIR [--seconds 540]

    prepare: start processes that compile teacher and student for each batch size with torch.compile, and export them
    tests: pytest -m gpu, meanwhile
    images: the images of our path beside the readable network's; the rates of an fp16 product and of a copy
    batch 1, kernels, batch 32, batch 8, batch 64: see :mod:`.cuda_path` and :mod:`.kernels`

The parts run in this order. DIR/gpu.json is written after each, so a killed run leaves what it has. A part that fails
is recorded and the next one starts; a part without enough time left is left out. Tables are printed, the goals last.

``--dry-run`` runs the same plan on the CPU, with tiny networks and the kernels in the host emulator.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from ...errors import MissingCapabilityError, UsageError
from ...files import write_json
from ...generators import GeneratorConfig
from ..candidates.graph_work import generator_work
from ..latency import Call
from ..machine.environment import capture_environment
from ..machine.roofline import Rate, machine_ceilings, measured_ceilings, roofline
from . import cuda_path, kernels
from .gpu_machine import Machine, emulated_machine, gpu_machine
from .gpu_tables import goals_table, judged, speed_table, summary

SECONDS = 540.0  # of a plan, so that it ends within ten minutes
TESTS_SECONDS = 200.0  # at most, for the tests
COMPILED = (1, 8, 32)  # batch sizes for torch.compile


@dataclass(frozen=True)
class Size:
    """How large everything is, and how often it is measured."""

    configs: dict[str, GeneratorConfig]
    """Teacher and student."""
    cases: tuple[kernels.Case, ...]
    kernel_rounds: int = 20
    rounds: int = 100
    seconds: float = 12.0
    """At most, for the rounds of one batch size after the first five."""


def full_size() -> Size:
    """Return the sizes of docs/gpu.md."""
    return Size(cuda_path.full_size(), tuple(kernels.cases()))


def tiny_size() -> Size:
    """Return sizes for a dry run."""
    narrow = GeneratorConfig(8, (16,) * 4, z_dim=16, w_dim=16, mapping_layers=2)
    configs = {"teacher": narrow, "student": replace(narrow, widths=(8,) * 4)}
    return Size(configs, tuple(kernels.cases(16, 1, (16, 8))), kernel_rounds=1, rounds=1, seconds=0.0)


@dataclass
class Run:
    """One run of the plan: what the parts read and what they add to ``record``."""

    machine: Machine
    size: Size
    out: Path
    ends: float
    """Time of ``time.monotonic``."""
    record: dict[str, Any]
    preparing: list[BaseProcess] = field(default_factory=list)
    pair: cuda_path.Pair | None = None

    def networks(self) -> cuda_path.Pair:
        """Return the pair of generators, made at the first call."""
        if self.pair is None:
            self.pair = cuda_path.random_pair(self.machine, self.out, self.size.configs)
        return self.pair


@dataclass(frozen=True)
class Part:
    """A step of the plan."""

    name: str
    least: float
    """Seconds that must be left for it to start."""
    run: Callable[[Run], None]


def run_plan(machine: Machine, out: Path, size: Size, seconds: float, parts: Sequence[Part]) -> dict[str, Any]:
    """Run the parts in order until ``seconds`` are over; write ``out``/gpu.json after each, and return its content."""
    out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "environment": asdict(capture_environment()), "dry_run": not machine.is_gpu,
        "networks": {name: asdict(config) for name, config in size.configs.items()},
        "tf32": {"cudnn": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32},
        "parts": {}, "latency": [], "missing": {}, "methods": {}, "kernels": [], "goals": [],
    }  # fmt: skip
    run = Run(machine, size, out, time.monotonic() + seconds, record)
    try:
        for part in parts:
            record["parts"][part.name] = _outcome(part, run)
            record["goals"] = [asdict(goal) for goal in judged(record)]
            write_json(out / "gpu.json", record)
            print(f"-- {part.name}: {summary(record['parts'][part.name])}", flush=True)
    finally:
        for process in run.preparing:
            process.terminate()
    print(goals_table(judged(record)), flush=True)
    if record["dry_run"]:
        print("This was a dry run on a CPU: its figures mean nothing.", flush=True)
    return record


def _outcome(part: Part, run: Run) -> dict[str, Any]:
    """Run one part unless too little time is left; return its state, its seconds, and a reason if there is one."""
    begin = time.monotonic()
    if run.ends - begin < part.least:
        return {"state": "left out", "seconds": 0.0, "reason": f"{run.ends - begin:.0f} of {part.least:.0f} s left"}
    try:
        part.run(run)
        state, reason = "done", ""
    except Exception as error:  # a machine is lent for minutes: the other parts still give results
        state, reason = "failed", f"{type(error).__name__}: {error}"
    if run.machine.is_gpu:
        torch.cuda.empty_cache()
    return {"state": state, "seconds": time.monotonic() - begin, "reason": reason}


# ---- the parts ----


def _prepare_meanwhile(run: Run) -> None:
    """Start processes that fill inductor's cache on disk and export ONNX files, while the tests run."""
    if not run.machine.is_gpu:
        return
    work: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
    for batch in COMPILED:
        work += [(_compile, (config, batch)) for config in reversed(run.size.configs.values())]
    with suppress(MissingCapabilityError):
        cuda_path.require_onnxruntime(run.machine)
        for (model, config), precision in product(run.size.configs.items(), cuda_path.TOLERANCES):
            work.append((_export, (config, run.out / f"{model}-{precision}.onnx", precision)))
    spawn = multiprocessing.get_context("spawn")
    for target, arguments in work:
        process = spawn.Process(target=target, args=arguments, daemon=True)
        process.start()
        run.preparing.append(process)


def _compile(config: GeneratorConfig, batch: int) -> None:
    machine = gpu_machine()
    cuda_path.compiled(cuda_path.random_generator(config).to(machine.device), machine, batch)


def _export(config: GeneratorConfig, file: Path, precision: str) -> None:
    cuda_path.exported(cuda_path.random_generator(config), file, precision)


def _tests(run: Run) -> None:
    """Run the tests that need a GPU, and then wait for what was compiled meanwhile."""
    limit = min(TESTS_SECONDS, run.ends - time.monotonic())
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *run.machine.tests]
    with (run.out / "tests.txt").open("w") as log:
        try:
            code = subprocess.run(command, stdout=log, stderr=log, timeout=limit, check=False).returncode
        except subprocess.TimeoutExpired:
            code = None
    lines = (run.out / "tests.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    run.record["tests"] = {"exit_code": code, "summary": lines[-1] if lines else ""}
    print(run.record["tests"]["summary"], flush=True)
    waits_until = min(time.monotonic() + 60, run.ends)
    for process in run.preparing:
        process.join(max(0.0, waits_until - time.monotonic()))
    if code is None:
        raise TimeoutError(f"the tests took more than {limit:.0f} s")
    if code != 0:
        raise RuntimeError(f"pytest ended with exit code {code}: {run.record['tests']['summary']}")


def _images(run: Run) -> None:
    """Compare the images, and measure the rates that the roofline needs."""
    pair = run.networks()
    ceilings = machine_ceilings([run.machine.device.type])
    seconds: dict[str, list[float]] = {one.name: [] for one in ceilings}
    for number in range(10 if run.machine.is_gpu else 2):
        for one in ceilings:
            begin = time.perf_counter()
            one.run()
            if number:  # the first call loads kernels
                seconds[one.name].append(time.perf_counter() - begin)
    run.record["ceilings"] = [asdict(rate) for rate in measured_ceilings(ceilings, seconds)]
    for rate in run.record["ceilings"]:
        print(f"{rate['name']}: {rate['per_second'] / 1e12:.2f} T/s")
    run.record["differences"] = {
        model: cuda_path.differences(one, run.machine) for model, one in pair.generators.items()
    }
    print("differences from the readable network:", run.record["differences"], flush=True)


def _latency(batch: int, run: Run) -> None:
    """Time every candidate at one batch size; at those of COMPILED also torch.compile and ONNX Runtime."""
    pair, machine, others = run.networks(), run.machine, dict[str, Call]()
    with torch.no_grad():
        calls, run.record["methods"][str(batch)] = cuda_path.our_calls(pair, machine, batch)
        if batch in COMPILED:
            for name, made in cuda_path.other_calls(pair, machine, batch, run.ends - 3 * run.size.seconds):
                if isinstance(made, str):
                    run.record["missing"][f"{name}, batch {batch}"] = made
                    print(f"{name}, batch {batch}: {made}", flush=True)
                else:
                    others[name] = made
        calls |= others
        for call in calls.values():
            for _ in range(3):
                call()
        seconds = min(run.size.seconds, max(run.ends - time.monotonic(), 0.0))
        found = cuda_path.rows(cuda_path.timed(calls, machine, run.size.rounds, seconds), batch)
    _add_roofline(run, found, batch)
    run.record["latency"] += found
    print(cuda_path.table(found), flush=True)


def _add_roofline(run: Run, found: list[dict[str, Any]], batch: int) -> None:
    """Add to our student's float16 row how far it is from the measured rates; nothing without them."""
    limits = tuple(Rate(**rate) for rate in run.record.get("ceilings", ()))
    work = generator_work(run.networks().generators["student"].config, batch)
    for row in found:
        if row["name"] == cuda_path.OURS:
            near = roofline(work, limits, run.machine.device.type, "fp16", row["gpu_ms"])
            row["roofline"] = None if near is None else asdict(near)


def _kernels(run: Run) -> None:
    """Time every kernel beside a copy of as many bytes."""
    size = run.size
    run.record["kernels"] = kernels.measure(size.cases, run.machine, rounds=size.kernel_rounds, ends=run.ends)
    print(speed_table(run.record["kernels"]), flush=True)


PARTS = {
    part.name: part
    for part in (
        Part("prepare", 60, _prepare_meanwhile),
        Part("tests", 60, _tests),
        Part("images", 20, _images),
        Part("batch 1", 40, partial(_latency, 1)),
        Part("kernels", 30, _kernels),
        Part("batch 32", 40, partial(_latency, 32)),
        Part("batch 8", 40, partial(_latency, 8)),
        Part("batch 64", 40, partial(_latency, 64)),
    )
}


def parts_named(names: Sequence[str]) -> list[Part]:
    """Return the parts of these names in the order of the plan; all without names. UsageError for an unknown name."""
    for name in names:
        if name not in PARTS:
            raise UsageError(f"the plan has no part {name!r}", f"Choose of: {', '.join(PARTS)}.")
    return [part for name, part in PARTS.items() if not names or name in names]


def main() -> None:
    """Run the plan; exit with 1 if a part failed."""
    parser = argparse.ArgumentParser(description="All GPU checks and measurements within one deadline.")
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json, tests.txt and exported files")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="deadline; default %(default)s")
    parser.add_argument("--parts", nargs="+", default=[], metavar="NAME", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, tiny, kernels in the host emulator")
    given = parser.parse_args()
    parts = parts_named(given.parts)
    with emulated_machine() if given.dry_run else nullcontext(gpu_machine()) as machine:
        record = run_plan(machine, given.out, tiny_size() if given.dry_run else full_size(), given.seconds, parts)
    sys.exit(any(part["state"] == "failed" for part in record["parts"].values()))


if __name__ == "__main__":
    main()
