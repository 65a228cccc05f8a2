"""Keys that tell one scoring or distillation run from another: hashes of its networks, settings and masks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .masks import Mask


def run_key(settings: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> str:
    """Return the hex sha256 of everything that decides a run's result: settings (JSON values) and initial networks."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, network in sorted(networks.items()):
        for key, tensor in network.state_dict().items():
            digest.update(f"{name}.{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def identity_of(mask: Mask) -> Any:
    """Return what decides the mask's output: a model's ``identity``, or the name of a plain function."""
    return getattr(mask, "identity", None) or name_of(mask)


def name_of(something: object) -> str:
    """Return the qualified name of a function or class, or of the class of any other object."""
    return str(getattr(something, "__qualname__", type(something).__qualname__))
