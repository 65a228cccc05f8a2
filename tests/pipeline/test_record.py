"""``run.json`` in any form: what cannot be used costs a fresh run, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_deploy.files import RUN_FILE
from dcp_deploy.pipeline.record import RunRecord, StageRecord, why_again

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def stage() -> dict[str, Any]:
    return {"status": "done", "key": "k", "outputs": {"teacher.safetensors": "0" * 64}}


def document() -> dict[str, Any]:
    return {"schema": 1, "networks": {"teacher": {"parameters": 5}}, "stages": {"teacher": stage()}}


def loaded(folder: Path, text: str) -> RunRecord:
    (folder / RUN_FILE).write_text(text, encoding="utf-8", errors="surrogatepass")
    record = RunRecord.load(folder)
    record.stages.setdefault("teacher", StageRecord())
    for name, found in record.stages.items():
        why_again(found, folder, name, {}, {})
    record.save()
    return record


def test_a_whole_record_is_used_again(tmp_path: Path) -> None:
    assert loaded(tmp_path, json.dumps(document())).stages["teacher"].key == "k"


@given(value=VALUES, place=st.sampled_from([(), ("networks",), ("stages",), ("stages", "teacher")]), data=st.data())
def test_a_wrong_value_anywhere_costs_at_most_a_fresh_run(
    tmp_path_factory: pytest.TempPathFactory, value: object, place: tuple[str, ...], data: st.DataObject
) -> None:
    changed = document()
    part: dict[str, Any] = changed
    for name in place:
        part = part[name]
    part[data.draw(st.sampled_from([*part, "config", "settings"]))] = value
    loaded(tmp_path_factory.getbasetemp(), json.dumps(changed))


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "[" * 100_000, '{"a":' * 5_000, "NaN", '"\ud800"',
        json.dumps({**document(), "networks": {"teacher": {"macs": float("nan")}}}),
        json.dumps({**document(), "networks": {"teacher": {"macs": "many"}}}),
        json.dumps({**document(), "stages": {"teacher": {**stage(), "outputs": None}}}),
        json.dumps({**document(), "stages": {"teacher": {**stage(), "seconds": "9"}}}),
        json.dumps({**document(), "stages": {"teacher": {**stage(), "outputs": {"../../x": "0"}}}}),
        json.dumps({**document(), "stages": {"teacher": {**stage(), "outputs": {"/etc/passwd": "0"}}}}),
        json.dumps({**document(), "stages": {"teacher": {**stage(), "outputs": {"a" * 5000: "0"}}}}),
        json.dumps({**document(), "networks": {"teacher": {"x": 1}}}).replace("1}}", "1" * 5000 + "}}"),
    ],
)  # fmt: skip
def test_a_damaged_record_counts_as_none(tmp_path: Path, text: str) -> None:
    assert loaded(tmp_path, text).stages["teacher"].status == "pending"


def test_a_stage_without_outputs_runs_again(tmp_path: Path) -> None:
    record = loaded(tmp_path, json.dumps({**document(), "stages": {"teacher": {**stage(), "outputs": {}}}}))
    assert why_again(record.stages["teacher"], tmp_path, "teacher", {}, {}) is not None


def test_a_folder_in_place_of_the_record_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).mkdir()
    (tmp_path / RUN_FILE / "kept").touch()
    record = RunRecord.load(tmp_path)
    record.open()
    assert (tmp_path / RUN_FILE).is_file()
    assert [path.name for path in tmp_path.glob("*.old/*")] == ["kept"]
