from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dcp_deploy.config import EFFORTS, BuildConfig, read_toml, to_toml
from dcp_deploy.errors import CorruptFileError, InputError, UsageError
from dcp_deploy.teachers.presets import DATASETS, find_dataset

SCALARS = st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("dataset", "nope", "'nope'"),
        ("ratio", 1.0, "--ratio 1.0"),
        ("ratio", -0.1, "--ratio -0.1"),
        ("ratio", float("nan"), "--ratio nan"),
        ("align", 0, "--align 0"),
        ("target_macs", 1.5, "--target-macs 1.5"),
        ("steps", 0, "--steps 0"),
        ("seed", -1, "--seed -1"),
        ("seed", 2**32, "--seed 4294967296"),
        ("score", "taylor", "--score taylor"),
        ("refine", "polish", "--refine polish"),
        ("precision", "fp8", "--precision fp8"),
        ("effort", "heroic", "--effort heroic"),
        ("resize", "stretch", "--resize stretch"),
        ("resize", "crop", "--resize: it applies to the images of --data, which is not given"),
        ("mirror", True, "--mirror: it applies to the images of --data, which is not given"),
        ("ration", 0.5, "unknown setting 'ration'"),
    ],
)
def test_an_invalid_setting_is_a_usage_error_that_names_it(field: str, value: Any, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        BuildConfig.parse({field: value})
    assert named in caught.value.message


def test_one_error_names_several_mistakes() -> None:
    with pytest.raises(UsageError) as caught:
        BuildConfig.parse({"ratio": 2, "align": -1})
    assert "--ratio 2" in caught.value.message and "--align -1" in caught.value.message


def test_the_constructor_refuses_unknown_fields_as_pydantic_does() -> None:
    with pytest.raises(ValidationError, match="ration"):
        BuildConfig(ration=0.5)  # type: ignore[call-arg]


@pytest.mark.parametrize(("typed", "meant"), [("fhq", "ffhq"), ("demoo", "demo"), ("metface", "metfaces")])
def test_an_unknown_data_set_is_answered_with_the_closest_name_and_the_list(typed: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_dataset(typed)
    assert f"Did you mean {meant}?" in caught.value.remedy
    assert all(name in caught.value.remedy for name in DATASETS)


def test_the_default_directory_is_named_after_the_data_set() -> None:
    assert BuildConfig(dataset="ffhq").directory == Path("build/ffhq")
    assert BuildConfig(dataset="ffhq", out=Path("elsewhere")).directory == Path("elsewhere")


def test_the_paper_effort_has_the_published_counts() -> None:
    paper = EFFORTS["paper"]
    assert (paper.score_latents, paper.score_directions, paper.evaluation_samples) == (5000, 10, 50_000)


def test_only_the_demo_is_ready_and_the_others_name_their_download() -> None:
    assert [name for name, preset in DATASETS.items() if preset.ready] == ["demo"]
    for preset in DATASETS.values():
        assert preset.ready or ("--teacher FILE" in preset.status and preset.teacher.url)
        assert preset.resolution in (64, 256, 512, 1024)


# ---- TOML ----


def test_a_written_configuration_reads_back_the_same(tmp_path: Path) -> None:
    config = BuildConfig(dataset="ffhq", teacher=Path('odd "name"\\x.st'), ratio=0.55, steps=3, target="sm89,L4")
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config.to_dict()), encoding="utf-8")
    back = BuildConfig.from_toml(path)
    assert back.to_dict() == config.to_dict()


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), SCALARS | st.lists(SCALARS, max_size=3)))
def test_any_flat_table_reads_back_the_same_from_toml(values: dict[str, Any]) -> None:
    # TOML text is Unicode scalar values; lone surrogates cannot be written in any encoding of it.
    if any("\ud800" <= char <= "\udfff" for char in str(values)):
        return
    assert tomllib.loads(to_toml(values)) == values


def test_none_is_left_out_of_toml() -> None:
    assert to_toml({"a": None, "b": 1}) == "b = 1\n"


def test_dashes_in_toml_keys_become_underscores(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("dry-run = true\n")
    assert read_toml(tmp_path / "c.toml") == {"dry_run": True}


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, InputError), (b"ratio = ", CorruptFileError), (b"\xff\xfe", CorruptFileError)],
    ids=["missing", "not TOML", "not text"],
)
def test_an_unreadable_configuration_file_is_an_input_error(
    tmp_path: Path, content: bytes | None, error: type[Exception]
) -> None:
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=r"c\.toml"):
        read_toml(path)


# ---- effort ----


def test_a_large_teacher_gets_fewer_latents_in_proportion_down_to_a_floor() -> None:
    quick = EFFORTS["quick"]
    assert quick.for_teacher(228_000_000) == quick
    assert quick.for_teacher(2_000_000_000).score_latents == quick.score_latents // 2
    largest = quick.for_teacher(74_266_894_336)
    assert (largest.score_latents, largest.refine_latents, largest.parity_latents) == (10, 8, 16)
    assert largest.score_directions == quick.score_directions


def test_scores_without_gradients_get_more_latents_and_choose_their_directions() -> None:
    quick = EFFORTS["quick"]
    assert quick.latents_for("hybrid") == quick.latents_for("change") > quick.latents_for("diversity")
    assert (quick.directions_for("change"), quick.directions_for("diversity")) == (None, 10)
    assert quick.for_teacher(74_266_894_336).latents_for("change") == 192


def test_the_paper_effort_is_the_same_for_every_teacher() -> None:
    assert EFFORTS["paper"].for_teacher(74_266_894_336) == EFFORTS["paper"]
