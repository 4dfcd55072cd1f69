"""Style of all pictures: colours, sizes, and SVG that is legible on light and dark pages."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision can tell apart, without yellow and black, which vanish on a light
# and on a dark page.
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#888888")
LINE_STYLES = ("-", "--", ":", "-.")
COLUMN = 3.4  # inches; a page of a paper has two columns
PAGE = 2 * COLUMN
INK = "#1b1f24"  # of text and axes; in a page, both of these are replaced by the page's own
_GRID = "#d1d9e1"
_DPI = 200
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mdistiller_ext",  # the same bytes for the same picture
    "font.size": 9,
    "text.parse_math": False,  # labels come from users
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "grid.color": _GRID,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Context in which figures are made and saved in the common style."""
    import matplotlib as mpl  # imported here: it costs half a second

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # the browser has other fonts
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def colour(place: int) -> str:
    """Colour of the group number ``place``."""
    return COLOURS[place % len(COLOURS)]


def line_style(place: int) -> str:
    """Line style of the group number ``place``: another one for each round of colours."""
    return LINE_STYLES[place // len(COLOURS) % len(LINE_STYLES)]


def log_scale(axes: Axes, which: str = "xy") -> None:
    """Make axes logarithmic, with plain numbers at 1, 2 and 5 times the powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())


def label(name: str, width: int) -> str:
    """A name in one line or two."""
    return "\n".join(textwrap.wrap(name, width, max_lines=2, placeholder=" …"))


def svg_element(figure: Figure) -> str:
    """A figure as an element of a page, whose text and axes take the colour of the text around it."""
    svg = svg_text(figure)
    svg = re.sub(r' id="[a-z]+\w*_\d+"', "", svg[svg.index("<svg") :])  # the same in every picture
    return svg.replace(INK, "currentColor").replace(_GRID, "var(--line)").strip()


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``<stem>.png`` and ``<stem>.svg``; returns the paths. Call it in the context of :func:`style`."""
    vectors = stem.with_name(f"{stem.name}.svg")
    vectors.write_text(svg_text(figure), encoding="utf-8")
    return [save_png(figure, stem), vectors]


def save_png(figure: Figure, stem: Path) -> Path:
    """Write ``<stem>.png`` alone, for a picture of pixels; returns the path. Call it in the context of :func:`style`."""
    path = stem.with_name(f"{stem.name}.png")
    figure.savefig(path, dpi=_DPI)
    return path


def svg_text(figure: Figure) -> str:
    """A figure as an SVG file, the same for the same figure."""
    buffer = io.StringIO()
    metadata: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return buffer.getvalue()
