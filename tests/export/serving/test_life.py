"""However a server ends, it leaves no process, no shared memory and no folder; a model that dies is started again."""

from __future__ import annotations

import json
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dcp_deploy.benchmarks.experiments.serving_faults import (
    Served,
    first_port,
    hold_idle_connections,
    is_ready,
    kill_a_model,
    serving,
)
from dcp_deploy.export.bundle.writer import read_golden
from dcp_deploy.export.integrity import MANIFEST, seal
from dcp_deploy.export.serving import pulse, server
from dcp_deploy.export.serving.endpoint_check import check_endpoint
from dcp_deploy.export.serving.leftovers import SHARED_MEMORY, is_alive
from dcp_deploy.export.serving.probes import reported_model
from dcp_deploy.export.serving.server import Program, running_server

from ..conftest import TRITON
from .clients import answers_correctly

pytestmark = pytest.mark.usefixtures("triton")


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must come; the test's time limit ends it otherwise."""
    while not condition():
        time.sleep(0.05)


def stop(process: psutil.Process) -> None:
    """Stop a process by a signal and wait: it stops thread by thread, and one may still answer meanwhile."""
    process.suspend()
    until(lambda: all(psutil.Process(thread.id).status() == psutil.STATUS_STOPPED for thread in process.threads()))


def ends_with_nothing_left(served: Served) -> int:
    code = served.process.wait()
    until(lambda: not served.left())
    return code


def test_a_killed_model_is_started_again_and_no_image_is_wrong(bundle: Path) -> None:
    found = kill_a_model(bundle, TRITON, requests=120, clients=4)
    assert found["right"] == 120 and found["wrong"] == 0
    assert found["not_ready_after_s"] is not None and found["ready_again_after_s"] is not None
    assert found["exit_code"] == 0 and found["left"] == []


