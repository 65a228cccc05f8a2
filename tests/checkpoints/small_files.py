"""A small valid file of every format, and mutations that pass its checksums and lengths."""

from __future__ import annotations

import io
import pickletools
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.generators import Generator, GeneratorConfig, StyleGAN3Layout

from . import nvidia_writer, rosinality_writer, tensorflow_writer

OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
EDGES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF]
NAMES = [
    b"cos\nsystem\n",
    b"cnumpy\nndarray\n",
    b"ccollections\nOrderedDict\n",
    b"cbuiltins\nset\n",
    b"ctorch\nHalfStorage\n",
    b"cpathlib\nPosixPath\n",
    b"ctorch.nn.modules.linear\nLinear\n",
    b"cmade.up\nThing\n)R",
    b"cmade.up\nThing\n)R}b",
]


def stylegan2() -> Generator:
    config = GeneratorConfig(8, (3, 2, 2, 3), z_dim=4, w_dim=3, c_dim=2, mapping_layers=2, conv_clamp=256.0)
    return _fixed(config)


def unconditional() -> Generator:
    return _fixed(GeneratorConfig(8, (3, 2, 2, 3), z_dim=3, w_dim=3, mapping_layers=2))


def stylegan3() -> Generator:
    layout = StyleGAN3Layout(2, num_layers=3, num_critical=1)
    return _fixed(
        GeneratorConfig(
            16, (2, 3, 2, 2), z_dim=3, w_dim=3, mapping_layers=1, kind="stylegan3", layout=layout, num_fp16_res=4
        )
    )


@cache
def small_files() -> dict[str, bytes]:
    """Return the content of each format; for "torch-zip" the pickle and for "native" the header (see :func:`whole`)."""
    names = dict(stylegan2().state_dict())
    return {
        "nvidia-stylegan2": nvidia_writer.nvidia_pickle(stylegan2(), keys=("D", "G_ema", "training_set_kwargs")),
        "nvidia-stylegan3": nvidia_writer.nvidia_pickle(stylegan3(), keys=("G_ema",), protocol=3),
        "tensorflow": tensorflow_writer.tensorflow_bytes(
            tensorflow_writer.tensorflow_networks(unconditional()), protocol=2
        ),
        "torch-legacy": rosinality_writer.torch_bytes(rosinality_writer.converted(unconditional()), zipped=False),
        "torch-zip": _entries(_torch_zip())["archive/data.pkl"],
        "torch-module": rosinality_writer.torch_bytes({"G": unconditional(), "epoch": 3}, zipped=False),
        "nvidia-names": rosinality_writer.torch_bytes({"ema": names}, zipped=False),
        "npz": _npz(names),
        "safetensors": save({name: tensor.contiguous() for name, tensor in names.items()}),
        "native": _native_header(),
    }


def whole(form: str, content: bytes) -> bytes:
    """Return a file of this format with this content, and with lengths and checksums that fit it."""
    if form == "torch-zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, data in {**_entries(_torch_zip()), "archive/data.pkl": content}.items():
                archive.writestr(name, data)
        return stream.getvalue()
    if form == "native":
        original = _native()
        return struct.pack("<Q", len(content)) + content + original[8 + len(_native_header()) :]
    return content


def damaged(content: bytes, others: list[bytes], random: Random) -> bytes:
    """Return the content after one to four mutations."""
    for _ in range(random.randint(1, 4)):
        start, length = random.randrange(len(content) + 1), random.choice((0, 1, 1, 2, 4, 8, random.randrange(200)))
        piece = random.choice(MUTATIONS)(content[start : start + length], random.choice([content, *others]), random)
        content = content[:start] + piece + content[start + length :]
    return content


Mutation = Callable[[bytes, bytes, Random], bytes]


def _edge(old: bytes, other: bytes, random: Random) -> bytes:
    """Return a number at the edge of its type, with the width of the bytes that it replaces."""
    return (random.choice(EDGES) & ((1 << 8 * len(old)) - 1)).to_bytes(len(old), "little")


def _transplant(old: bytes, other: bytes, random: Random) -> bytes:
    start = random.randrange(len(other) + 1)
    return other[start : start + random.choice((len(old), random.randrange(300)))]


MUTATIONS: list[Mutation] = [
    _edge,
    _transplant,
    lambda old, other, random: random.randbytes(len(old)),
    lambda old, other, random: bytes(byte ^ 1 << random.randrange(8) for byte in old),
    lambda old, other, random: random.choice(OPCODES) * random.choice((1, 1, 2, 100)) + old,
    lambda old, other, random: random.choice(OPCODES) + old[1:],
    lambda old, other, random: random.choice(NAMES) + old,
    lambda old, other, random: b"",
    lambda old, other, random: old * random.choice((2, 3, 100)),
    lambda old, other, random: old[::-1],
]


def _fixed(config: GeneratorConfig) -> Generator:
    """Return a generator that is the same on every call, without parameters at a neutral value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(config).eval().requires_grad_(False)
        for name, tensor in generator.state_dict().items():
            if name.endswith((".bias", ".noise_strength", ".w_avg")):
                tensor.add_(0.1 * torch.randn_like(tensor))
    return generator


def _npz(tensors: Mapping[str, Tensor]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{name: tensor.numpy() for name, tensor in tensors.items()})  # type: ignore[arg-type]
    return stream.getvalue()


@cache
def _torch_zip() -> bytes:
    return rosinality_writer.torch_bytes(rosinality_writer.converted(unconditional()))


def _entries(archived: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archived)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@cache
def _native() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return save_generator(stylegan3(), Path(folder) / "g.safetensors").read_bytes()


def _native_header() -> bytes:
    return _native()[8 : 8 + struct.unpack("<Q", _native()[:8])[0]]
