"""From a teacher to a smaller student: score channels, plan and prune, distil."""

from __future__ import annotations

from .channel_scores import ChannelScores, load_scores, save_scores
from .distillation import DistillResult, distill
from .layer_times import latency_cost
from .pruning import PruningPlan, plan, prune
from .recipe import DEMO_RECIPES, RECIPES, DistillConfig
from .scoring import merge_scores, score

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
