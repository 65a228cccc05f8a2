from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dcp_deploy.compression.distillation.state import TrainingState, load_state, save_state
from dcp_deploy.compression.identity import run_key
from dcp_deploy.errors import CorruptFileError
from dcp_deploy.generators import Discriminator, DiscriminatorConfig, Generator

KEY = "k" * 64


def make_state(student: Generator, *, train: bool) -> TrainingState:
    """Return a fresh state, or one after two steps."""
    discriminator = Discriminator(DiscriminatorConfig(16, (4, 4, 4)))
    state = TrainingState(
        student=student,
        ema=Generator(student.config),
        discriminator=discriminator,
        student_optimizer=torch.optim.Adam(student.parameters(), lr=0.01),
        discriminator_optimizer=torch.optim.Adam(discriminator.parameters(), lr=0.01),
        path_mean=torch.zeros([]),
    )
    if train:
        for _ in range(2):
            image = student(torch.randn(4, 8))
            (image.square().mean() + discriminator(image).mean()).backward()
            state.student_optimizer.step()
            state.discriminator_optimizer.step()
        state.path_mean.fill_(0.1)
        state.step = 2
        state.history = [{"step": 0, "l1_to_teacher": 0.1 + 0.2}]
        state.sums = {"l1": [1 / 3, 2]}
    return state


def test_a_state_survives_the_file_bit_for_bit(tmp_path: Path, new_generator: Callable[..., Generator]) -> None:
    state, restored = make_state(new_generator(0), train=True), make_state(new_generator(1), train=False)
    save_state(state, tmp_path / "s.safetensors", KEY)
    load_state(restored, tmp_path / "s.safetensors", KEY)
    before, after = state.tensors(), restored.tensors()
    assert before.keys() == after.keys()
    assert any(name.startswith("discriminator_optimizer.0.exp_avg_sq") for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (restored.step, restored.history, restored.sums) == (state.step, state.history, state.sums)


def test_an_optimiser_that_has_not_run_is_restored_empty(
    tmp_path: Path, new_generator: Callable[..., Generator]
) -> None:
    save_state(make_state(new_generator(0), train=False), tmp_path / "s.safetensors", KEY)
    restored = make_state(new_generator(1), train=False)
    load_state(restored, tmp_path / "s.safetensors", KEY)
    assert not restored.discriminator_optimizer.state


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, teacher: Generator) -> None:
    state = make_state(teacher, train=False)
    save_state(state, tmp_path / "s.safetensors", KEY)
    with pytest.raises(CorruptFileError, match="not a checkpoint of this run"):
        load_state(state, tmp_path / "s.safetensors", "other")


@pytest.mark.parametrize("length", [0, 9, 2000, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, teacher: Generator, length: int) -> None:
    state, path = make_state(teacher, train=False), tmp_path / "s.safetensors"
    save_state(state, path, KEY)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptFileError, match=r"s\.safetensors"):
        load_state(state, path, KEY)


def test_a_checkpoint_of_other_shapes_is_refused(tmp_path: Path, new_generator: Callable[..., Generator]) -> None:
    path = tmp_path / "s.safetensors"
    save_state(make_state(new_generator(), train=False), path, KEY)
    with pytest.raises(CorruptFileError, match="size mismatch"):
        load_state(make_state(new_generator(widths=(12, 10, 11, 9, 8, 8)), train=False), path, KEY)


def test_a_full_disk_is_an_os_error_and_keeps_the_old_checkpoint(tmp_path: Path, teacher: Generator) -> None:
    state, path = make_state(teacher, train=False), tmp_path / "s.safetensors"
    save_state(state, path, KEY)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # no file may grow larger
    try:
        with pytest.raises(OSError, match="File too large"):
            save_state(state, path, KEY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


@pytest.mark.parametrize("part", ["student", "ema", "discriminator", "student_optimizer"])
def test_a_single_nan_is_found(teacher: Generator, part: str) -> None:
    state = make_state(teacher, train=True)
    assert state.is_finite()
    name = next(name for name in state.tensors() if name.startswith(f"{part}.") and not name.endswith("step"))
    with torch.no_grad():
        state.tensors()[name].reshape(-1)[0] = float("nan")
    assert not state.is_finite()


def test_the_average_follows_the_student_by_the_decay(teacher: Generator) -> None:
    state = make_state(teacher, train=False)
    before, target = (dict(network.named_parameters()) for network in (state.ema, state.student))
    expected = {name: 0.75 * before[name].detach() + 0.25 * target[name].detach() for name in before}
    state.update_ema(0.75)
    for name, parameter in state.ema.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name])


def test_the_key_depends_on_settings_weights_and_roles(new_generator: Callable[..., Generator]) -> None:
    a, b = new_generator(0), new_generator(1)
    changed = new_generator(0)
    with torch.no_grad():
        changed.mapping.w_avg[0] += 1e-6
    keys = [
        run_key({"lr": 1}, {"student": a, "teacher": b}),
        run_key({"lr": 2}, {"student": a, "teacher": b}),
        run_key({"lr": 1}, {"student": b, "teacher": a}),
        run_key({"lr": 1}, {"student": changed, "teacher": b}),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == run_key({"lr": 1}, {"teacher": new_generator(1), "student": new_generator(0)})
