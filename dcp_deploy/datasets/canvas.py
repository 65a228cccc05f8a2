"""Tools to draw portraits: a canvas in head coordinates, colours, and shapes with soft edges.

A shape is a signed distance, negative inside. A layer blends one colour over the canvas with the coverage
``clip(1/2 - distance)`` in pixels, which anti-aliases the edges. Head coordinates have their origin in the middle of
the face; a unit is a pixel of a head of normal size. A change of coordinates thus moves and scales the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .factors import Factors

RESOLUTION = 64
Array = NDArray[np.floating[Any]]
Window = tuple[slice, slice]

_CENTRE_X, _CENTRE_Y = 32.0, 36.0
_SHIFT = 4.0  # largest shift of the head by head_x and head_y, in pixels
_ZOOM = 0.1  # largest relative change of size by head_size


@dataclass(frozen=True)
class Scene:
    """Canvases [n, 3, 64, 64] with head coordinates x [n, 1, 64], y [n, 64, 1] and pixels per unit, scale [n, 1, 1]."""

    canvas: Array
    x: Array
    y: Array
    scale: Array

    def within(self, x0: float, x1: float, y0: float, y1: float) -> tuple[Window, Array, Array]:
        """Return the window that the head-coordinate box can reach, and the head coordinates x and y inside it."""
        rows, columns = window = window_of(x0, x1, y0, y1)
        return window, self.x[:, :, columns], self.y[:, rows]

    def paint(self, window: Window, distance: Array, colour: Array, opacity: float = 1.0, blur: float = 1.0) -> None:
        """Blend ``colour`` [n, 3] over a window where ``distance`` is negative, with an edge ``blur`` pixels wide."""
        alpha = distance * (self.scale * np.float32(-1.0 / blur))
        alpha += 0.5
        np.clip(alpha, 0.0, 1.0, out=alpha)
        if opacity != 1.0:
            alpha *= np.float32(opacity)
        rows, columns = window
        for channel in range(3):
            region = self.canvas[:, channel, rows, columns]
            region += alpha * (colour[:, channel, None, None] - region)

    def pick(self, chosen: NDArray[np.intp]) -> Scene:
        """Copy the canvases with these indices."""
        return Scene(self.canvas[chosen], self.x[chosen], self.y[chosen], self.scale[chosen])


@dataclass(frozen=True)
class Palette:
    """Colours [n, 3] of the parts of n portraits."""

    skin: Array
    skin_shade: Array
    hair: Array
    hair_light: Array
    hair_dark: Array
    iris: Array
    shirt: Array
    shirt_dark: Array

    def pick(self, chosen: NDArray[np.intp]) -> Palette:
        return Palette(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def head_coordinates(factors: Factors) -> tuple[Array, Array, Array]:
    """Return x [n, 1, 64] and y [n, 64, 1] of the pixel centres in head coordinates, and pixels per unit [n, 1, 1]."""
    pixels = np.arange(RESOLUTION, dtype=np.float32) + np.float32(0.5)
    scale = 1.0 + _ZOOM * factors.column("head_size")
    x = (pixels[None] - _CENTRE_X - _SHIFT * factors.column("head_x")[:, None]) / scale[:, None]
    y = (pixels[None] - _CENTRE_Y - _SHIFT * factors.column("head_y")[:, None]) / scale[:, None]
    return x[:, None, :].astype(np.float32), y[:, :, None].astype(np.float32), scale[:, None, None].astype(np.float32)


def window_of(x0: float, x1: float, y0: float, y1: float) -> Window:
    """Return the pixels that the box can reach at any head position and size, plus one pixel for the soft edge."""

    def span(low: float, high: float, centre: float) -> slice:
        first = centre - _SHIFT - 1.0 + min(low * (1 - _ZOOM), low * (1 + _ZOOM))
        last = centre + _SHIFT + 1.0 + max(high * (1 - _ZOOM), high * (1 + _ZOOM))
        return slice(max(0, int(np.floor(first))), min(RESOLUTION, int(np.ceil(last))))

    return span(y0, y1, _CENTRE_Y), span(x0, x1, _CENTRE_X)


# Colours ---------------------------------------------------------------------------------------------------------


def hue(turns: Array, light: Array | float, chroma: float) -> Array:
    """Return colours [n, 3] on a smooth circle: three cosines a third of a turn apart, so that hues 0 and 1 agree."""
    phase = turns[:, None] - np.array([0.0, 1.0 / 3.0, 2.0 / 3.0])
    grey = np.broadcast_to(np.asarray(light), turns.shape)[:, None]
    colour = (grey + chroma * np.cos(2.0 * np.pi * phase)).clip(0.0, 1.0)
    return np.asarray(colour, dtype=np.float32)


def ramp(position: Array, stops: NDArray[np.float64]) -> Array:
    """Interpolate colours [n, 3] linearly along ``stops``, for positions in [-1, 1]."""
    where = (position + 1.0) / 2.0 * (len(stops) - 1)
    knots = np.arange(len(stops))
    return np.stack([np.interp(where, knots, stops[:, channel]) for channel in range(3)], axis=1).astype(np.float32)


def solid(scene: Scene, red: float, green: float, blue: float) -> Array:
    """Return one colour for every canvas, [n, 3]."""
    return np.broadcast_to(np.array([red, green, blue], dtype=np.float32), (scene.canvas.shape[0], 3))


# Shapes ----------------------------------------------------------------------------------------------------------


def ellipse(x: Array, y: Array, a: float, b: float) -> Array:
    """Return the distance to an ellipse with half axes a, b, to first order: the implicit value over its gradient."""
    u, v = (x / np.float32(a)) ** 2, (y / np.float32(b)) ** 2
    value = np.sqrt(u + v)
    slope = np.sqrt(u / np.float32(a * a) + v / np.float32(b * b) + np.float32(1e-6))
    return np.asarray(value * (value - 1.0) / slope)


def rounded_box(x: Array, y: Array, half_x: float, half_y: float, radius: float) -> Array:
    """Return the distance to an axis-aligned box with rounded corners."""
    u = np.abs(x) - np.float32(half_x - radius)
    v = np.abs(y) - np.float32(half_y - radius)
    outside = np.sqrt(np.maximum(u, 0.0) ** 2 + np.maximum(v, 0.0) ** 2)
    return np.asarray(outside + np.minimum(np.maximum(u, v), 0.0) - np.float32(radius))


def both(first: Array, second: Array) -> Array:
    """Return the intersection of two shapes."""
    return np.asarray(np.maximum(first, second))
