"""The report's charts as SVG, for light and dark pages.

matplotlib's object interface only (no pyplot, no global figures), and the same bytes for the same numbers.
"""

from __future__ import annotations

import base64
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH = 10.4  # inches of 96 CSS pixels: the page's column on a desktop
NARROW = 3.5  # the same on a phone of 390 pixels
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
DOTS = 160  # most samples drawn as dots for one candidate
FLOOR = 1e-6  # lowest score drawn, relative to the layer's highest


@dataclass(frozen=True)
class Theme:
    """Colours of one page mode."""

    ink: str
    muted: str
    line: str
    teacher: str
    student: str
    soft: str
    """The student's colour for areas."""


LIGHT = Theme(ink="#1c2128", muted="#667080", line="#e1e5ea", teacher="#98a3b1", student="#3558d4", soft="#c9d4f8")
DARK = Theme(ink="#e8ebf0", muted="#98a2b2", line="#2c333e", teacher="#6d7889", student="#8aa4ff", soft="#35447e")


@dataclass(frozen=True)
class Chart:
    """One chart in both themes and for two widths of page, as data URIs, with its size in CSS pixels and a text for
    screen readers.
    """

    light: str
    dark: str
    narrow_light: str
    narrow_dark: str
    width: int
    height: int
    alt: str


def model_colour(name: str, theme: Theme) -> str:
    """Return the teacher's colour, or the one of everything that is compared with it."""
    return theme.teacher if name.startswith("teacher") else theme.student


