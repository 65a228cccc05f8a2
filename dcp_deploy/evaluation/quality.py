"""The measurements of ``eval``: a checkpoint, exported file or engine against the demo's images or a user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import DcpDeployError, UsageError, choose
from ..progress import Reporter
from ..teachers.presets import Teacher

if TYPE_CHECKING:
    from ..datasets.decoding import Resize
    from ..datasets.images import ImageSet
    from ..datasets.labels import Labels
    from ..export.runners.loading import Backend
    from ..metrics.drawing import Model
    from ..metrics.photographs import RealFeatures
    from ..metrics.published import FeatureExtractor, Inception, Lpips
    from .editing import EditingReport

DEMO_SAMPLES, DATA_SAMPLES = 5000, 50_000
REALS = 50_000  # most images of --data that are used by default
Features = Literal["inception", "efficientnet-lite0"]
"""Networks in whose features a model is compared with images of --data."""

INCEPTION = Teacher(
    "weights-inception-2015-12-05-6726825d.pth",
    "torch.save",
    "Apache-2.0",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases",
    96,
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "--inception",
)
VGG16 = "vgg16-397923af.pth"
"""torchvision's weights of the LPIPS network. Half a gigabyte, so used if present and never fetched."""


@dataclass(frozen=True)
class Against:
    """Files to compare a model with. Without ``data`` it is compared with the demo's images.

    ``features``: the network that measures images of ``data``; ``inception``: the file of Inception's weights.
    ``reals``: most images of ``data`` to use, None for all. ``mirrored``: use the mirror image of each, too.
    ``network`` chooses among several generators of the teacher's file, or without one of the model's.
    """

    teacher: Path | None = None
    data: Path | None = None
    resize: Resize = "error"
    directions: Path | None = None
    inception: Path | None = None
    lpips: Path | None = None
    reals: int | None = REALS
    mirrored: bool = False
    network: str | None = None
    features: Features = "inception"

    def check(self) -> None:
        """Raise UsageError for a combination that cannot work."""
        from ..metrics.photographs import FEWEST

        if self.directions is not None and self.teacher is None:
            raise UsageError("directions compare a student with its teacher", "Give --teacher FILE too.")
        if self.features not in get_args(Features):
            raise UsageError(f"--features is {self.features!r}", choose(self.features, get_args(Features)))
        if self.data is None and (self.mirrored or self.reals != REALS or self.features != "inception"):
            options = "--reals, --mirror-data and --features"
            raise UsageError(f"{options} are about images of --data", "Give --data PATH too.")
        if self.inception is not None and self.features != "inception":
            raise UsageError(f"--inception with --features {self.features}", "Leave one of the two out.")
        if self.reals is not None and self.reals < FEWEST:
            raise UsageError(f"--reals is {self.reals}", f"Give {FEWEST} or more, or all.")


@dataclass
class Evaluation:
    """Figures by name; ``not_measured`` gives the reason for each missing figure.

    ``caveats``: sentences on what to know when reading or comparing the figures. ``collapsed``: whether the generator
    makes the same image from all latents.
    """

    figures: dict[str, Any]
    not_measured: dict[str, str] = field(default_factory=dict)
    caveats: list[str] = field(default_factory=list)
    collapsed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        rest = {"collapsed": self.collapsed, "caveats": self.caveats, "not_measured": self.not_measured}
        return {**self.figures, **rest}

    def raise_for_failure(self) -> None:
        """Raise QualityError if the generator has collapsed."""
        if self.collapsed:
            from ..metrics.likeness import collapse

            raise collapse()


