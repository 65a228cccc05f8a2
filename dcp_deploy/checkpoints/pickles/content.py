"""The content of a file that holds networks, whatever wrote it: plain containers, and tensors that are not read yet."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .numpy_values import NUMPY_BUILDABLE, numpy_stand_ins
from .persistence import PersistentRecord
from .python_values import OrderedRecord, python_stand_ins
from .reading import run_pickle
from .tensors import TensorView, load_from_bytes, storage_stand_ins, tensor_stand_ins
from .values import Global, Load, printable


class NamespaceRecord(dict[str, Any]):
    """An argparse.Namespace: the options of a training run, as a dictionary."""

    __slots__ = ()

    def build(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise ValueError("a namespace with a state that is not a dictionary")
        self.update({str(name): value for name, value in state.items() if type(name) is str})


class NetworkRecord:
    """A network of NVIDIA's TensorFlow repositories. Only the options and variables of its state are used."""

    def __init__(self) -> None:
        self.state: Mapping[Any, Any] = {}

    def build(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise ValueError("a network's state is not a dictionary")
        self.state = state


BUILDABLE = (OrderedRecord, NamespaceRecord, NetworkRecord, *NUMPY_BUILDABLE)


@dataclass(frozen=True)
class Content:
    """Dictionaries, lists, numbers, networks as records, and tensors as views that ``tensors`` reads."""

    value: Any
    load: Load
    checksums: Mapping[int, int] = field(default_factory=dict)
    """CRC-32 of the bytes of each storage, by its id; empty for formats without checksums."""

    size: int = 0
    """Bytes of the file."""

    @property
    def globals(self) -> tuple[str, ...]:
        """The dotted names in the pickle, in order."""
        return tuple(map(str, self.load.globals))

    @property
    def unread(self) -> tuple[str, ...]:
        """Those of the names whose values are inert."""
        return tuple(map(str, self.load.unread))

    def tensors(self, views: Mapping[str, TensorView]) -> dict[str, Tensor]:
        """Read these tensors. Raises CorruptFileError if their bytes were changed or cut off."""
        storages = {id(view.storage): (name, view.storage) for name, view in views.items()}
        for key, (name, storage) in storages.items():
            if key in self.checksums:
                check_sum(storage.data or b"", self.checksums[key], name, self.load)
        return {name: view.tensor(self.load) for name, view in views.items()}


def check_sum(data: memoryview | bytes, expected: int, name: str, load: Load) -> None:
    """Raise unless the checksum fits. torch writes 0 if checksums are off (torch.serialization.set_crc32_options)."""
    if expected and zlib.crc32(data) != expected:
        raise load.damaged(f"the bytes of {name} do not match their checksum")


def read_pickle_file(data: memoryview, source: str) -> Content:
    """Return the content of a plain pickle, as NVIDIA's repositories write it; ``source`` names it in messages.

    Raises UnsafeFileError for a hostile name and CorruptFileError for damage.
    """
    load = Load.of(source, len(data))
    return Content(run_pickle(data, load=load, allowed=stand_ins(load), buildable=BUILDABLE)[0], load, size=len(data))


def stand_ins(load: Load) -> Callable[[Global], Callable[..., Any] | None]:
    """Return the function that gives the stand-in of each name that readers know, made anew for every load."""

    def named(*arguments: Any) -> str:
        """Return types and devices as text: nothing depends on them."""
        return printable(":".join(str(argument) for argument in arguments if type(argument) in (str, int)))

    def size(sizes: Any) -> tuple[Any, ...]:
        if type(sizes) not in (list, tuple):
            raise load.damaged("a torch.Size is made of something that is not a list")
        return tuple(sizes)

    known: dict[Global, Callable[..., Any]] = {
        **python_stand_ins(load),
        **numpy_stand_ins(load),
        **storage_stand_ins(),
        **tensor_stand_ins(load),
        **dict.fromkeys((Global("torch", str(kind).removeprefix("torch.")) for kind in _TYPES), named),
        Global("torch", "device"): named,
        Global("torch", "Size"): size,
        Global("torch.storage", "_load_from_bytes"): load_from_bytes(load),
        # Always empty: the constructor of a dictionary would hash any keys it is called with.
        Global("argparse", "Namespace"): lambda: NamespaceRecord(),
    }

    def allowed(name: Global) -> Callable[..., Any] | None:
        """Forks keep the persistence module, EasyDict and the TensorFlow network in packages of their own."""
        last = name.module.rpartition(".")[2]
        if last == "persistence" and name.name == "_reconstruct_persistent_obj":
            return PersistentRecord
        if name.name == "EasyDict":
            return lambda *arguments: OrderedRecord()
        if f".{name.module}".endswith(".tflib.network") and name.name == "Network":
            return NetworkRecord
        return known.get(name)

    return allowed


_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)
