"""How calls follow each other, and which figure of them is the rate.

    latency        one call a turn, after a pause: what a lone caller waits
    single-stream  many calls a turn, each as soon as the last is done, batch 1
    offline        the same at any batch: images over the whole time

The last two are after the scenarios of MLPerf Inference and conform to none of its rules: no LoadGen, no accuracy run,
no minimum of 60 seconds a candidate. Turns are interleaved here too.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from .statistics import block_length


@dataclass(frozen=True)
class Scenario:
    """One way to measure."""

    name: str
    burst: int
    """Calls of a candidate in each round."""
    paused: bool
    """Whether a pause comes before each call."""
    figure: str
    """What images per second means."""
    label: str
    """What stands over the table."""

    def block(self, samples: int) -> int:
        """Samples that the bootstrap draws together: at least a turn, whose calls depend on each other."""
        return max(self.burst, block_length(samples))


_NOT = "MLPerf-style, not conformant"
SCENARIOS = {
    mode.name: mode
    for mode in (
        Scenario("latency", 1, True, "batch over the median latency", "latency"),
        Scenario("single-stream", 32, False, "batch over the median latency", f"single-stream ({_NOT}), read p90"),
        Scenario("offline", 8, False, "images over the time of all calls", f"offline ({_NOT}), read images/s"),
    )
}


def find_scenario(name: str, batch: int) -> Scenario:
    """The mode of a name. UsageError for one that there is not, or single-stream of more than one image."""
    if name not in SCENARIOS:
        raise UsageError(f"the mode is {name!r}", f"Use one of: {', '.join(SCENARIOS)}.")
    if name == "single-stream" and batch != 1:
        raise UsageError(f"single-stream has one image a call, not {batch}", "Leave --batch at 1, or use offline.")
    return SCENARIOS[name]