def draw_latencies(axes: Axes, theme: Theme, samples: Mapping[str, Sequence[float]]) -> None:
    """Draw the content of :func:`latency_chart` on axes."""
    for row, (name, values) in enumerate(samples.items()):
        colour = model_colour(name, theme)
        dots = shown_samples(values)
        spread = 0.26 * np.sin(np.arange(len(dots)) * 2.399963)  # golden angle: even, and the same every time
        axes.scatter(dots, row + spread, s=7, color=colour, alpha=0.45, linewidths=0)
        median = float(np.median(values))
        axes.plot([median, median], [row - 0.38, row + 0.38], color=colour, linewidth=2.5)
        axes.annotate(
            f"{median:.3g} ms", (median, row - 0.38), xytext=(0, 3), textcoords="offset points",
            ha="center", va="bottom", color=theme.ink, fontsize=10,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yticks(range(len(samples)), labels=[literal(name) for name in samples])
    axes.set_ylim(len(samples) - 0.4, -0.75)  # downwards, with space for the first row's figure
    axes.set_xlabel("milliseconds per call, logarithmic")
    plain_log_ticks(axes.xaxis)
    style(axes, theme, grid="x")
    axes.tick_params(axis="y", labelcolor=theme.ink, labelsize=11)


def shown_samples(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the samples in ascending order; of more than ``DOTS``, those nearest to evenly spaced quantiles."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    chosen = np.linspace(0, len(ordered) - 1, min(len(ordered), DOTS)).round().astype(int)
    return np.take(ordered, chosen)


def latency_chart(samples: Mapping[str, Sequence[float]]) -> Chart:
    """Draw latencies in milliseconds per candidate: a logarithmic axis, a dot per sample (see
    :func:`shown_samples`), a bar at the median.
    """

    def draw(figure: Figure, theme: Theme, narrow: bool) -> None:
        axes = figure.add_subplot()
        draw_latencies(axes, theme, samples)
        if narrow:  # the names above their dots
            axes.set_yticks([])
            axes.set_ylim(len(samples) - 0.4, -0.95)
            for row, name in enumerate(samples):
                axes.text(
                    0, row - 0.62, literal(name), transform=axes.get_yaxis_transform(),
                    va="bottom", color=theme.ink, fontsize=10,
                )  # fmt: skip

    alt = "Latency of " + ", ".join(f"{name}: median {np.median(v):.3g} ms" for name, v in samples.items())
    return render(draw, lambda width: 0.75 + (0.75 if width == WIDTH else 0.95) * len(samples), alt)


def widths_chart(layers: Sequence[str], before: Sequence[int], after: Sequence[int]) -> Chart:
    """Draw channels per layer before and after pruning, as bars inside bars."""

    def draw(figure: Figure, theme: Theme, narrow: bool) -> None:
        axes = figure.add_subplot()
        places = np.arange(len(layers))
        size = 6.5 if narrow else 9
        axes.bar(places, before, width=0.72, color=theme.line, label="teacher")
        axes.bar(places, after, width=0.72, color=theme.student, label="student")
        for place, old, new in zip(places, before, after, strict=True):
            for count, colour in ((old, theme.muted), (new, theme.ink)):
                axes.annotate(
                    str(count), (place, count), xytext=(0, 2), textcoords="offset points",
                    ha="center", va="bottom", color=colour, fontsize=size,
                )  # fmt: skip
        axes.set_xticks(
            places, labels=[literal(layer) for layer in layers], rotation=90 if narrow else 40,
            ha="right", va="center" if narrow else "top", rotation_mode="anchor",
        )  # fmt: skip
        axes.set_ylabel("channels")
        axes.locator_params(axis="y", integer=True)
        axes.margins(x=0.01, y=0.1)
        axes.legend(frameon=False, labelcolor=theme.ink, fontsize=10, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
        style(axes, theme, grid="y")

    return render(draw, lambda _: 3.3, "Channels per layer of teacher and student")


def scores_chart(layers: Sequence[str], scores: Sequence[NDArray[np.float64]], kept: Sequence[int] | None) -> Chart:
    """Draw each layer's sorted scores relative to its highest, the kept ones filled, with a line at the cut."""

    def draw(figure: Figure, theme: Theme, narrow: bool) -> None:
        for index, axes in enumerate(_panels(figure, len(scores), 2 if narrow else 5)):
            ranked = np.sort(scores[index])[::-1]
            top = ranked[0] if ranked[0] > 0 else 1.0
            decades = np.log10(np.clip(ranked / top, FLOOR, None))  # a linear axis of logarithms: quick to lay out
            low, ranks = float(decades.min()) - 0.25, np.arange(1, len(ranked) + 1)
            axes.plot(ranks, decades, color=theme.teacher, linewidth=1.4)
            if kept is not None:
                cut = kept[index]
                axes.fill_between(ranks[:cut], decades[:cut], low, color=theme.soft, linewidth=0)
                axes.plot(ranks[:cut], decades[:cut], color=theme.student, linewidth=2)
                axes.axvline(cut + 0.5, color=theme.ink, linewidth=1, linestyle=(0, (3, 3)))
            axes.set_ylim(low, 0.25)
            ticks = range(math.ceil(low), 1)
            axes.set_yticks(ticks, labels=[f"{10.0**tick:g}" for tick in ticks])
            axes.set_xlim(1, max(len(ranked), 2))
            axes.set_xticks([len(ranked)] if kept is None else sorted({kept[index], len(ranked)}))
            axes.set_title(literal(layers[index]), fontsize=10, color=theme.ink, loc="left")
            style(axes, theme, grid="y")
            axes.tick_params(labelsize=8.5)

    alt = "Sorted channel scores per layer with the cut between kept and removed"
    return render(draw, lambda width: 1.8 * _panel_rows(len(scores), 5 if width == WIDTH else 2), alt)


def curves_chart(steps: Sequence[float], curves: Mapping[str, Sequence[float | None]], alt: str) -> Chart:
    """Draw one panel per curve over training steps. A dense curve is thin, with a running median on top."""

    def draw(figure: Figure, theme: Theme, narrow: bool) -> None:
        panels = _panels(figure, len(curves), 1 if narrow else 4)
        for (name, values), axes in zip(curves.items(), panels, strict=True):
            known = [(x, y) for x, y in zip(steps, values, strict=True) if y is not None]
            x, y = np.array(known, dtype=np.float64).T
            dense = len(x) >= 40
            axes.plot(
                x, y, color=theme.soft if dense else theme.student, linewidth=1 if dense else 1.8,
                marker="" if dense else "o", markersize=3,
            )  # fmt: skip
            if dense:
                axes.plot(x, _running_median(y, len(y) // 20), color=theme.student, linewidth=1.8)
            axes.set_title(literal(name.replace("_", " ")), fontsize=10, color=theme.ink, loc="left")
            axes.locator_params(axis="both", nbins=4)
            style(axes, theme, grid="y")
            axes.tick_params(labelsize=8.5)

    return render(draw, lambda width: 1.95 * _panel_rows(len(curves), 4 if width == WIDTH else 1), alt)


def render(draw: Callable[[Figure, Theme, bool], None], height: Callable[[float], float], alt: str) -> Chart:
    """Return a chart, drawn in the light theme. The dark one is the same with each colour replaced by its counterpart.

    ``draw`` learns whether the chart is narrow; ``height`` gives the inches of a chart of some width.
    """
    exchange = dict(zip(astuple(LIGHT), astuple(DARK), strict=True))
    uris: list[str] = []
    for width in (WIDTH, NARROW):
        svg = _svg(draw, width, height(width))
        exchanged = re.sub("|".join(exchange), lambda found: exchange[found[0]], svg)
        uris += [_data_uri(svg), _data_uri(exchanged)]
    light, dark, narrow_light, narrow_dark = uris
    pixels = round(WIDTH * 96), round(height(WIDTH) * 96)
    return Chart(light, dark, narrow_light, narrow_dark, *pixels, alt)


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


@contextmanager
def drawing() -> Iterator[None]:
    """Set matplotlib up for our charts, and restore its settings afterwards."""
    import matplotlib

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",  # keeps text as text: smaller, and in the reader's own font
        "svg.hashsalt": "dcp-deploy",  # element ids that do not change from run to run
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.parse_math": False,  # a $ in a name is not markup
        "text.color": LIGHT.ink,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Widths are estimated with a font that lacks some scripts; the reader's own font draws them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _svg(draw: Callable[[Figure, Theme, bool], None], width: float, height: float) -> str:
    from matplotlib.figure import Figure

    with drawing():
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure, LIGHT, width == NARROW)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return stream.getvalue().replace("'DejaVu Sans'", FONTS)


def _panels(figure: Figure, count: int, columns: int) -> list[Axes]:
    rows = _panel_rows(count, columns)
    return [figure.add_subplot(rows, min(columns, count), index + 1) for index in range(count)]


def _panel_rows(count: int, columns: int) -> int:
    return math.ceil(count / columns)


def style(axes: Axes, theme: Theme, *, grid: Literal["x", "y"]) -> None:
    """Remove the frame except its lower edge, and set colours and grid."""
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(side == "bottom")
        axes.spines[side].set_color(theme.line)
    axes.grid(axis=grid, color=theme.line, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, colors=theme.muted)
    axes.xaxis.label.set_color(theme.muted)
    axes.yaxis.label.set_color(theme.muted)


def plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with 1, 2, 5, 10, ... instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _running_median(values: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Return the median over a window of 2 half + 1, cut at the ends."""
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def literal(name: str) -> str:
    """Replace control characters of a label, which would make the SVG invalid XML."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
