"""What the HTTP and the gRPC side of the request filter share: requests in flight, readiness, and how far it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .request_checks import Refusal
from .silence import Answers

INLINE_BYTES = 1 << 14  # a smaller request is checked within a few milliseconds
CHECKERS = 2  # requests checked at a time; a check needs some megabytes


@dataclass
class Traffic:
    """The state of a request filter. Its methods belong to its event loop."""

    most: int = 512
    """Requests for images that may be in flight."""
    in_flight: int = 0
    images: int = 0
    """Requests for images in flight."""
    ready: bool = True
    """Whether Triton and all its models run."""
    draining: bool = False
    """Whether HTTP connections are closed after their answer."""
    refusing: bool = False
    """Whether new gRPC requests are refused; gRPC cannot ask clients to close their connection."""
    answers: Answers = field(default_factory=Answers)
    """The requests that Triton has."""
    checkers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(CHECKERS, "check"))

    def check_ready(self) -> None:
        """Raise Refusal while the models start."""
        if not self.ready:
            raise Refusal("the models are starting; try again in some seconds", 503)

    @contextmanager
    def inferring(self) -> Iterator[None]:
        """Count a request for images. Raises Refusal if there are too many, or while the models start."""
        self.check_ready()
        if self.images >= self.most:
            raise Refusal(f"{self.images} requests are in flight, as many as are accepted; try again later", 503)
        self.images += 1
        try:
            yield
        finally:
            self.images -= 1

    async def check(self, size: int, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Check a request of ``size`` bytes: a large one in a thread, so that others are answered meanwhile."""
        if size <= INLINE_BYTES:
            return function(*arguments, **options)
        call = lambda: function(*arguments, **options)  # noqa: E731  # run_in_executor takes no keywords
        return await asyncio.get_running_loop().run_in_executor(self.checkers, call)
