"""What a health check compares: the request for one golden image, and some values of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...files import write_json
from ..runners.runner import classes_of, feeds_of, latents_of
from .golden import PSIS, read_golden_images

PROBE = "probe.json"
PLACES = 512  # values of the image that are compared, spread over all of it


def write_probe(golden: Path, shape: Sequence[int]) -> None:
    """Write ``probe.json`` beside the golden images, for :mod:`.scripts.probe`.

    ``shape`` is that of one served image: [H, W, 3] of uint8, or [3, H, W] of float32.
    """
    runner, _ = read_golden_images(golden)
    z, c, psi = latents_of([0], runner.z_dim), classes_of([0], runner.c_dim), PSIS[0]
    drawn = runner(z=z, psi=psi, c=c)[0]
    flat = (drawn if tuple(shape) == drawn.shape else drawn.transpose(2, 0, 1)).ravel()
    places = np.unique(np.linspace(0, flat.size - 1, PLACES).astype(int))
    feeds = feeds_of(z, np.array([[psi]], np.float32), c)
    inputs = [
        {"name": name, "shape": list(values.shape), "datatype": "FP32", "data": values.ravel().tolist()}
        for name, values in feeds.items()
    ]
    outputs = [{"name": "image", "parameters": {"binary_data": True}}]
    write_json(
        golden / PROBE,
        {
            "schema": 1,
            "request": {"inputs": inputs, "outputs": outputs},
            "places": places.tolist(),
            "values": flat[places].tolist(),
        },
    )
