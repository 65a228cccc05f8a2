"""Run every ONNX file of a folder in this environment's ONNX Runtime: ``python runtimes_worker.py FOLDER OUT``.

Needs onnxruntime and numpy only. FOLDER holds NAME.onnx and NAME.npz with the inputs z, psi (and c); OUT gets NAME.npy
with the images, or NAME.txt with the reason why there are none.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime


def images(file: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the images of all rows, one call for each: another batch has another order of summation."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    rows = [{name: values[row : row + 1] for name, values in inputs.items()} for row in range(len(inputs["z"]))]
    return np.concatenate([session.run(["image"], feeds)[0] for feeds in rows])


def main() -> None:
    """Run them all, and report the version and what it reads on standard output."""
    folder, out = map(Path, sys.argv[1:3])
    for file in sorted(folder.glob("*.onnx")):
        inputs = dict(np.load(folder / f"{file.stem.partition('.')[0]}.npz"))
        try:
            np.save(out / f"{file.stem}.npy", images(file, inputs))
        except Exception as error:  # its exception types have no common base class
            (out / f"{file.stem}.txt").write_text(str(error), encoding="utf-8")
    print(onnxruntime.__version__)


if __name__ == "__main__":
    main()
