"""How a distance to real images was measured: its published name, and what makes it incomparable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CUSTOMARY = 50_000  # samples of a published FID
RELIABLE = 10_000  # least number of images that the authors of FID recommend (Heusel et al. 2017, their repository)
LOSSY = ("JPEG", "WEBP", "JPEG2000")


def recipe_name(samples: int, reals: int, available: int, *, mirrored: bool, psi: float, features: str) -> str:
    """Return NVIDIA's name of the metric, or a description such as ``fid5k, 5,000 reals of 70,000``.

    ``fid50k_full``: 50,000 samples against all ``available`` images; ``fid50k``: against 50,000 of them. ", mirrored"
    follows if each real image counts twice, once mirrored, as with ``--mirror=1`` in NVIDIA's scripts; so does a psi
    other than 1.
    """
    whole = reals == available
    if features == "inception" and samples == CUSTOMARY and whole:
        name = "fid50k_full"
    elif features == "inception" and samples == CUSTOMARY == reals and not mirrored:
        name = "fid50k"
    else:
        number = f"{samples // 1000}k" if samples % 1000 == 0 else f" of {samples:,} samples"
        of_features = "" if features == "inception" else f" in {features}"
        name = f"fid{number}{of_features}, "
        name += f"all {reals:,} reals" if whole else f"{reals:,} reals of {available:,}"
    return name + (f", psi {psi:g}" if psi != 1 else "") + (", mirrored" if mirrored else "")


def psi_caveat(psi: float) -> list[str]:
    """Say that truncation changes every figure; nothing at psi 1."""
    return [] if psi == 1 else [f"psi {psi:g}: truncation trades diversity for quality; published figures use psi 1"]


def data_caveats(figures: Mapping[str, Any], formats: Mapping[str, int], width: int) -> list[str]:
    """Say what a reader of ``fid`` must know: psi, other features, few images, lossy files of real images.

    ``figures`` are those of :class:`~.photographs.DataMetrics`, ``formats`` the numbers of real images by file format,
    and ``width`` is the number of features.
    """
    found = psi_caveat(figures["psi"])
    if figures["features"] != "inception":
        found.append(f"features of {figures['features']}: not comparable with published FIDs, which are Inception's")
    counts = {"samples": figures["samples"], "real images": figures["reals"] * (2 if figures["mirrored"] else 1)}
    found += [
        f"{count:,} {what} for {width:,} features: their covariance is rank-deficient, which makes FID too large"
        for what, count in counts.items()
        if count <= width
    ]
    if figures["reals"] < RELIABLE:
        found.append(f"{figures['reals']:,} real images: few for FID, whose bias grows then; look at KID too")
    looked = sum(formats.values())
    found += [
        f"{count:,} of {looked:,} real images looked at are {name}: FID to lossless originals is another number"
        for name, count in formats.items()
        if name in LOSSY
    ]
    return found
