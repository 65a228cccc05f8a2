from __future__ import annotations

import signal
import threading

import pytest

from dcp_deploy.compression.distillation.stopping import SIGNALS, stop_requests


def test_the_first_signal_is_remembered_and_the_second_interrupts() -> None:
    with stop_requests() as requested:
        assert requested() is None
        signal.raise_signal(signal.SIGTERM)
        assert requested() == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    try:
        with stop_requests() as requested:
            signal.raise_signal(signal.SIGINT)
            assert requested() is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_the_handlers_alone() -> None:
    seen: list[list[object]] = []

    def look() -> None:
        with stop_requests() as requested:
            seen.append([signal.getsignal(number) for number in SIGNALS])
            assert requested() is None

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [[signal.getsignal(number) for number in SIGNALS]]
