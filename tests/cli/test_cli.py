"""Settings from a file, and the verbs that describe files, presets and the machine."""

from __future__ import annotations

from pathlib import Path

from dcp_deploy.config import read_toml

from .conftest import Command

# ---- settings from a file ----


def test_a_file_gives_defaults_and_flags_win(dcp: Command, tmp_path: Path, models: Path) -> None:
    (tmp_path / "c.toml").write_text(f'dataset = "ffhq"\nalign = 1\nseed = 3\nteacher = "{models}/t.safetensors"\n')
    ended = dcp("build", "--config", "c.toml", "--seed", "4", "--dry-run", "--json")
    config = ended.json["config"]
    assert (config["dataset"], config["align"], config["seed"]) == ("ffhq", 1, 4)
    assert ended.json["student"]["parameters"] < ended.json["teacher"]["parameters"]


def test_an_unknown_setting_in_a_file_is_refused(dcp: Command, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("ration = 0.5\n")
    ended = dcp("build", "--config", "c.toml")
    assert ended.code == 2 and "'ration'" in ended.err


def test_a_setting_of_the_wrong_type_in_a_file_is_refused(dcp: Command, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('ratio = "much"\n')
    assert dcp("build", "--config", "c.toml").code == 2


def test_the_settings_file_reproduces_the_result(dcp: Command, tmp_path: Path, models: Path) -> None:
    first = dcp("sample", models / "t.safetensors", "-o", "a.png", "--seeds", "5,7", "--psi", "0.5,1", "--json").json
    settings = read_toml(first["settings"])
    assert settings["seeds"] == "5,7" and "as_json" not in settings
    before = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").unlink()
    assert dcp("sample", models / "t.safetensors", "--config", first["settings"]).code == 0
    assert (tmp_path / "a.png").read_bytes() == before


# ---- verbs that describe ----


def test_inspect_as_text_and_as_json(dcp: Command, models: Path) -> None:
    assert "stylegan2" in dcp("inspect", models / "t.safetensors").out
    facts = dcp("inspect", models / "t.onnx", "--json").json
    assert facts["format"] == "onnx" and facts["widths"] == [8] * 6 and facts["macs"] > 0


def test_datasets_lists_all_and_shows_one_in_full(dcp: Command) -> None:
    assert "ffhq256" in dcp("datasets").out
    assert len(dcp("datasets", "--json").json["datasets"]) > 10
    assert dcp("datasets", "ffhq", "--json").json["teacher"]["url"].startswith("https://")


def test_doctor_succeeds_in_this_environment(dcp: Command) -> None:
    assert dcp("doctor", "--json").json["healthy"] is True
    assert "torch" in dcp("doctor").out
