from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dcp_deploy import errors, pipeline
from dcp_deploy.checkpoints import load_generator, save_generator
from dcp_deploy.cli import app
from dcp_deploy.cli_measure import numbers
from dcp_deploy.cli_output import PLAIN_SECONDS, Output, _PlainProgress, duration, is_disk_full
from dcp_deploy.cli_stages import whole_numbers
from dcp_deploy.config import read_toml
from dcp_deploy.errors import UsageError
from dcp_deploy.generators import Generator, GeneratorConfig

VERBS = ("build", "inspect", "convert", "score", "prune", "distill", "export", "engine", "verify", "bench", "sample",
         "eval", "bundle", "serve", "datasets", "doctor")  # fmt: skip


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document


Command = Callable[..., Ended]


@pytest.fixture
def dcp(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """``dcp("inspect", path)``: the command in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DCP_DEPLOY_DEBUG", raising=False)

    def run(*words: object) -> Ended:
        arguments = [str(word) for word in words]
        monkeypatch.setattr(sys, "argv", ["dcp-deploy", *arguments])
        with pytest.raises(SystemExit) as end:
            app(arguments, prog_name="dcp-deploy")
        out, err = capfd.readouterr()
        return Ended(int(end.value.code or 0), out, err)

    return run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a 16 px teacher, ``t.safetensors``, and its export ``t.onnx``."""
    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        generator = Generator(GeneratorConfig(16, (8,) * 6, z_dim=8, w_dim=8, mapping_layers=2)).eval()
        for _, torgb in generator.synthesis.torgbs():
            torgb.weight.data.mul_(0.2)  # colours within range, as the parity gate wants them
    save_generator(generator, folder / "t.safetensors")
    with pytest.raises(SystemExit) as end:  # seconds of work: once for all tests, by the verb itself
        app(["export", str(folder / "t.safetensors"), "--out", str(folder / "t.onnx"), "--quiet"])
    assert not end.value.code
    return folder


def fail_build_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def build(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "build", build)


# ---- how a verb ends ----


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("m", "r"), 2),
        (errors.CorruptFileError("m", "r"), 3),
        (errors.MissingCapabilityError("m", "r"), 4),
        (errors.ParityError("m", "r"), 5),
        (errors.StaleArtifactError("m", "r"), 6),
        (errors.DcpDeployError("m", "r"), 1),
        (OSError(errno.ENOSPC, "m"), 4),
        (OSError(errno.EDQUOT, "m"), 4),
        (RuntimeError("m: No space left on device (os error 28)"), 4),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("m"), 1),
        (OSError(errno.EACCES, "m"), 1),
    ],
    ids=repr,
)
def test_every_error_has_its_exit_code_and_no_traceback(
    dcp: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    fail_build_with(monkeypatch, error)
    ended = dcp("build")
    assert ended.code == code
    assert ended.err.startswith("error: ") and "Traceback" not in ended.err
    assert ended.out == ""


def test_an_interrupted_build_says_how_to_go_on(dcp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_build_with(monkeypatch, KeyboardInterrupt())
    assert "Run the same command again to resume." in dcp("build").err
    assert "Run the same command again without --force to resume." in dcp("build", "--force").err


def test_debug_shows_the_traceback(dcp: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCP_DEPLOY_DEBUG", "0")  # so that what the flag sets is undone after the test
    fail_build_with(monkeypatch, ZeroDivisionError("here"))
    assert "Traceback" in dcp("build", "--debug").err


def test_with_json_an_error_is_a_document_too(dcp: Command) -> None:
    ended = dcp("build", "--dataset", "nope", "--json")
    assert ended.code == 2
    assert ended.json["schema"] == 1
    assert ended.json["error"]["exit_code"] == 2 and "'nope'" in ended.json["error"]["message"]


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["build", "--dataset", "nope"], 2, "'nope'"),
        (["build", "--dataset", "fhq"], 2, "Did you mean ffhq?"),
        (["build", "--ratio", "1.2"], 2, "--ratio 1.2"),
        (["build", "--precision", "fp8"], 2, "--precision fp8"),
        (["build", "--refine", "polish"], 2, "--refine polish"),
        (["build", "--data", "photos"], 3, "there is no photos"),
        (["build", "--mirror"], 2, "--mirror"),
        (["build", "--dataset", "ffhq"], 4, "--teacher FILE"),
        (["build", "--teacher", "gone.st"], 3, "gone.st"),
        (["build", "--teacher", "empty.st"], 3, "empty"),
        (["build", "--ration", "0.7"], 2, "--ration"),
        (["biuld"], 2, "biuld"),
        (["inspect"], 2, "file"),
        (["inspect", "gone.st"], 3, "gone.st"),
        (["inspect", "empty.st"], 3, "empty"),
        (["convert", "text.st", "-o", "x.safetensors"], 3, "text.st"),
        (["convert", "text.st", "-o", "x.pt"], 2, "x.pt"),
        (["prune", "text.st", "-o", "x.safetensors"], 2, "--scores FILE or --score METHOD"),
        (["sample", "text.st", "--seeds", "a-b"], 3, "text.st"),
        (["datasets", "demoo"], 2, "Did you mean demo?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
@pytest.mark.usefixtures("offline")
def test_a_mistake_is_one_message_that_names_it_and_writes_nothing(
    dcp: Command, tmp_path: Path, words: list[str], code: int, named: str
) -> None:
    (tmp_path / "empty.st").touch()
    (tmp_path / "text.st").write_text("not a model at all")
    ended = dcp(*words)
    assert ended.code == code
    assert named in ended.err and "Traceback" not in ended.err
    assert {path.name for path in tmp_path.iterdir()} == {"empty.st", "text.st"}


def test_help_and_version_work_with_no_package_beyond_the_command_line_s() -> None:
    script = f"""
import sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"torch", "numpy", "onnx", "onnxruntime", "onnxscript", "safetensors", "PIL", "scipy",
                                  "sklearn", "matplotlib", "jinja2", "tensorrt_rtx", "tensorrt", "psutil",
                                  "httpx", "filelock", "platformdirs"}}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Bare())
from dcp_deploy.cli import app
for words in [["--help"], ["--version"], *([verb, "--help"] for verb in {VERBS})]:
    try:
        app(words)
    except SystemExit as end:
        assert not end.code, words
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


def test_output_into_a_closed_pipe_ends_quietly() -> None:
    command = f"{sys.executable} -m dcp_deploy datasets --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, ""), True),
        (OSError(errno.ENOENT, ""), False),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("no space"), False),
    ],
    ids=repr,
)
def test_a_full_disk_is_known_by_number_or_by_words(error: Exception, full: bool) -> None:
    assert is_disk_full(error) is full
    wrapped = ValueError("writing failed")
    wrapped.__cause__ = error
    assert is_disk_full(wrapped) is full


# ---- settings from a file ----


def test_a_file_gives_defaults_and_flags_win(dcp: Command, tmp_path: Path, models: Path) -> None:
    (tmp_path / "c.toml").write_text(f'dataset = "ffhq"\nalign = 1\nseed = 3\nteacher = "{models}/t.safetensors"\n')
    ended = dcp("build", "--config", "c.toml", "--seed", "4", "--dry-run", "--json")
    config = ended.json["config"]
    assert (config["dataset"], config["align"], config["seed"]) == ("ffhq", 1, 4)
    assert ended.json["student"]["parameters"] < ended.json["teacher"]["parameters"]


def test_an_unknown_setting_in_a_file_is_refused(dcp: Command, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("ration = 0.5\n")
    ended = dcp("build", "--config", "c.toml")
    assert ended.code == 2 and "'ration'" in ended.err


def test_a_setting_of_the_wrong_type_in_a_file_is_refused(dcp: Command, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('ratio = "much"\n')
    assert dcp("build", "--config", "c.toml").code == 2


def test_the_settings_beside_a_result_make_it_again(dcp: Command, tmp_path: Path, models: Path) -> None:
    first = dcp("sample", models / "t.safetensors", "-o", "a.png", "--seeds", "5,7", "--psi", "0.5,1", "--json").json
    settings = read_toml(first["settings"])
    assert settings["seeds"] == "5,7" and "as_json" not in settings
    before = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").unlink()
    del settings["model"]  # an argument is given by its place
    assert dcp("sample", models / "t.safetensors", "--config", first["settings"]).code == 0
    assert (tmp_path / "a.png").read_bytes() == before


# ---- each verb at work ----


def test_inspect_as_text_and_as_json(dcp: Command, models: Path) -> None:
    assert "stylegan2" in dcp("inspect", models / "t.safetensors").out
    facts = dcp("inspect", models / "t.onnx", "--json").json
    assert facts["format"] == "onnx" and facts["widths"] == [8] * 6 and facts["macs"] > 0


def test_convert_writes_the_same_network(dcp: Command, tmp_path: Path, models: Path) -> None:
    assert dcp("convert", models / "t.safetensors", "-o", "c.safetensors").code == 0
    before, after = load_file(models / "t.safetensors"), load_file(tmp_path / "c.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_score_then_prune_keeps_what_the_plan_says(dcp: Command, tmp_path: Path, models: Path) -> None:
    teacher = models / "t.safetensors"
    assert dcp("score", teacher, "-o", "s.safetensors", "--latents", 10, "--directions", 2, "--quiet").err == ""
    plan = dcp("prune", teacher, "--scores", "s.safetensors", "-o", "p.safetensors", "--align", 2, "--json").json[
        "plan"
    ]
    assert load_generator(tmp_path / "p.safetensors").widths == tuple(plan["student"]["widths"]) == (4,) * 6


def test_prune_by_a_method_may_only_plan(dcp: Command, tmp_path: Path, models: Path) -> None:
    words = ("--score", "random", "--ratio", "0.5", "--align", "1", "-o", "p.safetensors", "--dry-run")
    ended = dcp("prune", models / "t.safetensors", *words)
    assert "fewer" in ended.out and "latency: " in ended.out
    assert not (tmp_path / "p.safetensors").exists()


def test_a_latency_is_planned_in_milliseconds(dcp: Command, models: Path) -> None:
    words = ("prune", models / "t.safetensors", "--score", "random", "--align", "1", "-o", "p.safetensors", "--dry-run")
    assert dcp(*words, "--target-latency", "1000ms", "--json").json["target"] == "latency 1000 ms"
    assert "'soon' is no time" in dcp(*words, "--target-latency", "soon").err


def test_prune_puts_shards_together(dcp: Command, models: Path) -> None:
    for i in (0, 1):
        words = ("--latents", 8, "--directions", 2, "--batch", 2, "--shard", f"{i}/2", "-o", f"{i}.safetensors")
        dcp("score", models / "t.safetensors", *words)
    both = ("--scores", "0.safetensors", "--scores", "1.safetensors", "--align", 1, "-o", "p.safetensors")
    assert dcp("prune", models / "t.safetensors", *both, "--dry-run").code == 0
    ended = dcp("prune", models / "t.safetensors", *both[2:], "--dry-run")
    assert ended.code == 2 and "no 1 shards" in ended.err


def test_prune_to_a_target_stays_within_it(dcp: Command, models: Path) -> None:
    words = ("--score", "weight-out", "--target-macs", "0.5", "--align", "1", "-o", "p.safetensors", "--dry-run")
    plan = dcp("prune", models / "t.safetensors", *words, "--json").json
    assert plan["target"] == "macs 0.5"
    assert 0.4 < plan["student"]["macs"] / plan["teacher"]["macs"] <= 0.5


def test_score_says_how_far_two_halves_agree(dcp: Command, models: Path) -> None:
    words = ("--latents", 12, "--directions", 2, "--batch", 3, "--released", "-o", "s.safetensors")
    ended = dcp("score", models / "t.safetensors", *words)
    assert "two halves of the 12 latents keep" in ended.err


def test_distill_trains_after_the_teacher(dcp: Command, tmp_path: Path, models: Path) -> None:
    teacher = models / "t.safetensors"
    dcp("prune", teacher, "--score", "random", "--align", "1", "-o", "p.safetensors")
    ended = dcp("distill", "p.safetensors", "--teacher", teacher, "-o", "d.safetensors", "--steps", 2, "--json")
    assert [entry["step"] for entry in ended.json["history"]] == [0, 2]
    assert load_generator(tmp_path / "d.safetensors").widths == load_generator(tmp_path / "p.safetensors").widths


def test_distill_against_images_says_what_they_are(dcp: Command, tmp_path: Path, models: Path) -> None:
    teacher, folder = models / "t.safetensors", tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        Image.new("RGB", (24, 20), (index,) * 3).save(folder / f"{index}.png")
    dcp("prune", teacher, "--score", "random", "--align", "1", "-o", "p.safetensors")
    words = ("distill", "p.safetensors", "--teacher", teacher, "-o", "d.safetensors", "--steps", 1, "--data", folder)
    refused = dcp(*words)
    assert refused.code == 2 and "is 24x20 px, not 16x16" in refused.err and "--resize crop" in refused.err
    ended = dcp(*words, "--resize", "crop", "--mirror", "--json")
    assert ended.json["images"]["images"] == 4 and ended.json["images"]["kind"] == "folder"
    assert ended.json["images"]["mirrored"] is True and ended.json["images"]["in_training"] is False
    assert f"4 of {folder} (folder)" in ended.err and "training does not look at them" in ended.err
    assert read_toml(tmp_path / "d.safetensors.toml")["data"] == str(folder)


def test_what_export_wrote_verifies(dcp: Command, models: Path) -> None:
    words = ("--latents", 4, "--psi", "1", "-o", "v.json", "--json")
    ended = dcp("verify", models / "t.safetensors", models / "t.onnx", *words)
    assert ended.code == 0 and ended.json["passed"] is True
    assert json.loads(Path("v.json").read_text())["passed"] is True


def test_export_leaves_its_settings_beside_the_file(models: Path) -> None:
    settings = read_toml(models / "t.onnx.toml")
    assert (settings["image"], settings["upsample"], settings["noise"]) == ("uint8", "transposed", "const")


def test_export_takes_a_teacher_along_and_makes_other_forms(dcp: Command, models: Path) -> None:
    teacher = models / "t.safetensors"
    words = ("--inputs", "ws", "--noise", "none", "--upsample", "polyphase", "--batch", "1,8", "--json")
    ended = dcp("export", teacher, "-o", "s.onnx", "--teacher", teacher, *words)
    assert ended.code == 0 and ended.json["teacher"] == "teacher.onnx"
    student, beside = (dcp("inspect", name, "--json").json for name in ("s.onnx", "teacher.onnx"))
    for told in (student, beside):
        assert list(told["inputs"]) == ["ws"] and told["metadata"]["batch"] == "1,8"
        assert '"polyphase"' in told["metadata"]["upsample"] and told["metadata"]["noise"] == "none"
    assert student["metadata"]["teacher_sha256"] == beside["metadata"]["weights_sha256"]


def test_export_refuses_what_makes_no_sense(dcp: Command, models: Path) -> None:
    teacher = models / "t.safetensors"
    refused = dcp("export", teacher, "-o", "teacher.onnx", "--teacher", teacher)
    assert refused.code == 2 and "where the teacher goes" in refused.err
    assert dcp("export", teacher, "-o", "s.onnx", "--batch", "8").code == 2
    assert not Path("s.onnx").exists()


def test_verify_fails_with_its_figures_when_images_differ(dcp: Command, tmp_path: Path, models: Path) -> None:
    other = load_generator(models / "t.safetensors")
    other.synthesis.b4.conv1.weight.data.mul_(-1)
    save_generator(other, tmp_path / "o.safetensors")
    words = ("--latents", 4, "-o", "v.json", "--worst", "worst.png")
    ended = dcp("verify", "o.safetensors", models / "t.onnx", *words)
    assert ended.code == 5
    assert "differ" in ended.err and "FAILED" in ended.out
    assert json.loads((tmp_path / "v.json").read_text())["passed"] is False
    assert (tmp_path / "worst.png").read_bytes()[:4] == b"\x89PNG"


def test_verify_names_the_first_layer_that_differs(dcp: Command, tmp_path: Path, models: Path) -> None:
    other = load_generator(models / "t.safetensors")
    other.synthesis.b8.conv1.bias.data += 1
    save_generator(other, tmp_path / "o.safetensors")
    words = ("--latents", 4, "--bisect", "-o", "v.json", "--backend-a", "fused", "--precision", "fp16")
    ended = dcp("verify", "o.safetensors", models / "t.onnx", *words)
    assert ended.code == 5
    assert "the first layer out of tolerance is b8.conv1" in ended.err and "relative error" in ended.out
    document = json.loads((tmp_path / "v.json").read_text())
    assert document["layers"]["first"] == "b8.conv1"
    assert (document["precision"], document["a"]["backend"]) == ("fp16", "fused")


def test_verify_refuses_an_export_that_ignores_psi(dcp: Command, tmp_path: Path, models: Path) -> None:
    model = onnx.load(models / "t.onnx")
    reader = next(node for node in model.graph.node if "psi" in node.input)
    reader.input[list(reader.input).index("psi")] = "one"
    model.graph.node.insert(0, onnx.helper.make_node("Div", ["psi", "psi"], ["one"]))
    onnx.save(model, tmp_path / "b.onnx")
    ended = dcp("verify", models / "t.safetensors", "b.onnx", "--latents", 4, "--bisect")
    assert ended.code == 5
    assert "the first layer out of tolerance is styles.b4.conv1" in ended.err


def test_engine_builds_for_a_named_gpu_without_one(dcp: Command, tmp_path: Path, models: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is an extra")
    ended = dcp("engine", models / "t.onnx", "-o", "t.engine", "--target", "RTX 4090", "--batch", "1,2,4", "--json")
    assert ended.json["manifest"]["targets"] == ["sm89"]
    facts = dcp("inspect", "t.engine", "--json").json
    assert facts["format"] == "engine" and facts["widths"] == [8] * 6 and facts["parameters"] > 0


def test_bench_compares_with_the_teacher(dcp: Command, models: Path) -> None:
    words = ("--teacher", models / "t.safetensors", "--rounds", 3, "--seconds", 0, "--json")
    document = dcp("bench", models / "t.onnx", *words).json
    teacher, model = document["rows"]
    assert (teacher["labels"]["backend"], model["labels"]["backend"]) == ("torch", "onnxruntime")
    assert document["baseline"] == teacher["name"] and model["speedup"]["value"] > 0


def test_bench_lists_what_cannot_run_here_with_the_reason(dcp: Command, models: Path, tmp_path: Path) -> None:
    words = ("--backends", "onnxruntime,tensorrt", "--batch", "1,2", "--rounds", 2, "--seconds", 0)
    files = ("--markdown", tmp_path / "b.md", "--plot", tmp_path / "b.svg")
    document = dcp("bench", models / "t.onnx", *words, *files, "--json").json
    assert [row["name"] for row in document["rows"]] == [
        "model, ONNX Runtime, batch 1", "model, ONNX Runtime, batch 2",
    ]  # fmt: skip
    assert [one["name"] for one in document["skipped"]] == ["model, TensorRT"]
    assert document["rows"][1]["roofline"]["floor_ms"] > 0 and document["ceilings"]
    assert dcp("bench", models / "t.onnx", "--bound", 0).code == 2
    assert dcp("bench", models / "t.onnx", "--plot", "b.pdf").code == 2
    assert "Skipped: model, TensorRT: no tensorrt engine" in (tmp_path / "b.md").read_text()
    assert "images per call" in (tmp_path / "b.svg").read_text()


def test_bench_compare_judges_two_runs_and_gates(dcp: Command, tmp_path: Path) -> None:
    def written(name: str, milliseconds: float) -> Path:
        row = {"name": "student", "samples_ms": [milliseconds] * 20}
        (tmp_path / name).write_text(json.dumps({"schema": 1, "batch": 1, "rows": [row]}))
        return tmp_path / name

    a, b = written("a.json", 10.0), written("b.json", 12.0)
    assert dcp("bench", "compare", a, b, "--json").json["rows"][0]["verdict"] == "slower"
    assert dcp("bench", "compare", a, b, "--fail-above", 1.25).code == 0
    failed = dcp("bench", "compare", a, b, "--fail-above", 1.05)
    assert failed.code == 5 and "1.20x [1.20, 1.20] is above 1.05" in failed.err
    assert dcp("bench", "compare", a, b, "--fail-above", -1).code == 2
    assert "--fail-above" in dcp("bench", "compare", "--help").out


def test_eval_refuses_what_its_features_cannot_read(dcp: Command, models: Path) -> None:
    ended = dcp("eval", models / "t.onnx")
    assert ended.code == 2 and "16 px" in ended.err


def test_datasets_lists_all_and_tells_one_in_full(dcp: Command) -> None:
    assert "ffhq256" in dcp("datasets").out
    assert len(dcp("datasets", "--json").json["datasets"]) > 10
    assert dcp("datasets", "ffhq", "--json").json["teacher"]["url"].startswith("https://")


def test_doctor_ends_well_here(dcp: Command) -> None:
    assert dcp("doctor", "--json").json["healthy"] is True
    assert "torch" in dcp("doctor").out


# ---- words and numbers ----


@pytest.mark.parametrize(
    ("text", "meant"), [("3", (3,)), ("1,8,64", (1, 8, 64)), ("0-3", (0, 1, 2, 3)), ("0-1, 5", (0, 1, 5))]
)
def test_lists_of_whole_numbers(text: str, meant: tuple[int, ...]) -> None:
    assert whole_numbers("--seeds", text) == meant


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1.5", "-3"])
def test_what_is_no_list_of_whole_numbers_names_the_flag(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds"):
        whole_numbers("--seeds", text)


def test_lists_of_numbers() -> None:
    assert numbers("--psi", "0.5, 1") == (0.5, 1.0)
    with pytest.raises(UsageError, match="--psi"):
        numbers("--psi", "half")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (99, "99 s"), (99.6, "2 min"), (3600, "60 min"), (8000, "2.2 h")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_without_a_terminal_progress_is_a_line_now_and_then() -> None:
    said: list[str] = []
    now = 0.0
    progress = _PlainProgress("distil", said.append, clock=lambda: now)
    progress(100, 200)  # resumed in the middle
    for step in range(101, 201):
        now += PLAIN_SECONDS / 10
        progress(step, 200)
    assert said[0] == "distil: 110 of 200, about 2 min left"
    assert len(said) == 9  # one each ten steps, none for the last


def test_quiet_drops_messages_and_progress(capfd: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.message("hello")
    with output.task("work") as progress:
        progress(1, 2)
    assert capfd.readouterr() == ("", "")


def test_a_refused_write_reaches_the_user_as_a_full_disk(
    dcp: Command, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    ended = dcp("sample", models / "t.safetensors", "-o", "a.png", "--seeds", "0")
    assert ended.code == 4 and "no space left" in ended.err
    assert not list(Path().iterdir())
