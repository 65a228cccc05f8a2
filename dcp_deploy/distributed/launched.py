"""Processes that ``torchrun`` or ``srun`` started, on one machine or on several.

The first one runs the program. The others wait until it asks for help with :func:`~.joining.join_team`, do the same
work as it does, and wait again. So the first alone reads arguments, prints and writes files, and networks are sent from
it. Whichever process fails, all end with its exit code, and the first says why.

They talk through torch's store, a small server that torchrun or the first process runs: which work is next, who failed,
and with which exit code all end.
"""

from __future__ import annotations

import os
import pickle
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch

from ..errors import DcpDeployError, MissingCapabilityError, UsageError
from .connection import check_fabric, connected, is_lost_connection, lost_connection
from .places import Place, find_place
from .spawned import Work, pickled
from .team import Team

START = timedelta(minutes=10)  # until a process that SLURM started gives up waiting for the others
POLL = 0.05  # seconds between two looks for work
NEWS = 5.0  # seconds in which the reason for a lost connection arrives
GRACE = 60.0  # seconds after which a process that waits for one that failed is ended; GPUs would wait for hours


class Crew:
    """All processes of a launch, as one of them sees them."""

    def __init__(self, place: Place, team: Team, device: torch.device, say: Callable[[str], None]) -> None:
        self.place, self.team, self.device, self._say = place, team, device, say
        self.busy = False
        self._asked = 0
        self._code: int | None = None  # with which all end, once this process knows that they do
        token = team.from_first(secrets.token_hex(8).encode()).decode()  # of this start; torchrun keeps its store
        self._store, self._watched = (_store(place, token) for _ in range(2))
        self._left = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    # ---- the first process ----

    @contextmanager
    def helping(self, device: torch.device, work: Work) -> Iterator[tuple[Team, torch.device]]:
        """Let the others do ``work`` while the block does the same here. Yields this process's team and device."""
        if device.type == "cuda" and self.device.type != "cuda":
            raise MissingCapabilityError(
                f"{self.place.local_size} processes on this machine need as many GPUs, and it has "
                f"{torch.cuda.device_count()}",
                "Start as many processes as there are GPUs, or add --device cpu.",
            )
        content = pickled((device.type, torch.get_num_threads(), work))
        self.busy = True
        self._asked += 1
        self._store.set(f"work {self._asked}", "")
        try:
            self.team.from_first(content)
            yield self.team, self.device if device.type == "cuda" else torch.device("cpu")
            self.team.any(False)  # none has failed, and none is still at work
        except RuntimeError as error:
            self._raise_reason(error)
            raise
        self.busy = False  # after an error the others are gone

    def _raise_reason(self, error: RuntimeError) -> None:
        """Raise the error of the process that failed, if a lost connection is what it caused here."""
        if not is_lost_connection(error):
            return
        if _soon(lambda: self._store.check(["failed"])):
            raise _unpacked(self._store.get("failed")) from error
        raise lost_connection("another process ended, and its connection was lost") from error

    def end(self, code: int) -> None:
        """Let all others end with ``code``, and wait a moment until they know."""
        with suppress(RuntimeError):
            self._store.set("end", str(code))
            others = [f"knows {rank}" for rank in range(1, self.team.size)]
            _soon(lambda: self._store.check(others))

    # ---- the others ----

    def help(self) -> int:
        """Do whatever work the first process asks for; return the exit code when it ends."""
        while True:
            try:
                if (code := self._learn(self._store)) is not None:
                    return code
                if not self._store.check([f"work {self._asked + 1}"]):
                    time.sleep(POLL)
                    continue
                self._asked += 1
                kind, threads, work = pickle.loads(self.team.from_first(b""))
                torch.set_num_threads(threads)
                work(self.device if kind == "cuda" else torch.device("cpu"), self.team)
                self.team.any(False)
            except KeyboardInterrupt:
                return 130
            except Exception as error:
                return self._failed(error)

    def _failed(self, error: Exception) -> int:
        """Let the others know why this process ends, unless they end already; return the exit code."""
        who = f"process {self.place.rank} of {self.place.size} on {socket.gethostname()}"
        if is_lost_connection(error):
            with suppress(RuntimeError):
                # If the first process has left, its store is gone, and :meth:`_watch` has learned the code before.
                _soon(lambda: self._code is not None or self._learn(self._store) is not None)
            if self._code is not None:
                return self._code
            self._say(f"error: {who} lost the connection to the others")
            return DcpDeployError.exit_code
        known = error if isinstance(error, DcpDeployError) else DcpDeployError(f"{type(error).__name__}: {error}")
        known.message = f"{who}: {known.message}"
        with suppress(RuntimeError):
            self._store.compare_set("failed", "", pickle.dumps(known).hex())  # the first to fail gives the reason
            self._learn(self._store)
        return known.exit_code

    # ---- all ----

    def _learn(self, store: Any) -> int | None:
        """Return the exit code with which all end, None if they do not. The first process waits until all know it."""
        if store.check(["end"]):
            code = int(store.get("end"))
        elif store.check(["failed"]):
            code = _unpacked(store.get("failed")).exit_code
        else:
            return None
        self._code = code
        store.set(f"knows {self.place.rank}", "")
        return code

    def _watch(self) -> None:
        """End this process if the others end and it waits for them all the same, as GPUs do."""
        code, words = DcpDeployError.exit_code, "error: the connection to the first process was lost"
        while not self._left.wait(1.0):
            try:
                if (learned := self._learn(self._watched)) is None:
                    continue
                code, words = learned, ""
                if self._watched.check(["failed"]):
                    words = f"error: {_unpacked(self._watched.get('failed'))}"
            except RuntimeError:
                pass
            if not self._left.wait(GRACE):
                if words and self.place.rank == 0:
                    self._say(words)
                os._exit(code)

    def leave(self) -> None:
        """Stop watching."""
        self._left.set()


