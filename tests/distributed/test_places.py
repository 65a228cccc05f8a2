"""What torchrun and SLURM say about a process."""

from __future__ import annotations

import pytest

from dcp_deploy.cli.launching import launch
from dcp_deploy.distributed.places import Place, find_place
from dcp_deploy.errors import UsageError

from .conftest import slurm

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SLURM = slurm(3, nodes=2, each=2, port=1)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (TORCHRUN, Place("torchrun", 3, 4, 1, 2)),
        ({**SLURM, **TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"}, Place("torchrun", 0, 4, 0, 2)),
        ({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, None),
        (SLURM, Place("srun", 3, 4, 1, 2)),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_NTASKS_PER_NODE": "2"}, Place("srun", 3, 4, 1, 2)),
        ({**SLURM, "SLURM_JOB_NAME": "interactive"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        ({"SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, None),
    ],
)
def test_the_place_is_found(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Place | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert find_place() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({**TORCHRUN, "RANK": "x"}, "RANK is 'x', not a number"),
        ({**TORCHRUN, "LOCAL_RANK": "2"}, "put this process at"),
        ({**TORCHRUN, "WORLD_SIZE": "5"}, "5 processes cannot be 2 on every machine"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2,1"}, "SLURM_NTASKS_PER_NODE is '2,1', not a number"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": ""}, "SLURM_NTASKS_PER_NODE is '', not a number"),
    ],
)
def test_a_contradiction_is_refused_by_every_process_and_printed_by_the_first(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], change: dict[str, str], message: str
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        find_place()
    codes = []
    for rank in ("1", "0"):
        if message[:4] != "RANK":
            monkeypatch.setenv("RANK", rank)
            monkeypatch.setenv("SLURM_PROCID", rank)
        codes.append(launch(lambda: pytest.fail("ran")))
    assert codes == [2, 2]
    assert capfd.readouterr().err.count("error:") == (0 if message[:4] == "RANK" else 1)
