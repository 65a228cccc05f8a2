"""A training on photographs: its steps, records, state and result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import save_generator
from ..datasets.images import ImageSet
from ..errors import UsageError
from ..generators import Generator
from ..generators.latents import seeded
from ..metrics.efficientnet import EfficientNetFeatures, load_features
from ..metrics.photographs import evaluate_against, real_features
from .parts import follow, panels, plot, read_state, restore, save_state, set_mean_code
from .photo_objectives import objective_of
from .photo_recipe import Recipe

TEACHER = "photo_teacher.safetensors"
GRID_SEEDS = range(64)
SAVE_SECONDS = 300.0


class Trainer:
    """The networks, data and records of a run in the folder ``out``."""

    def __init__(self, recipe: Recipe, out: Path, images: ImageSet, *, device: str = "cpu") -> None:
        self.recipe, self.out, self.images, self.device = recipe, out, images, device
        config = recipe.generator(images.c_dim)
        with seeded(recipe.seed, "weights"):
            self.generator = Generator(config).to(device)
            self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.objective = objective_of(recipe, self.generator, images, device)
        self.ema = Generator(config).to(device)
        self.ema.load_state_dict(self.generator.state_dict())
        self.step = 0
        self.saved = time.monotonic()
        self.history: list[dict[str, float]] = []
        self.extractor: EfficientNetFeatures | None = None

    def run(self, minutes: float | None = None) -> bool:
        """Train until the recipe is done (return True) or the time is up (False)."""
        start, first = time.monotonic(), self.step
        while self.step < self.recipe.steps:
            values = self.objective.update(self.step)
            self.step += 1
            # At first the average reaches back over a twentieth of the images so far, as StyleGAN2's does.
            reach = min(self.recipe.average_images, 0.05 * self.step * self.recipe.batch)
            follow(self.ema, self.generator, 0.5 ** (self.recipe.batch / reach))
            self.record(values, (time.monotonic() - start) / (self.step - first))
            if minutes is not None and time.monotonic() - start > 60 * minutes:
                self.save()
                return False
        self.save()
        self.finish()
        return True

    def record(self, values: dict[str, float], seconds: float) -> None:
        """Note the losses, look at the images, each as often as the recipe says, and save the state every 5 minutes."""
        recipe = self.recipe
        if self.step % recipe.record_every == 0:
            self.history.append({"step": self.step, **values})
            shown = " ".join(f"{name} {value:.3f}" for name, value in values.items())
            print(f"step {self.step:6d}  {seconds:.2f} s a step  {shown}", flush=True)
        if self.step % recipe.look_every == 0:
            self.look()
        if time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def look(self) -> None:
        """Write a grid of the average's images, and note its distance to the real images."""
        self.draw_grid(self.out / "grids" / f"{self.step:06d}.png")
        figures = self.measure(self.recipe.look_samples, self.recipe.look_samples)
        self.history.append({"step": self.step, **{name: figures[name] for name in ("fid", "precision", "recall")}})
        print(f"step {self.step:6d}  FD-EfficientNet {figures['fid']:.1f}", flush=True)
        draw_curves(self.history, self.out / "curves.png")

    def draw_grid(self, path: Path) -> None:
        """Write the average's images of seeds 0 to 63."""
        from ..export.runners.loading import load_runner
        from ..export.runners.sampling import sample_grid

        sample_grid(load_runner(self.ema), path, seeds=GRID_SEEDS)

    def measure(self, samples: int, reals: int | None) -> dict[str, Any]:
        """Return the quality of the average in EfficientNet-Lite0's features."""
        if self.extractor is None:
            self.extractor = load_features(device=self.device)
        real = real_features(self.images, self.extractor, count=reals, cache=self.out / "features")
        labels = self.images.labels
        return evaluate_against(self.ema, real, self.extractor, samples=samples, labels=labels).to_dict()

    def stateful(self) -> dict[str, Any]:
        """Return everything with a state, by name."""
        return {"generator": self.generator, "ema": self.ema, **self.objective.stateful()}

    def save(self) -> None:
        """Write the state and the history."""
        self.saved = time.monotonic()
        facts = {"step": self.step, "history": self.history, "objective": self.objective.facts()}
        save_state(self.out, self.stateful(), {**facts, "recipe": asdict(self.recipe), "data": self.images.identity})

    def resume(self) -> None:
        """Load the saved state; the recipe may have other steps, as none depends on their number.

        Raises UsageError if it is of another recipe or of other images, or has made more steps than the recipe has.
        """
        state = read_state(self.out)
        assert state is not None
        if state["data"] != self.images.identity:
            raise UsageError(f"the training in {self.out} is of other images", "Give the same --data and --classes.")
        was: dict[str, Any] = state["recipe"]
        changed = [name for name, now in asdict(self.recipe).items() if name != "steps" and was.get(name) != now]
        if changed:
            values = ", ".join(f"{name} {was.get(name)}" for name in changed)
            raise UsageError(f"the training in {self.out} has another recipe: {values}", "Give the same options again.")
        if state["step"] > self.recipe.steps:
            made = state["step"]
            raise UsageError(f"the training in {self.out} has made {made} steps", f"Give --steps {made} or more.")
        try:
            restore(self.stateful(), state)
        except (KeyError, ValueError, RuntimeError) as error:  # such as a class-conditional one
            raise UsageError(
                f"the training in {self.out} has networks of other shapes", "Give the same options again."
            ) from error
        self.step, self.history = state["step"], state["history"]
        self.objective.restore(state["objective"])

    def finish(self) -> None:
        """Measure the teacher and write it with its recipe and quality."""
        set_mean_code(self.ema, self.recipe.seed)
        metrics = self.measure(self.recipe.evaluation_samples, None)
        extra = {
            "trained by": "python -m dcp_deploy.training.photo_teacher",
            "recipe": asdict(self.recipe),
            "data": self.images.facts(),
            "metrics": metrics,
        }
        save_generator(self.ema, self.out / TEACHER, extra=extra)
        self.draw_grid(self.out / "grid.png")
        draw_curves(self.history, self.out / "curves.png")
        shown = " ".join(f"{name} {metrics[name]:.3f}" for name in ("precision", "recall", "density", "coverage"))
        print(f"FD-EfficientNet {metrics['fid']:.2f}  {shown}")


def draw_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """Plot losses, augmentation and the distance to the real images."""
    loss_names = {"d_loss": "discriminator", "g_loss": "generator", "l1": "absolute error"}
    kept = {name: label for name, label in loss_names.items() if any(name in entry for entry in history)}
    with panels(path, 3) as (losses, augmentation, distance):
        plot(losses, history, kept, title="losses")
        plot(augmentation, history, {"augment": "p of a change", "sign": "sign of D(real)"}, title="augmentation")
        plot(distance, history, {"fid": "FD-EfficientNet"}, title="distance to the photographs", log=True)
