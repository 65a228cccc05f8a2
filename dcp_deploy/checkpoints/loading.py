"""Read generators and discriminators from files of every format, recognised by their content alone."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UnknownFormatError, UsageError
from ..generators import Discriminator, Generator
from .checkpoint import Checkpoint, NetworkInFile
from .containers import Format, format_of, mapped
from .discriminators import find_discriminator
from .foreign import described
from .native import is_native, read_native
from .networks import Found, choose, find_networks, same_weights, shown, unnamed_averages
from .nvidia import read_nvidia
from .nvidia_state import read_nvidia_state
from .pickles.content import Content, NetworkRecord, read_pickle_file
from .pickles.persistence import PersistentRecord
from .pickles.torch_file import read_torch_file
from .provenance import stated_licence, story_in
from .rosinality import read_rosinality
from .tensorflow import read_tensorflow
from .weight_files import read_weights

logger = logging.getLogger("dcp_deploy")


def read_checkpoint(path: str | os.PathLike[str], *, network: str | None = None) -> Checkpoint:
    """Read a generator in any of the formats, in float32 and evaluation mode. Never executes code from the file.

    ``network`` chooses among several generators of one file, by default the first moving average.
    Raises UnsafeFileError for a file with a hostile name in its pickle, CorruptFileError for a damaged file,
    UnknownFormatError for other content and unsupported networks, InputError for a missing file, UsageError for a
    ``network`` that the file does not have.
    """
    source = Path(path)
    data = mapped(source)
    found = format_of(data)
    if found == "safetensors" and is_native(source):
        if network is not None:
            raise UsageError(f"{path}: a file of one generator, without names", "Leave out --network.")
        return read_native(path)
    return read_network(_content(found, data, source), network)


def read_network(content: Content, network: str | None = None) -> Checkpoint:
    """Read the chosen generator of a file whose container is open. Errors as in :func:`read_checkpoint`."""
    networks = find_networks(content)
    chosen = choose(networks, network, content.load.source)
    checkpoint = _read(chosen, content)
    listed, notes = _listed(networks, chosen, content, asked=network is not None)
    unnamed = [] if chosen.average else unnamed_averages(content.value, content.load)
    notes += unnamed
    if chosen.raw:
        has_average = unnamed or any(one.average for one in networks)
        average = "not of the moving average" if has_average else "the file has no average"
        notes.append(f"these are the weights of {shown(chosen)} as trained; {average}")
    if story := story_in(content.value):
        extra = {**checkpoint.extra, "provenance": story}
        checkpoint = replace(checkpoint, licence=stated_licence(story) or checkpoint.licence, extra=extra)
    return replace(checkpoint, networks=listed, unread=content.unread, notes=(*checkpoint.notes, *notes))


def load_checkpoint(path: str | os.PathLike[str], *, network: str | None = None) -> Checkpoint:
    """Return the result of :func:`read_checkpoint`, and log its notes as warnings."""
    checkpoint = read_checkpoint(path, network=network)
    for note in checkpoint.notes:
        logger.warning("%s: %s", path, note)
    return checkpoint


def load_generator(path: str | os.PathLike[str], *, network: str | None = None) -> Generator:
    """Return the generator of :func:`load_checkpoint`."""
    return load_checkpoint(path, network=network).generator


def read_discriminator(path: str | os.PathLike[str]) -> Discriminator:
    """Read the discriminator of a training file or snapshot, in float32. Never executes code from the file.

    Raises UnknownFormatError for other formats, for files without a discriminator and for discriminators that compute
    something else than ours, CorruptFileError and UnsafeFileError as :func:`read_checkpoint` does.
    """
    data = mapped(Path(path))
    found = format_of(data)
    if found not in ("pickle", "torch"):
        raise UnknownFormatError(
            f"{path}: this format has no readable discriminator",
            "Give one of these: D in a .pkl of NVIDIA's PyTorch repositories, d in a training file of rosinality's.",
        )
    return find_discriminator(_content(found, data, Path(path)))


def _content(found: Format, data: memoryview, source: Path) -> Content:
    if found == "other":
        raise UnknownFormatError(*described(data, str(source)))
    if found in ("safetensors", "npz"):
        return read_weights(source)
    return read_torch_file(data, str(source)) if found == "torch" else read_pickle_file(data, str(source))


def _read(found: Found, content: Content) -> Checkpoint:
    network = found.network
    if isinstance(network, PersistentRecord):
        return read_nvidia(found, network, content)
    if isinstance(network, NetworkRecord):
        return read_tensorflow(found, network, content)
    reader = read_nvidia_state if network.layout == "nvidia" else read_rosinality
    return reader(found, network, content)


def _is_training(value: Any) -> bool:
    """Return whether a file was written by a training: NVIDIA's tools that tune keep D, but not the data's record."""
    if isinstance(value, dict):
        marks = ("d", "g_optim", "optimizer_states")
        return isinstance(value.get("training_set_kwargs"), dict) or any(mark in value for mark in marks)
    return isinstance(value, list | tuple)


def _listed(
    networks: list[Found], chosen: Found, content: Content, *, asked: bool
) -> tuple[tuple[NetworkInFile, ...], list[str]]:
    """Return what the file holds, and a note if another generator may be the one that is wanted.

    Tools that tune a generator save it beside the old average, and then the default is the untuned one. A file of
    training has images, a discriminator or optimisers beside the generators, and there the average is right.
    """
    same = [one is chosen or same_weights(one, chosen, content) for one in networks]
    listed = [NetworkInFile(shown(one), one is chosen, equal) for one, equal in zip(networks, same, strict=True)]
    others = [shown(one) for one, equal in zip(networks, same, strict=True) if not equal]
    if asked or not others or (chosen.average and _is_training(content.value)):
        return tuple(listed), []
    names = ", ".join(others[:4])
    return tuple(listed), [f"this is {shown(chosen)}; the file also holds {names} with other weights (--network NAME)"]
