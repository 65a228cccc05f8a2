"""Golden images: what a generator draws for fixed seeds, kept with it, so that anyone can check a copy of it later.

A golden set is a folder of PNG files, which lose nothing, and ``golden.json``, which says whose images they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CorruptFileError, UsageError
from ...files import atomic_path, read_json, write_json
from ..parity.pictures import to_bytes
from ..runners.runner import Array, Runner, classes_of, latents_of

SEEDS = 4
PSIS = (0.7, 1.0)


def write_golden(
    runner: Runner, folder: Path, *, seeds: int = SEEDS, psis: Sequence[float] = PSIS, precision: str = "fp32"
) -> dict[str, Any]:
    """Draw seeds 0, 1, ... at every psi and keep the images, truncated to 8 bits. Returns ``golden.json``.

    ``precision`` is that of what will be compared with them: it decides how far apart the parity gate lets the two be.
    """
    from PIL import Image

    numbers = list(range(seeds))
    images = []
    for psi in psis:
        drawn = runner(z=latents_of(numbers, runner.z_dim), psi=psi, c=classes_of(numbers, runner.c_dim))
        for seed, image in zip(numbers, as_bytes(drawn, runner.image), strict=True):
            name = f"seed{seed}_psi{psi:g}.png"
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(folder / name) as temporary:
                Image.fromarray(image).save(temporary, format="PNG")
            images.append({"seed": seed, "psi": psi, "file": name})
    document = {
        "schema": 1,
        "drawn_by": {"name": runner.name, "backend": runner.backend},
        "latents": "numpy.random.RandomState(seed).randn(z_dim), as float32; class: seed modulo c_dim",
        "precision": precision,
        "z_dim": runner.z_dim,
        "c_dim": runner.c_dim,
        "resolution": runner.resolution,
        "seeds": seeds,
        "psis": list(psis),
        "images": images,
    }
    write_json(folder / "golden.json", document)
    return document


def golden_runner(folder: Path) -> Runner:
    """The kept images as one side of a comparison: it draws its own seeds at its own psis, and nothing else.

    CorruptFileError when a file is missing or not what ``golden.json`` says; UsageError for a latent that was not kept.
    """
    from PIL import Image

    try:
        told = read_json(folder / "golden.json")
        kept = {}
        for entry in told["images"]:
            image = np.asarray(Image.open(folder / entry["file"]))
            if image.shape != (told["resolution"], told["resolution"], 3) or image.dtype != np.uint8:
                raise ValueError(f"{entry['file']} is no RGB image of {told['resolution']} px")
            kept[_key(latents_of([entry["seed"]], told["z_dim"])[0], entry["psi"])] = image
        name = f"{told['seeds']} golden seeds of {told['drawn_by']['name']}"
        facts = {"precision": str(told["precision"])}
        sizes = int(told["z_dim"]), int(told["c_dim"]), int(told["resolution"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"{folder} holds no golden images: {error}", "make the bundle again") from error

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        keys = [_key(row, value) for row, value in zip(z, psi, strict=True)]
        if any(key not in kept for key in keys):
            raise UsageError(f"only {name} were kept, at psi {told['psis']}", "compare those")
        return np.stack([kept[key] for key in keys])

    return Runner(name, "golden", *sizes, "uint8", draw, facts=facts)


def golden_range(folder: Path) -> dict[str, Any]:
    """The arguments with which :func:`~.parity.verify` compares exactly what was kept."""
    told = read_json(folder / "golden.json")
    return {"latents": told["seeds"], "psis": tuple(told["psis"]), "seed": 0}


def as_bytes(images: Array, form: str) -> Array:
    """uint8 [B, R, R, 3] of what a runner drew; float images by the formula of the uint8 output."""
    if form == "uint8":
        return images
    pixels: Array = to_bytes(images, form).transpose(0, 2, 3, 1)
    return pixels


def _key(z: Array, psi: float) -> bytes:
    return np.append(z, np.float32(psi)).astype(np.float32).tobytes()
