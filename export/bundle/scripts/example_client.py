"""Get one image from a served generator: python client.py SEED [HOST:PORT] [OUT.png]

Needs: pip install 'tritonclient[http]' pillow
"""

from __future__ import annotations

import sys

import numpy as np
import tritonclient.http as triton
from PIL import Image


def draw(client: triton.InferenceServerClient, seeds: list[int], psi: float, model: str = "generator") -> np.ndarray:
    """Return the images of some seeds, uint8 [B, H, W, 3]. InferenceServerException if the server refuses them."""
    sizes = {entry["name"]: entry["shape"][1] for entry in client.get_model_metadata(model)["inputs"]}
    values = {
        "z": np.stack([np.random.RandomState(seed).randn(sizes["z"]) for seed in seeds]),
        "psi": np.full((len(seeds), 1), psi),
    }
    if "c" in sizes:  # class-conditional: class = seed modulo the number of classes
        values["c"] = np.eye(sizes["c"])[np.array(seeds) % sizes["c"]]
    inputs = []
    for name, value in values.items():
        tensor = triton.InferInput(name, list(value.shape), "FP32")
        tensor.set_data_from_numpy(value.astype(np.float32))  # binary: a tenth of the size of JSON
        inputs.append(tensor)
    images: np.ndarray = client.infer(model, inputs).as_numpy("image")
    return images


if __name__ == "__main__":
    seed, address, out = [*sys.argv[1:], *["0", "127.0.0.1:8000", "image.png"][len(sys.argv) - 1 :]]
    Image.fromarray(draw(triton.InferenceServerClient(address), [int(seed)], psi=0.7)[0]).save(out)
    print(out)
