"""Every form of an export passes the gate beside its network, and a damaged one does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.errors import UsageError
from dcp_deploy.export import export_onnx, load_pair, load_runner, verify
from dcp_deploy.export.bundle.writer import write_bundle
from dcp_deploy.export.parity import artifacts
from dcp_deploy.export.runners.runner import classes_of, latents_of
from dcp_deploy.generators import Generator
from dcp_deploy.shipping.contents import contents_of

from ..conftest import random_generator
from .breaking import broken, edit

FEW = 4


@pytest.fixture(scope="module")
def network() -> Generator:
    return random_generator((6, 5, 4, 3), c_dim=2)


@pytest.fixture(scope="module")
def forms(network: Generator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One export of each form that cannot be compared by z alone."""
    folder = tmp_path_factory.mktemp("forms")
    options: dict[str, dict[str, object]] = {
        "maps": {"noise": "input"},
        "both": {"inputs": "ws", "noise": "input", "batch": (2, 4)},
        "without": {"noise": "none"},
    }
    return {
        name: export_onnx(network, folder / f"{name}.onnx", image="float", **chosen)  # type: ignore[arg-type]
        for name, chosen in options.items()
    }


@pytest.mark.parametrize("form", ["maps", "both", "without"])
def test_every_form_passes_beside_its_network(form: str, network: Generator, forms: dict[str, Path]) -> None:
    report = verify(network, forms[form], latents=FEW)
    assert report.passed, [check.detail for check in report.checks if not check.passed]
    assert report.images >= 3 * FEW
    assert report.max_abs is not None and report.max_abs < 2e-5  # two orders of summation in float32


@pytest.mark.parametrize("form", ["maps", "both", "without"])
def test_a_damaged_form_does_not_pass(form: str, network: Generator, forms: dict[str, Path], tmp_path: Path) -> None:
    path = broken(forms[form], tmp_path / "x.onnx", edit("synthesis.b8.conv1.bias", lambda bias: bias + 0.01))
    assert not verify(network, path, latents=FEW).passed


def test_a_file_without_noise_differs_from_the_network_with_noise(network: Generator, forms: dict[str, Path]) -> None:
    with_noise = load_runner(network)
    assert not verify(with_noise, load_runner(forms["without"]), latents=FEW).passed


def test_a_checkpoint_supplies_what_the_file_lacks(network: Generator, forms: dict[str, Path], tmp_path: Path) -> None:
    save_generator(network, tmp_path / "net.safetensors")
    for form in ("both", "without"):
        assert verify(tmp_path / "net.safetensors", forms[form], latents=FEW).passed
    a, b = load_pair(tmp_path / "net.safetensors", forms["both"])
    assert (b.backend, b.batch) == ("onnxruntime", (2, 4))
    assert load_pair(tmp_path / "net.safetensors", forms["without"])[0].name == "net.safetensors without noise"
    assert a.name == "net.safetensors"


def test_bisection_of_a_file_without_noise_finds_the_layer(
    network: Generator, forms: dict[str, Path], tmp_path: Path
) -> None:
    path = broken(forms["without"], tmp_path / "x.onnx", edit("synthesis.b8.conv1.bias", lambda bias: bias + 0.5))
    layers = verify(network, path, latents=FEW, bisect=True).layers
    assert layers is not None and layers.first is not None and layers.first.name == "b8.conv1"


def test_a_file_that_takes_ws_is_refused_without_its_network(forms: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"takes ws, noise\.b4\.conv1.*cannot be made from a seed"):
        load_pair(forms["without"], forms["both"])


def test_a_backend_that_cannot_run_the_form_is_refused(network: Generator, forms: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="backend 'fused' cannot run the ONNX file"):
        load_pair(network, forms["both"], backend_b="fused")


def test_a_bundle_without_noise_is_compared_without(network: Generator, forms: dict[str, Path], tmp_path: Path) -> None:
    write_bundle(contents_of(forms["without"], name="quiet"), tmp_path / "quiet", max_batch=2)
    assert verify(network, tmp_path / "quiet", latents=2).passed


def test_the_network_itself_keeps_its_noise(network: Generator, forms: dict[str, Path]) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    verify(network, forms["without"], latents=2)
    assert all(np.array_equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_reference_generates_the_images_of_the_readable_network(network: Generator, forms: dict[str, Path]) -> None:
    reference, _ = load_pair(network, forms["maps"])
    z, psi, c = latents_of(range(5), 12), np.float32([0.5, 0.7, 1, 1, 1]), classes_of(range(5), 2)
    expected = network(torch.from_numpy(z), torch.from_numpy(c), psi=torch.from_numpy(psi))
    assert np.abs(reference(z=z, psi=psi, c=c) - expected.numpy()).max() < 2e-5


def test_devices_are_those_of_load_runner(network: Generator, forms: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="unknown device 'banana'"):
        load_pair(network, forms["maps"], device="banana")
    reference, _ = load_pair(network, network, device="auto")
    assert reference.backend == "torch"


@pytest.mark.parametrize("fault", [1e-3, np.nan])
def test_a_fast_reference_that_differs_is_not_used(
    fault: float, network: Generator, forms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "lean_images", lambda synthesis, ws: synthesis(ws) + fault)
    report = verify(network, forms["without"], latents=FEW)
    assert report.passed
    assert report.max_abs is not None and report.max_abs < 2e-5
