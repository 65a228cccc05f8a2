"""Masks that select the part of an image for the L1 and perceptual losses, from a user's segmentation model.

StyleKD masks faces: a parser of 19 classes (CelebAMask-HQ) segments the teacher's image. All but the background and one
more class (0 and 16) counts, in both images; elsewhere both are set to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CorruptFileError, InputError, MissingCapabilityError, UsageError, choose
from ..files import sha256_file

MaskInputs = Literal["imagenet", "unit", "signed"]
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's images in [0, 1]

Mask = Callable[[Tensor], Tensor]
"""From images [B, 3, H, W] in [-1, 1] to [B, 1, H, W], 1 for the pixels that count."""


class SegmentationMask:
    """A mask [B, 1, H, W] of zeros and ones for the teacher's images [B, 3, H, W] in [-1, 1], from an ONNX model.

    The model's only input is an image float32 [B, 3, h, w]. A fixed size means that images are scaled to it. ``inputs``
    is the range that it expects: "imagenet" ([0, 1], minus ImageNet's mean, divided by its deviation), "unit" ([0, 1])
    or "signed" ([-1, 1]). Its first output is a mask [B, h, w] or [B, 1, h, w], where values above 0.5 count, or class
    scores [B, classes, h, w], where a pixel counts unless its highest score is for one of ``background``.
    """

    def __init__(
        self, path: str | Path, *, background: Sequence[int] = (0, 16), inputs: MaskInputs = "imagenet"
    ) -> None:
        """Open the model. Raises InputError, CorruptFileError or UsageError if the file does not hold such a model."""
        self.path, self.background, self.inputs = Path(path), tuple(background), inputs
        if inputs not in get_args(MaskInputs):
            raise UsageError(f"unknown mask inputs {inputs!r}", choose(inputs, get_args(MaskInputs)))
        if not self.path.is_file():
            raise InputError(f"mask model {path} not found", "Check the path given to --mask.")
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingCapabilityError(
                f"the mask model {self.path} needs ONNX Runtime", "Install it: pip install 'dcp-deploy[cpu]', or [gpu]."
            ) from error
        available = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), providers=providers)
        except Exception as error:  # onnxruntime's errors have no common base but this
            reason = str(error).splitlines()[0]
            raise CorruptFileError(f"{self.path} cannot be run as ONNX model: {reason}", "Export it again.") from error
        taken = self._session.get_inputs()
        shape = taken[0].shape
        if len(taken) != 1 or len(shape) != 4 or shape[1] != 3 or taken[0].type != "tensor(float)":
            described = ", ".join(f"{each.name} {each.type} {each.shape}" for each in taken)
            raise UsageError(f"{self.path} takes {described}", "Give a model of one image, float32 [B, 3, h, w].")
        self._input, self._single = taken[0].name, shape[0] == 1
        self._size = tuple(shape[2:]) if all(isinstance(side, int) for side in shape[2:]) else None

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides its masks, ready for JSON."""
        return {"sha256": sha256_file(self.path), "background": list(self.background), "inputs": self.inputs}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments only: another process opens the model for itself."""
        return partial(SegmentationMask, background=self.background, inputs=self.inputs), (self.path,)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the mask, of the images' type and device."""
        prepared = self._prepared(images)
        parts = torch.split(prepared, 1 if self._single else len(prepared))
        outputs = [self._session.run(None, {self._input: part.numpy()})[0] for part in parts]
        output = torch.cat([torch.from_numpy(part) for part in outputs]).float()
        if output.ndim == 3:
            output = output[:, None]
        if output.ndim != 4 or len(output) != len(images):
            raise UsageError(
                f"{self.path} returns {list(output.shape)} for {len(images)} images",
                "Give a model whose first output is a mask [B, h, w] or [B, 1, h, w], or scores [B, classes, h, w].",
            )
        if output.shape[1] > 1:
            classes = output.argmax(dim=1, keepdim=True)
            mask = torch.isin(classes, torch.tensor(self.background), invert=True).float()
        else:
            mask = (output > 0.5).float()
        mask = F.interpolate(mask, size=images.shape[2:], mode="bilinear", align_corners=False) > 0.5
        return mask.to(images)

    def _prepared(self, images: Tensor) -> Tensor:
        x = images.detach().float().clamp(-1, 1)
        if self._size is not None and self._size != tuple(x.shape[2:]):
            x = F.interpolate(x, size=self._size, mode="bilinear", align_corners=False)
        if self.inputs != "signed":
            x = (x + 1) / 2
        if self.inputs == "imagenet":
            mean, std = (x.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
            x = (x - mean) / std
        return x.cpu().contiguous()
