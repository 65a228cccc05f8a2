"""Run every ONNX file of a folder in this environment's ONNX Runtime: ``python runtimes_worker.py FOLDER OUT``.

Needs onnxruntime and numpy only. FOLDER holds NAME.onnx and NAME.npz with the inputs z, psi (and c); OUT gets NAME.npy
with the images, or NAME.txt with the reason why there are none. Without OUT it prints the names of files that it opens.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def session(file: Path) -> onnxruntime.InferenceSession:
    """Open a file, on one thread, so that the order of summation is the same everywhere."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def images(file: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the images of all rows, one call for each: another batch has another order of summation."""
    opened = session(file)
    rows = [{name: values[row : row + 1] for name, values in inputs.items()} for row in range(len(inputs["z"]))]
    return np.concatenate([opened.run(["image"], feeds)[0] for feeds in rows])


def run_all(folder: Path, out: Path) -> None:
    """Write the images of every file, or the reason why there are none."""
    for file in sorted(folder.glob("*.onnx")):
        inputs = dict(np.load(folder / f"{file.stem.partition('.')[0]}.npz"))
        try:
            np.save(out / f"{file.stem}.npy", images(file, inputs))
        except Exception as error:  # its exception types have no common base class
            (out / f"{file.stem}.txt").write_text(str(error), encoding="utf-8")


def opens(file: Path) -> bool:
    """Open a file in a process of its own: 1.14 crashed on one of the models of one node."""
    child = os.fork()
    if child == 0:
        try:
            session(file)
        except Exception:  # as above
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def main() -> None:
    """Print the version, and do the one or the other."""
    print(onnxruntime.__version__, flush=True)
    folder, *out = map(Path, sys.argv[1:])
    if out:
        run_all(folder, out[0])
    else:
        print("\n".join(file.stem for file in sorted(folder.glob("*.onnx")) if opens(file)))


if __name__ == "__main__":
    main()
