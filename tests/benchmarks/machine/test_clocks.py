"""Clocks of a simulated machine."""

from __future__ import annotations

import shutil
import subprocess

import psutil
import pytest

from dcp_deploy.benchmarks.machine import clocks
from dcp_deploy.benchmarks.machine.clocks import ClockMeter, Clocks, cpu_mhz, gpu_clocks, throttles


def test_a_clock_that_falls_by_more_than_a_tenth_is_noted():
    assert Clocks((2600.0, 3000.0), None, None).caveats() == ["Clocks: the CPU ran at 2600 to 3000 MHz during the run."]
    assert Clocks((2750.0, 3000.0), 1700, ()).caveats() == []
    assert Clocks(None, None, None).caveats() == []


def test_a_throttled_gpu_is_noted_with_the_reason():
    (note,) = Clocks(None, 1200, throttles(0x20 | 0x04)).caveats()
    assert note == "Throttled: the GPU ran below its possible clock (power cap, too hot (software))."


@pytest.mark.parametrize("mask", [0x0, 0x1, 0x2, 0x1 | 0x2 | 0x100])
def test_idle_and_chosen_clocks_are_not_throttling(mask):
    assert throttles(mask) == ()


def test_the_meter_reads_once_a_second_and_keeps_the_extremes(monkeypatch):
    now, frequencies = [0.0], iter([3000.0, 2500.0, 2800.0])
    monkeypatch.setattr(clocks, "cpu_mhz", lambda: next(frequencies))
    monkeypatch.setattr(clocks, "gpu_clocks", lambda: (1700, 0x20))
    meter = ClockMeter(clock=lambda: now[0])
    for second in (0.0, 0.5, 1.0, 1.9, 2.0):
        now[0] = second
        meter.sample()
    assert meter.clocks() == Clocks((2500.0, 3000.0), 1700, ("too hot (software)",))


def test_a_machine_that_reports_no_clock_has_none(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    assert cpu_mhz() is None
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert gpu_clocks() is None


@pytest.mark.parametrize(
    ("output", "expected"),
    [("1695, 0x0000000000000004\n", (1695, 4)), ("[N/A], [N/A]\n", None), ("", None)],
)
def test_nvidia_smi_is_read(monkeypatch, output, expected):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    done = subprocess.CompletedProcess([], 0, stdout=output)
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: done)
    assert gpu_clocks() == expected
