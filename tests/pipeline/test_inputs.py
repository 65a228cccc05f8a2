"""The inputs of a build: each is resolved once; real images, who uses them, and what a change of them runs again."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from dcp_deploy import compression
from dcp_deploy import config as config_module
from dcp_deploy.checkpoints import save_generator
from dcp_deploy.compression.distillation import recipe
from dcp_deploy.config import BuildConfig
from dcp_deploy.datasets import images as image_sets
from dcp_deploy.errors import InputError, QualityError, UsageError
from dcp_deploy.files import read_json, write_json
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.metrics import likeness
from dcp_deploy.pipeline import builder, inputs, stages
from dcp_deploy.pipeline.builder import build
from dcp_deploy.pipeline.inputs import open_data, real_facts, real_words, resolve_inputs, why_not_measurable
from dcp_deploy.pipeline.plan import plan_build
from dcp_deploy.pipeline.summary import as_lines, summarise
from dcp_deploy.progress import Reporter

from .conftest import Listener, grey_mask

R = 16
USING_IMAGES = ("teacher", "score", "prune", "distill", "evaluate")  # the evaluation, and the stages before it


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the work, and leave out the stages that do not need real images."""
    effort = replace(config_module.EFFORTS["quick"], score_latents=10, score_directions=2)
    for name in ("quick", "standard"):
        monkeypatch.setitem(config_module.EFFORTS, name, effort)  # type: ignore[misc]
        small = replace(recipe.RECIPES[name], batch=4, relation=0.0, discriminator_width=0.05, measure_every=0)
        monkeypatch.setitem(recipe.RECIPES, name, small)  # type: ignore[misc]
    monkeypatch.setattr(builder, "STAGES", tuple(stage for stage in stages.STAGES if stage.name in USING_IMAGES))


@pytest.fixture
def new_config(tmp_path: Path) -> Callable[..., BuildConfig]:
    """``new_config(c_dim, **settings)`` configures a build of a tiny teacher, three steps with a discriminator."""

    def make(c_dim: int = 0, **settings: Any) -> BuildConfig:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = Generator(GeneratorConfig(R, (12,) * 6, z_dim=8, w_dim=8, mapping_layers=2, c_dim=c_dim))
        teacher = save_generator(network, tmp_path / f"teacher{c_dim}.safetensors")
        defaults = {"dataset": "ffhq", "teacher": teacher, "out": tmp_path / "run", "effort": "standard", "steps": 3}
        return BuildConfig(**{**defaults, "score": "random", "refine": "none", "device": "cpu", **settings})

    return make


@pytest.fixture
def new_images(tmp_path: Path) -> Callable[..., Path]:
    """``new_images(name, count, classes, size)`` writes a zip file like NVIDIA's; image i is grey with value i."""

    def make(name: str = "images.zip", count: int = 20, classes: int = 3, size: int = R) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for index in range(count):
                png = io.BytesIO()
                Image.new("RGB", (size, size), (index,) * 3).save(png, "PNG")
                archive.writestr(f"00000/img{index:08}.png", png.getvalue())
            labels = [[f"00000/img{index:08}.png", index % classes] for index in range(count)] if classes else None
            archive.writestr("dataset.json", json.dumps({"labels": labels}))
            archive.writestr("readme.txt", "")
        return tmp_path / name

    return make


def reasons_of(config: BuildConfig) -> dict[str, str]:
    """Return why each stage ran or was reused."""
    return {name: stage["reason"] for name, stage in read_json(config.directory / "run.json")["stages"].items()}


# ---- each input is resolved once ----


