"""Every stage of a finished build works again on a full disk, and below a limit on the size of files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dcp_deploy import config as config_module
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.cli.verb import machine_limit
from dcp_deploy.config import BuildConfig
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.pipeline.builder import Run, build
from dcp_deploy.pipeline.inputs import resolve_inputs
from dcp_deploy.pipeline.stages import STAGES, Job, Stage
from dcp_deploy.progress import Reporter

from ..limits import content_of, fill, limited, mounted
from .test_build import TINY

DISK = 16_000_000  # bytes
SMALLEST = 16  # bytes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("finished")
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(1)
        generator = Generator(GeneratorConfig(8, (12,) * 4, z_dim=8, w_dim=8, mapping_layers=1)).requires_grad_(False)
        for _, torgb in generator.synthesis.torgbs():
            torgb.weight.data.mul_(0.2)  # colours within range, as the parity gate needs them
        teacher = save_generator(generator, folder / "teacher.safetensors")
        patch.setitem(config_module.EFFORTS, "quick", TINY)
        yield build(BuildConfig(dataset="ffhq", teacher=teacher, out=folder / "run", steps=1, device="cpu"))


def work(stage: Stage, run: Run, directory: Path) -> None:
    """Do the work of a stage in a copy of a run directory."""
    inputs = resolve_inputs(BuildConfig(**run.record.config), Reporter())
    record = run.record.stages[stage.name]
    stage.work(
        Job(inputs, directory, record.key, False, Reporter(), dict(run.record.networks)), lambda done, total: None
    )


def check(stage: Stage, run: Run, directory: Path, words: str) -> None:
    before = content_of(directory)
    with pytest.raises(Exception) as caught:
        work(stage, run, directory)
    limit = machine_limit(caught.value)
    assert limit is not None and words in limit[0], repr(caught.value)
    assert content_of(directory) == before


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_limit_on_the_size_of_files_is_named_and_loses_nothing(finished: Run, tmp_path: Path, stage: Stage) -> None:
    directory = Path(shutil.copytree(finished.directory, tmp_path / "run"))
    with limited(SMALLEST):
        check(stage, finished, directory, "larger than this machine allows")


@pytest.fixture(scope="module")
def full(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted(tmp_path_factory.mktemp("disk"), DISK) as disk:
        shutil.copytree(finished.directory, disk / "run")
        fill(disk)
        yield disk / "run"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_full_disk_is_named_and_loses_nothing(finished: Run, full: Path, stage: Stage) -> None:
    check(stage, finished, full, "no space left")
