"""Colours of figures and page, in pairs for light and dark, and how a figure becomes SVG and PNG."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fluxcore.errors import require


class Colour(NamedTuple):
    """One role's colour on a light and on a dark ground. Text and lines keep a contrast of at least 4.5 : 1 on both."""

    light: str
    dark: str


# A figure is drawn in the light colours; in its SVG each becomes a CSS variable of the same name, which the page sets.
COLOURS = {
    "ground": Colour("#fdfdfc", "#16191d"),
    "ink": Colour("#1c2128", "#e4e7eb"),
    "quiet": Colour("#57606a", "#a3adb8"),
    "grid": Colour("#d5dae0", "#343b44"),
    "heat": Colour("#f2a33a", "#994507"),
    "series-0": Colour("#2b5fb3", "#7db4ff"),
    "series-1": Colour("#b8430a", "#ff9d66"),
    "series-2": Colour("#0a7355", "#4fd0a3"),
    "series-3": Colour("#7a3fb8", "#c09cff"),
    "series-4": Colour("#a82566", "#ff8fc2"),
    "series-5": Colour("#6d5a1f", "#d8bf6a"),
}
# Told apart without colour too.
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
SERIES = len(DASHES)

PNG_DPI = 200


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn figure in both of its forms."""

    name: str
    title: str
    description: str
    """For a reader who cannot see it."""
    svg: str
    """Inline SVG, coloured by the page's CSS variables."""
    png: bytes


def series_colour(index: int) -> str:
    """Light colour of the series `index`, which must be below `SERIES`."""
    return COLOURS[f"series-{index}"].light


def new_axes() -> tuple[Any, Any]:
    """An empty figure and its axes, in the page's style, without a display."""
    require("matplotlib", extra="report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(5.4, 3.5), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    style_axes(axes)
    return canvas, axes


def style_axes(axes: Any) -> None:
    """Give axes the page's style."""
    ink, quiet = COLOURS["ink"].light, COLOURS["quiet"].light
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(quiet)
    axes.tick_params(colors=ink, labelsize=10)
    axes.xaxis.label.set(color=ink, size=10.5)
    axes.yaxis.label.set(color=ink, size=10.5)
    axes.grid(color=COLOURS["grid"].light, linewidth=0.7)
    axes.set_axisbelow(True)


def add_legend(axes: Any, **options: Any) -> None:
    """A legend without a frame, so that it stands on either ground."""
    axes.legend(frameon=False, labelcolor=COLOURS["ink"].light, fontsize=9.5, handlelength=2.6, **options)


def finish(canvas: Any, *, name: str, title: str, description: str) -> Figure:
    """Save the figure as SVG and as PNG."""
    import matplotlib

    # Text stays text; ids are salted with the name, since all figures share one page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        vector, raster = io.BytesIO(), io.BytesIO()
        unsaid = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(vector, format="svg", transparent=True, metadata=unsaid)
        canvas.savefig(raster, format="png", dpi=PNG_DPI, facecolor=COLOURS["ground"].light)
    svg = themed_svg(vector.getvalue().decode(), name=name)
    return Figure(name=name, title=title, description=description, svg=svg, png=raster.getvalue())


def themed_svg(svg: str, *, name: str) -> str:
    """An SVG document as an element of the page: no prologue, no URL, no idle id; the page sets colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    pointed_at = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in pointed_at else "", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[\d.]+pt" height="[\d.]+pt"', r"\1", svg, count=1)
    for role, colour in COLOURS.items():
        svg = svg.replace(colour.light, f"var(--{role})")
    return svg.replace("<svg", f'<svg class="figure" role="img" aria-labelledby="{name}-title {name}-text"', 1).strip()


def save_png(figure: Figure, folder: Path) -> Path:
    """Write the figure as `folder/NAME.png`."""
    path = folder / f"{figure.name}.png"
    path.write_bytes(figure.png)
    return path
