"""``model.py`` of a bundle's ``picture``, for Triton's Python backend: a seed in, an encoded picture out.

Draws by asking the generator beside it in the same server, whatever runs that one, and encodes with Pillow. Travels in
a bundle and runs inside the server, so it imports nothing of dcp-deploy. A request that cannot be drawn is refused
alone (HTTP 400).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image

SAVE = {"png": {}, "jpeg": {"quality": 95}, "webp": {"quality": 90}}  # Pillow's format: its options
AS_TEXT = ";base64"  # what RFC 2397 calls it
DEFAULT = "png" + AS_TEXT  # may stand in JSON; bytes may not
STRONGEST = 1000.0  # of an edit, in standard deviations; pictures end long before


class Refused(Exception):
    """What is wrong with a request."""


@dataclass(frozen=True)
class Row:
    """One picture: arrays of one row for the generator, how to encode it, and how to edit it."""

    feeds: dict[str, np.ndarray]
    form: str
    strengths: tuple[float, ...]
    """Of each direction; empty for a picture that is not edited."""


class TritonPythonModel:
    """What the backend calls; see its documentation for the life cycle."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read from the configuration what the generator takes."""
        parameters = json.loads(args["model_config"])["parameters"]
        told = json.loads(parameters["generator"]["string_value"])
        self.z_dim, self.c_dim, self.largest = told["z_dim"], told["c_dim"], told["max_batch"]
        self.directions: list[str] = told["directions"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Draw the pictures of all good requests together and hand each its own."""
        asked: list[list[Row] | str] = []
        for request in requests:
            try:
                asked.append(self._rows(request))
            except Refused as error:
                asked.append(str(error))
        try:
            pictures = iter(self._pictures([row for rows in asked if not isinstance(rows, str) for row in rows]))
        except pb_utils.TritonModelException as error:
            failed = pb_utils.TritonError(f"the generator did not draw: {error}")
            return [pb_utils.InferenceResponse(error=failed) for _ in requests]
        return [_refusal(rows) if isinstance(rows, str) else _answer([next(pictures) for _ in rows]) for rows in asked]

    def _rows(self, request: Any) -> list[Row]:
        seeds = _values(request, "seed")
        if not seeds:  # Triton counts inputs and does not see which optional ones stand for it
            raise Refused("seed is missing")
        count = len(seeds)
        psis = _values(request, "psi", [1.0] * count)
        classes = _values(request, "class", [seed % max(self.c_dim, 1) for seed in seeds])
        forms = _values(request, "format", [DEFAULT.encode()] * count)
        edits = _values(request, "edits", [b"{}"] * count)
        return [self._row(*values) for values in zip(seeds, psis, classes, forms, edits, strict=True)]

    def _row(self, seed: int, psi: float, number: int, form: bytes, edits: bytes) -> Row:
        if not 0 <= seed < 2**32:
            raise Refused(f"seed {seed} is not from 0 to {2**32 - 1}")
        if not np.isfinite(psi):
            raise Refused("psi is not finite")
        name = form.decode("utf-8", "replace").lower()
        if name.removesuffix(AS_TEXT) not in SAVE:
            raise Refused(f"format {name[:40]!r} is none of {', '.join(SAVE)}, each alone or with {AS_TEXT}")
        z = np.random.RandomState(seed).randn(1, self.z_dim).astype(np.float32)
        feeds = {"z": z, "psi": np.full((1, 1), psi, np.float32)}
        if self.c_dim:
            if not 0 <= number < self.c_dim:
                raise Refused(f"class {number} is not from 0 to {self.c_dim - 1}")
            feeds["c"] = np.eye(self.c_dim, dtype=np.float32)[[number]]
        return Row(feeds, name, self._strengths(edits))

    def _strengths(self, edits: bytes) -> tuple[float, ...]:
        try:
            told = json.loads(edits)
            if not isinstance(told, dict) or not all(type(value) in (int, float) for value in told.values()):
                raise ValueError("no object of numbers")
            strengths = {name: float(value) for name, value in told.items()}
        except (ValueError, OverflowError, RecursionError) as error:
            raise Refused('edits are no JSON object such as {"smile": 1.5}') from error
        if unknown := sorted(set(strengths) - set(self.directions)):
            raise Refused(f"no direction {unknown[0][:40]!r}; there are: {', '.join(self.directions) or 'none'}")
        if not all(abs(value) <= STRONGEST for value in strengths.values()):  # NaN is not
            raise Refused(f"edits hold a strength that is not from -{STRONGEST:g} to {STRONGEST:g}")
        return tuple(strengths.get(name, 0.0) for name in self.directions) if any(strengths.values()) else ()

    def _pictures(self, rows: list[Row]) -> list[bytes]:
        """In the order of the rows; the edited ones go another way."""
        images: dict[int, np.ndarray] = {}
        for edited in (False, True):
            places = [place for place, row in enumerate(rows) if bool(row.strengths) == edited]
            for start in range(0, len(places), self.largest):
                some = places[start : start + self.largest]
                images |= zip(some, _bytes(self._draw([rows[place] for place in some], edited)), strict=True)
        return [_encoded(images[place], row.form) for place, row in enumerate(rows)]

    def _draw(self, rows: list[Row], edited: bool) -> np.ndarray:
        feeds = {name: np.concatenate([row.feeds[name] for row in rows]) for name in rows[0].feeds}
        if not edited:
            return _ask("generator", feeds, "image")
        strengths = np.array([row.strengths for row in rows], np.float32)
        return _ask("editor", {"ws": _ask("mapping", feeds, "ws"), "strengths": strengths}, "image")


def _values(request: Any, name: str, default: Sequence[Any] = ()) -> list[Any]:
    """One for each row; ``default`` where the input was left out."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return list(default) if tensor is None else list(tensor.as_numpy()[:, 0].tolist())


def _ask(model: str, feeds: dict[str, np.ndarray], output: str) -> np.ndarray:
    """What another model of this server answers. TritonModelException when it refuses."""
    answer = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=[output],
        inputs=[pb_utils.Tensor(name, values) for name, values in feeds.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    ).exec()
    if answer.has_error():
        raise pb_utils.TritonModelException(answer.error().message())
    values: np.ndarray = pb_utils.get_output_tensor_by_name(answer, output).as_numpy()
    return values


def _bytes(images: np.ndarray) -> np.ndarray:
    """uint8 [B, R, R, 3]; of a generator that gives floats by the formula of the uint8 output."""
    if images.dtype == np.uint8:
        return images
    pixels: np.ndarray = np.clip(images * np.float32(127.5) + np.float32(128), 0, 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def _encoded(image: np.ndarray, form: str) -> bytes:
    kind, buffer = form.removesuffix(AS_TEXT), io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **SAVE[kind])
    return base64.b64encode(buffer.getvalue()) if form.endswith(AS_TEXT) else buffer.getvalue()


def _answer(pictures: list[bytes]) -> Any:
    content = np.array(pictures, dtype=object).reshape(-1, 1)
    return pb_utils.InferenceResponse([pb_utils.Tensor("picture", content)])


def _refusal(reason: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARG))
