"""A run on its way to the Hugging Face Hub, by its own client against a server on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.cli.app import app
from dcp_deploy.export import export_onnx, verify
from dcp_deploy.generators import Generator, GeneratorConfig
from tests.hub_server import COMMIT, TOKEN, HubServer

# huggingface_hub 2.4 uploads by a form of its HTTP client that is going to be removed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the part of a run directory that is published, and a teacher, which must not be."""
    folder = tmp_path_factory.mktemp("runs") / "faces"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = Generator(GeneratorConfig(8, (4,) * 4, z_dim=8, w_dim=8, mapping_layers=1)).eval()
    for name in ("student", "teacher"):
        save_generator(network, folder / f"{name}.safetensors", extra={"source": {"licence": "CC BY 4.0"}})
    export_onnx(network, folder / "student.onnx")
    checked = verify(network, folder / "student.onnx", latents=4).to_dict()
    described: dict[str, Any] = {
        "kind": "stylegan2", "resolution": 8, "widths": [4] * 4, "layers": [], "parameters": 1, "macs": 1,
    }  # fmt: skip
    record = {
        "schema": 1, "tool": {"name": "dcp-deploy", "version": "0"}, "status": "finished",
        "command": "dcp-deploy build", "teacher": {"path": "faces.pkl"},
        "config": {"dataset": "faces", "score": "diversity"},
        "networks": {"teacher": described, "student": described}, "stages": {},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "parity.json").write_text(json.dumps({"schema": 1, "passed": True, "pairs": {"student": checked}}))
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the server speaks the protocol that every Hub has
    yield server
    server.close()


def push(*words: object) -> Result:
    return CliRunner().invoke(app, ["push", *map(str, words)])


def test_a_run_arrives_whole_and_without_its_teacher(hub: HubServer, run: Path) -> None:
    ended = push(run, "hf://me/net", "--json")
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["commit"] == COMMIT
    assert set(hub.files) == {"README.md", "student.safetensors", "student.onnx", "parity.json"}
    for name in ("student.safetensors", "student.onnx"):
        assert hub.files[name] == (run / name).read_bytes()


def test_the_card_states_the_licence_to_people_and_programs(hub: HubServer, run: Path) -> None:
    assert push(run, "hf://me/net").exit_code == 0
    _, head, text = hub.files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "cc-by-4.0"
    assert "**Licence:** CC BY 4.0." in text and "# net" in text


@pytest.mark.parametrize(("flags", "private"), [((), True), (("--public",), False)])
def test_a_new_repository_is_private_unless_public(
    hub: HubServer, run: Path, flags: tuple[str, ...], private: bool
) -> None:
    assert push(run, "hf://me/net", *flags).exit_code == 0
    assert hub.private is private


def test_a_dry_run_lists_the_files_and_sends_nothing(hub: HubServer, run: Path) -> None:
    ended = push(run, "hf://me/net", "--dry-run")
    assert ended.exit_code == 0, ended.output
    assert "student.onnx" in ended.stdout and "CC BY 4.0" in ended.stdout
    assert hub.asked == []


def test_a_wrong_token_is_refused_and_named(hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    ended = push(run, "hf://me/net")
    assert ended.exit_code == 4, ended.output
    assert "HF_TOKEN" in ended.stderr and "Nothing was published." in ended.stderr
    assert hub.files == {}


def test_a_run_that_failed_the_parity_gate_is_not_published(hub: HubServer, run: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((run / "run.json").read_bytes())
    ended = push(tmp_path, "hf://me/net")
    assert ended.exit_code == 3
    assert "parity gate" in ended.stderr
    assert hub.asked == []
