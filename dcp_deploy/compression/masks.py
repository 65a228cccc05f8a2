"""Which parts of an image the L1 and the perceptual loss look at, by a user's segmentation model as an ONNX file.

StyleKD masks faces: a parser of 19 classes (CelebAMask-HQ) looks at the teacher's image, and all but the background and
one more class (0 and 16) counts, in both images; outside of it both are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CorruptFileError, InputError, MissingCapabilityError, UsageError
from ..files import sha256_file

MaskInputs = Literal["imagenet", "unit", "signed"]
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's images in [0, 1]


Mask = Callable[[Tensor], Tensor]
"""Images [B, 3, R, R] in [-1, 1] to [B, 1, R, R], 1 where they show what matters."""


class SegmentationMask:
    """The teacher's images [B, 3, R, R] in [-1, 1] to a mask [B, 1, R, R] of zeros and ones.

    The model's only input is an image float32 [B, 3, h, w]: of its own fixed size, to which images are scaled, or of
    any, and then they come as they are. ``inputs`` says what numbers it expects: "imagenet" ([0, 1], less ImageNet's
    mean, over its deviation), "unit" ([0, 1]) or "signed" ([-1, 1]). Its first output is a mask [B, h, w] or
    [B, 1, h, w], which counts where it is above 0.5, or scores of classes [B, classes, h, w], of which the highest
    counts unless it is one of ``background``.
    """

    def __init__(
        self, path: str | Path, *, background: Sequence[int] = (0, 16), inputs: MaskInputs = "imagenet"
    ) -> None:
        """Raises InputError, CorruptFileError or UsageError for a file that is no such model."""
        self.path, self.background, self.inputs = Path(path), tuple(background), inputs
        if inputs not in get_args(MaskInputs):
            raise UsageError(f"unknown mask inputs {inputs!r}", f"choose one of {', '.join(get_args(MaskInputs))}")
        if not self.path.is_file():
            raise InputError(f"there is no mask model {path}", "Check the path given to --mask.")
        self._open()

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its masks."""
        return {"sha256": sha256_file(self.path), "background": list(self.background), "inputs": self.inputs}

    def __getstate__(self) -> dict[str, Any]:
        """Without the open model, which another process opens for itself."""
        return {"path": self.path, "background": self.background, "inputs": self.inputs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The mask, of the images' type and device."""
        shown = self._prepared(images)
        count = 1 if self._single else len(shown)
        found = [self._session.run(None, {self._input: part.numpy()})[0] for part in torch.split(shown, count)]
        output = torch.cat([torch.from_numpy(part) for part in found]).float()
        if output.ndim == 3:
            output = output[:, None]
        if output.ndim != 4 or len(output) != len(images):
            raise UsageError(
                f"{self.path} gives {list(output.shape)} for {len(images)} images",
                "its first output must be a mask [B, h, w] or [B, 1, h, w], or scores [B, classes, h, w]",
            )
        mask = (self._of_classes(output) if output.shape[1] > 1 else output > 0.5).float()
        mask = F.interpolate(mask, size=images.shape[2:], mode="bilinear", align_corners=False) > 0.5
        return mask.to(images)

    def _open(self) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingCapabilityError(
                f"the mask model {self.path} needs ONNX Runtime", "pip install 'dcp-deploy[cpu]', or [gpu]"
            ) from error
        available = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), providers=providers)
        except Exception as error:  # onnxruntime's errors have no common base but this
            reason = str(error).splitlines()[0]
            raise CorruptFileError(
                f"{self.path} is no ONNX model that can be run: {reason}", "Export it anew."
            ) from error
        inputs = self._session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or inputs[0].type != "tensor(float)":
            told = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
            raise UsageError(f"{self.path} takes {told}", "A mask model takes one image, float32 [B, 3, h, w].")
        self._input, self._single = inputs[0].name, shape[0] == 1
        self._size = tuple(shape[2:]) if all(isinstance(side, int) for side in shape[2:]) else None

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

    def _of_classes(self, scores: Tensor) -> Tensor:
        classes = scores.argmax(dim=1, keepdim=True)
        return torch.isin(classes, torch.tensor(self.background), invert=True)
