"""The defaults of build, its verbs and the library, and the effort levels: how long to score and measure.

How long to distil is in ``compression.RECIPES``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

SCORE: Final = "change"
REFINE: Final = "reconstruct"
ALIGN: Final = 8
RATIO: Final = 0.7
EFFORT: Final = "quick"
HYBRID_SHARE: Final = 0.5
"""The one set of defaults. The first two measured best on photographs and on the demo (docs/quality.md)."""

CHANGES: Final = ("change", "hybrid")
"""The scores by how the images change, which need no gradients and choose their directions themselves."""

EffortName = Literal["quick", "standard", "paper"]


_FLOORS = {"score_latents": 10, "refine_latents": 8, "parity_latents": 16, "change_latents": 192}


@dataclass(frozen=True)
class Effort:
    """How long to score and measure: counts, and seconds of the benchmark."""

    score_latents: int
    score_directions: int
    evaluation_samples: int
    parity_latents: int
    bench_rounds: int
    bench_seconds: float
    refine_latents: int = 64
    change_latents: int = 384
    full_up_to: float = math.inf
    """MACs of the largest teacher that gets these counts. A larger one is scored, refined and compared by fewer."""

    def for_teacher(self, macs: int) -> Effort:
        """Return the counts for a teacher's MACs per image: in proportion above ``full_up_to``, down to a floor."""
        share = min(self.full_up_to / macs, 1.0)
        fewer = {
            name: max(round(getattr(self, name) * share), min(getattr(self, name), floor))
            for name, floor in _FLOORS.items()
        }
        return replace(self, **fewer)

    def latents_for(self, score: str) -> int:
        """Return how many latents a score gets. Those that need no gradients get more: one costs two images."""
        return self.change_latents if score in CHANGES else self.score_latents

    def directions_for(self, score: str) -> int | None:
        """Return how many directions a latent is moved along; None for as many as the score chooses itself."""
        return None if score in CHANGES else self.score_directions

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "full_up_to"}


EFFORTS: dict[EffortName, Effort] = {
    # The demo within ten minutes on two cores; a teacher of 256 px (45 G MACs) is scored and refined within fifteen.
    "quick": Effort(
        full_up_to=1e9,
        score_latents=120,
        score_directions=10,
        evaluation_samples=3000,
        parity_latents=256,
        bench_rounds=50,
        bench_seconds=15.0,
    ),
    # An evening on one GPU. DCP-GAN's README says that 1000 latents rank channels about as 5000 do.
    "standard": Effort(
        score_latents=1000,
        score_directions=10,
        evaluation_samples=10_000,
        parity_latents=256,
        bench_rounds=200,
        bench_seconds=30.0,
        change_latents=2000,
    ),
    # The published numbers: 5000 latents, FID of 50,000 samples.
    "paper": Effort(
        score_latents=5000,
        score_directions=10,
        evaluation_samples=50_000,
        parity_latents=1024,
        bench_rounds=1000,
        bench_seconds=60.0,
        change_latents=5000,
    ),
}
