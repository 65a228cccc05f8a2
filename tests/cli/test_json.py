"""What the verbs print with --json, checked against the published schemas."""

from __future__ import annotations

import ast
import dataclasses
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from dcp_deploy import schemas
from dcp_deploy.checkpoints import architectures, save_generator
from dcp_deploy.errors import DcpDeployError
from dcp_deploy.export.bundle import sizing
from dcp_deploy.export.parity.gate import ParityReport
from dcp_deploy.export.serving.server import find_program
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.pipeline import builder
from dcp_deploy.schemas.measuring import Parity
from dcp_deploy.schemas.networks import CheckpointFormat
from dcp_deploy.schemas.timing import BenchRow

from .conftest import VERBS, Command

TRITON = Path(__file__).parents[2] / ".venv-triton"  # made by make test
STUDENT = ("--score", "random", "--align", 1, "-o", "p.safetensors")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, models: Path) -> Path:
    """Link the small models into the working directory, and measure less of what the tests do not look at."""
    monkeypatch.setattr(sizing, "SECONDS", 0.05)
    for file in models.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_published_schema_that_is_what_its_models_say(verb: str) -> None:
    schema = schemas.published(verb)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema == schemas.generate(verb), "write it again: python -m dcp_deploy.schemas"


def test_a_document_requires_the_fields_of_its_result_class() -> None:
    fields = {field.name for field in dataclasses.fields(ParityReport)} - {"worst_images"}
    assert set(Parity.model_fields) == fields | {"passed"}
    assert all(field.is_required() for field in Parity.model_fields.values())
    assert Parity.model_fields["a"].description == "The reference: name, backend, image."  # the document's own
    assert "a plain callable" in str(BenchRow.model_fields["labels"].description)
    assert "baseline" in str(BenchRow.model_fields["speedup"].description)  # the docstring in the result class


def test_every_format_that_a_reader_returns_is_in_the_schema() -> None:
    """By the second argument of Checkpoint in the readers; state dicts have the layouts of their names there."""
    returned = set(architectures._SIGNATURES.values())
    for module in Path(architectures.__file__).parent.glob("*.py"):
        for call in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Checkpoint":
                written = call.args[1]
                if isinstance(written, ast.Constant):
                    returned.add(str(written.value))
                else:
                    assert ast.unparse(written) == "state.layout"
    assert returned == set(get_args(CheckpointFormat))


def test_only_verbs_have_schemas() -> None:
    assert set(schemas.MODELS) == set(VERBS)


