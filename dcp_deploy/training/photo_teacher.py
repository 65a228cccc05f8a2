"""A teacher of photographs: ``python -m dcp_deploy.training.photo_teacher --data cifar10-32.zip --out DIR``.

A small StyleGAN2 is trained adversarially from scratch, with a moving average and adaptive augmentation. On a CPU its
adversary classifies pretrained features (a projected discriminator), which needs far fewer steps. With
``--device cuda`` batches are larger and the adversary is StyleGAN2's own discriminator with R1.

Every step draws its random numbers from (seed, step), and the state is saved every few minutes, so ``--resume`` ends
with the same weights as a run that was never stopped. ``history.json``, ``curves.png`` and ``grids/`` follow the
training. The last step writes the average generator as ``photo_teacher.safetensors``, with recipe and measured
quality in the metadata. ``--regression`` fits the same generator without an adversary, as a baseline.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..datasets.decoding import Resize
from ..datasets.images import ImageSet, open_images
from ..devices import torch_device
from ..errors import DcpDeployError, UsageError
from .parts import STATE
from .photo_recipe import Recipe
from .photo_subset import subset
from .photo_training import Trainer

SUBSET = "photographs.zip"


def open_photographs(
    data: Path, out: Path, classes: Sequence[str] | None, *, labelled: bool, size: int, resize: Resize = "error"
) -> ImageSet:
    """Open the images to train on; with ``classes``, a copy of those in ``out``. Raises UsageError without labels that
    are needed, and what opening a set raises."""
    if classes:
        subset(data, classes, out / SUBSET)
        data = out / SUBSET
    images = open_images(data, resolution=size, resize=resize, c_dim=None if labelled else 0)
    if labelled and images.labels is None:
        raise UsageError(f"{data} has no labels", "Leave --class-conditional out.")
    return images


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, or continue to train, a teacher of photographs."""
    try:
        run(parse(arguments))
    except DcpDeployError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line. Ends with exit code 2 for unknown or missing options."""
    parser = argparse.ArgumentParser(
        prog="python -m dcp_deploy.training.photo_teacher", description=main.__doc__, allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, required=True, help="Photographs of 32 px: a folder, a zip file, an LMDB.")
    parser.add_argument("--resize", choices=("error", "crop"), default="error", help="Crop: scale larger ones down.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the run.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--classes", nargs="+", metavar="NAME", help="Train on the images in these folders only.")
    choice.add_argument("--class-conditional", action="store_true", help="Teach the generator the data's classes.")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the recipe of a GPU.")
    parser.add_argument("--regression", action="store_true", help="Fit the generator by regression: the baseline.")
    parser.add_argument("--steps", type=int, help="Steps, instead of the recipe's.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="Continue the run in --out.")
    parser.add_argument("--minutes", type=float, help="Stop after this time; --resume continues later.")
    return parser.parse_args(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for. Raises UsageError for a folder with another run or numbers out of range."""
    out: Path = arguments.out
    if arguments.steps is not None and arguments.steps < 1:
        raise UsageError(f"--steps is {arguments.steps}", "Give 1 or more.")
    if arguments.minutes is not None and not arguments.minutes > 0:
        raise UsageError(f"--minutes is {arguments.minutes:g}", "Give a number above 0.")
    if (out / STATE).exists() and not arguments.resume:
        raise UsageError(f"{out} holds a training", "Add --resume to continue it, or choose another --out.")
    if arguments.resume and not (out / STATE).exists():
        raise UsageError(f"{out} holds no training to continue", "Start one without --resume.")
    device = torch_device(arguments.device)
    recipe = replace(Recipe() if device == "cpu" else Recipe.for_gpu(), seed=arguments.seed)
    if arguments.regression:
        recipe = replace(recipe, objective="regression")
    if arguments.steps is not None:
        recipe = replace(recipe, steps=arguments.steps)
    images = open_photographs(
        arguments.data,
        out,
        arguments.classes,
        labelled=arguments.class_conditional,
        size=recipe.resolution,
        resize=arguments.resize,
    )
    trainer = Trainer(recipe, out, images, device=device)
    if arguments.resume:
        trainer.resume()
    done = trainer.run(arguments.minutes)
    print("done" if done else "The time is up. Add --resume to continue.")


if __name__ == "__main__":
    main()
