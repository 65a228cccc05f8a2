"""Prune a teacher and record how, the same for ``build`` and for the verb."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..checkpoints import Checkpoint
    from ..compression import ChannelScores, PruningPlan
    from ..generators import Generator
    from ..progress import Progress


def prune_with_story(
    teacher: Checkpoint,
    file: Path,
    plan: PruningPlan,
    scores: ChannelScores,
    *,
    refine: str,
    latents: int,
    seed: int,
    progress: Progress | None = None,
) -> tuple[Generator, dict[str, Any]]:
    """Return the pruned generator and its story; ``teacher`` was read from ``file``.

    ``latents`` is the number that a reconstruction uses. Raises what :func:`~dcp_deploy.compression.prune` raises.
    """
    from ..checkpoints.provenance import pruned_story
    from ..compression import prune

    options: dict[str, Any] = {"refine": refine, "latents": latents, "seed": seed, "progress": progress}
    pruned = prune(teacher.generator, plan, **options)
    refinement: dict[str, Any] = {"method": refine}
    if "reconstruct" in refine:
        refinement |= {"latents": latents, "seed": seed}
    pruning = {
        "verb": "prune",
        **{name: value for name, value in plan.to_dict().items() if name in ("ratio", "align", "target")},
        "scores": {**scores.settings, "sha256": scores.sha256},
        "refinement": refinement,
    }
    return pruned, pruned_story(teacher, file, pruning)
