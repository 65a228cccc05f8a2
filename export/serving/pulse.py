"""Notice processes that hang: Triton if it does not answer, the others if a signal has stopped them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from .leftovers import is_stopped
from .ports import is_answered
from .processes import Triton

PULSE_SECONDS = 2.0  # between two looks
ANSWER_SECONDS = 5.0  # in which Triton must answer that it lives
MOST_MISSED = 3  # looks in a row, after which a process hangs
FILTER = "the request filter"


class Pulse:
    """Looks at the processes of a server again and again, in a thread of its own, which may have to wait for Triton."""

    def __init__(self, triton: Triton, request_filter: int) -> None:
        self.triton, self.request_filter = triton, psutil.Process(request_filter)
        self.missed: Counter[str] = Counter()
        """How often in a row each process was found hanging."""
        self.over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look until the block ends."""
        thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            thread.join()

    def hanging(self) -> str | None:
        """Return the process that hangs, None while none does."""
        counts = tuple(self.missed.items())  # a copy: the thread may change them meanwhile
        return next((name for name, count in counts if count >= MOST_MISSED), None)

    def begin(self) -> None:
        """Forget what was found of processes that have been started again."""
        self.missed = Counter()

    def _run(self) -> None:
        while not self.over.wait(PULSE_SECONDS):
            looked = self.missed  # begin() replaces it
            found = {name for process, name in self._others() if is_stopped(process)}
            if not is_answered(f"{self.triton.http}/v2/health/live", ANSWER_SECONDS):
                found.add("tritonserver")
            for name in set(looked) - found:
                del looked[name]
            looked.update(found)

    def _others(self) -> list[tuple[psutil.Process, str]]:
        """Return the other processes and their names."""
        models = [(process, f"the process of model {name}") for process, name in self.triton.models.items()]
        return [(self.request_filter, FILTER), *models]
