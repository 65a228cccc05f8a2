"""What a generator of photographs is trained for: to deceive an adversary, or to reproduce images from codes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..compression.distillation.real_images import real_batch
from ..datasets.images import ImageSet
from ..generators import Generator
from ..generators.latents import draw_latents, stream
from ..metrics.efficientnet import load_efficientnet
from ..metrics.features import images_to_tensor
from .parts import step
from .photo_adversaries import BETAS, Adversary, ProjectedAdversary, StyleGAN2Adversary
from .photo_augmentation import Augmentation, augment, draw_changes
from .photo_recipe import Recipe

CODE_RATE = 1e-2  # learning rate of the codes: they start as N(0, 1)


class Objective(Protocol):
    """What the trainer needs of an objective."""

    def update(self, number: int) -> dict[str, float]:
        """Update the generator, and what trains with it, in step ``number``; return the losses by name."""

    def stateful(self) -> dict[str, Any]:
        """Return everything with a ``state_dict`` but the generator, by name."""

    def facts(self) -> dict[str, Any]:
        """Return the rest of the state, plain values, as :meth:`restore` takes it."""

    def restore(self, facts: dict[str, Any]) -> None: ...


class Adversarial:
    """Generated images are to be taken for real ones. The recipe chooses the adversary."""

    def __init__(self, recipe: Recipe, generator: Generator, images: ImageSet, device: str) -> None:
        self.recipe, self.generator, self.images, self.device = recipe, generator, images, device
        self.adversary = _adversary(recipe, generator, device)
        self.optimizer = torch.optim.Adam(generator.parameters(), lr=recipe.lr, betas=BETAS)
        self.augmentation = Augmentation()

    def update(self, number: int) -> dict[str, float]:
        recipe = self.recipe
        real, real_c = real_batch(
            self.images,
            number * recipe.batch,
            recipe.batch,
            seed=recipe.seed,
            resolution=recipe.resolution,
            mirror=True,
        )
        z, c = draw_latents(self.generator.config, recipe.batch, self.stream(number, "latents"), self.device)
        generated = self.augmented(self.generate(z, c, number), "generated", number)
        shown = self.augmented(real.to(self.device), "real", number)
        labelled = (shown, None if real_c is None else real_c.to(self.device))
        loss, values = self.adversary.step(labelled, (generated, c), number)
        step(self.optimizer, loss)
        p = self.augmentation.p
        target, pace = recipe.augment_target, recipe.augment_images
        self.augmentation.adapt(values["sign"], target=target, batch=recipe.batch, images=pace)
        return {"g_loss": loss.item(), **values, "augment": p}

    def generate(self, z: Tensor, c: Tensor | None, number: int) -> Tensor:
        """Return images [B, 3, H, W] with new noise."""
        ws, noise = self.generator.mapping(z, c), self.stream(number, "noise")
        features = self.generator.synthesis.features
        return features(ws, noise="random", generator=noise, dtype=self.recipe.dtype)[0]

    def augmented(self, images: Tensor, name: str, number: int) -> Tensor:
        """Return the images as the discriminator sees them."""
        sources = [self.stream(number, "augment", name, place) for place in range(len(images))]
        return augment(images, draw_changes(self.augmentation.p, (images.shape[2], images.shape[3]), sources))

    def stream(self, number: int, *names: str | int) -> torch.Generator:
        """Return the random numbers of one purpose in step ``number``."""
        return stream(self.recipe.seed, number, *names)

    def stateful(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer,
            "discriminator": self.adversary.network,
            "discriminator_optimizer": self.adversary.optimizer,
        }

    def facts(self) -> dict[str, Any]:
        return asdict(self.augmentation)

    def restore(self, facts: dict[str, Any]) -> None:
        self.augmentation = Augmentation(**facts)


class Regression:
    """Every image has a code z, which is trained with the generator to reproduce it.

    Bojanowski et al. 2018, "Optimizing the Latent Space of Generative Networks" (GLO), with absolute and squared errors
    of pixels. The codes start as N(0, I), and the mapping network reads their direction only, so new latents of
    N(0, I) look like codes to it. It is the baseline that an adversarial training has to beat: its images are blurred.
    """

    def __init__(self, recipe: Recipe, generator: Generator, images: ImageSet, device: str) -> None:
        self.recipe, self.generator, self.images, self.device = recipe, generator, images, device
        self.codes = nn.Embedding(len(images), recipe.z_dim, sparse=True).to(device)
        self.optimizer = torch.optim.Adam(generator.parameters(), lr=recipe.lr, betas=(0.9, 0.99))
        self.code_optimizer = torch.optim.SparseAdam(list(self.codes.parameters()), lr=CODE_RATE)

    def update(self, number: int) -> dict[str, float]:
        source = stream(self.recipe.seed, number, "images")
        places = torch.randint(len(self.images), (self.recipe.batch,), generator=source)
        images = np.stack([sample.image for sample in self.images.samples(places.tolist())])
        wanted = images_to_tensor(images).to(self.device)
        labels, c = self.images.labels, None
        if labels is not None:
            c = torch.from_numpy(labels.vectors(places.numpy(), labels.c_dim)).to(self.device)
        ws = self.generator.mapping(self.codes(places.to(self.device)), c)
        error = self.generator.synthesis(ws, noise="none") - wanted
        l1 = error.abs().mean()
        self.code_optimizer.zero_grad()
        step(self.optimizer, l1 + error.square().mean())
        self.code_optimizer.step()  # type: ignore[no-untyped-call]
        return {"l1": l1.item()}

    def stateful(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, "codes": self.codes, "code_optimizer": self.code_optimizer}

    def facts(self) -> dict[str, Any]:
        return {}

    def restore(self, facts: dict[str, Any]) -> None:
        """Nothing to do: all state is in :meth:`stateful`."""


def objective_of(recipe: Recipe, generator: Generator, images: ImageSet, device: str) -> Objective:
    """Return the objective of the recipe. Its new weights are drawn from torch's global random state."""
    kind = Regression if recipe.objective == "regression" else Adversarial
    return kind(recipe, generator, images, device)


def _adversary(recipe: Recipe, generator: Generator, device: str) -> Adversary:
    if recipe.objective == "stylegan2":
        return StyleGAN2Adversary(
            generator.config, r1_gamma=recipe.r1_gamma, lr=recipe.lr, dtype=recipe.dtype, device=device
        )
    features, c_dim = load_efficientnet(device=device), generator.config.c_dim
    return ProjectedAdversary(features, size=recipe.feature_size, c_dim=c_dim, lr=recipe.lr)
