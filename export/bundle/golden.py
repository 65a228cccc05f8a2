"""Golden images: the images of fixed seeds, kept with a generator so that anyone can check a copy of it later.

A golden set is a folder of PNG files, which are lossless, and ``golden.json``, which names the generator they are from.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CorruptFileError, UsageError
from ...files import read_json, write_bytes, write_json
from ...sizes import pixels
from ..integrity import safe_name
from ..runners.runner import Array, Runner, latents_of
from ..runners.sampling import draw

SEEDS = 4
PSIS = (0.7, 1.0)


def write_golden(
    runner: Runner, folder: Path, *, seeds: int = SEEDS, psis: Sequence[float] = PSIS, precision: str = "fp32"
) -> dict[str, Any]:
    """Generate seeds 0, 1, ... at every psi and keep the images, truncated to 8 bits. Returns ``golden.json``.

    ``precision`` is the one of the model that will be compared with them; it sets the tolerance of the parity gate.
    """
    from PIL import Image

    images = []
    for psi in psis:
        for seed, image in enumerate(draw(runner, range(seeds), psi=psi)):
            name = f"seed{seed}_psi{psi:g}.png"
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, format="PNG")
            write_bytes(folder / name, stream.getbuffer())
            images.append({"seed": seed, "psi": psi, "file": name})
    document = {
        "schema": 1,
        "drawn_by": {"name": runner.name, "backend": runner.backend},
        "latents": "numpy.random.RandomState(seed).randn(z_dim), as float32; class: seed modulo c_dim",
        "precision": precision,
        "z_dim": runner.z_dim,
        "c_dim": runner.c_dim,
        "image_size": list(runner.image_size),
        "seeds": seeds,
        "psis": list(psis),
        "images": images,
    }
    write_json(folder / "golden.json", document)
    return document


def read_golden_images(folder: Path) -> tuple[Runner, dict[str, Any]]:
    """Make a Runner of the kept images. It returns them for their own seeds and psis, and no others.

    Also returns the arguments with which :func:`~..parity.gate.verify` compares exactly the kept images. Raises
    CorruptFileError if a file is missing or does not match ``golden.json``. The Runner raises UsageError for any other
    latent or psi.
    """
    from PIL import Image

    try:
        document = read_json(folder / "golden.json")
        size, kept = _image_size(document), {}
        for entry in document["images"]:
            image = np.asarray(Image.open(folder / safe_name(entry["file"])))
            if image.shape != (*size, 3) or image.dtype != np.uint8:
                raise ValueError(f"{entry['file']} is not an RGB image of {pixels(size)}")
            kept[_key(latents_of([entry["seed"]], document["z_dim"])[0], entry["psi"])] = image
        name = f"{document['seeds']} golden seeds of {document['drawn_by']['name']}"
        facts = {"precision": str(document["precision"])}
        sizes = int(document["z_dim"]), int(document["c_dim"]), size
        compared = {"latents": document["seeds"], "psis": tuple(document["psis"]), "seed": 0}
    except Exception as error:  # a document in any form, and what Pillow raises for damaged images
        raise CorruptFileError(f"{folder} holds no valid golden images: {error}", "Make the bundle again.") from error

    def look_up(z: Array, psi: Array, c: Array | None) -> Array:
        keys = [_key(row, value) for row, value in zip(z, psi, strict=True)]
        if any(key not in kept for key in keys):
            raise UsageError(f"only {name} were kept, at psi {document['psis']}", "Compare those.")
        return np.stack([kept[key] for key in keys])

    return Runner(name, "golden", *sizes, "uint8", look_up, facts=facts), compared


def _image_size(document: dict[str, Any]) -> tuple[int, int]:
    """Return (height, width). Releases before rectangular images wrote the side of a square as ``resolution``."""
    side = document.get("resolution")
    height, width = document["image_size"] if side is None else (side, side)
    return int(height), int(width)


def _key(z: Array, psi: float) -> bytes:
    return np.append(z, np.float32(psi)).astype(np.float32).tobytes()