class Calls:
    """Counts the calls of a function that goes on to work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.count, original = 0, getattr(owner, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)


def test_each_input_is_opened_or_computed_once_for_a_build_a_second_build_and_a_plan(
    new_config: Callable[..., BuildConfig],
    new_images: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mask = grey_mask(tmp_path / "mask.onnx")
    config = new_config(data=new_images(), mask=mask, score="content", mask_background="0", steps=1)
    calls = {
        "mask sessions": Calls(monkeypatch, onnxruntime, "InferenceSession"),
        "data containers": Calls(monkeypatch, image_sets, "open_container"),
        "recipes": Calls(monkeypatch, inputs, "recipe_of"),
        "devices": Calls(monkeypatch, inputs, "torch_device"),
        "measurability": Calls(monkeypatch, inputs, "why_not_measurable"),
        "plans of widths": Calls(monkeypatch, compression, "score"),
    }
    once = dict.fromkeys(calls, 1)
    for run, expected in (
        (build, {**once, "plans of widths": 2}),  # one with random scores, and the stage's own
        (build, once),
        (plan_build, once),
    ):
        run(config)
        assert {name: call.count for name, call in calls.items()} == expected
        for call in calls.values():
            call.count = 0
    record = read_json(config.directory / "run.json")
    assert {"mask", "--data"} <= record["stages"]["distill"]["settings"].keys()


# ---- whole builds ----


def test_a_build_whose_student_collapsed_fails_after_its_metrics(
    new_config: Callable[..., BuildConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = new_config(steps=1)
    monkeypatch.setattr(likeness, "has_collapsed", lambda *_, **__: True)
    with pytest.raises(QualityError, match="makes the same image"):
        build(config)
    metrics = read_json(config.directory / "metrics.json")
    assert metrics["measured"] is False and metrics["latents"]["edits"]["of"] == "images"
    words = dict(as_lines(summarise(config.directory)))
    assert words["latents"].startswith("edit correlation ") and "L1 of mixed codes" in words["latents"]


def test_a_conditional_build_trains_against_labelled_images(
    new_config: Callable[..., BuildConfig], new_images: Callable[..., Path]
) -> None:
    config, listener = new_config(c_dim=3, data=new_images(), mirror=True), Listener()
    build(config, reporter=listener)
    history = read_json(config.directory / "history.json")
    assert history[-1]["discriminator"] > 0
    record = read_json(config.directory / "run.json")
    assert record["images"] == {
        "real": "--data", "in_training": True, "mirrored": True, "path": str(config.data), "kind": "zip", "images": 20,
        "skipped": 0, "skipped_first": [], "ignored_files": 1, "c_dim": 3, "resize": "error",
        "formats": {"PNG": 20}, "source_size": "16x16", "resize_filter": "none",
        "fingerprint": record["stages"]["distill"]["settings"]["--data"]["fingerprint"],
    }  # fmt: skip
    assert record["stages"]["distill"]["settings"]["mirror"] is True
    assert f"real images: 20 of {config.data} (zip), other files ignored: 1" in listener.heard
    metrics = read_json(config.directory / "metrics.json")
    assert "against the images of --data" in metrics["reason"]
    assert metrics["latents"]["mixed"]["l1"] > 0 and "unconditional" in metrics["latents"]["not_inverted"]

    with Image.open(config.directory / "grids" / "real.png") as grid:
        values = np.asarray(grid)[::R, ::R, 0].ravel()
    assert values.tolist() == np.linspace(0, 19, 16, dtype=int).tolist()  # from the first to the last
    record["stages"]["engine"] = {"status": "skipped", "reason": "not in this test"}  # the summary needs it
    write_json(config.directory / "run.json", record)
    assert ("real images", real_words(record["images"])) in as_lines(summarise(config.directory))


def test_other_images_train_again_and_the_same_images_elsewhere_do_not(
    new_config: Callable[..., BuildConfig], new_images: Callable[..., Path], tmp_path: Path
) -> None:
    config = new_config(data=new_images())
    build(config)
    first = (config.directory / "student.safetensors").read_bytes()
    moved = config.data.rename(tmp_path / "moved.zip")
    build(config.model_copy(update={"data": moved}))
    assert set(reasons_of(config).values()) == {builder.REUSED}

    build(config.model_copy(update={"data": new_images("other.zip", count=19)}))
    reasons = reasons_of(config)
    assert "--data" in reasons["distill"] and "--data" in reasons["evaluate"]
    assert reasons["prune"] == builder.REUSED
    assert (config.directory / "student.safetensors").read_bytes() != first

    build(config.model_copy(update={"data": None}))
    assert read_json(config.directory / "run.json")["images"]["real"] == "the teacher's own samples"
    assert not (config.directory / "grids" / "real.png").exists()


def test_without_a_discriminator_only_the_picture_uses_the_images_and_a_message_says_so(
    new_config: Callable[..., BuildConfig], new_images: Callable[..., Path]
) -> None:
    config, listener = new_config(data=new_images(), effort="quick"), Listener()
    assert "(--effort standard has one)" in real_words(plan_build(config).facts["images"])
    build(config, reporter=listener)
    assert any("training does not look at them" in line for line in listener.heard)
    assert (config.directory / "grids" / "real.png").exists()
    build(config.model_copy(update={"data": new_images("other.zip", count=5)}))
    reasons = reasons_of(config)
    assert reasons["distill"] == builder.REUSED and "--data" in reasons["evaluate"]


@pytest.mark.parametrize(
    ("c_dim", "made", "settings", "error", "message"),
    [
        (0, {"size": 8}, {}, UsageError, "is 8x8 px, not 16x16"),
        (3, {"classes": 0}, {}, UsageError, "no labels, and the generator is conditional on 3 classes"),
        (3, {"classes": 2}, {}, UsageError, "labels of length 2"),
        (0, None, {"data": Path("nowhere.zip")}, InputError, "nowhere.zip does not exist"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_anything_is_written(
    new_config: Callable[..., BuildConfig],
    new_images: Callable[..., Path],
    c_dim: int,
    made: dict[str, int] | None,
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    config = new_config(c_dim, **({"data": new_images(**made)} if made is not None else settings))
    for start in (build, plan_build):
        with pytest.raises(error, match=message):
            start(config)
    assert not config.directory.exists()


def test_a_run_against_real_images_that_is_interrupted_ends_with_the_same_student(
    new_config: Callable[..., BuildConfig],
    new_images: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frequent = replace(recipe.RECIPES["standard"], checkpoint_every=1)
    monkeypatch.setitem(recipe.RECIPES, "standard", frequent)
    config = new_config(c_dim=3, data=new_images(), steps=4)
    build(config)

    interrupted = config.model_copy(update={"out": tmp_path / "again"})
    original = stages.distill_student

    def stop_halfway(*args: Any, **kwargs: Any) -> Any:
        def progress(done: int, total: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        return original(*args, **{**kwargs, "progress": progress})

    monkeypatch.setattr(stages, "distill_student", stop_halfway)
    with pytest.raises(KeyboardInterrupt):
        build(interrupted)
    monkeypatch.setattr(stages, "distill_student", original)
    build(interrupted)
    students = [(run.directory / "student.safetensors").read_bytes() for run in (config, interrupted)]
    assert students[0] == students[1]


# ---- the parts ----


def test_the_demo_without_data_uses_its_own_portraits() -> None:
    demo = BuildConfig()
    assert open_data(demo, GeneratorConfig(64, (8,) * 10)) is None
    facts = real_facts(None, recipe.RECIPES["standard"], demo_measurable=True)
    assert real_words(facts) == "the demo's portraits, drawn on the fly"
    assert why_not_measurable(demo, GeneratorConfig(64, (8,) * 10)) is None


def test_with_data_only_the_demo_s_own_teacher_is_measured(tmp_path: Path) -> None:
    network = GeneratorConfig(64, (8,) * 10)
    assert why_not_measurable(BuildConfig(data=tmp_path), network) is None
    for settings in ({"teacher": tmp_path / "t.safetensors"}, {"dataset": "ffhq"}):
        reason = why_not_measurable(BuildConfig(data=tmp_path, **settings), network)
        assert reason is not None and "--data" in reason


def test_the_description_counts_bad_images(
    new_images: Callable[..., Path], tmp_path: Path, new_config: Callable[..., BuildConfig]
) -> None:
    folder = tmp_path / "folder"
    with zipfile.ZipFile(new_images(count=120)) as archive:
        archive.extractall(folder)
    (folder / "00000" / "img00000003.png").write_bytes(b"")
    images = open_data(new_config(data=folder), GeneratorConfig(R, (8,) * 6))
    words = real_words(real_facts(images, recipe.RECIPES["standard"], demo_measurable=False))
    assert words == f"120 of {folder} (folder), 1 of them bad and skipped, other files ignored: 1"


def test_a_latency_to_reach_takes_the_place_of_the_ratio(new_config: Callable[..., BuildConfig]) -> None:
    found = resolve_inputs(new_config(target_latency="1000ms"), Reporter()).pruning_plan
    assert found.target == "latency 1000 ms" and found.widths == found.teacher.widths  # even the teacher is as fast
    with pytest.raises(UsageError, match="several targets"):
        inputs.check_machine(new_config(target_latency="1ms", target_macs=0.5))


def test_inverted_images_are_required_only_where_they_are_searched(new_config: Callable[..., BuildConfig]) -> None:
    (found,) = resolve_inputs(new_config(require=["inverted_mse<0.01"]), Reporter()).requirements
    assert found.metric == "inverted_mse"
    with pytest.raises(UsageError, match="cannot be checked: projection needs an unconditional generator"):
        resolve_inputs(new_config(3, require=["inverted_mse<0.01"]), Reporter())
