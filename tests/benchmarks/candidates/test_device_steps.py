"""A call in three steps, with events and a clock that only the steps advance."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dcp_deploy.benchmarks.candidates.candidate import Phases, fixed_inputs
from dcp_deploy.benchmarks.candidates.device_steps import Steps, engine_steps, network_steps
from dcp_deploy.errors import UsageError
from dcp_deploy.export.runners import engine as engine_runner
from dcp_deploy.generators import Generator, GeneratorConfig


class Device:
    """Host and device time in milliseconds; enqueueing takes less time than computing."""

    def __init__(self):
        self.host = self.device = 0.0

    def event(self):
        device = self

        class Event:
            def record(self):
                self.at = device.device

            def synchronize(self):
                pass

            def elapsed_time(self, other):
                return other.at - self.at

        return Event()

    def spend(self, device, host, result):
        self.device += device
        self.host += host
        return result


def steps(device, enqueue):
    return Steps(
        copy_in=lambda: device.spend(1.0, 1.0, ["z"]),
        compute=lambda placed: device.spend(10.0, enqueue, [*placed, "image"]),
        copy_out=lambda images: device.spend(3.0, 3.0, images),
        new_event=device.event,
        clock=lambda: device.host / 1e3,
    )


def test_each_phase_has_its_time():
    assert steps(Device(), 2.0).phases() == Phases(1.0, 10.0, 3.0, 2.0)


def test_a_call_is_the_three_steps_in_order():
    assert steps(Device(), 2.0)() == ["z", "image"]


def test_a_call_whose_launches_take_as_long_as_computing_is_enqueue_bound():
    assert not steps(Device(), 2.0).phases().enqueue_bound
    assert steps(Device(), 9.5).phases().enqueue_bound


def test_a_network_generates_the_same_images_in_steps():
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(8, (3,) * 4, z_dim=6, w_dim=6, mapping_layers=1, c_dim=2)).eval()
    inputs = fixed_inputs(6, 2, 3, seed=1)
    z, psi, c = map(torch.from_numpy, inputs)
    with torch.no_grad():
        expected = generator(z, c, psi=psi).numpy()
    assert (network_steps(generator, inputs)() == expected).all()


@pytest.fixture
def engine(monkeypatch, tmp_path):
    """An engine for batches of two to four whose image is its z."""
    profile = {"z": {"min": [2, 5], "max": [4, 5]}, "psi": {"min": [2], "max": [4]}}
    manifest = {"profile": profile, "precision": "fp16", "build_seconds": 12.5}
    session = SimpleNamespace(device=torch.device("cpu"), run=lambda feeds: feeds["z"] * feeds["psi"][:, None])
    monkeypatch.setattr(engine_runner, "open_engine", lambda path, cuda_graph: (manifest, session))
    return tmp_path / "s.engine"


def test_an_engine_gets_the_fixed_inputs_and_reports_its_manifest(engine):
    steps, precision, build_seconds = engine_steps(engine, 3, 7, graph=True)
    assert (precision, build_seconds) == ("fp16", 12.5)
    assert (steps() == fixed_inputs(5, 0, 3, seed=7)[0]).all()


@pytest.mark.parametrize("batch", [1, 5])
def test_a_batch_outside_the_engines_profile_is_refused(engine, batch):
    with pytest.raises(UsageError, match=f"batches of 2 to 4, not {batch}"):
        engine_steps(engine, batch, 0, graph=False)
