"""How a verb ends: exit codes and messages."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dcp_deploy import errors
from dcp_deploy.cli.verb import machine_limit
from dcp_deploy.pipeline import builder

from .conftest import Command


def fail_build_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def build(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(builder, "build", build)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("m", "r"), 2),
        (errors.CorruptFileError("m", "r"), 3),
        (errors.MissingCapabilityError("m", "r"), 4),
        (errors.ParityError("m", "r"), 5),
        (errors.StaleArtifactError("m", "r"), 6),
        (errors.DcpDeployError("m", "r"), 1),
        (OSError(errno.ENOSPC, "m"), 4),
        (OSError(errno.EDQUOT, "m"), 4),
        (RuntimeError("m: No space left on device (os error 28)"), 4),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("m"), 1),
        (OSError(errno.EACCES, "m"), 4),
        (OSError(errno.EFBIG, "m"), 4),
        (RuntimeError("m: File too large (os error 27)"), 4),
        (MemoryError(), 4),
    ],
    ids=repr,
)
def test_every_error_has_its_exit_code_and_no_traceback(
    dcp: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    fail_build_with(monkeypatch, error)
    ended = dcp("build")
    assert ended.code == code
    assert ended.err.startswith("error: ") and "Traceback" not in ended.err
    assert ended.out == ""


def test_an_interrupted_build_says_how_to_continue(dcp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_build_with(monkeypatch, KeyboardInterrupt())
    assert "Run the same command again to resume." in dcp("build").err
    assert "Run the same command again without --force to resume." in dcp("build", "--force").err


@pytest.mark.parametrize(
    "error", [errors.UsageError("m"), errors.InputError("m"), errors.CorruptFileError("m")], ids=repr
)
def test_an_error_without_a_remedy_gets_the_usual_one(
    dcp: Command, monkeypatch: pytest.MonkeyPatch, error: errors.DcpDeployError
) -> None:
    fail_build_with(monkeypatch, error)
    message, remedy = dcp("build").err.splitlines()
    assert message == "error: m"
    assert remedy == (error.usual_remedy or "See dcp-deploy build --help.")


def test_an_unwritable_place_is_reported_before_the_work(dcp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_build_with(monkeypatch, AssertionError("the work began"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root, as tests may run, may write anywhere
    ended = dcp("build", "-o", "runs/a")
    assert ended.code == 2 and "cannot be written to" in ended.err


def test_debug_shows_the_traceback(dcp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCP_DEPLOY_DEBUG", "0")  # so that what the flag sets is undone after the test
    fail_build_with(monkeypatch, ZeroDivisionError("here"))
    assert "Traceback" in dcp("build", "--debug").err


def test_with_json_an_error_is_a_document_too(dcp: Command) -> None:
    ended = dcp("build", "--dataset", "nope", "--json")
    assert ended.code == 2
    assert ended.json["schema"] == 1
    assert ended.json["error"]["exit_code"] == 2 and "'nope'" in ended.json["error"]["message"]


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["build", "--dataset", "nope"], 2, "'nope'"),
        (["build", "--dataset", "fhq"], 2, "Did you mean ffhq?"),
        (["build", "--ratio", "1.2"], 2, "--ratio 1.2"),
        (["build", "--precision", "fp8"], 2, "--precision fp8"),
        (["build", "--refine", "polish"], 2, "--refine polish"),
        (["build", "--data", "photos"], 3, "photos does not exist"),
        (["build", "--require", "fdi<2"], 2, "Did you mean fid?"),
        (["build", "--require", "fid"], 2, "not a comparison"),
        (["build", "--mirror"], 2, "--mirror"),
        (["build", "--dataset", "ffhq"], 4, "--teacher FILE"),
        (["build", "--teacher", "gone.st"], 3, "gone.st"),
        (["build", "--teacher", "empty.st"], 3, "empty"),
        (["build", "--ration", "0.7"], 2, "--ration"),
        (["biuld"], 2, "biuld"),
        (["inspect"], 2, "file"),
        (["inspect", "gone.st"], 3, "gone.st"),
        (["inspect", "empty.st"], 3, "empty"),
        (["convert", "text.st", "-o", "x.safetensors"], 3, "text.st"),
        (["convert", "text.st", "-o", "x.pt"], 2, "x.pt"),
        (["prune", "text.st", "--scores", "a", "--score", "random", "-o", "x.safetensors"], 2, "--scores and --score"),
        (["sample", "text.st", "--seeds", "a-b"], 2, "--seeds 'a-b'"),
        (["sample", "text.st"], 3, "text.st"),
        (["sample", "text.st", "-o", "text.st/a.png"], 2, "text.st is a file, not a folder"),
        (["sample", "text.st", "-o", "."], 2, "--out . is a folder"),
        (["verify", "text.st", "text.st", "--worst", "text.st/a.png"], 2, "--worst text.st/a.png"),
        (["bench", "text.st", "--plot", "text.st/a.svg"], 2, "--plot text.st/a.svg"),
        (["bench", "text.st", "--markdown", "."], 2, "--markdown . is a folder"),
        (["project", "a.png", "--model", "text.st", "-o", "text.st"], 2, "--out text.st is a file"),
        (["build", "-o", "text.st"], 2, "--out text.st is a file"),
        (["build", "--dry-run", "--target", "sm99"], 2, "'sm99'"),
        (["convert", ".", "-o", "x.safetensors"], 3, "a folder, not a file"),
        (["doctor", "--config", "."], 3, "Is a directory"),
        (["doctor", "--config", "text.st"], 3, "not valid TOML"),
        (["distill", "text.st", "--teacher", "text.st", "-o", "x.safetensors", "--steps", "0"], 2, "distill --help"),
        (["datasets", "demoo"], 2, "Did you mean demo?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
@pytest.mark.usefixtures("offline")
def test_a_mistake_is_one_message_that_names_it_and_writes_nothing(
    dcp: Command, tmp_path: Path, words: list[str], code: int, named: str
) -> None:
    (tmp_path / "empty.st").touch()
    (tmp_path / "text.st").write_text("not a model at all")
    ended = dcp(*words)
    assert ended.code == code
    assert named in ended.err and "Traceback" not in ended.err
    assert len(ended.err.splitlines()) >= 2  # what is wrong, and what to do about it
    assert {path.name for path in tmp_path.iterdir()} == {"empty.st", "text.st"}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, ""), "no space left on the disk"),
        (OSError(errno.EFBIG, ""), "larger than this machine allows"),
        (OSError(errno.ENOENT, ""), "the operating system refused it"),
        (MemoryError(), "too little memory"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space left on the disk"),
        (RuntimeError("no space"), None),
    ],
    ids=repr,
)
def test_what_the_machine_refuses_is_recognised_by_number_or_words(error: Exception, words: str | None) -> None:
    found = machine_limit(error)
    assert found is None if words is None else found is not None and words in found[0]


def test_a_full_disk_is_recognised_behind_a_librarys_own_error() -> None:
    wrapped = ValueError("writing failed")
    wrapped.__cause__ = OSError(errno.ENOSPC, "")
    assert machine_limit(wrapped) is not None


def test_a_refused_write_reaches_the_user_as_a_full_disk(
    dcp: Command, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    ended = dcp("sample", models / "t.safetensors", "-o", "a.png", "--seeds", "0")
    assert ended.code == 4 and "no space left" in ended.err
    assert not list(Path().iterdir())
