"""An ONNX file as a Runner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import CorruptFileError, UsageError
from .runner import NOISE_INPUT, Array, Runner, feeds_of
from .sessions import open_session


def onnx_runner(path: Path, backend: str = "onnxruntime", threads: int | None = None) -> Runner:
    """Open an ONNX file as :func:`~.loading.load_runner` does. InputError names everything that is unlike our files."""
    session = open_session(path, backend, threads)
    others = [name for name in session.inputs if name == "ws" or name.startswith(NOISE_INPUT)]
    if others:
        raise UsageError(
            f"{path} has another form: it takes {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}",
            "Draw from codes (sample --codes, load_synthesis, load_form), or export with --inputs z and without "
            "--noise input.",
        )
    ranks = {"z": 2, "psi": 1, "c": 2}
    problems = [f"input {name!r} is missing" for name in ("psi", "z") if name not in session.inputs]
    for name, (kind, shape) in session.inputs.items():
        if name not in ranks:
            problems.append(f"input {name!r} is not known")
        elif kind != "tensor(float)" or len(shape) != ranks[name] or not all(isinstance(n, int) for n in shape[1:]):
            problems.append(f"input {name!r} is {kind} {shape}, not float with {ranks[name]} dimensions")
        elif session.batch is not None and shape[0] != session.batch:
            problems.append(f"input {name!r} has a batch of {shape[0]}, another one {session.batch}")
    size, image = session.image(problems)
    z_dim = session.inputs["z"][1][1]
    c_dim = session.inputs["c"][1][1] if "c" in session.inputs else 0

    def draw(z: Array, psi: Array, c: Array | None) -> Array:
        return session.draw(feeds_of(z, psi, c))

    # The other backends run a changed graph, whose layers are not those of the file.
    source = path if session.backend in ("onnxruntime", "onnxruntime-cuda") else None
    fixed = session.batch
    batch = batch_bounds(path, session.facts) if fixed is None else (fixed, fixed)
    return Runner(path.name, session.backend, z_dim, c_dim, size, image, draw, session.facts, batch, source)


def batch_bounds(path: Path, facts: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the smallest and largest batch in a file's metadata, None if it names none."""
    if "batch" not in facts:
        return None
    smallest, _, largest = facts["batch"].partition(",")
    if not (smallest.isdecimal() and largest.isdecimal() and 1 <= int(smallest) <= int(largest)):
        raise CorruptFileError(f"{path} is for batches of {facts['batch']!r}, which is not a range", "Export it again.")
    return int(smallest), int(largest)
