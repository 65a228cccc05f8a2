"""The whole way: build a student, bundle it with directions, serve it on Triton, and send requests as clients do.

The teacher is tiny. docs/tour.md, which tests/cli/test_tour.py runs, builds and bundles the demo.
"""

from __future__ import annotations

import base64
import io
import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
import tritonclient.grpc
import tritonclient.http
from PIL import Image

from dcp_deploy import config as config_module
from dcp_deploy.checkpoints import load_generator, save_generator
from dcp_deploy.checkpoints.directions import Direction, read_directions, save_directions
from dcp_deploy.config import BuildConfig, Effort
from dcp_deploy.export import latents_of, load_runner, verify
from dcp_deploy.export.bundle import sizing
from dcp_deploy.export.bundle.writer import read_golden, write_bundle
from dcp_deploy.export.serving.endpoint_check import check_endpoint
from dcp_deploy.export.serving.server import Program, Server, running_server
from dcp_deploy.pipeline import builder
from dcp_deploy.shipping.contents import contents_of

from ..conftest import kill_triton, random_generator

TINY = Effort(
    score_latents=4, score_directions=2, refine_latents=4, evaluation_samples=500, parity_latents=2, bench_rounds=3,
    bench_seconds=0.1,
)  # fmt: skip
# The stages that make the files of a bundle; tests/pipeline/test_build.py runs the others too.
NEEDED = ("teacher", "score", "prune", "distill", "export", "engine", "verify")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ``build`` on a 16 px teacher, with the least of everything, through its parity gate."""
    folder = tmp_path_factory.mktemp("run")
    network = random_generator((12,) * 6, z_dim=8)
    for _, torgb in network.synthesis.torgbs():
        torgb.weight.data.mul_(0.2)  # so that the images do not leave [-1, 1]
    teacher = save_generator(network, folder / "teacher.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config_module.EFFORTS, "quick", TINY)
        patch.setattr(builder, "STAGES", tuple(stage for stage in builder.STAGES if stage.name in NEEDED))
        config = BuildConfig(dataset="ffhq", teacher=teacher, out=folder / "tiny", steps=1, device="cpu")
        run = builder.build(config)
    statuses = {name: stage.status for name, stage in run.record.stages.items()}
    assert statuses.pop("engine") in ("done", "skipped")  # without TensorRT-RTX there is none
    assert set(statuses.values()) == {"done"}
    return run.directory


@dataclass(frozen=True)
class Served:
    bundle: Path
    run: Path
    server: Server


@pytest.fixture(scope="module")
def served(
    run_directory: Path,
    triton: Program,
    free_ports: Callable[[], tuple[int, int, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """The run as a bundle with two directions, on a running server."""
    scratch = tmp_path_factory.mktemp("serving")
    axes = torch.eye(load_generator(run_directory / "student.safetensors").config.w_dim)
    directions = {"first": Direction(axes[0], (0, 3), 1.0), "second": Direction(axes[1], (2, 5), 2.0)}
    file = save_directions(directions, scratch / "d.safetensors")
    bundle = scratch / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizing, "SECONDS", 0.05)
        write_bundle(contents_of(run_directory, directions=file, scratch=scratch), bundle)
    with running_server(bundle, triton, ports=free_ports(), log=scratch / "log") as server:
        yield Served(bundle, run_directory, server)
        kill_triton(server)


@pytest.mark.parametrize("way", ["http binary", "http json", "grpc"])
def test_a_built_and_bundled_student_answers_with_its_golden_images(served: Served, way: str) -> None:
    golden, kept = read_golden(served.bundle, "generator")
    address = f"grpc://{served.server.grpc}" if way == "grpc" else served.server.http
    report = check_endpoint(address, golden, kept, clients=4, requests=24, binary=way != "http json")
    report.raise_for_failure()
    assert report.load is not None and report.load.failed == 0


def test_the_golden_images_are_those_of_the_trained_student(served: Served) -> None:
    golden, kept = read_golden(served.bundle, "generator")
    student = load_runner(served.run / "student.safetensors")
    verify(golden, student, **kept).raise_for_failure()
    verify(golden, load_runner(served.bundle), **kept).raise_for_failure()


def picture(server: Server, **values: Any) -> np.ndarray:
    kinds = {"seed": "INT64", "psi": "FP32", "edits": "BYTES"}
    inputs = [
        {"name": name, "shape": [1, 1], "datatype": kinds[name], "data": [value]} for name, value in values.items()
    ]
    request = urllib.request.Request(f"{server.http}/v2/models/picture/infer", json.dumps({"inputs": inputs}).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = json.load(answer)["outputs"][0]["data"][0]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)


def test_a_seed_gives_the_golden_picture(served: Served) -> None:
    expected = np.asarray(Image.open(served.bundle / "golden" / "generator" / "seed3_psi0.7.png")).astype(int)
    assert np.abs(picture(served.server, seed=3, psi=0.7) - expected).max() <= 1


def edited(served: Served, strengths: dict[str, float], seed: int, psi: float) -> np.ndarray:
    """Return the trained network's image for ws moved along the bundle's directions, [1, R, R, 3] as integers."""
    generator = load_generator(served.run / "student.safetensors")
    directions = read_directions(served.bundle / "directions" / "directions.safetensors")
    with torch.inference_mode():
        ws = generator.mapping(torch.from_numpy(latents_of([seed], generator.config.z_dim)), psi=psi)
        for name, strength in strengths.items():
            ws = directions[name].move(ws, strength)
        image = generator.synthesis(ws)
    return (image * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy().astype(int)


def test_an_edit_by_name_moves_the_picture_as_the_network_does(served: Served) -> None:
    strengths = {"second": -1.5, "first": 0.5}
    found = picture(served.server, seed=5, psi=0.7, edits=json.dumps(strengths))
    assert np.abs(found - edited(served, strengths, 5, 0.7)[0]).max() <= 1
    assert np.abs(found - picture(served.server, seed=5, psi=0.7)).max() > 1
    unedited = picture(served.server, seed=5, psi=0.7, edits="{}")
    assert np.array_equal(unedited, picture(served.server, seed=5, psi=0.7, edits='{"first": 0}'))


@pytest.mark.parametrize(
    "edits",
    ['{"third": 1}', '{"first": "1"}', '{"first": NaN}', '{"first": 1e9}', "[]", "{", "[" * 5000, '{"first": true}'],
)
def test_an_invalid_edit_is_refused(served: Served, edits: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        picture(served.server, seed=5, edits=edits)
    assert error.value.code == 400
    assert "direction" in (answer := error.value.read().decode()) or "edits" in answer
    error.value.close()


@pytest.mark.parametrize("module", [tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
def test_a_client_can_reuse_ws_with_other_strengths(served: Served, module: Any) -> None:
    def ask(client: Any, model: str, output: str, **feeds: np.ndarray) -> np.ndarray:
        inputs = []
        for name, values in feeds.items():
            inputs.append(module.InferInput(name, list(values.shape), "FP32"))
            inputs[-1].set_data_from_numpy(values.astype(np.float32))
        found: np.ndarray = client.infer(model, inputs).as_numpy(output)
        return found

    address = served.server.grpc if module is tritonclient.grpc else urlsplit(served.server.http).netloc
    names = list(json.loads((served.bundle / "manifest.json").read_text())["directions"])
    with module.InferenceServerClient(address) as client:
        z = latents_of([8], load_runner(served.bundle).z_dim)
        ws = ask(client, "mapping", "ws", z=z, psi=np.full((1, 1), 0.7))
        for strengths in ({"first": 1.0, "second": 0.0}, {"first": 0.0, "second": -1.0}):
            values = np.array([[strengths[name] for name in names]])
            image = ask(client, "editor", "image", ws=ws, strengths=values)
            assert np.abs(image.astype(int) - edited(served, strengths, 8, 0.7)).max() <= 1
