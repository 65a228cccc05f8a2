"""The mapping network of StyleGAN2 and StyleGAN3, and the fully connected layer of all networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .config import GeneratorConfig
from .ops import bias_act, normalize_second_moment


class Dense(nn.Module):
    """Fully connected layer with equalised learning rate, ``x @ (W * lr / sqrt(in)).T + b * lr``, optionally lrelu."""

    def __init__(
        self, fan_in: int, fan_out: int, *, activate: bool = False, lr_multiplier: float = 1.0, bias_init: float = 0.0
    ) -> None:
        super().__init__()
        # In place: on the meta device, where checkpoints are loaded, "/" imports torch's compiler, which takes 1 s.
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in).div_(lr_multiplier))
        self.bias = nn.Parameter(torch.full((fan_out,), bias_init / lr_multiplier))
        self.activate = activate
        self.lr_multiplier = lr_multiplier
        self.weight_gain = lr_multiplier / math.sqrt(fan_in)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ (self.weight * self.weight_gain).T
        bias = self.bias * self.lr_multiplier
        return bias_act(y, bias) if self.activate else y + bias


class MappingNetwork(nn.Module):
    """Maps z, and the class of a class-conditional generator, to the style codes ``ws``."""

    w_avg: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        lr = config.mapping_lr_multiplier
        if config.c_dim:
            self.embed = Dense(config.c_dim, config.w_dim)
        fan_in = config.z_dim + (config.w_dim if config.c_dim else 0)
        for i in range(config.mapping_layers):
            layer = Dense(fan_in if i == 0 else config.w_dim, config.w_dim, activate=True, lr_multiplier=lr)
            self.add_module(f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def w(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Return the un-truncated code of each latent: [B, z_dim] (and [B, c_dim]) -> [B, w_dim]."""
        x = normalize_second_moment(z)
        if self.config.c_dim:
            if c is None:
                raise ValueError(f"this generator is conditional: c must be a [B, {self.config.c_dim}] tensor")
            x = torch.cat([x, normalize_second_moment(self.embed(c))], dim=1)
        for i in range(self.config.mapping_layers):
            x = self.get_submodule(f"fc{i}")(x)
        return x

    def forward(
        self, z: Tensor, c: Tensor | None = None, *, psi: float | Tensor = 1.0, cutoff: int | None = None
    ) -> Tensor:
        """Return ws [B, num_ws, w_dim] for z [B, z_dim].

        ``psi`` (a number or one per sample, [B]) pulls the first ``cutoff`` slots (all by default) towards the mean
        code: ``w_avg + psi * (w - w_avg)``. The number 1 leaves them exactly as they are.
        """
        ws = self.w(z, c)[:, None].repeat(1, self.config.num_ws, 1)
        if isinstance(psi, Tensor):
            psi = psi.reshape(-1, 1, 1)
        elif psi == 1:
            return ws
        truncated = self.w_avg + psi * (ws[:, :cutoff] - self.w_avg)
        return truncated if cutoff is None else torch.cat([truncated, ws[:, cutoff:]], dim=1)


def check_ws(ws: Tensor, config: GeneratorConfig) -> None:
    """Raise ValueError unless ``ws`` is [B, num_ws, w_dim]."""
    if ws.ndim != 3 or tuple(ws.shape[1:]) != (config.num_ws, config.w_dim):
        raise ValueError(f"ws must be [B, {config.num_ws}, {config.w_dim}], got {list(ws.shape)}")