def evaluate_file(
    path: Path,
    against: Against,
    *,
    samples: int | None = None,
    seed: int = 0,
    psi: float = 1.0,
    batch: int = 64,
    device: str = "cpu",
    backend: Backend = "auto",
    reporter: Reporter | None = None,
) -> Evaluation:
    """Measure the model in a file. ``device`` is where torch computes, and ``backend`` runs the model.

    ``samples`` None means 5000 images against the demo's, or 50,000 against those of ``against.data``. With a teacher
    it also measures the likeness of images from equal latents; with directions, whether editing survives.

    Raises UsageError for a model that cannot be measured so, InputError for bad files, MissingCapabilityError for
    missing packages, weights or devices, QualityError for NaN.
    """
    reporter = reporter or Reporter()
    against.check()
    network = against.network
    model = open_model(path, device, backend, network=network if against.teacher is None else None)
    teacher = None if against.teacher is None else open_model(against.teacher, device, network=network)
    if teacher is not None:  # check before the slow measurements
        from ..metrics.likeness import check_alike

        check_alike(model, teacher)
    edit = None if teacher is None or against.directions is None else _edit(model, teacher, against.directions)
    found = Evaluation({})
    lpips = lpips_or_reason(against.lpips, device, found.not_measured)
    run = _Run(model, against, lpips, {"seed": seed, "psi": psi, "batch": batch}, device, reporter)
    run.against_images(samples, found)
    figures = found.figures
    figures["seed_diversity"] = run.diversity(model, "seed diversity")
    run.look_for_collapse(found)
    if teacher is None:
        found.not_measured |= dict.fromkeys(("teacher", "editing"), "no --teacher was given")
        return found
    figures["teacher"] = run.against_teacher(teacher, figures["samples"], figures["seed_diversity"])
    if edit is None:
        found.not_measured["editing"] = "no --directions were given"
    else:
        with reporter.task("editing") as progress:
            figures["editing"] = asdict(edit(seed=seed, progress=progress))
    return found


def open_model(path: Path, device: str, backend: Backend = "auto", *, network: str | None = None) -> Model:
    """Open a checkpoint's generator on ``device``, or a runner of an ONNX file, bundle or engine.

    ``network`` chooses among several generators of a checkpoint.
    """
    from ..export import load_runner
    from ..generators import Generator

    runner = load_runner(path, backend=backend, device=device, network=network)
    return runner.source if isinstance(runner.source, Generator) else runner


@dataclass
class _Run:
    """The model of one call and the settings that all its measurements share."""

    model: Model
    against: Against
    lpips: Lpips | None
    drawing: Mapping[str, Any]
    """The settings seed, psi and batch."""
    device: str
    reporter: Reporter
    labels: Labels | None = None
    """Labels of the data, as soon as it is open; the classes of all generated images have their frequencies."""

    def against_images(self, samples: int | None, found: Evaluation) -> None:
        """Measure the distances: to --data by a published network, or to the demo's images by the avatar reader."""
        from ..metrics import evaluate
        from ..metrics.protocol import psi_caveat

        if self.against.data is not None:
            self._against_data(self.against.data, DATA_SAMPLES if samples is None else samples, found)
            return
        with self.reporter.task("eval") as progress:
            chosen = DEMO_SAMPLES if samples is None else samples
            found.figures |= evaluate(self.model, samples=chosen, progress=progress, **self.drawing).to_dict()
        found.caveats += psi_caveat(self.drawing["psi"])

    def _against_data(self, data: Path, samples: int, found: Evaluation) -> None:
        """Measure the distances to the images of ``data``, with classes as frequent as theirs."""
        from ..datasets.images import open_images
        from ..metrics.drawing import shape_of
        from ..metrics.photographs import evaluate_against
        from ..metrics.protocol import data_caveats

        shape, against = shape_of(self.model), self.against
        c_dim = None if shape.c_dim else 0  # 0: do not read labels that nobody needs
        images = open_images(data, resolution=shape.image_size, resize=against.resize, c_dim=c_dim)
        if shape.c_dim:
            self.labels, caveat = fitting_labels(images.labels, shape.c_dim)
            found.caveats += caveat
        extractor = open_extractor(against, self.device, self.reporter)
        real = features_of(images, extractor, against.reals, self.reporter, mirrored=against.mirrored)
        with self.reporter.task("eval") as progress:
            figures = evaluate_against(
                self.model, real, extractor, samples=samples, labels=self.labels, progress=progress, **self.drawing
            ).to_dict()
        facts = images.facts()
        found.figures |= {**figures, "data": facts}
        found.caveats += data_caveats(figures, facts["formats"], real.features.shape[1])

    def look_for_collapse(self, found: Evaluation) -> None:
        """Note whether neighbouring latents give the same image, and not only because of the truncation."""
        from ..metrics.likeness import COLLAPSED, collapse, has_collapsed

        if found.figures["seed_diversity"]["largest"] > COLLAPSED:
            return
        psi = self.drawing["psi"]
        found.collapsed = psi == 1 or has_collapsed(self.model, seed=self.drawing["seed"], labels=self.labels)
        if found.collapsed:
            found.caveats.append(collapse().message)
        else:
            found.caveats.append(f"at psi {psi:g} truncation alone makes all images alike")

    def diversity(self, model: Model, title: str) -> dict[str, Any]:
        """Measure the diversity around single seeds, see :func:`~.metrics.likeness.seed_diversity`."""
        from ..metrics.likeness import seed_diversity

        settings = {name: self.drawing[name] for name in ("seed", "psi")}
        with self.reporter.task(title) as progress:
            return asdict(seed_diversity(model, labels=self.labels, lpips=self.lpips, progress=progress, **settings))

    def against_teacher(self, teacher: Model, samples: int, own: Mapping[str, Any]) -> dict[str, Any]:
        """Measure likeness, the teacher's seed diversity, and the share of it that the model keeps."""
        from ..metrics.likeness import likeness

        with self.reporter.task("teacher") as progress:
            settings = {**self.drawing, "labels": self.labels, "lpips": self.lpips}
            like = likeness(self.model, teacher, samples=samples, progress=progress, **settings)
        diversity = self.diversity(teacher, "the teacher's seed diversity")
        kept = own["l1"] / diversity["l1"] if diversity["l1"] else None
        return {**asdict(like), "seed_diversity": diversity, "seed_diversity_kept": kept}


