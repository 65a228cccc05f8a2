"""``model.py`` of a bundle's generators, for Triton's Python backend: the ONNX file beside it, run by onnxruntime.

Travels in a bundle and runs inside the server, so it imports nothing of dcp-deploy. Requests that Triton put into one
batch are drawn in one call; a request with a value that is not finite is refused alone (HTTP 400).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What the backend calls; see its documentation for the life cycle."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the ONNX file with the number of threads that the configuration says."""
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = int(config["parameters"]["threads"]["string_value"])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other instances want the cores
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.ranks = {value.name: len(value.shape) for value in self.session.get_inputs()}
        self.output = self.session.get_outputs()[0].name

    def execute(self, requests: list[Any]) -> list[Any]:
        """Draw all good requests at once and hand each its own images."""
        feeds = [self._feeds(request) for request in requests]
        problems = [_problem(feed) for feed in feeds]
        good = [feed for feed, problem in zip(feeds, problems, strict=True) if not problem]
        images = iter(self._draw(good))
        return [
            pb_utils.InferenceResponse(error=pb_utils.TritonError(problem, pb_utils.TritonError.INVALID_ARG))
            if problem
            else pb_utils.InferenceResponse([pb_utils.Tensor(self.output, next(images))])
            for problem in problems
        ]

    def _feeds(self, request: Any) -> dict[str, np.ndarray]:
        feeds = {}
        for name, rank in self.ranks.items():
            values = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            feeds[name] = values.reshape(values.shape[:rank])  # psi comes as [B, 1]
        return feeds

    def _draw(self, feeds: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
        if not feeds:
            return []
        together = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.ranks}
        images = self.session.run([self.output], together)[0]
        sizes = [len(next(iter(feed.values()))) for feed in feeds]
        return np.split(images, np.cumsum(sizes)[:-1])


def _problem(feeds: dict[str, np.ndarray]) -> str:
    """Why a request cannot be drawn; "" when it can."""
    broken = [name for name, values in feeds.items() if not np.isfinite(values).all()]
    return f"{' and '.join(broken)} hold values that are not finite" if broken else ""
