"""What tells one distillation from another: the identity of networks, settings and masks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .masks import Mask


def run_key(settings: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> str:
    """Hex sha256 of everything that decides a run's result: settings (JSON values) and initial networks."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, network in sorted(networks.items()):
        for key, tensor in network.state_dict().items():
            digest.update(f"{name}.{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def identity_of(mask: Mask) -> Any:
    """What decides its masks: a model's identity, and of a plain function the name."""
    return getattr(mask, "identity", None) or name_of(mask)


def name_of(something: object) -> str:
    """Of a function or a class its own name, of anything else that of its class."""
    return str(getattr(something, "__qualname__", type(something).__qualname__))
