"""Elements common to all figures: style, panels, headings, labels, files."""

import io
import os
from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

# ``Any``: Matplotlib declares every one of its parameters as a type of its own.
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "hatch.linewidth": 0.6,
}
COLOURS = "viridis"
DIVERGED = "#d9d9d9"
PENDING = "#ffffff"
# Crosses of diverged networks.
MARK = "#b2182b"


def panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """Return a figure of this size in inches and its axes, shape (rows, columns), shared."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    return figure, axes


def set_heading(figure: Figure, heading: str, wrap: bool = False) -> None:
    """Write the heading of a figure with panels."""
    figure.suptitle(heading, fontsize=13, fontweight="bold", wrap=wrap)


def label_axes(axes: np.ndarray, x: str, y: str) -> None:
    """Label the x axes of the last row of panels and the y axes of the first column."""
    for ax in axes[-1]:
        ax.set_xlabel(x)
    for ax in axes[:, 0]:
        ax.set_ylabel(y)


def save(figure: Figure, path: str | os.PathLike[str], *more: str | os.PathLike[str]) -> None:
    """Write a figure to a file or to several, each in the format of its name's ending.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path, *more : path-like
        To several files a figure is written faster together: it is laid out once.

    Raises
    ------
    ValueError
        If an ending is not a format that Matplotlib writes.
    OSError
        If a file cannot be written.
    """
    with mpl.rc_context(STYLE):
        engine, dpi = figure.get_layout_engine(), figure.dpi
        # `savefig` would lay out the figure and measure it for every file, which takes half of the
        # time of saving. At this resolution, the sizes of texts are those of a PNG file.
        figure.set_dpi(mpl.rcParams["savefig.dpi"])
        try:
            if engine is not None:
                engine.execute(figure)
            figure.set_layout_engine("none")
            box = figure.get_tightbbox().padded(mpl.rcParams["savefig.pad_inches"])
            for file in (path, *more):
                figure.savefig(file, bbox_inches=box, facecolor="white")
        finally:
            figure.set_layout_engine(engine)
            figure.set_dpi(dpi)


def load_formats(names: Iterable[str]) -> None:
    """Load what the first figure in each of these formats would load: modules, fonts, glyphs."""
    with mpl.rc_context(STYLE):
        figure, axes = panels(1, 1, (1, 1))
        axes[0, 0].set_title("a")
        for name in names:
            figure.savefig(io.BytesIO(), format=name, dpi=20)
