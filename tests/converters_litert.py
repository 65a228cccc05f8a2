"""Run a LiteRT file on inputs: ``python converters_litert.py FILE INPUTS OUT``, with ai-edge-litert and numpy only.

INPUTS is an .npz file with z, psi (and c), OUT becomes an .npy file with the images [N, 3, H, W].
"""

from __future__ import annotations

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def images(file: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the images of all rows, one call for each."""
    interpreter = Interpreter(file)
    interpreter.allocate_tensors()
    (result,) = interpreter.get_output_details()
    drawn = []
    for row in range(len(inputs["z"])):
        for place in interpreter.get_input_details():
            name = place["name"].removeprefix("serving_default_").partition(":")[0]
            value = inputs[name][row : row + 1].astype(np.float32)
            interpreter.set_tensor(place["index"], value.reshape(place["shape"]))
        interpreter.invoke()
        image = interpreter.get_tensor(result["index"])
        drawn.append(image if image.shape[1] == 3 else image.transpose(0, 3, 1, 2))
    return np.concatenate(drawn)


if __name__ == "__main__":
    file, inputs, out = sys.argv[1:]
    np.save(out, images(file, dict(np.load(inputs))))
