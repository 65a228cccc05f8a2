"""The command in this process, and small models as its input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from typer.main import get_command

from dcp_deploy import schemas
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.cli.app import app
from dcp_deploy.generators import Generator, GeneratorConfig

PROGRAM: Any = get_command(app)  # 40 ms of work each time
VERBS: tuple[str, ...] = tuple(PROGRAM.commands)


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document


Command = Callable[..., Ended]
FEW_SAMPLES = 24


@pytest.fixture
def dcp(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run the command in this process, in an empty working directory: ``dcp("inspect", path)``.

    What it prints with --json is checked against the published schema of the verb.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DCP_DEPLOY_DEBUG", raising=False)

    def run(*words: object) -> Ended:
        arguments = [str(word) for word in words]
        monkeypatch.setattr(sys, "argv", ["dcp-deploy", *arguments])
        with pytest.raises(SystemExit) as end:
            PROGRAM(arguments, prog_name="dcp-deploy")
        out, err = capfd.readouterr()
        called = next((name for name in (" ".join(arguments[:2]), arguments[0]) if name in VERBS), None)
        if "--json" in arguments and called is not None:
            Draft202012Validator(schemas.published(called)).validate(json.loads(out))
        return Ended(int(end.value.code or 0), out, err)

    return run


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let eval accept a few samples and portraits. Its figures mean nothing then, but are computed."""
    measuring = import_module("dcp_deploy.metrics.evaluate")  # the package has a function of that name
    for name in ("MIN_SAMPLES", "REFERENCE_SAMPLES"):
        monkeypatch.setattr(measuring, name, FEW_SAMPLES)
    # A cache of its own, so that the features of few portraits and of all are not mixed up.
    monkeypatch.setattr(measuring, "_reference", cache(measuring._reference.__wrapped__))
    return FEW_SAMPLES


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a 16 px teacher, ``t.safetensors``, and its export ``t.onnx``."""
    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        generator = Generator(GeneratorConfig(16, (8,) * 6, z_dim=8, w_dim=8, mapping_layers=2)).eval()
        for _, torgb in generator.synthesis.torgbs():
            torgb.weight.data.mul_(0.2)  # colours within range, as the parity gate needs them
    save_generator(generator, folder / "t.safetensors")
    with pytest.raises(SystemExit) as end:  # takes seconds, so once for all tests, by the verb itself
        PROGRAM(["export", str(folder / "t.safetensors"), "--out", str(folder / "t.onnx"), "--quiet"])
    assert not end.value.code
    return folder
