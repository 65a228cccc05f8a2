from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dcp_deploy.export.serving.repository import MODELS, PICTURES, Size, link_repository, resized, size_for


@pytest.mark.parametrize(
    ("cores", "made_for", "threads", "expected"),
    [
        (2, 2, 1, Size(2, 1)),  # as it was measured
        (1, 2, 1, Size(1, 1)),
        (8, 2, 1, Size(8, 1)),
        (8, 4, 2, Size(4, 2)),
        (3, 8, 8, Size(1, 3)),
        (5, 4, 2, Size(2, 2)),
    ],
)
def test_a_model_gets_the_cores_that_are_allowed_where_it_is_served(
    cores: int, made_for: int, threads: int, expected: Size
) -> None:
    assert (
        size_for(cores, {"cores": made_for, "best": {"instances": made_for // threads, "threads": threads}}) == expected
    )


@pytest.mark.parametrize("name", ["config.pbtxt", "configs/python.pbtxt"])
def test_a_resized_configuration_is_valid_and_otherwise_the_same(bundle: Path, name: str) -> None:
    text = (bundle / "models" / "generator" / name).read_text()
    before, after = (
        text_format.Parse(one, model_config_pb2.ModelConfig()) for one in (text, resized(text, Size(3, 5)))
    )
    if name == "config.pbtxt":
        assert after.parameters.pop("intra_op_thread_count").string_value == "15"
    else:
        assert after.instance_group[0].count == 3 and after.parameters["threads"].string_value == "5"
        after.instance_group[0].count = before.instance_group[0].count
        after.parameters["threads"].string_value = before.parameters["threads"].string_value
    assert before == after


def test_all_files_but_the_configurations_are_links(bundle: Path, tmp_path: Path) -> None:
    link_repository(bundle, tmp_path, (MODELS, PICTURES), Size(3, 5))
    for path in (*(bundle / MODELS).rglob("*"), *(bundle / PICTURES).rglob("*")):
        place = tmp_path / path.relative_to(bundle)
        copied = path.suffix == ".pbtxt" and path.is_relative_to(bundle / MODELS)
        assert place.is_dir() if path.is_dir() else place.is_symlink() != copied
