"""State dicts recognised by the names of their tensors: those that are read, and those that compute something else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import UnknownFormatError
from .pickles.persistence import PersistentRecord
from .pickles.values import Inert, Load, printable

READS = (
    "Give one of these: StyleGAN2 and StyleGAN3 of NVIDIA's repositories, rosinality's stylegan2-pytorch with CAGAN, "
    "StyleKD and DCP-GAN, and the StyleGAN2 of BasicSR."
)

# One of these names, below any prefix, makes a state dict a generator of this layout.
_SIGNATURES = {
    "synthesis.b4.conv1.affine.weight": "nvidia",
    "synthesis.b4.const": "nvidia",
    "synthesis.input.freqs": "nvidia",
    "style_conv1.modulated_conv.modulation.weight": "basicsr",
    "conv1.conv.modulation.weight": "rosinality",
    "input.input": "rosinality",
}
# A tensor whose name starts so, below the prefix of a generator, belongs to a network that is not read.
_OTHERS = {
    r"conv1\.conv\.style_modulation\.weight$": "a StyleGAN2 of mmgeneration (mmagic), whose images are BGR",
    r"style_conv1\.bias$": "the clean variant of BasicSR's StyleGAN2, whose weights are rearranged",
    r"layers\.[0-9]+\.blocks\.[0-9]+\.(attn|qkv)": "a StyleSwin, which is a transformer",
    r"mapping\.dense0\.weight$": "a generator of genforce, which scales its weights in its own way",
    r"initial_block$|blocks\.[0-9]+\.to_style1\.weight$": "a StyleGAN2 of lucidrains",
    r"feat_[0-9]+\.[0-9]+\.weight_orig$|init\.init\.0\.weight": "a FastGAN",
    r"(to_rgbs\.[0-9]+\.)?(iwt|dwt)(\.|$)": "a SWAGAN, which generates wavelets instead of pixels",
    r"progression\.[0-9]+\.conv": "a StyleGAN of the first version, which has no demodulation",
}
# These come with the generator inside them, and change its images.
_AROUND = {
    r"(.*\.)?condition_scale\.0\.": "a face restorer (GFPGAN), whose input is an image",
    r"(.*\.)?res\.[0-9]+\.(conv|conv2|norm)\.": "a DualStyleGAN or VToonify, which adds layers to its generator",
}
LONGEST_NAME = 300  # characters of a name; longer ones are not names of tensors
_MOST = 64  # generators in one dictionary


def layout_of(names: Iterable[str]) -> dict[str, str]:
    """Return, for each prefix below which a generator lies, the layout of its names. At most 64 are looked for."""
    found: dict[str, str] = {}
    for name in names:
        for end, layout in _SIGNATURES.items():
            prefix = name.removesuffix(end)
            if prefix != name and (not prefix or prefix.endswith(".")) and len(found) < _MOST:
                found.setdefault(prefix, layout)
    return found


def names_of(entries: Mapping[Any, Any]) -> list[str]:
    """Return the keys that can be names of tensors."""
    return [key for key in entries if type(key) is str and len(key) <= LONGEST_NAME]


def other_architecture(names: Iterable[str], beside: Iterable[str] = ()) -> str | None:
    """Return what a generator is that is not read, and the tensor that shows it; None if nothing shows it.

    ``names`` are those below its prefix, ``beside`` all in the same dictionary.
    """
    for patterns, texts in ((_OTHERS, names), (_AROUND, beside)):
        for name in texts:
            for pattern, what in patterns.items():
                if re.match(pattern, name):
                    return f"{what}: it has {printable(name)}"
    return None


def _starts(name: str) -> list[int]:
    """Return where the first parts of a name begin: prefixes have one or two parts."""
    dots = [at + 1 for at, letter in enumerate(name[:80]) if letter == "."]
    return [0, *dots[:2]]


def refuse_other_architectures(value: Any, load: Load, depth: int = 0) -> None:
    """Raise UnknownFormatError that names the architecture if a dictionary of the file shows a known one."""
    load.spend(steps=1)
    if depth > 3 or not isinstance(value, Mapping):
        return
    names = names_of(value)
    load.spend(steps=len(names))
    found = other_architecture([name[at:] for name in names for at in _starts(name)], names)
    if found is None and {"params", "ckpt"} <= set(names):
        found = "a dictionary of params, ckpt: a student of MobileStyleGAN, which generates wavelets instead of pixels"
    if found:
        raise UnknownFormatError(f"{load.source}: {found}", READS)
    for key in names:
        entry = value[key]
        if type(entry) is not PersistentRecord:
            refuse_other_architectures(entry.state if type(entry) is Inert else entry, load, depth + 1)
