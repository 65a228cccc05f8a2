"""From a run directory or one ONNX file to a bundle, by the command line."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import numpy as np
import pytest
import torch
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dcp_deploy.checkpoints import Checkpoint, loading, save_generator
from dcp_deploy.checkpoints.directions import Direction, save_directions
from dcp_deploy.checkpoints.native import read_native
from dcp_deploy.cli.app import app
from dcp_deploy.errors import CorruptFileError, DcpDeployError, MissingCapabilityError
from dcp_deploy.evaluation.inspection import inspect_file
from dcp_deploy.export import build_engine, export_onnx, latents_of, load_runner, verify
from dcp_deploy.export.bundle import sizing
from dcp_deploy.export.integrity import check_bundle
from dcp_deploy.export.tensorrt.engine import Engine
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.shipping.contents import contents_of

WITHOUT_TENSORRT = importlib.util.find_spec("tensorrt_rtx") is None
needs_tensorrt = pytest.mark.skipif(WITHOUT_TENSORRT, reason="TensorRT for RTX is not installed")


def dcp(*words: object) -> tuple[int, str, str]:
    """Run ``dcp("bundle", path)`` in this process; return exit code, stdout and stderr."""
    arguments, out, err = [str(word) for word in words], io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dcp-deploy", *arguments])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            app(arguments, prog_name="dcp-deploy")
    return int(end.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module", autouse=True)
def short_sizing() -> Iterator[None]:
    """Measure only briefly how many copies of a model a CPU runs best."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizing, "SECONDS", 0.05)
        yield


def small_generator(widths: int) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(widths)
        generator = Generator(GeneratorConfig(8, (widths,) * 4, z_dim=8, w_dim=8, mapping_layers=1)).eval()
        for _, torgb in generator.synthesis.torgbs():
            torgb.weight.data.mul_(0.2)
    return generator.requires_grad_(False)


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write what ``build`` writes, without the training: two networks, their exports, and the records."""
    folder = tmp_path_factory.mktemp("runs") / "faces"
    pairs = {}
    for name, widths in (("teacher", 8), ("student", 4)):
        network = small_generator(widths)
        save_generator(network, folder / f"{name}.safetensors", extra={"source": {"licence": "CC BY 4.0"}})
        export_onnx(network, folder / f"{name}.onnx")
        pairs[name] = verify(network, folder / f"{name}.onnx", latents=4).to_dict()
    networks = {
        name: {"kind": "stylegan2", "resolution": 8, "widths": [widths] * 4, "layers": [], "parameters": 1, "macs": 1}
        for name, widths in (("teacher", 8), ("student", 4))
    }
    record: dict[str, Any] = {
        "schema": 1, "tool": {"name": "dcp-deploy", "version": "0"}, "status": "finished",
        "command": "dcp-deploy build", "teacher": {"path": "faces.pkl"},
        "config": {"dataset": "faces", "score": "diversity"},
        "networks": networks, "stages": {"engine": {"status": "skipped", "reason": "no TensorRT"}},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "parity.json").write_text(json.dumps({"schema": 1, "passed": True, "pairs": pairs}))
    return folder


def test_each_checkpoint_of_a_run_is_read_once(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def reader(path: Path) -> Checkpoint:
        read.append(Path(path).name)
        return read_native(path)

    monkeypatch.setattr(loading, "read_native", reader)
    contents_of(run_directory, teacher=True)
    assert sorted(read) == ["student.safetensors", "teacher.safetensors"]


@pytest.fixture(scope="module")
def full(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Bundle everything that can be shipped, by the command; return the bundle, not to be altered, and the answer.

    The plan is a copy of the engine: only a GPU could build a plan of TensorRT, and only Triton reads it.
    """
    folder = tmp_path_factory.mktemp("full")
    engines: list[Path] = []
    if not WITHOUT_TENSORRT:
        engines = [folder / "s.engine", folder / "plan.engine"]
        built = build_engine(run_directory / "student.onnx", engines[0], target="sm89", batch=(1, 2, 8))
        shutil.copy(*engines)
        write_plan_manifest(built, folder / "plan.json")
    smile, pose = Direction(torch.eye(8)[0], (0, 3), 1.5), Direction(torch.eye(8)[1:3], (1, 2), 0.5)
    directions = save_directions({"smile": smile, "pose": pose}, folder / "d.safetensors")
    options = ("--teacher", "--synthesis", "--directions", directions, *(f"--engine={engine}" for engine in engines))
    code, out, err = dcp("bundle", run_directory, "--out", folder / "bundle", *options, "--json")
    assert code == 0, err
    return folder / "bundle", json.loads(out)


def write_plan_manifest(built: Engine, path: Path) -> None:
    """Describe an engine as a plan of TensorRT for another GPU."""
    plan = {**built.manifest, "flavour": "tensorrt", "targets": ["sm90"], "flavour_version": "10.16.1"}
    path.write_text(json.dumps(plan))