# The tests in the other files of this folder cover the other answers: ``dcp`` checks each against its schema.
@pytest.mark.parametrize(
    "words",
    [
        ("build", "--dry-run", "--dataset", "ffhq"),
        ("convert", "t.safetensors", "-o", "c.safetensors"),
        ("convert", "t.safetensors", "-o", "c.pt", "--to", "rosinality"),
        ("score", "t.safetensors", "-o", "s.safetensors", "--latents", 4, "--directions", 2, "--batch", 2),
        ("score", "t.safetensors", "-o", "s.safetensors", "--method", "random"),
        ("prune", "t.safetensors", *STUDENT),
        ("schema",),
        ("schema", "inspect"),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
@pytest.mark.usefixtures("small")
def test_an_answer_fits_its_schema(dcp: Command, words: tuple[object, ...]) -> None:
    ended = dcp(*words, "--json")
    assert ended.code == 0, ended.err
    assert "error" not in ended.json


@pytest.mark.usefixtures("small")
def test_the_answers_about_a_bundle_fit(dcp: Command) -> None:
    assert dcp("bundle", "t.onnx", "-o", "b", "--json").json["path"] == "b"
    assert dcp("bundle", "verify", "b", "--json").json["file_count"] > 10
    assert dcp("inspect", "b", "--json").json["format"] == "bundle"


def test_the_answer_of_eval_fits(dcp: Command, few_samples: int) -> None:
    save_generator(Generator(GeneratorConfig(64, (4,) * 10, z_dim=8, w_dim=8, mapping_layers=2)), "g.safetensors")
    assert dcp("eval", "g.safetensors", "--samples", few_samples, "--json").json["samples"] == few_samples


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_answers_about_a_server_fit(dcp: Command) -> None:
    try:
        find_program(TRITON)
    except DcpDeployError as error:
        pytest.skip(f"no Triton server on this machine: {error.message}")
    dcp("bundle", "t.onnx", "-o", "b")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dcp_deploy", "serve", "b", "--server", str(TRITON), "--json", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            document = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
            Draft202012Validator(schemas.published("serve")).validate(document)
            ended = dcp("verify", "b", document["http"], "--clients", 2, "--requests", 4, "--json")
            assert ended.json["load"]["failed"] == 0
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


# ---- errors ----


@pytest.mark.parametrize("verb", VERBS)
def test_a_parser_error_is_reported_on_stdout_and_stderr(dcp: Command, verb: str) -> None:
    ended = dcp(*verb.split(), "--no-such-flag", "--json")
    error = ended.json["error"]
    assert ended.code == error["exit_code"] == 2
    assert "--no-such-flag" in error["message"] and f"dcp-deploy {verb} --help" in error["remedy"]
    assert "--no-such-flag" in ended.err


def test_an_unknown_verb_is_reported_as_json(dcp: Command) -> None:
    ended = dcp("biuld", "--json")
    assert ended.code == 2 and "'biuld'" in json.loads(ended.out)["error"]["message"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("build", "--dataset", "nope"), 2),
        (("inspect", "gone.pkl"), 3),
        (("build", "--config", "gone.toml"), 3),
        (("doctor", "--config", "gone.toml"), 3),
    ],
    ids=str,
)
def test_an_error_is_one_document_with_the_words_of_stderr(dcp: Command, words: tuple[str, ...], code: int) -> None:
    ended = dcp(*words, "--json")
    error = ended.json["error"]
    assert ended.code == error["exit_code"] == code
    assert ended.err == f"error: {error['message']}\n{error['remedy']}\n"


@pytest.mark.usefixtures("small")
def test_a_gate_that_fails_leaves_its_figures_on_stdout_and_the_reason_on_stderr(dcp: Command) -> None:
    words = ("verify", "t.safetensors", "t.onnx", "--latents", 2, "--psi", 1, "--json")
    assert dcp(*words).json["passed"] is True
    dcp("prune", "t.safetensors", *STUDENT)
    failed = dcp("verify", "t.safetensors", "p.safetensors", *words[3:])
    assert failed.code == 5 and "differ" in failed.err
    assert failed.json["passed"] is False


def test_an_interrupt_is_reported_as_json(dcp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "build", interrupted)
    assert dcp("build", "--json").json["error"]["exit_code"] == 130


# ---- the schemas ----


def test_schema_prints_what_is_published(dcp: Command) -> None:
    assert json.loads(dcp("schema", "verify").out) == schemas.published("verify")
    assert dcp("schema").out.splitlines() == list(VERBS)
    ended = dcp("schema", "verfy")
    assert ended.code == 2 and "'verfy'" in ended.err


def test_an_undescribed_field_is_not_printed() -> None:
    facts = {"path": "a.png", "backend": "torch", "settings": "a.png.toml", "images": 4}
    assert json.loads(schemas.checked("sample", facts)) == {"schema": 1, **facts}
    with pytest.raises(ValidationError, match="mood"):
        schemas.checked("sample", {**facts, "mood": "good"})
    with pytest.raises(ValidationError, match="backend"):
        schemas.checked("sample", {**facts, "backend": 7})


def test_the_schema_accepts_fields_of_later_versions() -> None:
    facts = {"path": "a.png", "backend": "torch", "settings": "a.png.toml", "images": 4}
    document = {"schema": 1, **facts, "later": True}
    Draft202012Validator(schemas.published("sample")).validate(document)
    with pytest.raises(Exception, match="not valid"):
        Draft202012Validator(schemas.published("sample")).validate({**document, "schema": 2})


@pytest.mark.parametrize("words", ["schema verify", "bench compare a.json a.json --json"])
def test_verbs_without_networks_do_not_import_torch(words: str, tmp_path: Path) -> None:
    run = {"schema": 1, "batch": 1, "rows": [{"name": "student", "samples_ms": [10.0] * 20}]}
    (tmp_path / "a.json").write_text(json.dumps(run))
    script = (
        "import sys; from dcp_deploy.cli.app import app\n"
        f"try: app({words.split()})\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
