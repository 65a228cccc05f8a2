"""The presets of ``--dataset``: sources and licences of teacher and images, and published results.

Addresses are as their authors published them. ``build`` announces and fetches teachers (:mod:`.downloads`); users
bring the images.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import UsageError, choose

_ADA = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files/"
_SG3 = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan3/versions/1/files/"
_TF = "https://nvlabs-fi-cdn.nvidia.com/stylegan2/networks/"

_ADA_PAGE = "https://catalog.ngc.nvidia.com/orgs/nvidia/teams/research/models/stylegan2/files"
_SG3_PAGE = "https://catalog.ngc.nvidia.com/orgs/nvidia/teams/research/models/stylegan3/files"
_TF_PAGE = "https://github.com/NVlabs/stylegan2"

_NVIDIA = "NVIDIA Source Code License: research or evaluation only, students made from it included"
_NVIDIA_NC = "NVIDIA Source Code License-NC: research or evaluation only, students made from it included"
_FFHQ = "CC BY-NC-SA 4.0 (single images CC BY, BY-NC, public domain or US government)"
_METFACES = "CC BY-NC 2.0"
_AFHQ = "CC BY-NC 4.0"
_LSUN = "no licence stated; see its site"

_FFHQ_PAGE = "https://github.com/NVlabs/ffhq-dataset"
_METFACES_PAGE = "https://github.com/NVlabs/metfaces-dataset"
_AFHQ_PAGE = "https://github.com/clovaai/stargan-v2"
_LSUN_PAGE = "https://www.yf.io/p/lsun"

_PKL = "NVIDIA pickle"
_TF_PKL = "TensorFlow pickle"


@dataclass(frozen=True)
class Teacher:
    """A published file: a trained generator, or a network whose features a score uses.

    ``sha256`` is None if it is not pinned; ``flag`` is the option that takes a local file instead.
    """

    file: str
    format: str
    licence: str
    url: str | None = None
    """None for a file that ships with the package."""
    page: str | None = None
    """Address of the web page that offers the file."""
    megabytes: int | None = None
    """Approximate size of the download in units of 1e6 bytes; None if only the server knows it."""
    sha256: str | None = None
    flag: str = "--teacher"

    @property
    def size_words(self) -> str:
        """Approximate size as text, such as ``about 382 MB``."""
        return "size known only to the server" if self.megabytes is None else f"about {self.megabytes} MB"


@dataclass(frozen=True)
class Published:
    """Published FID-50k of a teacher and of its student, pruned by 70 % (None for the teacher alone).

    Compare within one source only: different sources use different images and different code.
    """

    method: str
    teacher_fid: float
    student_fid: float | None
    source: str


@dataclass(frozen=True)
class Dataset:
    """One preset of ``--dataset``."""

    name: str
    title: str
    resolution: int
    teacher: Teacher
    images: str | None
    """Description of the real images; None if the teacher's own samples are used instead."""
    images_licence: str
    images_url: str | None = None
    """Address of the web page that offers the images."""
    mask: bool = False
    """Whether the published recipe masks the background in its losses; faces only."""
    published: tuple[Published, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the teacher ships with the package, so that ``build`` needs no network."""
        return self.teacher.url is None

    @property
    def status(self) -> str:
        """One line: whether the preset is ready, else what ``build`` would fetch."""
        if self.teacher.url is None:
            return "ready: its teacher ships with the package"
        host = self.teacher.url.split("/")[2]
        return f"build fetches its teacher from {host}, {self.teacher.size_words}; --teacher FILE avoids that"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "ready": self.ready, "status": self.status}


# Sizes are estimates: a training snapshot holds the generator twice and the discriminator once, in float32. From the
# parameter counts that is 381 MB at 1024 px and 364 MB at 512 px, which agrees with a reported download
# (github.com/XingangPan/DragGAN, issue 410). The other sizes are computed in the same way.


def _ada(file: str, megabytes: int) -> Teacher:
    return Teacher(file, _PKL, _NVIDIA, _ADA + file, _ADA_PAGE, megabytes)


_DCP = "DCP-GAN (CVPR 2024), main table"
_SVS = "SVS (AAAI 2025), re-run of the method"
_KD = "StyleKD (ECCV 2022), main table"
_SG2_PAPER = "StyleGAN2 (CVPR 2020)"
_SG3_PAPER = "StyleGAN3 (NeurIPS 2021)"


def _alone(fid: float, source: str) -> Published:
    return Published("the teacher alone", fid, None, source)


_ROSINALITY = Teacher(
    "550000.pt",
    "rosinality .pt file",
    "none stated for the weights (code: MIT); the images it was trained on are CC BY-NC-SA 4.0",
    "https://drive.google.com/open?id=1PQutd-JboOCOZqmd95XWxWrO8gGEvRcO",
    "https://github.com/rosinality/stylegan2-pytorch",
)


def _afhq(kind: str, title: str) -> Dataset:
    teacher = _ada(f"stylegan2-afhq{kind}-512x512.pkl", 364)
    return Dataset(f"afhq{kind}", f"{title} (AFHQ)", 512, teacher, f"AFHQ {kind}", _AFHQ, _AFHQ_PAGE)


def _lsun(kind: str, title: str, resolution: int, *published: Published) -> Dataset:
    file, megabytes = f"stylegan2-{kind}-config-f.pkl", 364 if resolution == 512 else 357
    teacher = Teacher(file, _TF_PKL, _NVIDIA_NC, _TF + file, _TF_PAGE, megabytes)
    return Dataset(f"lsun{kind}", title, resolution, teacher, f"LSUN {kind}", _LSUN, _LSUN_PAGE, published=published)


def _alias_free(variant: str, short: str, megabytes: int, fid: float | None) -> Dataset:
    title, resolution, images, licence, page = {
        "ffhq": ("faces (FFHQ)", 1024, "FFHQ, 70,000 images", _FFHQ, _FFHQ_PAGE),
        "ffhqu": ("faces (FFHQ-U, unaligned)", 256, "FFHQ-U, made from FFHQ's unaligned images", _FFHQ, _FFHQ_PAGE),
        "metfaces": ("painted faces (MetFaces)", 1024, "MetFaces", _METFACES, _METFACES_PAGE),
        "afhqv2": ("animals (AFHQ v2)", 512, "AFHQ v2", _AFHQ, _AFHQ_PAGE),
    }[short]
    name = f"stylegan3-{variant}-{short}"
    file = f"{name}-{resolution}x{resolution}.pkl"
    teacher = Teacher(file, _PKL, _NVIDIA, _SG3 + file, _SG3_PAGE, megabytes)
    published = () if fid is None else (_alone(fid, _SG3_PAPER),)
    return Dataset(name, title, resolution, teacher, images, licence, page, published=published)


_LIST = (
    Dataset(
        "demo",
        "procedural portraits",
        64,
        Teacher("demo_teacher.safetensors", "native", "Apache-2.0"),
        "avatars, drawn on the fly",
        "Apache-2.0, drawn by this project",
    ),
    Dataset(
        "ffhq", "faces (FFHQ)", 1024, _ada("stylegan2-ffhq-1024x1024.pkl", 381),
        "FFHQ, 70,000 images", _FFHQ, _FFHQ_PAGE, mask=True,
        published=(
            _alone(2.84, _SG2_PAPER), Published("DCP-GAN", 2.7, 5.80, _DCP), Published("StyleKD", 2.7, 7.19, _KD),
            Published("DCP-GAN + SVS", 2.78, 5.50, _SVS),
        ),
    ),
    Dataset(
        "ffhq256", "faces (FFHQ at 256 px)", 256, _ROSINALITY,
        "FFHQ, 70,000 images", _FFHQ, _FFHQ_PAGE, mask=True,
        published=(
            Published("DCP-GAN", 4.5, 6.35, _DCP), Published("StyleKD", 4.5, 7.25, _KD),
            Published("DCP-GAN + SVS", 4.29, 5.68, _SVS),
        ),
    ),
    _afhq("cat", "cats"),
    _afhq("dog", "dogs"),
    _afhq("wild", "wild animals"),
    Dataset(
        "metfaces", "painted faces (MetFaces)", 1024, _ada("stylegan2-metfaces-1024x1024.pkl", 381),
        "MetFaces", _METFACES, _METFACES_PAGE,
    ),
    _lsun(
        "church", "churches (LSUN)", 256, _alone(3.86, _SG2_PAPER), Published("DCP-GAN", 3.97, 4.80, _SVS),
        Published("DCP-GAN + SVS", 3.97, 4.62, _SVS), Published("StyleKD", 4.92, 7.96, _KD),
    ),
    _lsun("horse", "horses (LSUN)", 256, _alone(3.43, _SG2_PAPER)),
    _lsun("car", "cars (LSUN), 512 x 384", 512, _alone(2.32, _SG2_PAPER)),
    _lsun(
        "cat", "cats (LSUN)", 256, _alone(6.93, _SG2_PAPER), Published("DCP-GAN", 6.60, 9.08, _SVS),
        Published("DCP-GAN + SVS", 6.60, 8.09, _SVS),
    ),
    _alias_free("t", "ffhq", 295, 2.79),
    _alias_free("t", "ffhqu", 283, 4.62),
    _alias_free("t", "metfaces", 295, None),
    _alias_free("t", "afhqv2", 315, 4.04),
    _alias_free("r", "ffhq", 237, 3.07),
    _alias_free("r", "ffhqu", 222, 4.50),
    _alias_free("r", "metfaces", 237, None),
    _alias_free("r", "afhqv2", 249, 4.40),
)  # fmt: skip

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in _LIST}
"""All presets by name, the demo first."""


def find_dataset(name: str) -> Dataset:
    """Return the preset of that name. Raises UsageError with the closest name and all known names."""
    if name in DATASETS:
        return DATASETS[name]
    raise UsageError(f"unknown data set {name!r}", choose(name, DATASETS))
