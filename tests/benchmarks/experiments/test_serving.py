from __future__ import annotations

from pathlib import Path

from dcp_deploy.benchmarks.experiments.serving import without_batching
from dcp_deploy.export.bundle.triton import Served, Tensor, config_pbtxt
from dcp_deploy.export.integrity import check_bundle, seal

from ...bundle_facts import FACTS


def test_a_bundle_without_batching_is_otherwise_the_same(tmp_path: Path) -> None:
    tensors = (Tensor("z", "TYPE_FP32", (4,)), Tensor("psi", "TYPE_FP32", ()))
    model = Served("generator", tensors, Tensor("image", "TYPE_UINT8", (8, 8, 3)), 4, 1, 1, 100)
    config = tmp_path / "b" / "models" / "generator" / "configs" / "python.pbtxt"
    config.parent.mkdir(parents=True)
    config.write_text(config_pbtxt(model, "python"))
    (tmp_path / "b" / "README.md").write_text("about")
    before = seal(tmp_path / "b", FACTS)
    with without_batching(tmp_path / "b") as copy:
        after = check_bundle(copy)
        text = (copy / config.relative_to(tmp_path / "b")).read_text()
    assert "dynamic_batching" not in text and "model_warmup" in text and "instance_group" in text
    assert len(text.splitlines()) == len(config.read_text().splitlines()) - 3
    changed = {name for name in before["files"] if before["files"][name] != after["files"][name]}
    assert changed == {"models/generator/configs/python.pbtxt"}
    assert check_bundle(tmp_path / "b") == before
