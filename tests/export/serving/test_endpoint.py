"""What a Runner learns of a served generator from the metadata of its server."""

from __future__ import annotations

from typing import Any

import pytest

from dcp_deploy.errors import InputError
from dcp_deploy.export.serving.endpoint import _sizes


def metadata(image: list[Any], datatype: str) -> dict[str, Any]:
    """Return the metadata as Triton answers over gRPC, where sizes are texts."""
    tensors = {"z": (["-1", "12"], "FP32"), "psi": (["-1", "1"], "FP32"), "image": (image, datatype)}
    inputs, outputs = (
        [{"name": name, "shape": tensors[name][0], "datatype": tensors[name][1]} for name in names]
        for names in (("z", "psi"), ("image",))
    )
    return {"inputs": inputs, "outputs": outputs}


@pytest.mark.parametrize(
    ("image", "datatype", "form"),
    [(["-1", "16", "8", "3"], "UINT8", "uint8"), (["-1", "3", "16", "8"], "FP32", "float")],
)
def test_the_size_is_height_and_width_in_either_format(image: list[str], datatype: str, form: str) -> None:
    assert _sizes(metadata(image, datatype), "tall") == (12, 0, (16, 8), form)


def test_a_model_without_an_image_is_refused() -> None:
    with pytest.raises(InputError, match="other is not a generator of ours"):
        _sizes(metadata(["-1", "8"], "FP32"), "other")
