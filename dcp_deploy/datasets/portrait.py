"""The demo's data, avatars: flat illustrations of heads, 64 x 64 pixels, drawn from their factors.

They are endless and deterministic, their factors are known exactly, and there is nothing to download. Layers of
:mod:`.canvas` shapes are painted back to front, each only in the window of pixels that it can reach.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .canvas import (
    RESOLUTION,
    Array,
    Palette,
    Scene,
    Window,
    both,
    ellipse,
    head_coordinates,
    hue,
    ramp,
    rounded_box,
    solid,
)
from .factors import Factors, sample_factors

_CHUNK = 16  # images drawn at a time, so that their canvases fit the cache
_EYE_X = 7.9
_MOUTH_Y, _MOUTH_HALF = 11.0, 7.5
_HAT_LINE = -9.5  # a hat hides the head above this height

_SKIN = np.array([[1.00, 0.87, 0.77], [0.95, 0.75, 0.60], [0.80, 0.56, 0.40], [0.58, 0.37, 0.26], [0.36, 0.22, 0.16]])
_EYES = np.array([[0.30, 0.15, 0.06], [0.62, 0.38, 0.08], [0.20, 0.58, 0.25], [0.12, 0.55, 0.90]])


def avatars(indices: ArrayLike, seed: int = 0) -> NDArray[np.uint8]:
    """Draw the portraits with these indices (integers >= 0): uint8 [N, 64, 64, 3], fixed by index and seed alone."""
    return render(sample_factors(indices, seed))


def render(factors: Factors) -> NDArray[np.uint8]:
    """Draw N rows of factors: portraits uint8 [N, 64, 64, 3], RGB. Each depends on its own row only."""
    images = np.empty((len(factors), RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
    for start in range(0, len(factors), _CHUNK):
        chunk = factors[start : start + _CHUNK]
        canvas = _draw(chunk)
        np.clip(canvas, 0.0, 1.0, out=canvas)
        canvas *= 255.0
        canvas += 0.5
        images[start : start + len(chunk)] = canvas.astype(np.uint8).transpose(0, 2, 3, 1)
    return images


def detail_mask(factors: Factors) -> Array:
    """Return float32 [N, 64, 64]: 1 in the boxes around eyes, mouth, glasses and hat, else 0."""
    x, y, _ = head_coordinates(factors)
    boxes = [(_box(x, 13.0) & _box(y, 4.5)), (_box(x, _MOUTH_HALF + 2.0) & _box(y - _MOUTH_Y, 5.5))]
    boxes.append(_box(x, 19.0) & _box(y, 8.0) & (factors.labels("glasses") > 0)[:, None, None])
    boxes.append(_box(x, 24.0) & _box(y + 18.5, 13.0) & (factors.labels("hat") > 0)[:, None, None])
    return np.asarray(np.logical_or.reduce(boxes), dtype=np.float32)


def _box(coordinate: Array, half: float) -> NDArray[np.bool_]:
    return np.abs(coordinate) <= half


Layer = Callable[[Scene, Palette, Array], None]
"""Paints a part on all canvases. The array [n, 1, 1] is the height above which a hat hides head and hair."""


def _draw(factors: Factors) -> Array:
    """Draw a chunk of portraits: canvas [n, 3, 64, 64] in [0, 1] up to rounding."""
    scene = Scene(_background(factors), *head_coordinates(factors))
    palette = _palette(factors)
    cut = np.where(factors.labels("hat") > 0, _HAT_LINE - 1.0, -1e3).astype(np.float32)[:, None, None]

    def worn(name: str, layers: dict[str, Layer]) -> None:
        """Draw the layer of each value of a categorical factor, on the portraits with that value."""
        for value, layer in layers.items():
            chosen = np.flatnonzero(factors.has(name, value))
            if chosen.size:
                part = scene.pick(chosen)
                layer(part, palette.pick(chosen), cut[chosen])
                scene.canvas[chosen] = part.canvas

    _body(scene, palette)
    worn("hair_style", {"bob": _back_bob, "long": _back_long})
    _head(scene, palette, cut)
    worn("beard", {"full": _beard})
    _mouth(scene, palette, factors.column("smile"))
    _eyes(scene, palette)
    worn("hair_style", {"short": _front_short, "bob": _front_bob, "long": _front_long})
    worn("glasses", {"round": _round_glasses, "sunglasses": _sunglasses})
    worn("hat", {"cap": _cap, "top_hat": _top_hat})
    return scene.canvas


# Colours ---------------------------------------------------------------------------------------------------------


def _palette(factors: Factors) -> Palette:
    skin = ramp(factors.column("skin"), _SKIN)
    hair = hue(factors.column("hair_hue"), 0.42 + 0.24 * factors.column("hair_lightness"), 0.17)
    shirt = hue(factors.column("shirt_hue"), 0.52, 0.30)
    return Palette(
        skin=skin,
        skin_shade=skin * np.array([0.84, 0.76, 0.74], dtype=np.float32),
        hair=hair,
        hair_light=hair + (1.0 - hair) * np.float32(0.25),
        hair_dark=hair * np.float32(0.72),
        iris=ramp(factors.column("eye_colour"), _EYES),
        shirt=shirt,
        shirt_dark=shirt * np.float32(0.72),
    )


def _background(factors: Factors) -> Array:
    """Return canvases [n, 3, 64, 64]: a vertical gradient with a paler disc behind the head."""
    light = 0.62 + 0.16 * factors.column("background_lightness")
    colour = hue(factors.column("background_hue"), light, 0.20)[:, :, None, None]
    pixels = (np.arange(RESOLUTION, dtype=np.float32) + 0.5) / RESOLUTION
    radius = np.sqrt((pixels[None, :] - 0.5) ** 2 + (pixels[:, None] - 0.52) ** 2)
    disc = (0.5 - (radius - 0.44) * RESOLUTION).clip(0.0, 1.0)
    glow = (0.06 - 0.12 * pixels[:, None] + 0.09 * disc).astype(np.float32)
    return np.asarray(colour + glow, dtype=np.float32)


# Layers, back to front -------------------------------------------------------------------------------------------


def _body(scene: Scene, palette: Palette) -> None:
    window, x, y = scene.within(-28, 28, 17, 37)
    shoulders = rounded_box(x, y - 42.0, 25.5, 20.5, 13.0)
    scene.paint(window, shoulders, palette.shirt)
    scene.paint(window, both(shoulders, ellipse(x, y - 20.0, 10.5, 7.5)), palette.shirt_dark)


def _back_bob(scene: Scene, palette: Palette, cut: Array) -> None:
    window, x, y = scene.within(-23, 23, -24, 17)
    scene.paint(window, both(rounded_box(x, y + 3.5, 21.5, 19.5, 15.0), cut - y), palette.hair_dark)


def _back_long(scene: Scene, palette: Palette, cut: Array) -> None:
    window, x, y = scene.within(-23, 23, -24, 34)
    scene.paint(window, both(rounded_box(x, y - 4.0, 21.0, 27.0, 15.0), cut - y), palette.hair_dark)


def _head(scene: Scene, palette: Palette, cut: Array) -> None:
    window, x, y = scene.within(-7, 7, 12, 28)
    scene.paint(window, rounded_box(x, y - 16.0, 6.0, 9.5, 5.0), palette.skin_shade)
    window, x, y = scene.within(-22, 22, -4, 8)
    scene.paint(window, ellipse(np.abs(x) - 17.5, y - 1.5, 3.6, 4.6), palette.skin_shade)
    window, x, y = scene.within(-18, 18, -20, 20)
    face = both(ellipse(x, y, 17.8, 19.2), cut - y)
    scene.paint(window, face, palette.skin)
    shadow = -ellipse(x + 4.0, y + 4.0, 18.5, 20.0)
    scene.paint(window, np.maximum(shadow, face * 5.0), palette.skin_shade, opacity=0.75, blur=5.0)
    window, x, y = scene.within(-17, 17, 2, 12)
    blush = palette.skin * np.float32(0.72) + np.array([0.28, 0.08, 0.10], dtype=np.float32)
    scene.paint(window, ellipse(np.abs(x) - 11.2, y - 6.6, 3.4, 2.6), blush, opacity=0.8, blur=3.0)
    window, x, y = scene.within(-4, 4, 1, 8)
    scene.paint(window, ellipse(x, y - 4.6, 2.3, 1.7), palette.skin_shade)


def _beard(scene: Scene, palette: Palette, cut: Array) -> None:
    window, x, y = scene.within(-19, 19, 2, 23)
    jaw = ellipse(x, y - 1.5, 18.0, 20.5)
    opening = ellipse(x, y + 2.0, 15.0, 9.3)
    scene.paint(window, both(both(jaw, -opening), 2.0 - y), palette.hair_dark)


def _mouth(scene: Scene, palette: Palette, smile: Array) -> None:
    """Paint a stroke along a parabola, from a frown (smile -1) to a grin (1) that opens and shows teeth."""
    window, x, y = scene.within(-10, 10, 5, 18)
    bend = np.float32(0.2) + np.float32(0.8) * smile[:, None, None]  # smile 0 is slightly friendly
    opening = np.maximum(bend, 0.0) ** 2
    along = np.clip(x, -_MOUTH_HALF, _MOUTH_HALF)
    parabola = 1.0 - (along / np.float32(_MOUTH_HALF)) ** 2
    middle = np.float32(_MOUTH_Y - 0.2) + bend * (np.float32(4.4) * parabola - np.float32(2.3)) - opening * parabola
    slope = bend * along * np.float32(8.8 / _MOUTH_HALF**2)
    distance = np.sqrt((x - along) ** 2 + (y - middle) ** 2 / (1.0 + slope**2))
    half = np.float32(1.25) + np.float32(2.0) * opening * parabola
    lips = palette.skin * np.float32(0.30) + np.array([0.42, 0.06, 0.10], dtype=np.float32)
    scene.paint(window, distance - half, lips)
    teeth = distance - (half - np.float32(1.25)) + np.float32(1.5) * np.maximum(0.0, 0.7 - opening * parabola)
    scene.paint(window, teeth, solid(scene, 1.0, 0.98, 0.95))


def _eyes(scene: Scene, palette: Palette) -> None:
    window, x, y = scene.within(-13, 13, -5, 5)
    side = x - np.copysign(np.float32(_EYE_X), x)
    scene.paint(window, ellipse(side, y, 4.4, 3.9), solid(scene, 0.99, 0.99, 1.0))
    radius = np.sqrt(side**2 + (y - 0.2) ** 2)
    scene.paint(window, radius - 2.6, palette.iris)
    scene.paint(window, radius - 1.25, solid(scene, 0.05, 0.04, 0.06))
    scene.paint(window, np.sqrt((side + 1.0) ** 2 + (y + 0.9) ** 2) - 0.75, solid(scene, 1.0, 1.0, 1.0))
    window, x, y = scene.within(-14, 14, -10, -5)
    side = np.abs(x) - np.float32(_EYE_X)
    along = np.clip(side, -3.6, 3.6)
    arch = np.float32(-7.6) + np.float32(0.07) * along**2
    scene.paint(window, np.sqrt((side - along) ** 2 + (y - arch) ** 2) - 1.0, palette.hair_dark)


def _front_hair(scene: Scene, palette: Palette, area: tuple[Window, Array, Array], hair: Array) -> None:
    """Paint the hair in front of the head, with a soft band of light on its upper left."""
    window, x, y = area
    scene.paint(window, hair, palette.hair)
    band = np.abs(np.sqrt((x + 1.0) ** 2 + (y - 2.0) ** 2) - 19.0) - 1.2
    scene.paint(window, both(both(band, hair), np.abs(x + 7.0) - 6.5), palette.hair_light, blur=2.0)


def _front_short(scene: Scene, palette: Palette, cut: Array) -> None:
    window, x, y = scene.within(-21, 21, -24, 3)
    opening = ellipse(x - 1.5, y - 7.5, 17.4, 18.0)
    hair = both(both(ellipse(x, y + 2.0, 20.0, 21.0), -opening), both(y - 1.5, cut - y))
    _front_hair(scene, palette, (window, x, y), hair)


def _front_bob(scene: Scene, palette: Palette, cut: Array) -> None:
    window, x, y = scene.within(-23, 23, -24, 17)
    opening = rounded_box(x, y - 12.0, 14.8, 21.0, 6.0)
    hair = both(both(rounded_box(x, y + 3.5, 21.5, 19.5, 15.0), -opening), cut - y)
    _front_hair(scene, palette, (window, x, y), hair)


def _front_long(scene: Scene, palette: Palette, cut: Array) -> None:
    window, x, y = scene.within(-23, 23, -24, 33)
    opening = ellipse(x, y - 12.0, 15.3, 29.0)
    hair = both(both(rounded_box(x, y - 4.0, 21.0, 27.0, 15.0), -opening), cut - y)
    _front_hair(scene, palette, (window, x, y), hair)


def _round_glasses(scene: Scene, palette: Palette, cut: Array) -> None:
    window, x, y = scene.within(-19, 19, -8, 8)
    frame = solid(scene, 0.12, 0.11, 0.16)
    radius = np.sqrt((np.abs(x) - np.float32(_EYE_X)) ** 2 + y**2)
    scene.paint(window, radius - 6.0, solid(scene, 0.85, 0.95, 1.0), opacity=0.12)
    wire = np.abs(np.abs(x) - np.float32(9.0))  # bridge and temples, where no lens is
    line = both(np.abs(y + 0.8) - 0.9, both(8.0 - wire - 1.2, np.abs(x) - 18.0))
    scene.paint(window, np.minimum(np.abs(radius - 6.1) - 1.0, line), frame)


def _sunglasses(scene: Scene, palette: Palette, cut: Array) -> None:
    window, x, y = scene.within(-19, 19, -8, 8)
    frame = solid(scene, 0.06, 0.06, 0.09)
    lens = rounded_box(np.abs(x) - np.float32(_EYE_X + 0.2), y - 0.3, 6.9, 5.8, 4.0)
    line = both(np.abs(y + 3.2) - 1.3, np.abs(x) - 18.0)
    scene.paint(window, np.minimum(lens, line), frame)
    glint = both(np.abs(np.abs(x + y * 0.6 + 1.0) - 8.6) - 1.0, lens + 2.0)
    scene.paint(window, glint, solid(scene, 0.45, 0.50, 0.62), opacity=0.8)


def _cap(scene: Scene, palette: Palette, cut: Array) -> None:
    window, x, y = scene.within(-24, 24, -28, -3)
    dome = both(ellipse(x, y + 8.0, 20.6, 17.5), y + 8.0)
    scene.paint(window, dome, palette.shirt)
    scene.paint(window, both(np.abs(x) - 0.6, dome), palette.shirt_dark)
    scene.paint(window, np.sqrt(x**2 + (y + 25.2) ** 2) - 1.8, palette.shirt_dark)
    scene.paint(window, rounded_box(x, y + 8.6, 21.0, 2.6, 2.6), palette.shirt_dark)


def _top_hat(scene: Scene, palette: Palette, cut: Array) -> None:
    window, x, y = scene.within(-25, 25, -33, -4)
    black = solid(scene, 0.13, 0.12, 0.17)
    crown = rounded_box(x * (1.0 + 0.004 * (y + 20.0)), y + 18.5, 15.5, 12.0, 2.5)
    scene.paint(window, crown, black)
    sheen = both(both(crown, np.abs(x + 8.5) - 1.6), np.abs(y + 22.0) - 6.0)
    scene.paint(window, sheen, solid(scene, 0.34, 0.33, 0.42), blur=2.0)
    scene.paint(window, both(crown, np.abs(y + 13.6) - 2.4), palette.shirt)
    scene.paint(window, rounded_box(x, y + 9.3, 23.5, 2.3, 2.3), black)