def test_a_run_becomes_a_bundle_with_teacher_and_provenance(
    full: tuple[Path, dict[str, Any]], run_directory: Path
) -> None:
    bundle, document = full
    assert set(document["models"]) == {"generator", "teacher", "synthesis", "mapping", "editor"}
    assert document["models"]["synthesis"]["inputs"] == {"ws": [4, 8]}
    assert sorted(path.name for path in (bundle / "golden").iterdir()) == ["generator", "teacher"]
    assert document["models"]["generator"]["parity"]["max_steps"] <= 1
    assert document["sizing"]["best"]["images_per_second"] > 0
    provenance = json.loads((bundle / "manifest.json").read_text())["provenance"]
    assert provenance["licence"] == "CC BY 4.0" and provenance["teacher"]["path"] == "faces.pkl"
    assert provenance["command"].startswith("dcp-deploy bundle")
    card = (bundle / "MODEL_CARD.md").read_text()
    assert all(
        line in card for line in ("**Licence:** CC BY 4.0.", "| quality | not measured", "| speedup | not measured |")
    )
    assert (bundle / "provenance" / "run.json").read_bytes() == (run_directory / "run.json").read_bytes()
    code, out, _ = dcp("bundle", "verify", bundle)
    assert code == 0 and document["sha256"] in out


