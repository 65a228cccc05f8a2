"""Sizes of images: (height, width) in code, "16x32 px" (width x height) in words."""

from __future__ import annotations

Resolution = int | tuple[int, int]
"""The side of a square, or a height and a width."""


def as_size(resolution: Resolution) -> tuple[int, int]:
    """Return (height, width)."""
    return (resolution, resolution) if isinstance(resolution, int) else resolution


def pixels(size: tuple[int, int]) -> str:
    """Return a size in words: "32 px" for a square, else "16x32 px", width first as image tools write it."""
    height, width = size
    return f"{height} px" if height == width else f"{width}x{height} px"


def cropping(size: tuple[int, int]) -> str:
    """Return what ``--resize crop`` does for this size: "scale the centred squares down to 32 px"."""
    shape = "squares" if size[0] == size[1] else "rectangles"
    return f"scale the centred {shape} down to {pixels(size)}"
