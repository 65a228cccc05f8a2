"""Labels in dataset.json: classes, vectors, and documents that are wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dcp_deploy.datasets.labels import Labels, read_labels
from dcp_deploy.errors import CorruptFileError

NAMES = st.lists(st.text(st.characters(blacklist_characters="\\"), min_size=1, max_size=8), min_size=1, unique=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def read(document: Any, names: list[str]) -> Labels | None:
    return read_labels(json.dumps(document).encode(), names, source="dataset.json")


@given(NAMES, st.data())
def test_classes_become_one_hot_vectors_of_the_highest_class(names: list[str], data: st.DataObject) -> None:
    classes = data.draw(st.lists(st.integers(0, 20), min_size=len(names), max_size=len(names)))
    order = data.draw(st.permutations(range(len(names))))  # the document may have any order
    labels = read({"labels": [[names[index], classes[index]] for index in order]}, names)
    assert labels is not None and labels.c_dim == max(classes) + 1
    for index, label in enumerate(classes):
        expected = np.eye(labels.c_dim, dtype=np.float32)[label]
        assert np.array_equal(labels.vector(index), expected) and labels.vector(index).dtype == np.float32


@given(NAMES, st.integers(1, 4), st.data())
def test_vectors_are_kept(names: list[str], length: int, data: st.DataObject) -> None:
    vector = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=length, max_size=length)
    vectors = data.draw(st.lists(vector, min_size=len(names), max_size=len(names)))
    labels = read({"labels": [list(pair) for pair in zip(names, vectors, strict=True)]}, names)
    assert labels is not None and labels.c_dim == length
    assert [labels.vector(index).tolist() for index in range(len(names))] == vectors


@settings(max_examples=50)
@given(JSON, NAMES)
def test_any_other_document_is_refused_with_its_name_or_has_no_labels(document: Any, names: list[str]) -> None:
    for content in (document, {"labels": document}):
        try:
            labels = read(content, names)
        except CorruptFileError as error:
            assert "dataset.json" in error.message
        else:
            assert isinstance(content, dict)
            assert labels is None or len(labels.values) == len(names)


@given(st.binary(max_size=40))
def test_bytes_that_are_not_a_document_are_refused_with_its_name(content: bytes) -> None:
    assume(not content.strip().startswith(b"{"))  # {} is a document without labels
    with pytest.raises(CorruptFileError, match=r"dataset\.json"):
        read_labels(content, ["a"], source="dataset.json")


@pytest.mark.parametrize("document", [{"labels": None}, {}, {"other": 1}])
def test_a_document_may_have_no_labels(document: Any) -> None:
    assert read(document, ["a.png"]) is None


def test_labels_of_other_files_and_windows_slashes_are_understood() -> None:
    labels = read({"labels": [["gone.png", 7], ["00000\\a.png", 1]]}, ["00000/a.png"])
    assert labels is not None and labels.values.tolist() == [1]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([["a", 1]], "no label for 1 of 2 images, the first 'b'"),
        ([["a", 1], ["b", 2], ["a", 2]], "'a' two labels"),
        ([["a", 1], ["b", -1]], "label -1"),
        ([["a", 1], ["b", True]], "label True"),
        ([["a", 1], ["b", 1.5]], "label 1.5"),
        ([["a", 1], ["b", 2**31]], "label 2147483648"),
        ([["a", 1], ["b", [1.0]]], r"label \[1.0\] is not a class"),
        ([["a", [1.0]], ["b", [1.0, 2.0]]], r"label \[1.0, 2.0\]"),
        ([["a", []], ["b", []]], r"label \[\]"),
        ([["a", [1.0]], ["b", [float("nan")]]], r"label \[nan\]"),
        ([["a", [1.0]], ["b", [1e39]]], r"label \[1e\+39\]"),
        ([["a", [1.0]], ["b", [10**400]]], r"label \[1000"),
        ([["a", 1, 2]], r"entry 0 is not \[name, label\]"),
        ([["a", 1], [3, 1]], r"entry 1 is not \[name, label\]"),
    ],
)
def test_impossible_labels_are_refused(pairs: list[Any], message: str) -> None:
    with pytest.raises(CorruptFileError, match=message):
        read({"labels": pairs}, ["a", "b"])


def test_deeply_nested_json_does_not_exhaust_the_stack() -> None:
    with pytest.raises(CorruptFileError, match="not JSON"):
        read_labels(b"[" * 200_000, ["a"], source="dataset.json")
