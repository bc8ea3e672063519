"""Heatmaps of the relative loss over width and depth."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from .data import recorded_steps, relative_loss, sweep_dataset
from .style import COLOURS, DIVERGED, MARK, PENDING, STYLE, label_axes, panels, set_heading

if TYPE_CHECKING:
    import xarray as xr

# Least level of the colour scale, log10 of the relative loss: lower levels are rounding.
DEEPEST = -8.0


def heatmaps(
    dataset: "xr.Dataset",
    steps: Iterable[int] | None = None,
    *,
    lowest: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the relative loss over width × depth: a row for each step, a column for each init.

    The layout is that of Figure 1 of Hu, Xiao & Pennington (ICLR 2020). Colour is
    ``log10(ℓ(t) / ℓ(0))``, the median over seeds. Cells whose networks diverged are grey with
    a cross, cells that are not trained yet are white and hatched.

    Parameters
    ----------
    dataset : xarray.Dataset
        The result of `fastdln.sweep`, or its store opened with `xarray.open_zarr`.
    steps : iterable of int, optional
        Recorded steps to show; None means the last.
    lowest : float, optional
        Lower end of the colour scale, in powers of ten; None takes it from the data.
    title : str, optional
        Heading of the figure; None writes one.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If the dataset is not a sweep's, or a step was not recorded.
    """
    dataset = sweep_dataset(dataset)
    steps = recorded_steps(dataset, steps)
    with mpl.rc_context(STYLE):
        return _draw_heatmaps(dataset, steps, lowest, title)


def _draw_heatmaps(
    dataset: "xr.Dataset", steps: list[int], lowest: float | None, title: str | None
) -> Figure:
    inits = [str(v) for v in dataset["init"].values]
    levels = _logarithm(relative_loss(dataset).transpose("init", "step", "width", "depth"))
    low = _lowest(levels.sel(step=steps).values) if lowest is None else float(lowest)
    if not low < 0:
        raise ValueError(f"lowest must be less than 0, not {low}")
    size = max(4.1 * len(inits) + 1.2, 7.0), 3.3 * len(steps) + 1.0
    figure, axes = panels(len(steps), len(inits), size)
    for row, step in enumerate(steps):
        for column, init in enumerate(inits):
            ax = axes[row, column]
            _draw_panel(ax, levels.sel(step=step, init=init).values, low)
            ax.set_title(f"{init.capitalize()}, after {step:,} steps")
    _label_panels(axes, dataset)
    _colour_bar(figure, axes, low, bool((levels.sel(step=steps) < low).any()))
    _add_legend(figure, levels.sel(step=steps).values)
    set_heading(figure, title or _heading(dataset), wrap=True)
    return figure


def _logarithm(values: "xr.DataArray") -> "xr.DataArray":
    """Return log10; −inf for zero."""
    with np.errstate(divide="ignore"):
        return values.copy(data=np.log10(values.values))


def _heading(dataset: "xr.Dataset") -> str:
    seeds = dataset.sizes["seed"]
    median = f", median of {seeds} seeds" if seeds > 1 else ""
    return f"How far deep linear networks have trained, by width and depth{median}"


def _lowest(levels: np.ndarray) -> float:
    """Return the least level, rounded down, between DEEPEST and −1."""
    finite = levels[np.isfinite(levels)]
    least = math.floor(finite.min()) if finite.size else -1
    return float(min(max(least, DEEPEST), -1))


def _draw_panel(ax: Axes, levels: np.ndarray, low: float) -> None:
    """Draw one panel, width upwards and depth to the right, every cell of the same size."""
    rows, columns = levels.shape
    edges = np.arange(columns + 1), np.arange(rows + 1)
    ax.grid(False)
    ax.set_facecolor(PENDING)
    shown = np.ma.masked_invalid(np.where(np.isneginf(levels), low, levels))
    ax.pcolormesh(*edges, shown, cmap=COLOURS, norm=Normalize(low, 0), rasterized=True)
    for kind, mask in (("diverged", np.isposinf(levels)), ("pending", np.isnan(levels))):
        _mark(ax, kind, mask)
    ax.set_xlim(0, columns)
    ax.set_ylim(0, rows)


def _mark(ax: Axes, kind: str, mask: np.ndarray) -> None:
    """Cover the masked cells of a panel; add crosses where they diverged."""
    for y, x in zip(*np.nonzero(mask), strict=True):
        ax.add_patch(Rectangle((x, y), 1, 1, linewidth=0, **_patch_style(kind)))
    if kind == "diverged" and mask.any():
        y, x = np.nonzero(mask)
        size = min(7.0, 110 / max(mask.shape))
        ax.plot(x + 0.5, y + 0.5, "x", color=MARK, markersize=size, markeredgewidth=1.1)


def _patch_style(kind: str) -> dict[str, Any]:
    if kind == "diverged":
        return {"facecolor": DIVERGED}
    return {"facecolor": PENDING, "edgecolor": "#888888", "hatch": "////"}


def _label_panels(axes: np.ndarray, dataset: "xr.Dataset") -> None:
    for ax in axes.flat:
        ax.set_xticks(*_ticks(dataset["depth"].values))
        ax.set_yticks(*_ticks(dataset["width"].values))
        ax.tick_params(length=3)
    label_axes(axes, "depth (number of layers)", "width (of the hidden layers)")


def _ticks(values: np.ndarray, most: int = 12) -> tuple[np.ndarray, list[str]]:
    """Return the positions and labels of every cell, or of every second, third and so on."""
    stride = max(1, math.ceil(len(values) / most))
    chosen = np.arange(0, len(values), stride)
    return chosen + 0.5, [f"{values[i]:,}" for i in chosen]


def _colour_bar(figure: Figure, axes: np.ndarray, low: float, below: bool) -> None:
    bar = figure.colorbar(
        ScalarMappable(Normalize(low, 0), COLOURS),
        ax=axes,
        extend="min" if below else "neither",
        aspect=30,
        pad=0.02,
    )
    bar.set_label("log₁₀ (loss / loss before training)")
    bar.outline.set_visible(False)
    bar.ax.grid(False)


def _add_legend(figure: Figure, levels: np.ndarray) -> None:
    """Add a legend for the marks that occur."""
    handles: list[Any] = []
    labels = []
    if np.isposinf(levels).any():
        cross = Line2D([], [], linestyle="", marker="x", color=MARK, markersize=6)
        handles.append((Patch(**_patch_style("diverged")), cross))
        labels.append("diverged: the loss became infinite")
    if np.isnan(levels).any():
        handles.append(Patch(**_patch_style("pending")))
        labels.append("not trained yet")
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=len(handles),
            handler_map={tuple: HandlerTuple(ndivide=1)},
        )
