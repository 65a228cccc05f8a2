"""The commands of docs/tour.md, run as they are printed there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from contextlib import redirect_stdout
from dataclasses import replace
from importlib import util
from io import StringIO
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from dcp_deploy import config
from dcp_deploy.export.bundle import sizing

from ..pipeline.test_build import TINY
from .conftest import VERBS, Command
from .test_completion import environment

TOUR = (Path(__file__).parents[2] / "docs" / "tour.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", TOUR, flags=re.M | re.S)


@pytest.fixture
def less_work(monkeypatch: pytest.MonkeyPatch, few_samples: int) -> None:
    """Measure less, as the tour says of its test."""
    tiny = replace(TINY, evaluation_samples=few_samples, refine_latents=2, parity_latents=2)
    monkeypatch.setitem(config.EFFORTS, "quick", tiny)
    monkeypatch.setattr(sizing, "SECONDS", 0.05)


def run_line(line: str, dcp: Command, home: Path) -> None:
    """Run a verb in this process, which has imported torch already, and anything else in a shell."""
    command, _, file = line.partition(" > ")
    words = shlex.split(command)
    if words[0] == "dcp-deploy" and words[1] in VERBS:
        ended = dcp(*words[1:])
        assert ended.code == 0, f"{line}\n{ended.err}"
        if file:
            Path(file).write_text(ended.out)
        return
    done = subprocess.run(
        ["bash", "-c", f"{line}; exit $?"], env=environment(home), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.timeout(900)  # under a minute of work, but a machine may have much else to do
@pytest.mark.usefixtures("less_work")
def test_every_command_of_the_tour_works(dcp: Command, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    for language, block in BLOCKS:
        if language == "python":
            with redirect_stdout(StringIO()) as printed:
                exec(block, {})
            assert printed.getvalue().splitlines() == re.findall(r"^print\(.*\)  # (.+)$", block, flags=re.M)
            continue
        for line in block.splitlines():
            if " engine " in line and util.find_spec("tensorrt_rtx") is None:
                continue  # an extra
            run_line(line.replace("--steps 200", "--steps 2"), dcp, home)
    document, schema = (json.loads(Path(name).read_text()) for name in ("student.json", "inspect.schema.json"))
    Draft202012Validator(schema).validate(document)
    assert Path("tour/report.html").is_file() and Path("student.png").is_file()


def test_the_tour_uses_most_verbs_and_shortens_only_what_it_says() -> None:
    lines = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
    used = {" ".join(line.split()[1:3]) for line in lines} | {line.split()[1] for line in lines}
    assert set(VERBS) - used <= {
        "eval",
        "serve",
        "push",
        "sweep",
        "compare",
    }  # these need more than a folder, or two builds
    assert sum("--steps 200" in line for line in lines) == 1 and "two training steps for the 200 below" in " ".join(
        TOUR.split()
    )
