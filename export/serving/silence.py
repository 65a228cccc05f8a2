"""Decide whether a model that runs does not answer, by the requests that wait for it and by probes of an idle one.

A model that is slow under load still answers one request after another, in the order in which they came. A silent one
leaves a request unanswered while nothing is answered, or while only later requests are: one of its instances hangs.
A model may call another, as ``picture`` does, and then waits in its queue: answers of all models therefore count.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

FIRST_SECONDS = 120.0  # how long a request may wait before the model has answered a probe
SLOWEST = 10  # a request may take this many times as long as the images of the largest batch take one by one
IDLE = 20  # no probe for this many times as long as one takes: probes take 5 % of the time at most
_ZEROS = {"TYPE_FP32": 0.0, "TYPE_INT64": 0, "TYPE_STRING": ""}


@dataclass
class Model:
    """What a model was asked, and what it answered. Times are of the monotonic clock, in seconds."""

    probe: bytes
    """A request for one image, as JSON."""
    batch: int
    """Images of its largest request."""
    answered: float
    """When it answered last; at first when it was ready."""
    waiting: dict[int, float] = field(default_factory=dict)
    """When each unanswered request was sent."""
    probed: float = -math.inf
    """When the last probe was sent."""
    latest: float = -math.inf
    """When the latest of the answered requests was sent."""
    seconds: float = math.inf
    """How long its fastest probe took."""

    def patience(self, least: float) -> float:
        """Return how long a request may wait for an answer, at least ``least``."""
        return FIRST_SECONDS if math.isinf(self.seconds) else max(least, SLOWEST * self.batch * self.seconds)

    def is_silent(self, now: float, least: float, others: Sequence[Model] = ()) -> bool:
        """Return whether a request has waited too long while nothing, or only what came long after it, was answered.

        ``others``: the other models, as any of them may be one that this one calls.
        """
        if not self.waiting:
            return False
        sent, patience = min(self.waiting.values()), self.patience(least)
        since = max(sent, self.answered)
        nothing = now - max([since, *(other.answered for other in others)]) > patience
        overtaken = self.latest - sent > patience or any(other.latest - since > patience for other in others)
        return nothing or overtaken

    def is_idle(self, now: float, least: float) -> bool:
        """Return whether nothing shows that it answers, so that a probe has to."""
        if math.isinf(self.probed):
            return True
        rest = least / 2 if math.isinf(self.seconds) else max(least / 2, IDLE * self.seconds)
        return not self.waiting and now - max(self.answered, self.probed) >= rest


class Answers:
    """The requests for images that Triton has, by model. ``clock`` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.numbers = clock, count()
        self.models: dict[str, Model] = {}

    def begin(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        """Forget everything; the models with these configurations of Triton's have been loaded."""
        now = self.clock()
        self.models = {
            name: Model(probe, max(1, config["max_batch_size"]), now)
            for name, config in configs.items()
            if (probe := probe_of(config)) is not None
        }

    @contextmanager
    def waiting(self, name: str) -> Iterator[Callable[[], None]]:
        """Note that a request waits until the block ends. Yield what has to be called once the model has answered."""
        model = self.models.get(name)
        if model is None:  # not a model of this server, or all are being started
            yield lambda: None
            return
        number, sent = next(self.numbers), self.clock()
        model.waiting[number] = sent

        def answered() -> None:
            model.latest, model.answered = max(model.latest, sent), self.clock()
            model.waiting.pop(number, None)

        try:
            yield answered
        finally:
            model.waiting.pop(number, None)

    def idle(self, least: float) -> list[str]:
        """Return the models that have to be probed."""
        now = self.clock()
        return [name for name, model in self.models.items() if model.is_idle(now, least)]

    def silent(self, least: float) -> str | None:
        """Return a model that does not answer, None if all do."""
        now = self.clock()
        for name, model in self.models.items():
            if model.is_silent(now, least, [other for other in self.models.values() if other is not model]):
                return name
        return None


def probe_of(config: Mapping[str, Any]) -> bytes | None:
    """Return a request of zeros for one image, None for a model that needs other inputs than ours do."""
    batched = config["max_batch_size"] > 0
    inputs = []
    for tensor in config["input"]:
        if tensor.get("optional"):
            continue
        if tensor["data_type"] not in _ZEROS:
            return None
        shape = [*([1] if batched else []), *(max(1, int(size)) for size in tensor["dims"])]
        zeros = [_ZEROS[tensor["data_type"]]] * math.prod(shape)
        inputs.append({"name": tensor["name"], "shape": shape, "datatype": tensor["data_type"][5:], "data": zeros})
    return json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