@needs_tensorrt
def test_one_flipped_byte_in_any_file_of_a_full_bundle_is_refused_by_name(
    full: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(full[0], tmp_path / "copy"))
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    assert {path.suffix for path in files} >= {".engine", ".plan", ".onnx", ".png", ".safetensors", ".pbtxt", ".yaml"}
    for index, path in enumerate(files):
        before = path.read_bytes()
        place = (7919 * index + len(before) // 2) % len(before)
        path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
        for reader in (check_bundle, load_runner):
            with pytest.raises(CorruptFileError, match=re.escape(path.relative_to(copy).as_posix())):
                reader(copy)
        path.write_bytes(before)
    check_bundle(copy)


@needs_tensorrt
def test_triton_and_kubernetes_accept_every_configuration_and_manifest_of_a_full_bundle(
    full: tuple[Path, dict[str, Any]],
) -> None:
    bundle, _ = full
    configurations = sorted(bundle.rglob("*.pbtxt"))
    models = {"generator", "teacher", "synthesis", "mapping", "editor"}
    assert {path.parents[0].name for path in configurations if path.name == "config.pbtxt"} == {*models, "picture"}
    assert len(configurations) == 2 * len(models) + 2  # for each the Python variant, plans for one, and the pictures
    for path in configurations:
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        assert config.name in path.parts and config.max_batch_size == 8
    manifests = sorted((bundle / "kubernetes").iterdir())
    assert len(manifests) == 5
    for path in manifests:
        for document in yaml.safe_load_all(path.read_text()):
            if not document["apiVersion"].startswith("serving.kserve.io"):  # see tests/export/bundle/test_kubernetes.py
                kubernetes_validate.validate(document, "1.30", strict=True)


@needs_tensorrt
def test_every_model_and_engine_of_a_full_bundle_loads_or_names_what_it_needs(
    full: tuple[Path, dict[str, Any]],
) -> None:
    from dcp_deploy.export.runners.bundle import bundle_runner

    bundle, latent = full[0], latents_of([0], 8)
    for model in ("generator", "teacher"):
        assert bundle_runner(bundle, "auto", 1, model)(z=latent).shape == (1, 8, 8, 3)
    for model, needed in (("synthesis", "ws"), ("mapping", "image"), ("editor", "ws")):
        with pytest.raises(DcpDeployError, match=needed):
            bundle_runner(bundle, "auto", 1, model)
    (engine,) = (bundle / "engines").glob("*.engine")
    if torch.cuda.is_available():
        pytest.skip("tests/export/runners/test_engine.py runs engines")
    with pytest.raises(MissingCapabilityError, match="GPU"):
        load_runner(engine)


def test_the_readme_and_manifest_of_a_full_bundle_name_its_edits_and_pictures(
    full: tuple[Path, dict[str, Any]],
) -> None:
    bundle, _ = full
    text = (bundle / "README.md").read_text()
    assert '{"smile": 1.5}' in text and "| `smile` | 0 to 3 | 1.5 |" in text and "--model-repository=/pictures" in text
    assert json.loads((bundle / "manifest.json").read_text())["directions"] == {
        "smile": {"layers": [0, 3], "sigma": 1.5},
        "pose": {"layers": [1, 2], "sigma": 0.5},
    }


def test_directions_of_another_generator_are_refused(run_directory: Path, tmp_path: Path) -> None:
    file = save_directions({"smile": Direction(torch.eye(9)[0], (0, 3), 1.5)}, tmp_path / "d.safetensors")
    code, _, err = dcp("bundle", run_directory, "-o", tmp_path / "b", "--directions", file)
    assert code == 3 and "'smile' has 9 numbers" in err and not (tmp_path / "b").exists()
    code, _, err = dcp("bundle", run_directory / "student.onnx", "-o", tmp_path / "b", "--directions", file)
    assert code == 2 and "no extra models" in err
    np.save(tmp_path / "age.npy", np.ones((1, 8), np.float32))
    code, _, err = dcp("bundle", run_directory, "-o", tmp_path / "b", "--directions", tmp_path / "age.npy")
    assert code == 3 and "--import" in err and not (tmp_path / "b").exists()


def test_an_onnx_file_becomes_an_archive(run_directory: Path, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar.zst"
    assert dcp("bundle", run_directory / "student.onnx", "-o", archive, "--name", "Faces, small")[0] == 0
    assert dcp("bundle", "verify", archive)[0] == 0
    facts = inspect_file(archive)
    assert (facts["format"], facts["name"]) == ("bundle", "Faces, small")
    assert {"kind", "resolution", "widths", "parameters", "macs", "sha256"} <= set(facts)


def test_an_earlier_bundle_is_replaced_and_nothing_else(run_directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    for _ in range(2):
        assert dcp("bundle", run_directory / "student.onnx", "-o", out)[0] == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    code, _, err = dcp("bundle", run_directory / "student.onnx", "-o", tmp_path / "mine")
    assert code == 2 and "other things in it" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "b.toml", "mine"]


def test_an_altered_bundle_ends_with_3_and_the_file_s_name(run_directory: Path, tmp_path: Path) -> None:
    dcp("bundle", run_directory / "student.onnx", "-o", tmp_path / "b")
    with (tmp_path / "b" / "models" / "generator" / "1" / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    code, _, err = dcp("bundle", "verify", tmp_path / "b")
    assert code == 3 and "models/generator/1/model.onnx" in err


def test_an_export_that_generates_other_images_is_not_bundled(run_directory: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_directory, tmp_path / "run"))
    save_generator(small_generator(5), run / "student.safetensors")
    code, _, err = dcp("bundle", run, "-o", tmp_path / "b")
    assert code == 5 and "differ" in err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_that_did_not_pass_its_gate_is_not_bundled(run_directory: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_directory, tmp_path / "run"))
    (run / "parity.json").write_text('{"schema": 1, "passed": false, "pairs": {}}')
    assert dcp("bundle", run, "-o", tmp_path / "b")[0] == 3


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["bundle", "nothing", "-o", "b"], 3, "nothing"),
        (["bundle", "{run}/student.onnx"], 2, "--out"),
        (["bundle", "{run}/student.onnx", "-o", "b", "--teacher"], 2, "no teacher"),
        (["bundle", "{run}/student.safetensors", "-o", "b"], 3, "student.safetensors"),
        (["bundle", "{run}/student.onnx", "-o", "b", "--max-batch", "0"], 2, "largest batch is 0"),
        (["bundle", "verify"], 2, "Missing argument"),
        (["bundle", "verify", "{run}"], 3, "a run directory of build"),
        (["serve", "{run}", "--port", "65535"], 2, "65535"),
        (["serve", "{run}", "--server", "{run}"], 2, "neither a tritonserver"),
        (["verify", "{run}", "http://127.0.0.1:9"], 3, "a run directory of build"),
        (["verify", "http://127.0.0.1:9", "grpc://127.0.0.1:9"], 2, "two servers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_command_that_cannot_work_ends_with_its_exit_code(
    run_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DCP_DEPLOY_TRITON", raising=False)
    ended, out, err = dcp(*(word.format(run=run_directory) for word in words))
    assert (ended, out) == (code, "")
    assert named in err


@needs_tensorrt
def test_engines_are_bundled_with_their_manifests(run_directory: Path, tmp_path: Path) -> None:
    engine = tmp_path / "s.engine"
    build_engine(run_directory / "student.onnx", engine, target="sm89", batch=(1, 4, 4))
    code, _, err = dcp("bundle", run_directory / "student.onnx", "-o", tmp_path / "b", "--engine", engine)
    assert code == 2 and "--max-batch 4" in err
    assert (
        dcp("bundle", run_directory / "student.onnx", "-o", tmp_path / "b", "--engine", engine, "--max-batch", 4)[0]
        == 0
    )
    assert (tmp_path / "b" / "engines" / "s.engine").read_bytes() == engine.read_bytes()
    assert "--target sm89" in (tmp_path / "b" / "README.md").read_text()
    code, _, err = dcp(
        "bundle", run_directory / "teacher.onnx", "-o", tmp_path / "c", "--engine", engine, "--max-batch", 4
    )
    assert code == 6 and "onnx_sha256" in err


@needs_tensorrt
def test_a_plan_of_tensorrt_goes_into_the_model_repository(full: tuple[Path, dict[str, Any]]) -> None:
    bundle, _ = full
    place = bundle / "models" / "generator"
    assert (place / "1" / "model_sm90.plan").read_bytes() == (bundle.parent / "plan.engine").read_bytes()
    config = text_format.Parse((place / "configs" / "tensorrt.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert dict(config.cc_model_filenames) == {"9.0": "model_sm90.plan"}
    assert list(config.dynamic_batching.preferred_batch_size) == [
        2,
        8,
    ]  # the optimal batch of the engine, and the largest
    assert "--model-config-name=tensorrt" in (bundle / "kubernetes" / "kserve-gpu.yaml").read_text()
    assert load_runner(bundle).image_size == (8, 8)
