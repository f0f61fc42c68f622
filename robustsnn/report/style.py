"""The look of every plot: one colour a model, type that matches the page, and SVG that follows light and dark mode."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robustsnn.report.loading import Results

INK, MUTED, GRID, PAPER = "#1f2933", "#5f6b7a", "#dfe3e8", "#ffffff"
# Okabe and Ito's palette ("Color universal design", 2008) without black and yellow, strongest contrasts first
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDE, NARROW = 10.0, 4.3  # inches

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--rule", PAPER: "--paper"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES)
}
_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,
    "text.usetex": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Look:
    """How a model is drawn, the same in every plot."""

    colour: str
    marker: str


def looks(results: Results) -> dict[str, Look]:
    """Return the look of every model by its name, in the order of the results."""
    names = [model["name"] for model in results["models"]]
    return {
        name: Look(SERIES[i % len(SERIES)], MARKERS[(i % len(SERIES) + i // len(SERIES)) % len(MARKERS)])
        for i, name in enumerate(names)
    }


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the report's style; the caller's matplotlib settings are put back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def new_figure(height: float, narrow: bool) -> Figure:
    """Return an empty figure of the page's width (inches) on the Agg canvas, without touching pyplot."""
    figure = Figure(figsize=(NARROW if narrow else WIDE, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def percent_axis(ax: Axes, low: float = 0.0) -> None:
    """Make the y axis a percentage from ``low`` (in percent) to 100."""
    ax.set_ylim(low - (100 - low) * 0.02, 100 + (100 - low) * 0.02)
    step = 25 if low < 25 else 10 if low < 75 else 5
    ax.set_yticks([tick for tick in range(0, 101, step) if tick >= low])


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG on white, at 160 dots an inch."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure, name: str) -> str:
    """Return the figure as an SVG file on white; the same figure and name give the same text."""
    buffer = io.StringIO()
    with styled(), matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "robustsnn"})
    return buffer.getvalue()


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """Return the figure as an ``<svg>`` element for the page: transparent, in the page's fonts and colours.

    The colours of the style become CSS variables (``--ink``, ``--series-0``, ...), ids get ``name`` as prefix so that
    several figures can share a page, and nothing refers to anything outside.

    Args:
        figure: any figure drawn in :func:`styled`.
        name: unique on the page; letters, digits and hyphens.
        label: what the figure shows, for screen readers.
    """
    text = svg(figure, name)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style\b.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="([^"]*)"', head)
    size = box.group(1) if box else "0 0 100 100"
    opening = f'<svg class="{name}" viewBox="{size}" role="img" aria-label="{html.escape(label, quote=True)}">'
    body = re.sub(r'<g id="(?!legend)[^"]*">', "<g>", body)
    body = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', body)
    body = re.sub(r'(xlink:href|href)="#([^"]*)"', rf'href="#{name}-\2"', body)
    body = body.replace('xlink:href="', 'href="').replace("url(#", f"url(#{name}-")
    body = re.sub(r"'?DejaVu Sans'?(, [^;\"]*)?", "var(--sans)", body)
    for colour, variable in _VARIABLES.items():
        body = re.sub(colour, f"var({variable})", body, flags=re.IGNORECASE)
    return opening + _compact(body).strip()


def _compact(body: str) -> str:
    """Return SVG elements in fewer bytes: hundredths of a point, and one style for a whole group of markers."""
    body = re.sub(r"\n\s*", "\n", body)
    body = re.sub(
        r' (d|x|y)="[^"]*"', lambda found: re.sub(r"\d+\.\d{3,}", _hundredths, found.group(), flags=re.ASCII), body
    )
    return re.sub(r"(<g [^>]*)>\n((?:<use [^>]*/>\n)+)(?=</g>)", _hoist_style, body)


def _hundredths(number: re.Match[str]) -> str:
    return f"{float(number.group()):.2f}".rstrip("0").rstrip(".")


def _hoist_style(group: re.Match[str]) -> str:
    opening, uses = group.groups()
    styles = set(re.findall(r' style="[^"]*"', uses))
    if len(styles) != 1 or "style=" in opening:
        return group.group()
    style = styles.pop()
    return f"{opening}{style}>\n{uses.replace(style, '')}"
