"""Sets of real images, read as uint8 [H, W, 3] from folders, zip files and LMDBs."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptFileError, InputError, UsageError
from ..sizes import Resolution, as_size, cropping
from .containers import LABELS, MAX_BYTES, Container, open_container
from .decoding import Resize, UnusableImageError, decode, image_header
from .labels import Labels, read_labels

UNUSABLE_SHARE = 0.01  # share of a set that may be unusable; more is not just a few bad files
FIRST_LOOK = 2**27  # cost of the first look, in pixels decoded plus twice the bytes read: about two seconds
FEWEST = 16  # images in the first look, even if they are large
DESCRIBED = 256  # images of the first look whose format and size are noted: 1 % of another format shows in 9 of 10 sets
NAMED = 5  # bad images listed by name
THREADS = min(8, os.cpu_count() or 1)

T = TypeVar("T")

_log = logging.getLogger("dcp_deploy")


class Sample(NamedTuple):
    """An image, uint8 [H, W, 3], and its label, float32 [c_dim] (one-hot for classes) or None."""

    image: NDArray[np.uint8]
    label: NDArray[np.float32] | None


def open_images(
    path: str | os.PathLike[str], *, resolution: Resolution, resize: Resize = "error", c_dim: int | None = None
) -> ImageSet:
    """Open a folder (with its subfolders), a zip file or an LMDB of images; the content decides which.

    Folders and zip files may hold labels in NVIDIA's ``dataset.json``; LMDBs may be rosinality's or LSUN's. The images
    are sorted by path or key. ``resize`` "error" accepts only images of that ``resolution``; "crop" scales the centred
    part of its shape down (see :func:`.decoding.decode`). ``c_dim`` is the label length that the generator needs: 0
    ignores the labels, None accepts any.

    A first look decodes images spread over the set. An image that is damaged or of another size is skipped with a
    warning; the next good image takes its place, so an index always gives the same image. More than 1 % of such images
    are an error.

    Raises InputError (missing, unreadable, no images), UnknownFormatError (not a set of images), CorruptFileError
    (damaged, or too many damaged images), UsageError (wrong size, labels that the generator cannot use).
    """
    size = as_size(resolution)
    container = open_container(Path(path), size=size, resize=resize)
    if not container.names:
        ignored = f"; {container.ignored} files are not images" if container.ignored else ""
        raise InputError(f"{path} holds no images{ignored}", "Check the path given to --data.")
    images = ImageSet(container, Path(path), size, resize, _labels(container, Path(path), c_dim))
    images.look_over()
    return images


def identify_images(path: str | os.PathLike[str], *, resize: Resize = "error") -> dict[str, Any]:
    """Return what identifies a set without decoding it: its fingerprint and ``resize``.

    The fingerprint hashes the labels and: names, sizes and modification times (folder); names, sizes and checksums
    (zip); or the state of the database (LMDB). Raises as :func:`open_images` if the set cannot be opened.
    """
    return _identity(open_container(Path(path)), resize)


class ImageSet:
    """A finite set of images, see :func:`open_images`. ``[i]`` is uint8 [H, W, 3], ``size`` is (H, W).

    Safe to share between threads.
    """

    def __init__(
        self, container: Container, path: Path, size: tuple[int, int], resize: Resize, labels: Labels | None
    ) -> None:
        self.path, self.size, self.resize, self.labels = path, size, resize, labels
        self._headers: list[tuple[str, tuple[int, int]]] = []
        self._unusable: dict[int, UnusableImageError] = {}
        self._open(container)

    def _open(self, container: Container) -> None:
        self._container = container
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="images")  # Pillow releases the GIL
        self._started: dict[int, Future[Sample]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to open the same images: the path, not the open files."""
        kept = ("path", "size", "resize", "labels", "_unusable", "_headers")
        state = {name: getattr(self, name) for name in kept}
        return {**state, "fingerprint": self._container.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        fingerprint = state.pop("fingerprint")
        self.__dict__.update(state)
        self._open(open_container(self.path))
        if self._container.fingerprint != fingerprint:
            raise InputError(f"{self.path} has changed since it was opened", "Start again with the images as they are.")

    def __len__(self) -> int:
        """Number of images, bad ones included."""
        return len(self._container.names)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.sample(index).image

    @property
    def names(self) -> Sequence[str]:
        """Paths or keys of the images, in their order."""
        return self._container.names

    @property
    def c_dim(self) -> int:
        """Length of a label; 0 if there are no labels."""
        return self.labels.c_dim if self.labels else 0

    @property
    def identity(self) -> dict[str, Any]:
        """What :func:`identify_images` returns for this set."""
        return _identity(self._container, self.resize)

    def sample(self, index: int) -> Sample:
        """Return image ``index`` with its label, or the next good one in its place."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        for place in chain(range(index, len(self)), range(index)):
            image = self._image(place)
            if image is not None:
                return Sample(image, self.labels.vector(place) if self.labels else None)
            if len(self._unusable) > UNUSABLE_SHARE * len(self):
                break
        raise self._refusal(len(self))

    def samples(self, indices: Sequence[int], *, then: Sequence[int] = ()) -> list[Sample]:
        """Decode several images in threads, and start to decode ``then``, the indices needed next."""
        wanted = {index: self._started.get(index) or self._start(index) for index in indices}
        self._started = {index: wanted.get(index) or self._start(index) for index in then}
        return [wanted[index].result() for index in indices]

    def facts(self) -> dict[str, Any]:
        """Describe the images in plain values, for run.json. ``skipped`` counts the bad images found so far.

        ``formats`` counts the file formats of up to 256 images of the first look; ``source_size`` is the size of these
        images as stored, and ``resize_filter`` what scaled them to the generator's size.
        """
        bad = sorted(self._unusable)
        return {
            "path": str(self.path),
            "kind": self._container.kind,
            "images": len(self),
            "skipped": len(bad),
            "skipped_first": [self._named(place) for place in bad[:NAMED]],
            "ignored_files": self._container.ignored,
            "c_dim": self.c_dim,
            "formats": dict(Counter(name for name, _ in self._headers).most_common()),
            "source_size": _size_words([size for _, size in self._headers]),
            "resize_filter": self._filter(),
            **self.identity,
        }

    def _filter(self) -> str:
        """Name the filter that scaled the described images; "none" if all have the generator's size."""
        scaled = self.resize == "crop" and any(size != self.size for _, size in self._headers)
        return "lanczos" if scaled else "none"

    def look_over(self) -> None:
        """Decode images spread over the set until FIRST_LOOK is spent. Raises if too many are bad."""
        order = np.random.default_rng(0).permutation(len(self))
        costs = 2 * np.asarray(self._container.sizes, np.float64)[order] + math.prod(self.size)
        looked = min(len(self), max(FEWEST, int(np.searchsorted(np.cumsum(costs), FIRST_LOOK))))
        for _ in self._pool.map(lambda place: self._image(place) is None, order[:looked].tolist()):
            pass  # raises here what a thread raised
        limit = UNUSABLE_SHARE * looked
        if looked < len(self):  # three standard deviations of a sample from a set at the limit
            limit += 3 * math.sqrt(limit)
        if len(self._unusable) > limit:
            raise self._refusal(looked)
        headers = self._pool.map(lambda place: self._use(place, image_header), order[: min(looked, DESCRIBED)].tolist())
        self._headers = [header for header in headers if header is not None]

    def _start(self, index: int) -> Future[Sample]:
        return self._pool.submit(self.sample, index)

    def _image(self, place: int) -> NDArray[np.uint8] | None:
        """Return the image at this place, or None if it is bad. Raises InputError if the disk fails."""
        return self._use(place, lambda content: decode(content, resolution=self.size, resize=self.resize))

    def _use(self, place: int, read: Callable[[bytes], T]) -> T | None:
        """Return what ``read`` makes of the file at this place, as :meth:`_image` does."""
        if place in self._unusable:
            return None
        try:
            if self._container.sizes[place] > MAX_BYTES:
                raise UnusableImageError(f"has {self._container.sizes[place]:,} bytes, more than {MAX_BYTES:,}")
            return read(self._container.read(place))
        except UnusableImageError as error:
            self._mark(place, error)
            return None
        except OSError as error:  # the disk failed: skipping a good image would change the run
            raise InputError(
                f"{self._container.names[place]!r} of {self.path} cannot be read any more: {error.strerror or error}",
                "Repair the disk and start again: the run continues where it was.",
            ) from error

    def _mark(self, place: int, error: UnusableImageError) -> None:
        with self._lock:
            if place in self._unusable:
                return
            self._unusable[place] = error
            count = len(self._unusable)
        if count <= NAMED:
            _log.warning("%s: skipped %s", self.path, self._named(place))

    def _named(self, place: int) -> str:
        return f"{self._container.names[place]!r} ({self._unusable[place]})"

    def _refusal(self, looked: int) -> InputError | UsageError:
        bad = sorted(self._unusable)
        named = ", ".join(self._named(place) for place in bad[:NAMED])
        tried = "" if looked == len(self) else " tried"
        more = ", ..." if len(bad) > NAMED else ""
        message = f"{len(bad)} of {looked}{tried} images of {self.path} cannot be used: {named}{more}"
        if not any(error.wrong_size for error in self._unusable.values()):
            return CorruptFileError(message, f"Repair or remove them; only {UNUSABLE_SHARE:.0%} of a set may be bad.")
        if self.resize == "crop":
            return UsageError(message, "Remove images smaller than the generator's; enlarging them would blur them.")
        return UsageError(message, f"Give --resize crop to {cropping(self.size)}.")


def _labels(container: Container, path: Path, c_dim: int | None) -> Labels | None:
    """Return the labels that a generator with ``c_dim`` needs. Raises UsageError if they do not fit."""
    text = None if c_dim == 0 else container.labels()
    labels = read_labels(text, container.names, source=str(path / LABELS)) if text is not None else None
    if not c_dim or (labels and labels.c_dim == c_dim):
        return labels
    held = f"have labels of length {labels.c_dim}" if labels else "have no labels"
    raise UsageError(
        f"the images of {path} {held}, and the generator is conditional on {c_dim} classes",
        f"Put a {LABELS} with a class from 0 to {c_dim - 1} for each image beside them, or omit --data to use the "
        "teacher's own samples as real images.",
    )


def _size_words(sizes: Sequence[tuple[int, int]]) -> str:
    """Write the size of images in pixels, or the smallest and the largest: "300x200 to 1024x768"."""
    if not sizes:
        return "unknown"
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return " to ".join(dict.fromkeys(f"{width}x{height}" for width, height in (ordered[0], ordered[-1])))


def _identity(container: Container, resize: Resize) -> dict[str, Any]:
    return {"fingerprint": container.fingerprint, "resize": resize}
