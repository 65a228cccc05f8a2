"""Sets of real images: folders, zip files and LMDBs as people have them, read as uint8 [R, R, 3]."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptFileError, InputError, UsageError
from .containers import LABELS, MAX_BYTES, Container, open_container
from .decoding import Resize, UnusableImageError, decode
from .labels import Labels, read_labels

UNUSABLE_SHARE = 0.01  # of a set that may be damaged; more is another problem than a few bad files
FIRST_LOOK = 2**27  # what the first look may cost, in pixels drawn plus twice the bytes read: some two seconds
FEWEST = 16  # images of the first look, however large they are
NAMED = 5  # bad images told by name
THREADS = min(8, os.cpu_count() or 1)

_log = logging.getLogger("dcp_deploy")


class Sample(NamedTuple):
    """An image, uint8 [R, R, 3], and its label, float32 [c_dim] (one-hot for classes), None without labels."""

    image: NDArray[np.uint8]
    label: NDArray[np.float32] | None


def open_images(
    path: str | os.PathLike[str], *, resolution: int, resize: Resize = "error", c_dim: int | None = None
) -> ImageSet:
    """Open a folder (with all below it), a zip file or an LMDB of images, told apart by content.

    Folders and zip files may hold NVIDIA's ``dataset.json`` with labels; LMDBs are rosinality's or LSUN's. Images come
    sorted by path or key. ``resize`` is "error" for images of exactly ``resolution`` px, or "crop": the centred square,
    scaled down with a Lanczos filter (see ``decoding.decode`` for that and for colours).

    ``c_dim`` is what the generator wants: 0 leaves labels out, a number wants labels of that length, None takes
    what there is.

    A first look decodes images spread over the set, all of a small one. An image that is damaged or of another size is
    skipped and named by a warning: in its place comes the next good one, so that the same index gives the same image
    always. More than 1 % of those refuse the whole set.

    Raises InputError (not there, unreadable, no images), UnknownFormatError (no set of images), CorruptFileError
    (damaged, or too many damaged images), UsageError (wrong size, labels that the generator cannot use).
    """
    container = open_container(Path(path), resolution=resolution, resize=resize)
    if not container.names:
        ignored = f"; {container.ignored} files are none" if container.ignored else ""
        raise InputError(f"{path} holds no images{ignored}", "Check the path given to --data.")
    images = ImageSet(container, Path(path), resolution, resize, _labels(container, Path(path), c_dim))
    images.look_over()
    return images


def identify_images(path: str | os.PathLike[str], *, resize: Resize = "error") -> dict[str, Any]:
    """What tells one set from another without decoding it: its fingerprint, and how it is resized.

    The fingerprint is made of names, sizes and times of change (folder), of names, sizes and checksums (zip), or of the
    state of the database, and of the labels. Raises as :func:`open_images` does for what cannot be opened.
    """
    return _identity(open_container(Path(path)), resize)


class ImageSet:
    """A finite set of images, see :func:`open_images`. ``[i]`` is uint8 [R, R, 3]; threads may share it."""

    def __init__(
        self, container: Container, path: Path, resolution: int, resize: Resize, labels: Labels | None
    ) -> None:
        self.path, self.resolution, self.resize, self.labels = path, resolution, resize, labels
        self._unusable: dict[int, UnusableImageError] = {}
        self._open(container)

    def _open(self, container: Container) -> None:
        self._container = container
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="images")  # Pillow decodes outside Python's lock
        self._started: dict[int, Future[Sample]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to open the same images: the path, not the open files."""
        told = {name: getattr(self, name) for name in ("path", "resolution", "resize", "labels", "_unusable")}
        return {**told, "fingerprint": self._container.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        fingerprint = state.pop("fingerprint")
        self.__dict__.update(state)
        self._open(open_container(self.path))
        if self._container.fingerprint != fingerprint:
            raise InputError(f"{self.path} has changed since it was opened", "Start again with the images as they are.")

    def __len__(self) -> int:
        """Images listed, the bad ones too."""
        return len(self._container.names)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.sample(index).image

    @property
    def c_dim(self) -> int:
        """Length of a label; 0 without labels."""
        return self.labels.c_dim if self.labels else 0

    @property
    def identity(self) -> dict[str, Any]:
        """As :func:`identify_images` gives it."""
        return _identity(self._container, self.resize)

    def sample(self, index: int) -> Sample:
        """Image ``index`` with its label, or the next good one in its place."""
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
        """Several at once, decoded in threads; ``then`` are those wanted next, whose decoding starts right away."""
        wanted = {index: self._started.get(index) or self._start(index) for index in indices}
        self._started = {index: wanted.get(index) or self._start(index) for index in then}
        return [wanted[index].result() for index in indices]

    def facts(self) -> dict[str, Any]:
        """What the images are, for run.json: plain values. ``skipped`` counts what was found to be bad so far."""
        bad = sorted(self._unusable)
        return {
            "path": str(self.path),
            "kind": self._container.kind,
            "images": len(self),
            "skipped": len(bad),
            "skipped_first": [self._named(place) for place in bad[:NAMED]],
            "ignored_files": self._container.ignored,
            "c_dim": self.c_dim,
            **self.identity,
        }

    def look_over(self) -> None:
        """Decode images spread over the set until FIRST_LOOK is spent. Raises when too many are bad."""
        order = np.random.default_rng(0).permutation(len(self))
        costs = 2 * np.asarray(self._container.sizes, np.float64)[order] + self.resolution**2
        looked = min(len(self), max(FEWEST, int(np.searchsorted(np.cumsum(costs), FIRST_LOOK))))
        for _ in self._pool.map(self._look, order[:looked].tolist()):
            pass  # an error of a thread is raised here
        limit = UNUSABLE_SHARE * looked
        if looked < len(self):  # a draw from a set just within the limit lies above it by less than this
            limit += 3 * math.sqrt(limit)
        if len(self._unusable) > limit:
            raise self._refusal(looked)

    def _look(self, place: int) -> None:
        self._image(place)

    def _start(self, index: int) -> Future[Sample]:
        return self._pool.submit(self.sample, index)

    def _image(self, place: int) -> NDArray[np.uint8] | None:
        """The image at this very place; None when it is bad. Raises InputError when the disk fails."""
        if place in self._unusable:
            return None
        try:
            if self._container.sizes[place] > MAX_BYTES:
                raise UnusableImageError(f"has {self._container.sizes[place]:,} bytes, more than {MAX_BYTES:,}")
            return decode(self._container.read(place), resolution=self.resolution, resize=self.resize)
        except UnusableImageError as error:
            self._mark(place, error)
            return None
        except OSError as error:  # not the image's fault: skipping it would make the run another one
            raise InputError(
                f"{self._container.names[place]!r} of {self.path} cannot be read any more: {error.strerror or error}",
                "Mend that and start again: a run goes on where it was.",
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
        of = f"{looked}" if looked == len(self) else f"{looked} looked at"
        message = (
            f"{len(bad)} of {of} images of {self.path} cannot be used: {named}{', ...' if len(bad) > NAMED else ''}"
        )
        if not any(error.wrong_size for error in self._unusable.values()):
            return CorruptFileError(message, f"Mend or remove them; {UNUSABLE_SHARE:.0%} of a set may be bad.")
        if self.resize == "crop":
            return UsageError(message, "Leave out images smaller than the generator's: enlarging them would blur it.")
        return UsageError(
            message, f"Give --resize crop: the centred square of each, scaled down to {self.resolution} px."
        )


def _labels(container: Container, path: Path, c_dim: int | None) -> Labels | None:
    """Labels of the container as a generator with ``c_dim`` wants them."""
    text = None if c_dim == 0 else container.labels()
    labels = read_labels(text, container.names, source=str(path / LABELS)) if text is not None else None
    if not c_dim or (labels and labels.c_dim == c_dim):
        return labels
    held = f"have labels of length {labels.c_dim}" if labels else "have no labels"
    raise UsageError(
        f"the images of {path} {held}, and the generator is conditional on {c_dim} classes",
        f"Put a {LABELS} with a class from 0 to {c_dim - 1} for each image beside them, or leave --data out: then the "
        "teacher's own samples are the real images.",
    )


def _identity(container: Container, resize: Resize) -> dict[str, Any]:
    return {"fingerprint": container.fingerprint, "resize": resize}
