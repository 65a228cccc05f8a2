"""Scenarios: how calls follow each other, and which figure is the rate.

    latency        one call per turn, after a pause: the waiting time of a lone caller
    single-stream  many calls per turn without pauses, batch 1
    offline        the same at any batch: images over the whole time

The last two resemble the scenarios of MLPerf Inference but do not conform to its rules: no LoadGen, no accuracy run,
no minimum of 60 seconds per candidate. Their turns are interleaved too.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from .statistics import block_length


@dataclass(frozen=True)
class Scenario:
    """One way to measure: the value of --mode."""

    name: str
    burst: int
    """Calls of each candidate per round."""
    paused: bool
    """Whether each call follows a pause."""
    figure: str
    """How images per second is computed."""
    label: str
    """Title of the table."""

    def block(self, samples: int) -> int:
        """Return the block length of the bootstrap: at least a turn, because its calls depend on each other."""
        return max(self.burst, block_length(samples))


_NOT = "MLPerf-style, not conformant"
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("latency", 1, True, "batch over the median latency", "latency"),
        Scenario("single-stream", 32, False, "batch over the median latency", f"single-stream ({_NOT}), read p90"),
        Scenario("offline", 8, False, "images over the time of all calls", f"offline ({_NOT}), read images/s"),
    )
}


def find_scenario(name: str, batch: int) -> Scenario:
    """Return the scenario of a name. UsageError for an unknown one, and for single-stream with a batch above 1."""
    if name not in SCENARIOS:
        raise UsageError(f"unknown mode {name!r}", f"Use one of: {', '.join(SCENARIOS)}.")
    if name == "single-stream" and batch != 1:
        raise UsageError(f"single-stream has one image per call, not {batch}", "Leave --batch at 1, or use offline.")
    return SCENARIOS[name]