def test_a_model_that_dies_too_often_ends_the_server(
    bundle: Path, triton: Program, free_ports: Callable[[], tuple[int, int, int]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(server, "MOST_RESTARTS", 1)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if text.startswith("serving again"):
            next(iter(running.triton.models)).kill()

    with running_server(bundle, triton, ports=free_ports(), log=tmp_path / "log") as running:
        next(process for process, name in running.triton.models.items() if name == "picture").kill()
        assert running.wait(say).endswith("has died 2 times in a few minutes")
        assert not is_ready(running.http)
        with urllib.request.urlopen(f"{running.http}/v2/health/live", timeout=10) as answer:
            assert answer.status == 200
    assert said[0] == "the process of model picture has died; the models are started again"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_signal_to_serve_leaves_nothing(bundle: Path, number: signal.Signals) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # below nohup, serve would ignore it, and should
    try:
        _end_by(bundle, number)
    finally:
        signal.signal(signal.SIGHUP, before)


def _end_by(bundle: Path, number: signal.Signals) -> None:
    with serving(bundle, TRITON) as served:
        served.process.send_signal(number)
        assert ends_with_nothing_left(served) == (-number if number == signal.SIGKILL else 0)


def test_a_kill_of_serve_while_it_starts_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dcp_deploy", "serve", str(bundle), "--port", str(first_port())]
    with (tmp_path / "log").open("wb") as log:
        process = psutil.Popen([*command, "--server", str(TRITON)], stderr=log)
    until(lambda: any(child.name() == "tritonserver" for child in process.children()))
    children = process.children()  # the request filter, too
    (scratch,) = {
        Path(word.partition("=")[2]).parent
        for child in children
        for word in child.cmdline()
        if word.startswith("--model-repository=") and word.endswith("models")
    }
    process.kill()
    process.wait()
    until(lambda: not scratch.exists() and not any(map(is_alive, children)))
    assert not list(SHARED_MEMORY.glob(f"{scratch.name}*"))


def test_a_killed_triton_ends_serve_with_its_cause(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(bundle, TRITON) as served:
        psutil.Process(int(served.addresses["process"])).kill()
        assert ends_with_nothing_left(served) == 1
    assert "tritonserver ended by itself with code -9" in capfd.readouterr().err


def test_a_hung_triton_is_not_ready_and_is_ended_with_its_models(
    bundle: Path, triton: Program, free_ports: Callable[[], tuple[int, int, int]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(server, "STOP_SECONDS", -9)  # a second after SIGTERM comes SIGKILL
    with running_server(bundle, triton, ports=free_ports(), log=tmp_path / "log") as running:
        processes = [psutil.Process(running.process.pid), *running.triton.models]
        for process in processes:
            stop(process)
        assert not is_ready(running.http)
        running.request_filter.kill()
    assert not any(map(is_alive, processes))


def trouble_until_it_serves_again(
    running: server.Server, bundle: Path, in_trouble: Callable[[], None] = lambda: None
) -> str:
    """Wait until the models were started again and answer, then end the filter. Return what was said of the trouble."""
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if text.startswith("serving again"):
            assert answers_correctly(running, bundle)
            running.request_filter.terminate()
        else:
            in_trouble()

    assert running.wait(say).startswith("its request filter ended")
    return said[0]


@pytest.mark.parametrize("whose", ["tritonserver", "the process of model generator"])
def test_what_hangs_is_replaced_and_serves_again(
    bundle: Path, triton: Program, free_ports: Callable[[], tuple[int, int, int]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, whose: str,
) -> None:  # fmt: skip
    quick_pulse(monkeypatch)
    with running_server(bundle, triton, ports=free_ports(), log=tmp_path / "log") as running:
        before = [psutil.Process(running.process.pid), *running.triton.models]
        (victim, *_) = before if whose == "tritonserver" else models_named(running, "generator")
        stop(victim)
        trouble = trouble_until_it_serves_again(running, bundle)
        until(lambda: not any(map(is_alive, before)))
        folders = [word for word in running.triton.command if "shm-region-prefix-name" in word]
        kept = list(SHARED_MEMORY.glob(f"{folders[0].rpartition('=')[2]}*"))
        assert len(kept) == len(running.triton.models)  # those of the first Triton are gone
    assert trouble == f"{whose} has stopped responding; the models are started again"


MOOD = """
    def execute(self, requests):
        import time
        mood = Path({path!r})
        while mood.exists() and mood.read_text() == "silent":
            pass
        if mood.exists():
            time.sleep(0.4)
        return self.answers(requests)

    def answers("""


@pytest.fixture
def moody(own_bundle: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return a bundle whose generator does not answer while a file says "silent", and the file; other words: slowly."""
    mood, model = tmp_path / "mood", own_bundle / "models" / "generator" / "1" / "model.py"
    source = model.read_text()
    assert source.count("    def execute(") == 1
    model.write_text(source.replace("    def execute(", MOOD.format(path=str(mood)).lstrip("\n")))
    facts = json.loads((own_bundle / MANIFEST).read_text())
    del facts["files"], facts["schema"]
    seal(own_bundle, facts)
    return own_bundle, mood


def test_a_model_that_does_not_answer_is_replaced_though_nobody_asks_it(
    moody: tuple[Path, Path], triton: Program, free_ports: Callable[[], tuple[int, int, int]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bundle, mood = moody
    monkeypatch.setattr(server, "PATIENCE_SECONDS", 2.0)

    def in_trouble() -> None:
        assert not is_ready(running.http)
        mood.unlink()

    with running_server(bundle, triton, ports=free_ports(), log=tmp_path / "log") as running:
        before = list(running.triton.models)
        time.sleep(1.0)  # the first probe shows how fast it is
        mood.write_text("silent")
        trouble = trouble_until_it_serves_again(running, bundle, in_trouble)
        assert not any(map(is_alive, before))
    assert trouble == "model generator has stopped answering; the models are started again"


def test_a_model_that_is_slow_under_load_is_left_alone(
    moody: tuple[Path, Path], triton: Program, free_ports: Callable[[], tuple[int, int, int]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bundle, mood = moody
    monkeypatch.setattr(server, "PATIENCE_SECONDS", 2.0)
    with running_server(bundle, triton, ports=free_ports(), log=tmp_path / "log") as running:
        time.sleep(1.0)
        mood.write_text("slow")
        golden, kept = read_golden(bundle, "generator")
        report = check_endpoint(running.http, golden, kept, clients=24, requests=48)
        assert report.load is not None and report.load.failed == 0
        assert report.load.p99_ms > 2000  # longer than a model may be silent
        assert reported_model(running.report) is None and is_ready(running.http)


def models_named(running: server.Server, name: str) -> list[psutil.Process]:
    return [process for process, model in running.triton.models.items() if model == name]


def quick_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "PULSE_SECONDS", 0.1)
    monkeypatch.setattr(pulse, "ANSWER_SECONDS", 1.0)


def test_a_triton_that_hangs_too_often_ends_serve_with_its_cause(
    bundle: Path, triton: Program, free_ports: Callable[[], tuple[int, int, int]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    quick_pulse(monkeypatch)
    monkeypatch.setattr(server, "MOST_RESTARTS", 0)
    monkeypatch.setattr(server, "STOP_SECONDS", -9)  # a second after SIGTERM comes SIGKILL
    with running_server(bundle, triton, ports=free_ports(), log=tmp_path / "log") as running:
        hung = psutil.Process(running.process.pid)
        stop(hung)
        assert running.wait() == "tritonserver has stopped responding 1 times in a few minutes"
        assert not is_ready(running.http)
    assert not is_alive(hung)


def test_a_request_filter_that_hangs_ends_serve_with_its_cause(
    bundle: Path, triton: Program, free_ports: Callable[[], tuple[int, int, int]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    quick_pulse(monkeypatch)
    monkeypatch.setattr(server, "STOP_SECONDS", -9)
    with running_server(bundle, triton, ports=free_ports(), log=tmp_path / "log") as running:
        stop(psutil.Process(running.request_filter.pid))
        assert running.wait() == "the request filter has stopped responding"


def test_idle_connections_keep_out_neither_a_health_check_nor_a_request(bundle: Path) -> None:
    found = hold_idle_connections(bundle, TRITON, connections=400, descriptors=400)
    assert {"health_ms", "http_ms", "grpc_ms"} < set(found)  # each was answered
    assert found["left"] == []
