"""A call in three steps, on events and a clock that only the steps move."""

from __future__ import annotations

from dcp_deploy.benchmarks.candidate import Phases
from dcp_deploy.benchmarks.device_steps import Steps


class Device:
    """Host and device time in milliseconds: computing is enqueued in a part of the time that it takes."""

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
        mark=device.event,
        clock=lambda: device.host / 1e3,
    )


def test_the_parts_are_told_apart():
    assert steps(Device(), 2.0).phases() == Phases(1.0, 10.0, 3.0, 2.0)


def test_a_call_is_the_three_steps_in_order():
    assert steps(Device(), 2.0)() == ["z", "image"]


def test_launches_that_take_as_long_as_the_computing_bind_it():
    assert not steps(Device(), 2.0).phases().enqueue_bound
    assert steps(Device(), 9.5).phases().enqueue_bound
