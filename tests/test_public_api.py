from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import dcp_deploy


def test_the_listed_names_are_known_to_the_interpreter() -> None:
    assert set(dcp_deploy.__all__) <= set(dir(dcp_deploy))


@pytest.mark.parametrize("name", dcp_deploy.__all__)
def test_every_listed_name_resolves(name: str) -> None:
    value = getattr(dcp_deploy, name)
    assert value is getattr(dcp_deploy, name)  # found once, then kept
    assert name in {"errors", "__version__", "RECIPES"} or callable(value)


LAZY = "benchmarks export export.bundle export.onnx export.parity export.runners export.tensorrt kernels pipeline"


@pytest.mark.parametrize("package", LAZY.split())
def test_every_listed_name_of_a_package_resolves(package: str) -> None:
    module = importlib.import_module(f"dcp_deploy.{package}")
    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in module.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'prunne'"):
        dcp_deploy.prunne  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_and_its_command_does_not_import_torch() -> None:
    script = "import sys, dcp_deploy, dcp_deploy.cli\nassert 'torch' not in sys.modules, 'torch was imported'\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
