"""Kill builds of the demo again and again, and compare their networks with those of a build that was left alone.

    python -m dcp_deploy.benchmarks.experiments.build_kills FOLDER [--kills 50] [--seed 0] [--steps 20]

Each kill is SIGKILL to all processes of a build, at a random moment of a stage or of the start, or in one of its
writes. For that the build stops itself before the first byte, within the file or before the rename. Then the same
command runs again. A round ends with a finished build, whose networks must equal those of the undisturbed build bit for
bit. FOLDER receives run directories and logs. Prints a table; the exit code is 1 if a network or a record differs, if a
process, a file or shared memory is left, or if no kill cut a result of some stage.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from safetensors.numpy import load_file

from ...errors import DcpDeployError, UsageError
from ...export.serving.leftovers import SHARED_MEMORY, is_alive, is_stopped, kill_group
from ...files import RUN_FILE, read_json, result_of, sha256_file
from .write_stops import LOG, PHASES, Stop, Write, read_writes, stop_at

KILLS, STEPS = 50, 20
ROUND = 10  # kills of one build
NETWORKS = ("teacher", "scores", "pruned", "student")
UNDISTURBED, SCRATCH, CACHE = "undisturbed", "scratch", "cache"  # in the folder, beside the rounds
START = "start"  # the time before the first stage
WRITES = "writes"  # in the folder, a list
LOOK_SECONDS = 0.0005  # between two looks at a run directory
END_SECONDS = 10.0  # in which killed processes must have ended

# The command line with fewer samples and with checkpoints every few steps, and its writes are watched; otherwise as a
# user starts it.
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

from dcp_deploy.benchmarks.experiments.write_stops import watch_writes
at_work = ["start"]
def watched(stage):
    def work(job, progress):
        at_work[0] = stage.name
        return stage.work(job, progress)
    return replace(stage, work=work)
builder = import_module("dcp_deploy.pipeline.builder")
builder.STAGES = tuple(map(watched, builder.STAGES))
watch_writes(lambda: at_work[0])
from dcp_deploy.cli import main
main()
"""


def demo_build(steps: int) -> list[str]:
    """Return the command line of a short build, without --out. One thread, because threads split sums differently."""
    build = ["build", "--dataset", "demo", "--steps", str(steps), "--threads", "1", "--require", "none"]
    return [sys.executable, "-c", PROGRAM, *build]


@dataclass(frozen=True)
class Moment:
    """When to kill: where the build stops in a write of the stage, or at a random time of the stage."""

    stage: str
    stop: Stop | None = None


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
    writes: list[Write] = field(default_factory=list)
    """What the undisturbed build wrote."""
    expected: set[str] = field(default_factory=set)
    """What the undisturbed build leaves in the folder: its results, the cache, and what libraries leave."""
    alive: list[str] = field(default_factory=list)
    """Processes of this round that outlived a kill of their group."""

    @contextmanager
    def started(self, name: str, watched: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """Start the build of a run directory in a process group of its own, which ends with the block.

        ``watched``: variables for :func:`~.write_stops.watch_writes`.
        """
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(watched or {})}
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

    def finish(self, name: str, watched: Mapping[str, str] | None = None) -> None:
        """Run the build to its end. Raises DcpDeployError with the end of its log if it fails."""
        with self.started(name, watched) as process:
            code = process.wait()
        if code:
            log = self.folder / f"{name}.log"
            words = log.read_text(errors="replace").strip()[-300:]
            raise DcpDeployError(f"the build in {name} ended with code {code}: {words}", f"Read {log}.")

    def undisturbed(self) -> None:
        """Run the build that all others are compared with. Note how long its parts take, and what it writes."""
        began = time.monotonic()
        self.finish(UNDISTURBED, {LOG: str(self.folder / WRITES)})
        self.writes = read_writes(self.folder / WRITES)
        run = read_json(self.folder / UNDISTURBED / RUN_FILE)
        self.seconds = {START: max(0.0, time.monotonic() - began - run["seconds"])}
        self.seconds |= {name: stage["seconds"] for name, stage in run["stages"].items()}
        self.expected = self._found(UNDISTURBED)

    def kill(self, name: str, moment: Moment, share: float) -> Kill | None:
        """Start the build and kill it at the moment, or when its stage is over; return None if it ended before.

        ``share``: of the stage's usual time, for a moment that is not in a write.
        """
        directory, order = self.folder / name, list(self.seconds)
        before, old, reached = _begun(directory), _scratch(directory), None
        with self.started(name, None if moment.stop is None else stop_at(moment.stop)) as process:
            build = psutil.Process(process.pid)
            while process.poll() is None:
                stage = _at_work(directory, before)
                if reached is None and order.index(stage) >= order.index(moment.stage):
                    reached = time.monotonic()
                if reached is not None:
                    passed = time.monotonic() - reached >= share * self.seconds[moment.stage]
                    if stage != moment.stage or (is_stopped(build) if moment.stop else passed):
                        return self._end(process, directory, before, old)
                time.sleep(LOOK_SECONDS)
        return None

    def _end(
        self, process: subprocess.Popen[bytes], directory: Path, before: dict[str, str], old: dict[Path, str]
    ) -> Kill | None:
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
        cut = {name for path, name in _scratch(directory).items() if path not in old}
        return Kill(_at_work(directory, before), tuple(sorted(cut)))

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
        """Return what a round's killed builds left: processes, and files beyond those of the undisturbed one."""
        alive, self.alive = self.alive, []
        return [*alive, *sorted(self._found(name) - self.expected)]

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


