"""Pictures as files, PNG and SVG, at the width of a paper's column; colours and style of all pictures of studies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any colour vision can tell apart, without yellow and black, which vanish on a light
# and on a dark page.
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#888888")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mdistiller_ext",  # the same bytes for the same picture
    "text.parse_math": False,  # labels come from users
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_SIZE = (3.4, 2.8)  # inches


@contextmanager
def column_picture(file: Path) -> Iterator[Axes]:
    """Axes to draw on; at the end, the picture is written to ``file`` with the suffixes ``.png`` and ``.svg``.

    The labels of what was drawn are listed below the axes.
    """
    import matplotlib as mpl  # imported here: it costs half a second
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE | {"font.size": 8, "legend.fontsize": 7}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.grid(linewidth=0.5, color="#dddddd")
        axes.set_axisbelow(True)
        yield axes
        figure.legend(loc="outside lower center", ncols=2, columnspacing=1, frameon=False)
        figure.savefig(file.with_suffix(".png"), dpi=300)
        figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})
