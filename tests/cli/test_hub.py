"""Files from the Hugging Face Hub and runs to it, by its own client against a server on this machine."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from dcp_deploy.cli import verb as verbs
from dcp_deploy.config import BuildConfig
from dcp_deploy.errors import UsageError
from dcp_deploy.pipeline.inputs import fetch_teacher
from dcp_deploy.progress import Reporter
from dcp_deploy.teachers.hub import HubAddress, parse_address, parse_repository
from tests.hub_server import COMMIT, TOKEN, HubServer

Command = Callable[..., Any]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Path) -> Iterator[HubServer]:
    server = HubServer()
    server.files["nets/t.safetensors"] = (models / "t.safetensors").read_bytes()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.close()


@pytest.mark.parametrize("place", ["hf://me/net@v1/nets/t.safetensors", Path("hf://me/net@v1/nets/t.safetensors")])
def test_an_address_names_repository_revision_and_file(place: object) -> None:
    address = parse_address(place)
    assert address == HubAddress("me/net", "v1", "nets/t.safetensors")
    assert str(address) == "hf://me/net@v1/nets/t.safetensors"


@pytest.mark.parametrize("place", ["hf://me", "hf://me/net", "hf://me/net/", "hf://me/net/../x", "hf://me/net@/x", "x"])
def test_another_text_is_not_the_address_of_a_file(place: str) -> None:
    with pytest.raises(UsageError, match="not the address of a file"):
        parse_address(place)


def test_a_repository_to_push_to_has_no_file() -> None:
    assert parse_repository("hf://me/net").repository == "me/net"
    with pytest.raises(UsageError, match="not the address of a repository"):
        parse_repository("hf://me/net/student.onnx")


def test_a_verb_reads_a_checkpoint_from_the_hub(hub: HubServer, dcp: Command) -> None:
    ended = dcp("inspect", "hf://me/net/nets/t.safetensors", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["kind"] == "stylegan2"
    assert "licence: cc-by-nc-4.0" in ended.err


def test_a_flag_reads_one_at_a_revision(hub: HubServer, dcp: Command, models: Path) -> None:
    ended = dcp("verify", models / "t.onnx", "hf://me/net@v1/nets/t.safetensors")
    assert ended.code == 0, ended.err
    assert any("/resolve/v1/" in one for one in hub.asked)


def test_build_records_address_commit_and_licence_of_its_teacher(hub: HubServer) -> None:
    config = BuildConfig(teacher=Path("hf://me/net/nets/t.safetensors"))
    origin = fetch_teacher(config, Reporter()).origin
    assert (origin["url"], origin["commit"]) == ("hf://me/net/nets/t.safetensors", COMMIT)
    assert (origin["origin"], origin["licence"]) == ("hub", "cc-by-nc-4.0")


def test_a_dry_run_of_build_fetches_nothing(hub: HubServer, dcp: Command) -> None:
    ended = dcp("build", "--teacher", "hf://me/net/nets/t.safetensors", "--dry-run", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["fetch"]["url"] == "hf://me/net/nets/t.safetensors"
    assert hub.asked == []


def test_a_file_fetched_before_is_used_when_the_hub_is_away(hub: HubServer, dcp: Command) -> None:
    assert dcp("inspect", "hf://me/net/nets/t.safetensors").code == 0
    hub.refusal = (503, "", "maintenance")
    ended = dcp("inspect", "hf://me/net/nets/t.safetensors")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("place", "refusal", "words"),
    [
        ("hf://me/net/missing.pt", None, "no such file"),
        ("hf://me/net@v9/nets/t.safetensors", None, "no such revision"),
        ("hf://me/net/nets/t.safetensors", (401, "GatedRepo", "ask the owner"), "is gated"),
        ("hf://me/net/nets/t.safetensors", (401, "RepoNotFound", "no"), "does not exist, or it is private"),
        ("hf://me/net/nets/t.safetensors", (404, "RepoNotFound", "no"), "does not exist, or it is private"),
    ],
)
def test_what_the_hub_does_not_give_is_missing(
    hub: HubServer, dcp: Command, place: str, refusal: tuple[int, str, str] | None, words: str
) -> None:
    hub.refusal = refusal
    ended = dcp("inspect", place)
    assert ended.code == 4
    assert words in ended.err and place in ended.err
    assert "by hand" in ended.err


def test_without_a_network_the_error_says_so(hub: HubServer, dcp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits 23 s between its attempts
    ended = dcp("inspect", "hf://me/net/nets/t.safetensors")
    assert ended.code == 4
    assert "cannot be reached" in ended.err


def test_without_the_client_the_error_names_the_extra(
    hub: HubServer, dcp: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "huggingface_hub" else found(name, *more)
    )
    ended = dcp("inspect", "hf://me/net/nets/t.safetensors")
    assert ended.code == 4
    assert "dcp-deploy[hub]" in ended.err


def test_only_out_and_the_place_to_push_to_are_not_fetched() -> None:
    output = verbs.Output("build")
    flags = {"teacher": Path("hf://me/net/x"), "out": "hf://me/net/x", "steps": 3, "data": None}
    assert verbs._fetched(output, flags) == flags
