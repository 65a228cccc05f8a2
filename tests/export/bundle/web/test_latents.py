"""The page's latents are numpy's, bit for bit: run in Node.js, the engine of Chromium."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dcp_deploy.export import latents_of
from dcp_deploy.export.bundle.web import writer

LATENTS = Path(writer.__file__).with_name("latents.js")
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")


def in_node(expression: str, folder: Path) -> NDArray[np.float32]:
    """Return the float32 numbers of an expression with the functions of latents.js."""
    module = folder / "latents.mjs"
    shutil.copyfile(LATENTS, module)
    script = f"""
        import {{ latentOf, between }} from {json.dumps(module.as_uri())};
        const rows = {expression};
        for (const row of rows) process.stdout.write(Buffer.from(Float32Array.from(row).buffer));
    """
    done = subprocess.run([str(NODE), "--input-type=module", "-e", script], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, np.float32)


@needs_node
@pytest.mark.parametrize("size", [1, 7, 64, 512])
def test_latents_are_those_of_numpy(size: int, tmp_path: Path) -> None:
    seeds = [*range(300), 2**31 - 1, 2**31, 2**32 - 1]
    found = in_node(f"{seeds}.map((seed) => latentOf(seed, {size}))", tmp_path)
    assert np.array_equal(found.reshape(len(seeds), size), latents_of(seeds, size))


@needs_node
def test_an_arc_keeps_the_length_and_ends_at_both_latents(tmp_path: Path) -> None:
    arc = in_node(
        "[0, 0.25, 0.5, 1].map((share) => between(latentOf(1, 64), latentOf(2, 64), share))", tmp_path
    ).reshape(4, 64)
    first, second = latents_of([1, 2], 64)
    np.testing.assert_allclose(arc[[0, 3]], [first, second], atol=1e-6)
    lengths, ends = np.linalg.norm(arc, axis=1), np.linalg.norm([first, second], axis=1)
    assert (lengths > 0.95 * ends.min()).all() and (lengths < 1.05 * ends.max()).all()


@needs_node
def test_an_arc_from_a_latent_to_itself_stays_there(tmp_path: Path) -> None:
    assert np.array_equal(in_node("[between(latentOf(3, 8), latentOf(3, 8), 0.4)]", tmp_path), latents_of([3], 8)[0])
