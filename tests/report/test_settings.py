"""Settings: what was set stands out, and nothing that was not set is called "not measured"."""

from __future__ import annotations

from dcp_deploy.config import BuildConfig
from dcp_deploy.report import settings
from dcp_deploy.report.run_directory import Run, RunDirectory


def run_with(**config):
    return RunDirectory(run=Run(config=config))


def test_nested_settings_get_dotted_names():
    table = settings.mapping_table({"a": {"b": [1, None], "c": True}, "d": None})
    assert table.rows == (("a.b", "1, none"), ("a.c", "yes"), ("d", "not set"))


def test_only_settings_that_differ_from_the_defaults_stand_out():
    config = {**BuildConfig().to_dict(), "ratio": 0.5, "lpips": "vgg.pth", "steps": None}
    assert settings.changed_table(run_with(**config)).rows == (
        ("ratio", "0.5", "0.7"),
        ("lpips", "vgg.pth", "not set"),
    )


def test_settings_of_another_version_are_not_compared():
    assert settings.changed_table(run_with(warp=9)).rows == ()


def test_an_absent_gpu_is_none_and_other_unknown_facts_are_left_out():
    environment = {"cpu": "Xeon", "gpu": None, "cpu_quota": None, "command": "dcp-deploy build"}
    table = settings.machine_table(RunDirectory(run=Run(environment=environment)))
    assert table.rows == (("cpu", "Xeon"), ("gpu", "none"))
