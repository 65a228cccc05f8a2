"""What Tab offers, also in a real bash with the completion that the command itself installs."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dcp_deploy.cli import app

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="no bash on this machine")
PROGRAM = Path(sys.executable).with_name("dcp-deploy")

# Command line -> what Tab offers. Bash is asked for the first few, the program itself for all.
OFFERED = {
    "dcp-deploy dist": ["distill"],
    "dcp-deploy build --target": ["--target", "--target-latency", "--target-macs", "--target-params"],
    "dcp-deploy build --target L4,sm12": ["L4,sm120", "L4,sm121"],
    "dcp-deploy build --dataset ffhq2": ["ffhq256"],
    "dcp-deploy datasets afhqc": ["afhqcat"],
    "dcp-deploy score t.pkl --method weight": ["weight-in", "weight-out"],
    "dcp-deploy prune t.pkl --score grad": ["gradient"],
    "dcp-deploy engine m.onnx --target sm8": ["sm80", "sm86", "sm89"],
    "dcp-deploy verify a b --backend-b fu": ["fused"],
    "dcp-deploy schema insp": ["inspect"],
}
IN_BASH = list(OFFERED)[:3]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a home folder in which the command has installed its completion for bash."""
    folder = tmp_path_factory.mktemp("home")
    # The colon keeps bash running: the program looks for the shell that started it.
    done = subprocess.run(
        [str(BASH), "--norc", "-c", f"{PROGRAM} --install-completion; :"],
        env=environment(folder), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "bash completion installed" in done.stdout, done.stderr
    return folder


def environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}", "TERM": "dumb"}


def test_the_installed_completion_is_the_one_shown(home: Path) -> None:
    shown = subprocess.run(
        [str(BASH), "--norc", "-c", f"{PROGRAM} --show-completion; :"],
        env=environment(home), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    installed = (home / ".bash_completions" / "dcp-deploy.sh").read_text()
    assert shown.stdout.strip() == installed.strip()
    assert "dcp-deploy.sh" in (home / ".bashrc").read_text()


@pytest.mark.parametrize("line", OFFERED)
def test_verbs_options_and_values_are_offered(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_DCP_DEPLOY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit) as end:
        app.app(prog_name="dcp-deploy")
    assert not end.value.code
    assert sorted(capsys.readouterr().out.split()) == OFFERED[line]


def test_bash_shows_what_is_offered(home: Path) -> None:
    script = ["source ~/.bashrc"]
    for line in IN_BASH:
        words = line.split()
        script.append(f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _dcp_deploy_completion dcp-deploy")
        script.append('IFS=" "; echo "${COMPREPLY[*]}"; unset IFS')
    done = subprocess.run(
        [str(BASH), "--norc", "-c", "\n".join(script)],
        env=environment(home), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stderr == ""
    offered = [sorted(line.split()) for line in done.stdout.splitlines()]
    assert offered == [OFFERED[line] for line in IN_BASH]


def test_tab_finishes_the_word_on_the_line(home: Path) -> None:
    ours, theirs = pty.openpty()
    command = [str(BASH), "--noprofile", "-i"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(home), cwd=home) as bash:
        os.close(theirs)
        try:
            os.write(ours, b"dcp-deploy build --dataset ffhq2\t")
            assert "ffhq256 " in read_until(ours, "ffhq256 ")
        finally:
            bash.kill()
            os.close(ours)


def read_until(terminal: int, wanted: str) -> str:
    """Return what the terminal shows when it shows ``wanted``, or after half a minute."""
    seen, deadline = "", time.monotonic() + 30
    while wanted not in seen and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")
    return seen


def test_offering_values_imports_no_torch() -> None:
    script = (
        "import sys; from dcp_deploy.cli import app, options\n"
        "assert options.targets('') and options.backends('') and options.verbs('')\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