def _scratch(directory: Path) -> dict[Path, str]:
    """Return the scratch files of writers that are at work or were killed, and the names of their results."""
    paths = [Path(folder, name) for folder, _, names in os.walk(directory) for name in names]
    return {path: name for path in paths if (name := result_of(path))}


def _same_tensors(one: Path, other: Path) -> bool:
    mine, theirs = load_file(one), load_file(other)
    return mine.keys() == theirs.keys() and all(
        tensor.dtype == theirs[name].dtype and tensor.shape == theirs[name].shape
        and tensor.tobytes() == theirs[name].tobytes() for name, tensor in mine.items()
    )  # fmt: skip


def moments(writes: Sequence[Write], stages: Sequence[str], chance: random.Random) -> Iterator[Moment]:
    """Yield moments without end: in turns that have a write and a random time of each stage, in random order.

    Writes of the record are left to random times, because every stage has them: a turn has one of them.
    """
    while True:
        turn = [Moment(stage) for stage in stages]
        for stage in stages:
            turn += _in_a_write([one for one in writes if one.stage == stage and one.name != RUN_FILE], chance)
        turn += _in_a_write([one for one in writes if one.name == RUN_FILE], chance)
        yield from chance.sample(turn, len(turn))


def _in_a_write(writes: Sequence[Write], chance: random.Random) -> list[Moment]:
    """Return a moment in one of the writes, if there are any."""
    if not writes:
        return []
    write = chance.choice(writes)
    return [Moment(write.stage, Stop(write.stage, write.name, chance.choice(PHASES), write.bytes // 2))]


def kill_rounds(builds: Builds, kills: int, chance: random.Random) -> Iterator[Round]:
    """Kill ``kills`` builds, in as many rounds as it takes. Each yields what was found when it was over."""
    builds.undisturbed()
    shared, number, order = set(SHARED_MEMORY.glob("*")), 0, list(builds.seconds)
    upcoming = moments(builds.writes, order, chance)
    while kills > 0:
        number += 1
        name, done = f"round-{number}", list[Kill]()
        chosen = islice(upcoming, min(kills, ROUND))
        for moment in sorted(chosen, key=lambda one: (order.index(one.stage), one.stop is None)):
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
    """Return one line for each stage: its kills, the writes that they cut, and how the rounds with them ended."""
    lines = ["| killed in | kills | in a write | of | same networks | left over |", "|---|---:|---:|---|---|---|"]
    for stage in stages:
        hit = [one for one in rounds if any(kill.stage == stage for kill in one.kills)]
        kills = [kill for one in hit for kill in one.kills if kill.stage == stage]
        differs, left = (sorted({name for one in hit for name in getattr(one, part)}) for part in ("differs", "left"))
        cut = sorted({name for kill in kills for name in kill.cut})
        cells = (stage, len(kills), sum(bool(kill.cut) for kill in kills), ", ".join(cut),
                 f"no: {', '.join(differs)}" if differs else "yes" if hit else "",
                 ", ".join(left) or ("nothing" if hit else ""))  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def never_cut(rounds: Sequence[Round], stages: Sequence[str]) -> list[str]:
    """Return the stages of which no kill cut a result."""
    kills = [kill for one in rounds for kill in one.kills]
    cut = {kill.stage for kill in kills if any(name != RUN_FILE for name in kill.cut)}
    return [stage for stage in stages if stage not in cut]


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
    stages = list(builds.seconds)
    print(table(rounds, stages))
    restarts, missed = sum(len(one.kills) for one in rounds), never_cut(rounds, stages)
    print(f"{restarts} kills and as many restarts in {len(rounds)} rounds; stages of which no result was cut: "
          f"{', '.join(missed) or 'none'}")  # fmt: skip
    return 1 if missed or any(one.differs or one.left for one in rounds) else 0


if __name__ == "__main__":
    sys.exit(main())