def _edit(model: Model, teacher: Model, path: Path) -> Callable[..., EditingReport]:
    """Check the inputs and return the comparison of editing, ready to call."""
    from functools import partial

    from ..checkpoints.directions import check_directions, read_directions
    from ..generators import Generator
    from .editing import compare_editing

    if not isinstance(model, Generator) or not isinstance(teacher, Generator):
        raise UsageError("an edit moves w, but an exported file takes z", "Give the checkpoints of both.")
    directions = read_directions(path)
    for one in (model, teacher):
        check_directions(directions, one.config)
    return partial(compare_editing, model, teacher, directions)


def open_extractor(against: Against, device: str, reporter: Reporter) -> FeatureExtractor:
    """Load the network in whose features the images are compared. Raises what loading it raises."""
    from ..metrics.efficientnet import load_features

    if against.features == "inception":
        return open_inception(against.inception, device, reporter)
    return load_features(device=device)


def open_inception(given: Path | None, device: str, reporter: Reporter) -> Inception:
    """Load Inception from ``given``, from torch's cache, or from our cache, into which it is fetched if necessary.

    Raises what :func:`load_inception` and :func:`~.teachers.downloads.fetch` raise.
    """
    from ..metrics.published import check_fidelity, load_inception
    from ..teachers.downloads import fetch

    weights = given or in_torch_cache(INCEPTION.file)
    if weights is None:
        check_fidelity()  # a missing package must show before the download
        with reporter.task("Inception's weights") as progress:
            weights = fetch(INCEPTION, say=reporter.message, progress=progress).path
    return load_inception(weights, device=device)


def fitting_labels(labels: Labels | None, c_dim: int) -> tuple[Labels | None, list[str]]:
    """Return the labels if a generator with ``c_dim`` classes takes them, else None and a sentence that says why."""
    if labels is not None and labels.fit(c_dim):
        missing = c_dim - labels.c_dim
        return labels, [f"the last {missing} of {c_dim} classes are not in the data, so not drawn"] if missing else []
    why = "the data has no labels" if labels is None else f"the data's labels are for {labels.c_dim} classes"
    return None, [f"all {c_dim} classes are drawn equally often: {why}"]


def features_of(
    images: ImageSet, extractor: FeatureExtractor, count: int | None, reporter: Reporter, *, mirrored: bool = False
) -> RealFeatures:
    """Return the features of at most ``count`` images (None: all), from our cache if possible."""
    from ..files import cache_folder
    from ..metrics.photographs import real_features

    with reporter.task("real images") as progress:
        cache = cache_folder() / "features"
        return real_features(images, extractor, count=count, cache=cache, mirrored=mirrored, progress=progress)


def in_torch_cache(name: str) -> Path | None:
    """Return a file in torch.hub's cache, or None if it is not there."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    return path if path.is_file() else None


def lpips_or_reason(given: Path | None, device: str, not_measured: dict[str, str]) -> Lpips | None:
    """Load LPIPS from ``given`` or torch's cache; None with a reason in ``not_measured``. Raises if ``given`` fails."""
    from ..metrics.published import load_lpips

    weights = given or in_torch_cache(VGG16)
    if weights is None:
        not_measured["lpips"] = f"the weights of its network, {VGG16}, were not found; give them as --lpips FILE"
        return None
    try:
        return load_lpips(weights, device=device)
    except DcpDeployError as error:
        if given is not None:
            raise
        not_measured["lpips"] = f"{error.message} ({error.remedy})"
        return None
