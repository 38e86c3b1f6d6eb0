"""How every figure looks and is written: one style, SVG with text as text, and the data behind it as CSV.

Colours are Okabe and Ito's (2008), told apart by the colour-blind and ordered so that neighbours differ in lightness;
every series also has a marker, a dash pattern and a hatch of its own, so that grey prints say the same. Nothing here
touches pyplot or leaves a setting behind. The same data give the same bytes: no dates, a fixed salt for ids.
"""

import csv
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from esft_bench.spec.results import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.8
"""Inches. Narrow on purpose: shrunk to a phone's 390 pixels the type is still readable."""

INK, FAINT = "#1a1a1a", "#d0d0d0"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#7f7f7f", "#1a1a1a")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (8, 3)), (0, (3, 1, 1, 1, 1, 1)))
HATCHES = ("", "//", "xx", "\\\\", "||", "--", "++", "/")

DRAWN_WITH = "DejaVu Sans"
FONTS = (
    DRAWN_WITH,
    "Verdana",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
    "Noto Sans Cherokee",
    "Plantagenet Cherokee",
    "Gadugi",
    "sans-serif",
)
"""The first is matplotlib's own, so that layout is the same everywhere; the reader's machine has the other scripts."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "esft-bench",
    "text.parse_math": False,
    "font.family": DRAWN_WITH,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "hatch.linewidth": 0.8,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Drawn:
    """A figure on disk: its file name without ending, title and caption in plain text, and the data behind it."""

    name: str
    title: str
    caption: str
    svg: Path
    csv: Path


@dataclass(frozen=True)
class Missing:
    """A figure that this run has no data for, and why, in one sentence."""

    title: str
    why: str


@dataclass(frozen=True)
class Gallery:
    """What was drawn, in the order of the report, and what this run has no data for."""

    drawn: list[Drawn]
    missing: list[Missing]


@dataclass(frozen=True)
class Picture:
    """A figure before it is drawn.

    Attributes:
        name, title, caption: as in `Drawn`.
        columns, rows: the data behind it, one line a point; the CSV.
        height: in inches, the width being WIDTH.
        panels: how many axes there are; `across`: how many of them stand beside each other; `heights`: their shares of
            the height, from the top down.
        legend_columns: series side by side in the legend, which stands below all panels.
        paint: draws on the axes.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    paint: Callable[[Sequence["Axes"]], None]
    height: float = 3.4
    panels: int = 1
    across: int = 1
    heights: Sequence[float] | None = None
    legend_columns: int = 2


@dataclass(frozen=True)
class Look:
    """How one series is told from the others, in colour and without."""

    colour: str
    marker: str
    dash: Any
    hatch: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each name, by its place."""
    return {
        name: Look(
            COLOURS[k % len(COLOURS)],
            MARKERS[(k + k // len(COLOURS)) % len(MARKERS)],
            DASHES[k % len(DASHES)],
            HATCHES[(k + k // len(COLOURS)) % len(HATCHES)],
        )
        for k, name in enumerate(dict.fromkeys(names))
    }


def draw(picture: Picture, folder: Path) -> Drawn:
    """Write `name.svg` and `name.csv` into `folder`, each beside and renamed."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", picture.name)  # of rows and fields, which a run's files may say anything of
    svg, data = folder / f"{name}.svg", folder / f"{name}.csv"
    write_text(data, table(picture.columns, picture.rows))
    with figure_of(picture) as figure:
        buffer = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None, "Title": picture.title})
    write_text(svg, _with_fonts(buffer.getvalue()))
    return Drawn(name, picture.title, picture.caption, svg, data)


WIDE = 300
"""An axis that spans so many times its lowest value has ticks at powers of ten, a narrower one at their threes too."""


def plain_log(axes: "Axes", which: Literal["x", "y"] = "x") -> None:
    """A logarithmic axis whose ticks are written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1,) if high > WIDE * low else (1, 3)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


@contextmanager
def figure_of(picture: Picture) -> Iterator["Figure"]:
    """The painted figure, in the style of all figures, which holds until it is left."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, picture.height), layout="constrained")
        down = -(-picture.panels // picture.across)
        axes = figure.subplots(down, picture.across, squeeze=False, height_ratios=picture.heights).flatten()
        for empty in axes[picture.panels :]:
            empty.remove()
        picture.paint(list(axes[: picture.panels]))
        _legend(figure, picture.legend_columns)
        yield figure


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """CSV text; numbers to six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)
    return text.getvalue()


def _legend(figure: "Figure", columns: int) -> None:
    """One legend for all panels, below them, where it hides no data."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True)) | found
    if found:
        figure.legend(found.values(), found, ncols=columns, loc="outside lower center", handlelength=3.2)


def _with_fonts(svg: str) -> str:
    """Name fonts for scripts that the drawing font lacks, for whoever opens the file to choose from."""
    chain = ", ".join(name if name == "sans-serif" else f"'{name}'" for name in FONTS)
    return svg.replace(f"font-family: '{DRAWN_WITH}'", f"font-family: {chain}")
