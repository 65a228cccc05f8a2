"""The data sets that ``--dataset`` names: where their teacher and images come from, and what was published for them.

Addresses are as their authors published them. Nothing here is fetched by itself.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Any

from .errors import UsageError

_ADA = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files/"
_SG3 = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan3/versions/1/files/"
_TF = "https://nvlabs-fi-cdn.nvidia.com/stylegan2/networks/"

_NVIDIA = "NVIDIA Source Code License: research or evaluation only, students made from it included"
_NVIDIA_NC = "NVIDIA Source Code License-NC: research or evaluation only, students made from it included"
_FFHQ = "CC BY-NC-SA 4.0 (single images CC BY, BY-NC, public domain or US government)"
_METFACES = "CC BY-NC 2.0"
_AFHQ = "CC BY-NC 4.0"
_LSUN = "no licence stated; see its site"

_PKL = "NVIDIA pickle"
_TF_PKL = "TensorFlow pickle"


@dataclass(frozen=True)
class Teacher:
    """A trained generator to start from. ``sha256`` is None where nobody has pinned it yet."""

    file: str
    format: str
    licence: str
    url: str | None = None
    """None: ships with the package."""
    sha256: str | None = None


@dataclass(frozen=True)
class Published:
    """FID-50k of a published 70 % pruned student beside its teacher, and where that was read."""

    method: str
    teacher_fid: float
    student_fid: float
    source: str


@dataclass(frozen=True)
class Dataset:
    """One preset of ``--dataset``."""

    name: str
    title: str
    resolution: int
    teacher: Teacher
    images: str | None
    """What the real images are; None when there are none and the teacher's own samples stand in."""
    images_licence: str
    mask: bool = False
    """Whether the published recipe masks the background in its losses (faces only)."""
    published: tuple[Published, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether ``build`` runs it as it is; the others need ``--teacher FILE``."""
        return self.teacher.url is None

    @property
    def status(self) -> str:
        """One line: usable now, or what is missing."""
        if self.ready:
            return "ready"
        return f"needs --teacher FILE in the native format ({self.teacher.format}: not read by this version)"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "ready": self.ready, "status": self.status}


def _ada(file: str) -> Teacher:
    return Teacher(file, _PKL, _NVIDIA, _ADA + file)


def _sg3(file: str) -> Teacher:
    return Teacher(file, _PKL, _NVIDIA, _SG3 + file)


def _tf(file: str) -> Teacher:
    return Teacher(file, _TF_PKL, _NVIDIA_NC, _TF + file)


_DCP = "DCP-GAN (CVPR 2024), main table"
_SVS = "SVS (AAAI 2025), re-run of the method"
_KD = "StyleKD (ECCV 2022), main table"

_ROSINALITY = Teacher(
    "550000.pt",
    "rosinality .pt file",
    "none stated for the weights (code: MIT); the images it was trained on are CC BY-NC-SA 4.0",
    "https://drive.google.com/open?id=1PQutd-JboOCOZqmd95XWxWrO8gGEvRcO",
)

_LIST = (
    Dataset(
        "demo",
        "procedural portraits with known factors; nothing to download",
        64,
        Teacher("demo_teacher.safetensors", "native", "Apache-2.0, trained by this project"),
        "avatars, drawn on the fly",
        "Apache-2.0, drawn by this project",
    ),
    Dataset(
        "ffhq", "faces (FFHQ)", 1024, _ada("stylegan2-ffhq-1024x1024.pkl"), "FFHQ, 70,000 images", _FFHQ, mask=True,
        published=(Published("DCP-GAN", 2.7, 5.80, _DCP), Published("StyleKD", 2.7, 7.19, _KD)),
    ),
    Dataset(
        "ffhq256", "faces (FFHQ at 256 px)", 256, _ROSINALITY, "FFHQ, 70,000 images", _FFHQ, mask=True,
        published=(Published("DCP-GAN", 4.5, 6.35, _DCP), Published("StyleKD", 4.5, 7.25, _KD)),
    ),
    Dataset("afhqcat", "cats (AFHQ)", 512, _ada("stylegan2-afhqcat-512x512.pkl"), "AFHQ cat", _AFHQ),
    Dataset("afhqdog", "dogs (AFHQ)", 512, _ada("stylegan2-afhqdog-512x512.pkl"), "AFHQ dog", _AFHQ),
    Dataset("afhqwild", "wild animals (AFHQ)", 512, _ada("stylegan2-afhqwild-512x512.pkl"), "AFHQ wild", _AFHQ),
    Dataset("metfaces", "painted faces", 1024, _ada("stylegan2-metfaces-1024x1024.pkl"), "MetFaces", _METFACES),
    Dataset(
        "lsunchurch", "churches (LSUN)", 256, _tf("stylegan2-church-config-f.pkl"), "LSUN church", _LSUN,
        published=(Published("DCP-GAN", 3.97, 4.80, _SVS), Published("StyleKD", 4.92, 7.96, _KD)),
    ),
    Dataset("lsunhorse", "horses (LSUN)", 256, _tf("stylegan2-horse-config-f.pkl"), "LSUN horse", _LSUN),
    Dataset("lsuncar", "cars (LSUN), 512 x 384", 512, _tf("stylegan2-car-config-f.pkl"), "LSUN car", _LSUN),
    Dataset(
        "lsuncat", "cats (LSUN)", 256, _tf("stylegan2-cat-config-f.pkl"), "LSUN cat", _LSUN,
        published=(Published("DCP-GAN", 6.60, 9.08, _SVS),),
    ),
    *(
        Dataset(
            f"stylegan3-{kind}-{short}", f"{title}, StyleGAN3-{kind}", resolution,
            _sg3(f"stylegan3-{kind}-{short}-{resolution}x{resolution}.pkl"), images, licence,
        )
        for kind in ("t", "r")
        for short, title, resolution, images, licence in (
            ("ffhq", "faces (FFHQ)", 1024, "FFHQ, 70,000 images", _FFHQ),
            ("ffhqu", "faces (FFHQ-U, unaligned)", 256, "FFHQ-U", _FFHQ),
            ("metfaces", "painted faces (MetFaces)", 1024, "MetFaces", _METFACES),
            ("afhqv2", "animals (AFHQ v2)", 512, "AFHQ v2", _AFHQ),
        )
    ),
)  # fmt: skip

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in _LIST}
"""Every preset by name, the demo first."""


def find_dataset(name: str) -> Dataset:
    """The preset of that name. Raises UsageError with the known names, the closest first."""
    if name in DATASETS:
        return DATASETS[name]
    close = difflib.get_close_matches(name, DATASETS, n=1)
    guess = f"Did you mean {close[0]}? " if close else ""
    raise UsageError(f"there is no data set {name!r}", f"{guess}Known: {', '.join(DATASETS)}.")
