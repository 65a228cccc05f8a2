"""The recipe of the demo teacher: ``python -m dcp_deploy.training.demo_teacher --out DIR``.

Plain adversarial training takes too long on two CPU cores, so there are three stages:

1. *fit*: a two-layer network turns factors into w, and the synthesis network learns by regression to generate the
   portrait of those factors.
2. *map*: the mapping network learns the same w from z, in large batches because it learns slowly.
3. *adversarial*: the whole generator trains against a discriminator, and the regression remains as an anchor.

Every step draws its random numbers from (seed, step), and the state is saved every few hundred steps, so a stopped run
continues where it was. The last step writes the average generator as ``demo_teacher.safetensors`` in half precision,
with recipe and measured quality in the metadata, and ``history.json``, ``curves.png`` and ``grid.png``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints import load_generator, save_generator
from ..compression.distillation import losses
from ..datasets.factors import ENCODED_WIDTH, encode, factors_from_uniforms
from ..datasets.portrait import avatars, detail_mask
from ..generators import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from ..generators.mapping import Dense
from ..metrics.features import images_to_tensor, load_avatar_reader
from .latent_map import LatentMap, balanced_uniforms, targets
from .parts import cosine, follow, panels, plot, read_state, restore, save_state, set_lr, set_mean_code, step

STAGES = ("fit", "map", "adversarial")
EMA_DECAY = 0.998


@dataclass(frozen=True)
class Recipe:
    """Sizes and schedule. The defaults made the shipped teacher."""

    channel_base: int = 2048
    channel_max: int = 256
    z_dim: int = 64
    w_dim: int = 256
    mapping_layers: int = 4
    batch: int = 16
    fit_steps: int = 8_000
    map_steps: int = 5_000
    adversarial_steps: int = 300
    fit_lr: float = 6e-3
    map_lr: float = 4.0  # for the stored weights, which the mapping multiplies by 0.01
    adversarial_lr: float = 1e-3
    anchor: float = 10.0
    r1_gamma: float = 1.0
    detail_weight: float = 12.0
    evaluation_samples: int = 10_000
    seed: int = 0

    def generator(self) -> GeneratorConfig:
        """Return the configuration of the network: StyleGAN2 at 64 px."""
        return GeneratorConfig.stylegan2(
            64,
            channel_base=self.channel_base,
            channel_max=self.channel_max,
            z_dim=self.z_dim,
            w_dim=self.w_dim,
            mapping_layers=self.mapping_layers,
        )


class FactorsToW(nn.Module):
    """Network from factors [B, E] to w [B, w_dim] for the fit. Normalised, so that the mapping has a bounded target."""

    def __init__(self, w_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(ENCODED_WIDTH, 256)
        self.out = nn.Linear(256, w_dim)

    def forward(self, encoded: Tensor) -> Tensor:
        return F.layer_norm(self.out(F.leaky_relu(self.hidden(encoded), 0.2)), self.out.weight.shape[:1])


class Trainer:
    """The networks, optimisers and three stages of a run."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self.recipe = recipe
        self.out = out
        torch.manual_seed(recipe.seed)
        config = recipe.generator()
        self.generator = Generator(config)
        # Compiled, the synthesis trains 30 images per second on one core; in eager mode, 16.
        self.synthesis = torch.compile(self.generator.synthesis, dynamic=False)
        self.ema = Generator(config)
        self.ema.load_state_dict(self.generator.state_dict())
        self.reader = load_avatar_reader()
        self.codes = FactorsToW(recipe.w_dim)
        self.latents = LatentMap.create(recipe.z_dim, recipe.seed)
        self.start_mapping()
        self.discriminator = Discriminator(DiscriminatorConfig.mirror(config))
        synthesis = [*self.generator.synthesis.parameters(), *self.codes.parameters()]
        self.fit_opt = torch.optim.Adam(synthesis, lr=recipe.fit_lr, betas=(0.9, 0.99))
        self.map_opt = torch.optim.Adam(self.generator.mapping.parameters(), lr=recipe.map_lr, betas=(0.9, 0.99))
        self.g_opt = torch.optim.Adam(self.generator.parameters(), lr=recipe.adversarial_lr, betas=(0.0, 0.99))
        self.d_opt = torch.optim.Adam(self.discriminator.parameters(), lr=recipe.adversarial_lr, betas=(0.0, 0.99))
        self.step = 0
        self.history: list[dict[str, float]] = []

    def start_mapping(self) -> None:
        """Initialise the first layer of both mapping networks with the directions that determine the factors."""
        for generator in (self.generator, self.ema):
            layer = generator.mapping.get_submodule("fc0")
            assert isinstance(layer, Dense)
            weight, bias = self.latents.hinges(self.recipe.w_dim)
            with torch.no_grad():
                layer.weight.copy_(weight / layer.weight_gain)
                layer.bias.copy_(bias / layer.lr_multiplier)

    # ---- the stages ----------------------------------------------------------------------------------------------

    def run(self, minutes: float | None = None) -> bool:
        """Train until the recipe is done (return True) or the time is up (False)."""
        self.resume()
        start = time.monotonic()
        ends = self.stage_ends()
        while self.step < ends[-1]:
            rng = np.random.default_rng((self.recipe.seed, self.step))
            stage = sum(self.step >= end for end in ends)
            losses = (self.fit_step, self.map_step, self.adversarial_step)[stage](rng)
            follow(self.ema, self.generator, EMA_DECAY)
            self.step += 1
            self.log(stage, losses, time.monotonic() - start)
            if minutes is not None and time.monotonic() - start > 60 * minutes:
                self.save()
                return False
        self.save()
        self.finish()
        return True

    def stage_ends(self) -> tuple[int, int, int]:
        """Return the steps at which the stages end."""
        fit, map_end = self.recipe.fit_steps, self.recipe.fit_steps + self.recipe.map_steps
        return fit, map_end, map_end + self.recipe.adversarial_steps

    def fit_step(self, rng: np.random.Generator) -> dict[str, float]:
        recipe = self.recipe
        progress = self.step / recipe.fit_steps
        set_lr(self.fit_opt, recipe.fit_lr * cosine(progress, warm_up=0.01))
        factors, encoded, images = targets(balanced_uniforms(recipe.batch, rng))
        w = self.codes(encoded)
        generated = self.synthesis(w[:, None].expand(-1, self.generator.config.num_ws, -1), noise="none")
        weights = 1 + recipe.detail_weight * torch.from_numpy(detail_mask(factors))[:, None]
        error = (generated - images).abs()
        loss = (error * weights).mean() + 0.5 * F.avg_pool2d(generated - images, 4).abs().mean()
        # Absolute errors alone give every mouth and iris its median; squares and features separate them.
        loss = loss + 2.0 * (error.square() * weights).mean() + self.perceptual_distance(generated, images)
        step(self.fit_opt, loss)
        return {"l1": error.mean().item(), "loss": loss.item()}

    def perceptual_distance(self, generated: Tensor, images: Tensor) -> Tensor:
        """Return the mean squared difference of the avatar reader's maps, summed over its layers."""
        with torch.no_grad():
            wanted = self.reader.pyramid(images)
        pairs = zip(self.reader.pyramid(generated), wanted, strict=True)
        return torch.stack([(a - b).square().mean() for a, b in pairs]).sum()

    def map_step(self, rng: np.random.Generator) -> dict[str, float]:
        progress = (self.step - self.recipe.fit_steps) / self.recipe.map_steps
        set_lr(self.map_opt, self.recipe.map_lr * cosine(progress, warm_up=0.02))
        z = torch.from_numpy(rng.standard_normal((512, self.recipe.z_dim), dtype=np.float32))
        encoded = torch.from_numpy(encode(factors_from_uniforms(self.latents.uniforms(z))))
        with torch.no_grad():
            target = self.codes(encoded)
        error = (self.generator.mapping.w(z) - target).square().mean()
        step(self.map_opt, error)
        return {"w_error": error.item()}

    def adversarial_step(self, rng: np.random.Generator) -> dict[str, float]:
        recipe = self.recipe
        z = torch.from_numpy(rng.standard_normal((recipe.batch, recipe.z_dim), dtype=np.float32))
        _, _, anchors = targets(self.latents.uniforms(z))
        fakes = self.synthesis(self.generator.mapping(z), noise="none")
        real = images_to_tensor(avatars(rng.integers(1 << 40, size=recipe.batch), seed=recipe.seed))
        real.requires_grad_(self.step % 16 == 0)
        real_logits, fake_logits = self.discriminator(real), self.discriminator(fakes.detach())
        d_loss = losses.discriminator_gan_loss(real_logits, fake_logits)
        if self.step % 16 == 0:  # lazy R1: Karras et al. 2020, section 3.1
            d_loss = d_loss + 16 * recipe.r1_gamma / 2 * losses.r1_penalty(real, real_logits)
        step(self.d_opt, d_loss)
        anchor = (fakes - anchors).abs().mean()
        g_loss = losses.generator_gan_loss(self.discriminator(fakes)) + recipe.anchor * anchor
        g_loss = g_loss + self.perceptual_distance(fakes, anchors)
        step(self.g_opt, g_loss)
        return {"l1": anchor.item(), "g_loss": g_loss.item(), "d_loss": d_loss.item()}

    # ---- state ---------------------------------------------------------------------------------------------------

    def modules(self) -> dict[str, Any]:
        """Return everything with a state, by name."""
        names = ("generator", "ema", "codes", "discriminator", "fit_opt", "map_opt", "g_opt", "d_opt")
        return {name: getattr(self, name) for name in names}

    def save(self) -> None:
        """Write the state and the history."""
        facts = {"step": self.step, "history": self.history, "recipe": asdict(self.recipe)}
        save_state(self.out, self.modules(), facts)

    def resume(self) -> None:
        """Load the saved state, if there is one."""
        state = read_state(self.out)
        if state is not None:
            restore(self.modules(), state)
            self.step, self.history = state["step"], state["history"]

    def finish(self) -> None:
        """Write the teacher, measured as shipped: rounded to half precision."""
        from ..export import load_runner
        from ..export.runners.sampling import sample_grid
        from ..metrics import evaluate

        set_mean_code(self.ema, self.recipe.seed)
        path = save_generator(self.ema, self.out / "demo_teacher.safetensors", dtype=torch.float16)
        metrics = evaluate(load_generator(path), samples=self.recipe.evaluation_samples)
        extra = {
            "licence": "Apache-2.0",
            "trained by": "python -m dcp_deploy.training.demo_teacher",
            "recipe": asdict(self.recipe),
            "metrics": metrics.to_dict(),
        }
        save_generator(self.ema, path, dtype=torch.float16, extra=extra)
        draw_curves(self.history, self.out / "curves.png")
        sample_grid(load_runner(path), self.out / "grid.png", seeds=range(64))
        print(json.dumps(metrics.to_dict(), indent=2))

    def log(self, stage: int, losses: dict[str, float], seconds: float) -> None:
        if self.step % 50 == 0:
            self.history.append({"step": self.step, "stage": stage, **losses})
            values = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
            print(f"{seconds:7.0f} s  step {self.step:6d}  {STAGES[stage]}  {values}", flush=True)
        if self.step % 500 == 0 or self.step in self.stage_ends():
            self.save()


LOSSES = {
    "l1": "absolute error of the image",
    "loss": "whole regression loss",
    "w_error": "mean squared error of w",
    "d_loss": "discriminator",
    "g_loss": "generator",
}
"""What the curves are called in the plot."""


def draw_curves(history: list[dict[str, float]], path: Path) -> None:
    """Plot the losses of each stage on logarithmic axes."""
    with panels(path, len(STAGES)) as all_axes:
        for stage, (name, axes) in enumerate(zip(STAGES, all_axes, strict=True)):
            entries = [entry for entry in history if entry["stage"] == stage]
            losses = sorted({key for entry in entries for key in entry} - {"step", "stage"})
            names = {loss: LOSSES.get(loss, loss) for loss in losses}
            plot(axes, entries, names, title=f"{stage + 1}. {name}", log=True)


def main() -> None:
    """Train, or continue to train, the demo teacher."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Folder of the run. An interrupted run continues.")
    parser.add_argument("--minutes", type=float, help="Stop after this time; the same command continues later.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    done = Trainer(Recipe(), arguments.out).run(arguments.minutes)
    print("done" if done else "The time is up. Run the same command to continue.")


if __name__ == "__main__":
    main()
