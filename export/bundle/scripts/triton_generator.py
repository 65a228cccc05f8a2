"""``model.py`` of a bundle's generators, for Triton's Python backend: runs the ONNX file beside it with onnxruntime.

It is copied into the bundle and runs inside the server, so it imports nothing from dcp-deploy. Requests that Triton
puts into one batch run in one call. A request with a value that is not finite is refused without the others (HTTP 400).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The class that the backend looks for; see its documentation for the life cycle."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the ONNX file with the configured number of threads."""
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = int(config["parameters"]["threads"]["string_value"])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other instances need the cores
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exception types have no common base class
            if "IR version" in str(error) or "under development" in str(error):
                raise pb_utils.TritonModelException(
                    f"ONNX Runtime {onnxruntime.__version__} of this server is too old for the model: {error}. "
                    "The bundle's README names the oldest version. Update onnxruntime, or export the model again with "
                    "--ir 8 --opset 17."
                ) from error
            raise
        self.ranks = {value.name: len(value.shape) for value in self.session.get_inputs()}
        self.output = self.session.get_outputs()[0].name

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all valid requests at once and answer each with its own images."""
        feeds = [self._feeds(request) for request in requests]
        problems = [_problem(feed) for feed in feeds]
        valid = [feed for feed, problem in zip(feeds, problems, strict=True) if not problem]
        images = iter(self._generate(valid))
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
            feeds[name] = values.reshape(values.shape[:rank])  # psi arrives as [B, 1]
        return feeds

    def _generate(self, feeds: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
        if not feeds:
            return []
        batch = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.ranks}
        images = self.session.run([self.output], batch)[0]
        sizes = [len(next(iter(feed.values()))) for feed in feeds]
        return np.split(images, np.cumsum(sizes)[:-1])


def _problem(feeds: dict[str, np.ndarray]) -> str:
    """Return what is wrong with a request, "" if nothing is."""
    broken = [name for name, values in feeds.items() if not np.isfinite(values).all()]
    return f"{' and '.join(broken)} hold values that are not finite" if broken else ""
