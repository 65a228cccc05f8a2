"""The check of a running server: the golden images of a bundle, asked for by one client and then by many at once.

Under load every answer is compared: equal answers are kept once, and each different one goes through the parity gate
when the load is over, so that comparing does not slow the clients down.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import DcpDeployError, ParityError, UsageError
from ..parity.gate import ParityReport, verify
from ..runners.runner import Array, Runner, classes_of, latents_of
from .endpoint import endpoint_runner, largest_batch

CLIENTS, REQUESTS = 16, 200
MOST_VERSIONS = 16  # of one image: rounding differs with the batch it was drawn in, not with every request
SHOWN_ERRORS = 5

Pair = tuple[int, float]  # (seed, psi)


@dataclass(frozen=True)
class Load:
    """What many clients at once got. Times in milliseconds, of whole requests as the clients saw them."""

    clients: int
    requests: int
    images: int
    failed: int
    errors: tuple[str, ...]
    """The first few."""
    seconds: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    requests_per_second: float
    images_per_second: float
    versions: int
    """How many different images the most varied golden image was answered with; 1: always the same."""


@dataclass(frozen=True)
class EndpointReport:
    """What :func:`check_endpoint` found."""

    address: str
    model: str
    first_ms: float
    """The very first request, of one image."""
    alone: ParityReport
    load: Load | None
    under_load: tuple[ParityReport, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether every image was right and no request failed."""
        reports = (self.alone, *self.under_load)
        return all(report.passed for report in reports) and not (self.load and self.load.failed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "passed": self.passed,
            "address": self.address,
            "model": self.model,
            "first_ms": self.first_ms,
            "alone": self.alone.to_dict(),
            "load": None if self.load is None else asdict(self.load),
            "under_load": [report.to_dict() for report in self.under_load],
        }

    def raise_for_failure(self) -> None:
        """Raise ParityError, saying which images were wrong or what failed, unless the report passed."""
        for report in (self.alone, *self.under_load):
            report.raise_for_failure()
        if self.load and self.load.failed:
            first = f"{self.load.failed} of {self.load.requests} requests failed: {self.load.errors[0]}"
            raise ParityError(f"{self.address} did not answer everything under load: {first}")


def check_endpoint(
    address: str,
    golden: Runner,
    kept: Mapping[str, Any],
    *,
    model: str = "generator",
    clients: int = CLIENTS,
    requests: int = REQUESTS,
    binary: bool = True,
) -> EndpointReport:
    """Ask the server for the golden images, cold and by one client, then by ``clients`` at once.

    ``golden`` and ``kept`` are those of :func:`~.bundle.read_golden`. Under load the batches are of all sizes up to the
    server's largest, in turn; 0 ``requests`` leaves the load out. Raises DcpDeployError when the server cannot be
    asked at all; for wrong images and failed requests see :meth:`EndpointReport.raise_for_failure`.
    """
    if clients < 1 or requests < 0:
        raise UsageError(
            f"{clients} clients and {requests} requests are no load", "use 1 client or more, 0 requests or more"
        )
    largest = largest_batch(address, model)
    pairs = [(kept["seed"] + index, float(psi)) for psi in kept["psis"] for index in range(kept["latents"])]
    with endpoint_runner(address, model, binary=binary) as runner:
        begin = time.perf_counter()
        _ask(runner, pairs[:1])
        first = (time.perf_counter() - begin) * 1e3
        alone = verify(golden, runner, batches=sorted({1, min(3, largest), largest}), **kept)
    if not requests or not alone.passed:
        return EndpointReport(address, model, round(first, 3), alone, None)
    answers = _Answers()
    load = _load(address, model, binary, pairs, largest, clients, requests, answers)
    versions = answers.versions()
    reports = [verify(golden, _replay(golden, answers, index), batches=(largest,), **kept) for index in range(versions)]
    return EndpointReport(address, model, round(first, 3), alone, replace(load, versions=versions), tuple(reports))


class _Answers:
    """Every different image that each (seed, psi) was answered with, filled by many threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.images: dict[Pair, dict[bytes, Array]] = {}

    def add(self, pairs: Sequence[Pair], images: Array) -> None:
        digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
        with self.lock:
            for pair, digest, image in zip(pairs, digests, images, strict=True):
                known = self.images.setdefault(pair, {})
                if digest not in known:
                    known[digest] = image.copy()
                    if len(known) > MOST_VERSIONS:
                        raise ParityError(
                            f"seed {pair[0]}, psi {pair[1]:g} was answered with {len(known)} different images"
                        )

    def versions(self) -> int:
        return max((len(known) for known in self.images.values()), default=0)


def _replay(golden: Runner, answers: _Answers, index: int) -> Runner:
    """The index-th version of every image as a Runner: of fewer, the last; of what nobody asked for, golden."""

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        images = list(golden.draw(z, psi, c))
        for place, (row, value) in enumerate(zip(z, psi, strict=True)):
            for (seed, kept_psi), known in answers.images.items():
                if np.float32(kept_psi) == value and np.array_equal(latents_of([seed], len(row))[0], row):
                    images[place] = list(known.values())[min(index, len(known) - 1)]
        return np.stack(images)

    return replace(golden, name="the server under load", draw=draw)


def _load(
    address: str, model: str, binary: bool, pairs: Sequence[Pair], largest: int, clients: int, requests: int,
    answers: _Answers,
) -> Load:  # fmt: skip
    numbers = itertools.count()  # of the requests; taking the next one is atomic
    times: list[float] = []
    errors: list[str] = []

    def client() -> int:
        drawn = 0
        with endpoint_runner(address, model, binary=binary) as runner:
            while (number := next(numbers)) < requests:
                size = min(number % largest + 1, len(pairs))
                chosen = [pairs[(number * 3 + offset) % len(pairs)] for offset in range(size)]
                begin = time.perf_counter()
                try:
                    answer = _ask(runner, chosen)
                except DcpDeployError as error:
                    errors.append(str(error).splitlines()[0])
                    continue
                times.append(time.perf_counter() - begin)
                drawn += size
                answers.add(chosen, answer)
        return drawn

    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        drawn = sum(future.result() for future in [pool.submit(client) for _ in range(clients)])
    seconds = time.perf_counter() - begin
    p50, p90, p99 = (round(float(np.quantile(times or [0.0], share)) * 1e3, 3) for share in (0.5, 0.9, 0.99))
    return Load(
        clients=clients, requests=requests, images=drawn, failed=len(errors), errors=tuple(errors[:SHOWN_ERRORS]),
        seconds=round(seconds, 3), p50_ms=p50, p90_ms=p90, p99_ms=p99,
        requests_per_second=round(len(times) / seconds, 2), images_per_second=round(drawn / seconds, 2), versions=0,
    )  # fmt: skip


def _ask(runner: Runner, pairs: Sequence[Pair]) -> Array:
    seeds = [seed for seed, _ in pairs]
    psi = np.array([psi for _, psi in pairs], np.float32)
    return runner(z=latents_of(seeds, runner.z_dim), psi=psi, c=classes_of(seeds, runner.c_dim))
