"""Kill builds of the demo again and again, and compare their networks with those of a build that was left alone.

    python -m dcp_deploy.benchmarks.experiments.build_kills FOLDER [--kills 50] [--seed 0] [--steps 20]

Each kill is SIGKILL to all processes of a build. It comes while a stage writes a file, or at a random moment of a stage
or of the start. Then the same command runs again. A round ends with a finished build, whose networks must equal those
of the undisturbed build bit for bit. FOLDER receives run directories and logs. Prints a table; the exit code is 1 if a
network or a record differs, or if a process, a file or shared memory is left.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from safetensors.numpy import load_file

from ...errors import DcpDeployError, UsageError
from ...export.serving.leftovers import SHARED_MEMORY, is_alive, kill_group
from ...files import RUN_FILE, read_json, sha256_file

KILLS, STEPS = 50, 20
ROUND = 10  # kills of one build
NETWORKS = ("teacher", "scores", "pruned", "student")
UNDISTURBED, SCRATCH, CACHE = "undisturbed", "scratch", "cache"  # in the folder, beside the rounds
START = "start"  # the time before the first stage
LOOK_SECONDS = 0.0005  # between two looks at a run directory
END_SECONDS = 10.0  # in which killed processes must have ended

# The command line with fewer samples, and with checkpoints every few steps; otherwise as a user starts it.
PROGRAM = """
from dataclasses import replace
from importlib import import_module
from dcp_deploy.compression.distillation.recipe import RECIPES
from dcp_deploy.efforts import EFFORTS
EFFORTS["quick"] = replace(
    EFFORTS["quick"], score_latents=20, refine_latents=16, evaluation_samples=64, parity_latents=2, bench_rounds=3,
    bench_seconds=0.2,
)
evaluate = import_module("dcp_deploy.metrics.evaluate")
evaluate.MIN_SAMPLES = evaluate.REFERENCE_SAMPLES = 64
RECIPES["quick"] = replace(RECIPES["quick"], checkpoint_every=4)
from dcp_deploy.cli import main
main()
"""


def demo_build(steps: int) -> list[str]:
    """Return the command line of a short build, without --out. One thread, because threads split sums differently."""
    build = ["build", "--dataset", "demo", "--steps", str(steps), "--threads", "1", "--require", "none"]
    return [sys.executable, "-c", PROGRAM, *build]


@dataclass(frozen=True)
class Moment:
    """When to kill: as soon as the stage writes a file, or at a random time of the stage."""

    stage: str
    writing: bool = False


@dataclass(frozen=True)
class Kill:
    """A kill that came: the stage that was at work, and the names of the files that were being written."""

    stage: str
    cut: tuple[str, ...]


@dataclass(frozen=True)
class Round:
    """A build that was killed before it ended: what differs from the undisturbed one, and what is left."""

    kills: tuple[Kill, ...]
    differs: tuple[str, ...]
    left: tuple[str, ...]


@dataclass
class Builds:
    """Builds of one command in a folder, each in a run directory of its own, with one cache and one scratch folder."""

    command: Sequence[str]
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    """How long the start and each stage of the undisturbed build took, in order."""
    expected: set[str] = field(default_factory=set)
    """What the undisturbed build leaves in the folder: its results, the cache, and what libraries leave."""
    alive: list[str] = field(default_factory=list)
    """Processes that outlived a kill of their group."""

    @contextmanager
    def started(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start the build of a run directory in a process group of its own, which ends with the block."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        for variable, place in (("TMPDIR", SCRATCH), ("DCP_DEPLOY_CACHE", CACHE)):
            (self.folder / place).mkdir(parents=True, exist_ok=True)
            environment[variable] = str(self.folder / place)
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*self.command, "--out", str(self.folder / name)],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            kill_group(process.pid)
            process.wait()

    def finish(self, name: str) -> None:
        """Run the build to its end. Raises DcpDeployError with the end of its log if it fails."""
        with self.started(name) as process:
            code = process.wait()
        if code:
            log = self.folder / f"{name}.log"
            words = log.read_text(errors="replace").strip()[-300:]
            raise DcpDeployError(f"the build in {name} ended with code {code}: {words}", f"Read {log}.")

    def undisturbed(self) -> None:
        """Run the build that all others are compared with, and note how long its parts take."""
        began = time.monotonic()
        self.finish(UNDISTURBED)
        run = read_json(self.folder / UNDISTURBED / RUN_FILE)
        self.seconds = {START: max(0.0, time.monotonic() - began - run["seconds"])}
        self.seconds |= {name: stage["seconds"] for name, stage in run["stages"].items()}
        self.expected = self._found(UNDISTURBED)

    def kill(self, name: str, moment: Moment, share: float) -> Kill | None:
        """Start the build and kill it at the moment, or when its stage is over; return None if it ended before.

        ``share``: of the stage's usual time, for a moment that is not a write.
        """
        directory, order = self.folder / name, list(self.seconds)
        before, reached = _begun(directory), None
        with self.started(name) as process:
            while process.poll() is None:
                stage = _at_work(directory, before)
                if reached is None and order.index(stage) >= order.index(moment.stage):
                    reached = time.monotonic()
                if reached is not None:
                    passed = time.monotonic() - reached >= share * self.seconds[moment.stage]
                    if stage != moment.stage or (bool(_scratch(directory)) if moment.writing else passed):
                        return self._end(process, directory, before)
                time.sleep(LOOK_SECONDS)
        return None

    def _end(self, process: subprocess.Popen[bytes], directory: Path, before: dict[str, str]) -> Kill | None:
        """Kill the process and all that it has started. Return None if it had ended by itself."""
        running: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            running = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        kill_group(process.pid)
        if process.wait() != -signal.SIGKILL:
            return None
        end = time.monotonic() + END_SECONDS
        while (alive := [one for one in running if is_alive(one)]) and time.monotonic() < end:
            time.sleep(0.05)
        self.alive += [f"process {one.pid}" for one in alive]
        return Kill(_at_work(directory, before), tuple(_scratch(directory)))

    def differences(self, name: str) -> list[str]:
        """Return the networks that are not those of the undisturbed build, and what is wrong with the record."""
        ours, theirs = self.folder / name, self.folder / UNDISTURBED
        found = [one for one in NETWORKS if not _same_tensors(*(run / f"{one}.safetensors" for run in (ours, theirs)))]
        run = read_json(ours / RUN_FILE)
        if run["status"] != "finished":
            found.append(f"status {run['status']}")
        for stage, record in run["stages"].items():
            if record["status"] not in ("done", "skipped"):
                found.append(f"{stage} {record['status']}")
            found += [one for one, sha256 in record["outputs"].items() if sha256_file(ours / one) != sha256]
        return found

    def leftovers(self, name: str) -> list[str]:
        """Return what the killed builds left: processes, and files beyond those of the undisturbed one."""
        return [*self.alive, *sorted(self._found(name) - self.expected)]

    def _found(self, name: str) -> set[str]:
        """Return the names of all files and folders of a run, of the cache and of the scratch folder."""
        folders = [self.folder / one for one in (name, CACHE, SCRATCH)]
        return {str(path.relative_to(folder)) for folder in folders for path in folder.rglob("*")}


def _stages(directory: Path) -> dict[str, Any]:
    with suppress(OSError):
        return dict(read_json(directory / RUN_FILE)["stages"])
    return {}


def _begun(directory: Path) -> dict[str, str]:
    """Return when each stage began, in order, for the stages that have."""
    return {name: stage["started"] for name, stage in _stages(directory).items() if stage["started"]}


def _at_work(directory: Path, before: dict[str, str]) -> str:
    """Return the stage that began last, given what had begun ``before`` this build was started."""
    return ([START] + [name for name, time in _begun(directory).items() if before.get(name) != time])[-1]


def _scratch(directory: Path) -> list[str]:
    """Return the names of results of stages that are being written, or were when the writer was killed."""
    found = [one for _, _, names in os.walk(directory) for one in names if one.startswith(".") and one.endswith(".tmp")]
    return sorted(one.split(".tmp")[0].rpartition(".")[0][1:] for one in found if not one.startswith(f".{RUN_FILE}."))


def _same_tensors(one: Path, other: Path) -> bool:
    mine, theirs = load_file(one), load_file(other)
    return mine.keys() == theirs.keys() and all(
        tensor.dtype == theirs[name].dtype and tensor.shape == theirs[name].shape
        and tensor.tobytes() == theirs[name].tobytes() for name, tensor in mine.items()
    )  # fmt: skip


def moments(stages: Sequence[str], chance: random.Random) -> Iterator[Moment]:
    """Yield moments without end, each as often as any other: the start, and writes and random times of the stages."""
    every = [Moment(START), *(Moment(stage, writing) for stage in stages for writing in (True, False))]
    while True:
        yield from chance.sample(every, len(every))


def kill_rounds(builds: Builds, kills: int, chance: random.Random) -> Iterator[Round]:
    """Kill ``kills`` builds, in as many rounds as it takes. Each yields what was found when it was over."""
    builds.undisturbed()
    shared, number, order = set(SHARED_MEMORY.glob("*")), 0, list(builds.seconds)
    upcoming = moments(order[1:], chance)
    while kills > 0:
        number += 1
        name, done = f"round-{number}", list[Kill]()
        chosen = islice(upcoming, min(kills, ROUND))
        for moment in sorted(chosen, key=lambda one: (order.index(one.stage), not one.writing)):
            kill = builds.kill(name, moment, chance.random())
            if kill is None:  # it was too fast, and has finished
                break
            done.append(kill)
        if not done:
            raise DcpDeployError(f"the build in {name} ended before it could be killed", f"Read {name}.log.")
        kills -= len(done)
        builds.finish(name)
        left = [*builds.leftovers(name), *_unused(set(SHARED_MEMORY.glob("*")) - shared)]
        yield Round(tuple(done), tuple(builds.differences(name)), tuple(left))


def _unused(files: set[Path]) -> list[str]:
    """Return the files of shared memory that no running process has mapped: other programs have theirs."""
    used: set[str] = set()
    for process in psutil.process_iter() if files else ():
        with suppress(psutil.Error):
            used |= {entry.path for entry in process.memory_maps()}
    return sorted(str(path) for path in files if path.exists() and str(path) not in used)


def table(rounds: Sequence[Round], stages: Sequence[str]) -> str:
    """Return one line for each stage: its kills, those that cut a write, and how the rounds with them ended."""
    lines = ["| killed in | kills | while writing | same networks | left over |", "|---|---:|---:|---|---|"]
    for stage in stages:
        hit = [one for one in rounds if any(kill.stage == stage for kill in one.kills)]
        kills = [kill for one in hit for kill in one.kills if kill.stage == stage]
        differs, left = (sorted({name for one in hit for name in getattr(one, part)}) for part in ("differs", "left"))
        cells = (stage, len(kills), sum(bool(kill.cut) for kill in kills), f"no: {', '.join(differs)}" if differs else
                 "yes" if hit else "", ", ".join(left) or ("nothing" if hit else ""))  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> int:
    """Run the rounds that the command line asks for and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for flag, default in (("--kills", KILLS), ("--seed", 0), ("--steps", STEPS)):
        parser.add_argument(flag, type=int, default=default)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} holds files already", "Give a new folder.")
    builds, rounds = Builds(demo_build(arguments.steps), folder), list[Round]()
    for one in kill_rounds(builds, arguments.kills, random.Random(arguments.seed)):
        rounds.append(one)
        places = ", ".join(" writing ".join((kill.stage, *kill.cut)) for kill in one.kills)
        print(f"round {len(rounds)}: killed in {places}; differs: {one.differs}; left: {one.left}", file=sys.stderr)
    print(table(rounds, list(builds.seconds)))
    restarts = sum(len(one.kills) for one in rounds)
    cut = sorted({name for one in rounds for kill in one.kills for name in kill.cut})
    print(f"{restarts} kills and as many restarts in {len(rounds)} rounds; writes that were cut: {', '.join(cut)}")
    return 1 if any(one.differs or one.left for one in rounds) else 0


if __name__ == "__main__":
    sys.exit(main())
