"""``model.py`` of a bundle's ``picture``, for Triton's Python backend: a seed in, an encoded picture out.

It calls the generator in the same server, in whichever variant that one runs, and encodes the images with Pillow. It is
copied into the bundle and runs inside the server, so it imports nothing from dcp-deploy. An invalid request is refused
without the others (HTTP 400).
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

SAVE = {"png": {}, "jpeg": {"quality": 95}, "webp": {"quality": 90}}  # options by Pillow's name of the format
AS_TEXT = ";base64"  # as in RFC 2397
DEFAULT = "png" + AS_TEXT  # JSON can carry it, unlike bytes
STRONGEST = 1000.0  # standard deviations of an edit; images fall apart long before


class Refused(Exception):
    """Raised for an invalid request; the message says what is wrong."""


@dataclass(frozen=True)
class Row:
    """One picture to make."""

    feeds: dict[str, np.ndarray]
    """The generator's inputs, one row each."""
    format: str
    """A key of ``SAVE``, with or without ``AS_TEXT``."""
    strengths: tuple[float, ...]
    """The strength of each direction; empty for a picture without edits."""


class TritonPythonModel:
    """The class that the backend looks for; see its documentation for the life cycle."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the generator's sizes from the configuration."""
        parameters = json.loads(args["model_config"])["parameters"]
        generator = json.loads(parameters["generator"]["string_value"])
        self.z_dim, self.c_dim, self.largest = generator["z_dim"], generator["c_dim"], generator["max_batch"]
        self.directions: list[str] = generator["directions"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Make the pictures of all valid requests together and answer each with its own."""
        parsed: list[list[Row] | str] = []  # the rows of a request, or why it is refused
        for request in requests:
            try:
                parsed.append(self._rows(request))
            except Refused as error:
                parsed.append(str(error))
        try:
            pictures = iter(self._pictures([row for rows in parsed if not isinstance(rows, str) for row in rows]))
        except pb_utils.TritonModelException as error:
            failed = pb_utils.TritonError(f"the generator failed: {error}")
            return [pb_utils.InferenceResponse(error=failed) for _ in requests]
        return [_refusal(rows) if isinstance(rows, str) else _answer([next(pictures) for _ in rows]) for rows in parsed]

    def _rows(self, request: Any) -> list[Row]:
        seeds = _values(request, "seed")
        if not seeds:  # Triton only counts the inputs: optional ones can take the place of the seed
            raise Refused("seed is missing")
        count = len(seeds)
        psis = _values(request, "psi", [1.0] * count)
        classes = _values(request, "class", [seed % max(self.c_dim, 1) for seed in seeds])
        formats = _values(request, "format", [DEFAULT.encode()] * count)
        edits = _values(request, "edits", [b"{}"] * count)
        return [self._row(*values) for values in zip(seeds, psis, classes, formats, edits, strict=True)]

    def _row(self, seed: int, psi: float, number: int, encoded_format: bytes, edits: bytes) -> Row:
        if not 0 <= seed < 2**32:
            raise Refused(f"seed {seed} is not from 0 to {2**32 - 1}")
        if not np.isfinite(psi):
            raise Refused("psi is not finite")
        format = encoded_format.decode("utf-8", "replace").lower()
        if format.removesuffix(AS_TEXT) not in SAVE:
            raise Refused(f"format {format[:40]!r} is not one of {', '.join(SAVE)}, with or without {AS_TEXT}")
        z = np.random.RandomState(seed).randn(1, self.z_dim).astype(np.float32)
        feeds = {"z": z, "psi": np.full((1, 1), psi, np.float32)}
        if self.c_dim:
            if not 0 <= number < self.c_dim:
                raise Refused(f"class {number} is not from 0 to {self.c_dim - 1}")
            feeds["c"] = np.eye(self.c_dim, dtype=np.float32)[[number]]
        return Row(feeds, format, self._strengths(edits))

    def _strengths(self, edits: bytes) -> tuple[float, ...]:
        try:
            values = json.loads(edits)
            if not isinstance(values, dict) or not all(type(value) in (int, float) for value in values.values()):
                raise ValueError("not an object of numbers")
            strengths = {name: float(value) for name, value in values.items()}
        except (ValueError, OverflowError, RecursionError) as error:
            raise Refused('edits are not a JSON object such as {"smile": 1.5}') from error
        if unknown := sorted(set(strengths) - set(self.directions)):
            raise Refused(f"unknown direction {unknown[0][:40]!r}; known: {', '.join(self.directions) or 'none'}")
        if not all(abs(value) <= STRONGEST for value in strengths.values()):  # false for NaN too
            raise Refused(f"edits hold a strength that is not from -{STRONGEST:g} to {STRONGEST:g}")
        return tuple(strengths.get(name, 0.0) for name in self.directions) if any(strengths.values()) else ()

    def _pictures(self, rows: list[Row]) -> list[bytes]:
        """Return the pictures in the order of the rows. The editor makes the edited ones, the generator the others."""
        images: dict[int, np.ndarray] = {}
        for edited in (False, True):
            places = [place for place, row in enumerate(rows) if bool(row.strengths) == edited]
            for start in range(0, len(places), self.largest):
                some = places[start : start + self.largest]
                images |= zip(some, _bytes(self._generate([rows[place] for place in some], edited)), strict=True)
        return [_encoded(images[place], row.format) for place, row in enumerate(rows)]

    def _generate(self, rows: list[Row], edited: bool) -> np.ndarray:
        feeds = {name: np.concatenate([row.feeds[name] for row in rows]) for name in rows[0].feeds}
        if not edited:
            return _call("generator", feeds, "image")
        strengths = np.array([row.strengths for row in rows], np.float32)
        return _call("editor", {"ws": _call("mapping", feeds, "ws"), "strengths": strengths}, "image")


def _values(request: Any, name: str, default: Sequence[Any] = ()) -> list[Any]:
    """Return one value per row; ``default`` if the input was left out."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return list(default) if tensor is None else list(tensor.as_numpy()[:, 0].tolist())


def _call(model: str, feeds: dict[str, np.ndarray], output: str) -> np.ndarray:
    """Call another model of this server. TritonModelException if it refuses."""
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
    """Return uint8 [B, H, W, 3]; float images are converted by the formula of the uint8 output."""
    if images.dtype == np.uint8:
        return images
    pixels: np.ndarray = np.clip(images * np.float32(127.5) + np.float32(128), 0, 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def _encoded(image: np.ndarray, format: str) -> bytes:
    kind, buffer = format.removesuffix(AS_TEXT), io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **SAVE[kind])
    return base64.b64encode(buffer.getvalue()) if format.endswith(AS_TEXT) else buffer.getvalue()


def _answer(pictures: list[bytes]) -> Any:
    content = np.array(pictures, dtype=object).reshape(-1, 1)
    return pb_utils.InferenceResponse([pb_utils.Tensor("picture", content)])


def _refusal(reason: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARG))