def _soon(happened: Callable[[], bool]) -> bool:
    """Wait until something has happened, for ``NEWS`` at most; return whether it has."""
    begin = time.monotonic()
    while not happened():
        if time.monotonic() - begin > NEWS:
            return False
        time.sleep(POLL)
    return True


def _unpacked(reason: bytes) -> DcpDeployError:
    error: DcpDeployError = pickle.loads(bytes.fromhex(reason.decode()))
    return error


def _store(place: Place, token: str) -> Any:
    """Return a connection of its own to the server of the launch, with names that no earlier start has used."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, not declared so

    environment = place.environment()
    server = TCPStore(environment.main_address, environment.main_port, is_master=False)
    return PrefixStore(f"dcp-deploy {token}", server)


# ---- the launch ----

_crew: Crew | None = None


def idle_crew() -> Crew | None:
    """Return the processes of the launch if they wait for work; None in a program that was started alone."""
    return None if _crew is None or _crew.busy else _crew


def launched_size() -> int:
    """Return how many processes a launcher has started; 1 for a program that was started alone."""
    return 1 if _crew is None else _crew.team.size


def run_launched(program: Callable[[], int], say: Callable[[str], None] = print) -> int:
    """Run ``program`` in the first of the processes that torchrun or srun started, and let the others help.

    Returns its exit code, in every process. Without a launcher it simply runs. ``say`` prints a line of text. Raises in
    every process: UsageError for an environment that contradicts itself or for processes that do not find each other,
    MissingCapabilityError without Lightning Fabric.
    """
    global _crew
    place = find_place()
    if place is None:
        return program()
    check_fabric(f"a program on {place.size} processes")
    store = _await_all(place) if place.launcher == "srun" else None
    gpus = torch.cuda.device_count() >= place.local_size
    with connected(place.environment(), place.local_size, gpus=gpus, store=store) as (team, device):
        crew = Crew(place, team, device, say)
        try:
            if place.rank:
                return crew.help()
            _crew, code = crew, 1
            try:
                code = program()
            finally:
                _crew = None
                crew.end(code)
            return code
        finally:
            crew.leave()


def _await_all(place: Place) -> Any:
    """Return torch's store once every process of a SLURM step is there; connecting without it would wait for hours."""
    environment = place.environment()
    address, port = environment.main_address, environment.main_port
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # In a thread, because torch waits without end for another program that listens there and says nothing.
    threading.Thread(target=_open_store, args=(address, port, place, answers), daemon=True).start()
    try:
        answer = answers.get(timeout=START.total_seconds() + NEWS)
    except queue.Empty:
        answer = "another program listens there"
    if isinstance(answer, str):
        raise UsageError(
            f"the {place.size} processes of this SLURM job do not find each other at {address}:{port}: {answer}",
            "Start the program with srun, and set MASTER_ADDR and MASTER_PORT if that address or port is taken. To run "
            "one process inside a job, unset SLURM_PROCID.",
        )
    return answer


def _open_store(address: str, port: int, place: Place, answers: queue.SimpleQueue[Any]) -> None:
    """Put the store of all processes into ``answers``, or the reason why there is none."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, not declared so

    try:
        answers.put(TCPStore(address, port, place.size, is_master=place.rank == 0, timeout=START))
    except RuntimeError as error:
        answers.put(str(error).splitlines()[0])
