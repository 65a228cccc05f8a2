"""The check of a running server: request a bundle's golden images with one client, then with many at once.

Under load every answer is kept, equal ones once. The parity gate compares them when the load is over, so that comparing
does not slow the clients down.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ...errors import DcpDeployError, ParityError, UsageError
from ..parity.gate import ParityReport, verify
from ..runners.runner import Array, Runner, classes_of, latents_of
from .endpoint import endpoint_runner, largest_batch

CLIENTS, REQUESTS = 16, 200
MOST_VERSIONS = 16  # of one image: rounding depends on the batch it was in, but not on every request
SHOWN_ERRORS = 5

Sample = tuple[int, float]  # (seed, psi)


@dataclass(frozen=True)
class Load:
    """Results of many clients at once. Times are milliseconds of whole requests as the clients saw them."""

    clients: int
    requests: int
    images: int
    failed: int
    errors: tuple[str, ...]
    """The first few messages."""
    seconds: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    requests_per_second: float
    images_per_second: float
    versions: int
    """Number of different answers for the golden image that varied most; 1: always the same."""


@dataclass(frozen=True)
class EndpointReport:
    """The result of :func:`check_endpoint`."""

    address: str
    model: str
    first_ms: float
    """Milliseconds of the very first request, of one image."""
    alone: ParityReport
    load: Load | None
    under_load: tuple[ParityReport, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Return whether every image was right and no request failed."""
        reports = (self.alone, *self.under_load)
        return all(report.passed for report in reports) and not (self.load and self.load.failed)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "passed": self.passed,
            **vars(self),
            "alone": self.alone.to_dict(),
            "load": None if self.load is None else asdict(self.load),
            "under_load": [report.to_dict() for report in self.under_load],
        }

    def raise_for_failure(self) -> None:
        """Raise ParityError unless the report passed; the message says which images were wrong or what failed."""
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
    """Request the golden images from the server: cold and with one client, then with ``clients`` at once.

    ``golden`` and ``kept`` are those of :func:`~.bundle.read_golden`. Under load the batches take all sizes up to the
    server's largest, in turn; 0 ``requests`` skips the load. Raises DcpDeployError if the server cannot be reached;
    wrong images and failed requests are raised by :meth:`EndpointReport.raise_for_failure`.
    """
    if clients < 1 or requests < 0:
        raise UsageError(
            f"{clients} clients cannot send {requests} requests", "Use 1 client or more, 0 requests or more."
        )
    largest = largest_batch(address, model)
    samples = [(kept["seed"] + index, float(psi)) for psi in kept["psis"] for index in range(kept["latents"])]
    connect = partial(endpoint_runner, address, model, binary=binary)
    with connect() as runner:
        begin = time.perf_counter()
        _request(runner, samples[:1])
        first = round((time.perf_counter() - begin) * 1e3, 3)
        alone = verify(golden, runner, batches=sorted({1, min(3, largest), largest}), **kept)
    if not requests or not alone.passed:
        return EndpointReport(address, model, first, alone, None)
    answers = _Answers()
    load = _load(connect, samples, largest, clients, requests, answers)
    reports = [
        verify(golden, _replay(golden, answers, index), batches=(largest,), **kept) for index in range(load.versions)
    ]
    return EndpointReport(address, model, first, alone, load, tuple(reports))


class _Answers:
    """Every different image that each sample was answered with, filled by many threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.images: dict[Sample, dict[bytes, Array]] = {}

    def add(self, samples: Sequence[Sample], images: Array) -> None:
        digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
        with self.lock:
            for sample, digest, image in zip(samples, digests, images, strict=True):
                known = self.images.setdefault(sample, {})
                if digest not in known:
                    known[digest] = image.copy()
                    if len(known) > MOST_VERSIONS:
                        raise ParityError(
                            f"seed {sample[0]}, psi {sample[1]:g} was answered with {len(known)} different images"
                        )

    def versions(self) -> int:
        return max((len(known) for known in self.images.values()), default=0)


def _replay(golden: Runner, answers: _Answers, index: int) -> Runner:
    """Make a Runner of the index-th version of every image: the last version if there are fewer, golden if none."""
    versions = {
        (latents_of([seed], golden.z_dim).tobytes(), np.float32(psi)): list(known.values())
        for (seed, psi), known in answers.images.items()
    }

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        images = list(golden.draw(z, psi, c))
        for place, (row, value) in enumerate(zip(z, psi, strict=True)):
            if known := versions.get((row.tobytes(), value)):
                images[place] = known[min(index, len(known) - 1)]
        return np.stack(images)

    return replace(golden, name="the server under load", draw=draw)


def _load(
    connect: Callable[[], AbstractContextManager[Runner]],
    samples: Sequence[Sample],
    largest: int,
    clients: int,
    requests: int,
    answers: _Answers,
) -> Load:
    """Send ``requests`` from ``clients`` threads and add what they get to ``answers``."""
    numbers = itertools.count()  # of the requests; taking the next one is atomic
    times: list[float] = []
    errors: list[str] = []

    def client() -> int:
        received = 0
        with connect() as runner:
            while (number := next(numbers)) < requests:
                size = min(number % largest + 1, len(samples))
                chosen = [samples[(number * 3 + offset) % len(samples)] for offset in range(size)]
                begin = time.perf_counter()
                try:
                    images = _request(runner, chosen)
                except DcpDeployError as error:
                    errors.append(str(error).splitlines()[0])
                    continue
                times.append(time.perf_counter() - begin)
                received += size
                answers.add(chosen, images)
        return received

    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        received = sum(future.result() for future in [pool.submit(client) for _ in range(clients)])
    seconds = time.perf_counter() - begin
    p50, p90, p99 = (round(float(np.quantile(times or [0.0], share)) * 1e3, 3) for share in (0.5, 0.9, 0.99))
    return Load(
        clients=clients, requests=requests, images=received, failed=len(errors), errors=tuple(errors[:SHOWN_ERRORS]),
        seconds=round(seconds, 3), p50_ms=p50, p90_ms=p90, p99_ms=p99,
        requests_per_second=round(len(times) / seconds, 2), images_per_second=round(received / seconds, 2),
        versions=answers.versions(),
    )  # fmt: skip


def _request(runner: Runner, samples: Sequence[Sample]) -> Array:
    seeds = [seed for seed, _ in samples]
    psi = np.array([psi for _, psi in samples], np.float32)
    return runner(z=latents_of(seeds, runner.z_dim), psi=psi, c=classes_of(seeds, runner.c_dim))
