from __future__ import annotations

import sys
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.errors import MissingCapabilityError, UsageError
from dcp_deploy.export.tensorrt import targets
from dcp_deploy.export.tensorrt.targets import PRODUCTS, RTX_TARGETS, import_flavour, parse_targets, refuse_version


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tests independent of this machine's GPU."""
    monkeypatch.setattr(targets, "present_gpu", lambda: None)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("sm89", ("sm89",)),
        ("SM120,sm89", ("sm120", "sm89")),
        ("RTX 4090", ("sm89",)),
        ("NVIDIA GeForce RTX 4090", ("sm89",)),
        ("rtx4090, L4", ("sm89",)),
        ("Tesla T4,a10", ("sm75", "sm86")),
        ("H100", ("sm90",)),
    ],
)
def test_targets_are_read(target: str, expected: tuple[str, ...]) -> None:
    assert parse_targets(target) == expected


@given(st.lists(st.sampled_from([name for names in PRODUCTS.values() for name in names]), min_size=1, max_size=5))
def test_every_product_name_reads_as_its_capability(names: list[str]) -> None:
    found = parse_targets(", ".join(names))
    assert len(set(found)) == len(found)
    assert set(found) == {sm for sm, products in PRODUCTS.items() if set(products) & set(names)}


@pytest.mark.parametrize("target", ["", "sm70", "RTX 9999", "sm89,", "4090"])
def test_an_unknown_target_lists_those_known(target: str) -> None:
    with pytest.raises(UsageError, match=r"sm89 \(L4, .*RTX 4090") as caught:
        parse_targets(target)
    assert caught.value.exit_code == 2


def test_auto_without_a_gpu_asks_for_a_name() -> None:
    with pytest.raises(UsageError, match="no GPU"):
        parse_targets("auto")


def test_auto_is_the_gpu_present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "present_gpu", lambda: "sm86")
    assert parse_targets("auto") == ("sm86",)


def test_the_installed_rtx_knows_our_targets() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    assert {sm.upper() for sm in RTX_TARGETS} == set(rtx.ComputeCapability.__members__) - {"NONE", "CURRENT"}
    assert set(RTX_TARGETS) <= set(PRODUCTS)


@pytest.mark.parametrize("version", ["10.14.1.48", "10.14.0"])
def test_the_series_with_broken_plugins_is_refused_by_name(version: str) -> None:
    with pytest.raises(MissingCapabilityError, match=rf"TensorRT {version} is refused: .* plugins") as caught:
        refuse_version(version)
    assert caught.value.exit_code == 4
    assert "pip install --upgrade" in caught.value.remedy


@pytest.mark.parametrize("version", ["8.6.1", "10.12.0.36"])
def test_an_old_tensorrt_is_refused(version: str) -> None:
    with pytest.raises(MissingCapabilityError, match=rf"{version} is installed; engines need 10\.13"):
        refuse_version(version)


@pytest.mark.parametrize("version", ["10.13.0.35", "10.15.1", "10.16.1.11", "11.0.0", "11.4.0.106", "12.0"])
def test_others_are_taken(version: str) -> None:
    refuse_version(version)


def test_the_version_is_looked_at_when_the_package_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = ModuleType("tensorrt")
    installed.__version__ = "10.14.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", installed)
    with pytest.raises(MissingCapabilityError, match="refused"):
        import_flavour("tensorrt")
