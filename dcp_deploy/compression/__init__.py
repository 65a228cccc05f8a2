"""From a teacher to a smaller student: score channels, plan and prune, distil."""

from __future__ import annotations

from .distillation.recipe import DEMO_RECIPES, RECIPES, DistillConfig
from .distillation.training import DistillResult, distill
from .pruning.layer_times import latency_cost
from .pruning.planning import PruningPlan, plan, prune
from .scoring.channel_scores import ChannelScores, load_scores, save_scores
from .scoring.merging import merge_scores
from .scoring.methods import score

__all__ = [
    "DEMO_RECIPES",
    "RECIPES",
    "ChannelScores",
    "DistillConfig",
    "DistillResult",
    "PruningPlan",
    "distill",
    "latency_cost",
    "load_scores",
    "merge_scores",
    "plan",
    "prune",
    "save_scores",
    "score",
]
