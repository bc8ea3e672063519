"""Loss curves of sweeps and of training results."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fastdln.utils import validation

from .data import relative_loss, sweep_dataset
from .style import COLOURS, MARK, STYLE, label_axes, panels, set_heading

if TYPE_CHECKING:
    import xarray as xr
    from typing_extensions import TypeIs  # in typing from Python 3.13 on

    from fastdln.result import TrainResult

# Panels of a row: more would be too small to read.
MOST_PANELS = 8
# Upper limit of the loss axis: a diverging run would flatten the other curves.
HIGHEST = 1e3


def loss_curves(
    data: "xr.Dataset | TrainResult | Mapping[str, TrainResult] | Iterable[TrainResult]",
    *,
    scale: str = "linear",
    title: str | None = None,
) -> Figure:
    """Draw relative loss against gradient steps.

    For a sweep, draw a row of panels for each init and a panel for each depth, with a line for each
    width (the median over seeds), as in Figure 2 of Hu, Xiao & Pennington (ICLR 2020). A run
    that converged ends in a dot, one that diverged in a cross. For training results, draw
    one panel with a line for each.

    Parameters
    ----------
    data : xarray.Dataset, TrainResult, mapping or iterable of TrainResult
        Result of `fastdln.sweep` or of `fastdln.train`; the keys of a mapping name the lines.
    scale : str
        Scale of the step axis, ``"linear"`` or ``"log"``.
    title : str, optional
        Heading of the figure; None writes one.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If there is nothing to draw, or more than eight depths, which would be too small to
        read: select some with ``dataset.sel(depth=[…])``.
    """
    validation.one_of("scale", scale, ("linear", "log"))
    with mpl.rc_context(STYLE):
        if _is_dataset(data):
            return _draw_sweep_curves(sweep_dataset(data), scale, title)
        return _draw_runs(_named_runs(data), scale, title)


def _is_dataset(data: object) -> "TypeIs[xr.Dataset]":
    return hasattr(data, "data_vars")


def _is_result(data: object) -> "TypeIs[TrainResult]":
    return hasattr(data, "relative_loss")


def _draw_sweep_curves(dataset: "xr.Dataset", scale: str, title: str | None) -> Figure:
    inits = [str(v) for v in dataset["init"].values]
    depths = [int(v) for v in dataset["depth"].values]
    if len(depths) > MOST_PANELS:
        raise ValueError(
            f"loss curves of {len(depths)} depths would be too small to read; take at most"
            f" {MOST_PANELS}, as with dataset.sel(depth={depths[:2]})"
        )
    size = 2.9 * len(depths) + 1.4, 2.7 * len(inits) + 0.8
    figure, axes = panels(len(inits), len(depths), size)
    curves = relative_loss(dataset).transpose("init", "depth", "width", "step")
    for row, init in enumerate(inits):
        for column, depth in enumerate(depths):
            ax = axes[row, column]
            layers = f"{depth:,} layer" + ("s" if depth != 1 else "")
            ax.set_title(f"{init.capitalize()}, {layers}")
            cells = dataset.sel(init=init, depth=depth)
            _draw_widths(ax, curves.sel(init=init, depth=depth), _converged_at(cells))
    _finish_axes(axes, scale)
    converged = bool((dataset["status"] == "converged").all("seed").any())
    _draw_legend(figure, dataset, converged, bool(np.isposinf(curves).any()))
    set_heading(figure, title or "Loss while training deep linear networks")
    return figure


def _converged_at(cells: "xr.Dataset") -> np.ndarray:
    """Return for each width the step by which all seeds had converged; infinity if not all did."""
    converged = (cells["status"] == "converged").all("seed")
    return cells["steps_taken"].max("seed").where(converged, np.inf).values


def _draw_legend(figure: Figure, dataset: "xr.Dataset", converged: bool, diverged: bool) -> None:
    names = [f"{int(w):,}" for w in dataset["width"].values]
    handles = [Line2D([], [], color=colour) for colour in _colours(len(names))]
    for name, marker, occurs in (("converged", "o", converged), ("diverged", "x", diverged)):
        if occurs:
            handles.append(Line2D([], [], linestyle="", marker=marker, color="#444444"))
            names.append(name)
    figure.legend(handles, names, title="width", loc="outside right center")


def _draw_widths(ax: Axes, curves: "xr.DataArray", converged_at: np.ndarray) -> None:
    """Draw a line for each width; end it with a dot if converged, with a cross if diverged."""
    steps = curves["step"].values
    rows = zip(_colours(len(curves)), curves.values, converged_at, strict=True)
    for colour, values, end in rows:
        # A loss of exactly zero cannot be drawn on a logarithmic axis.
        shown = np.flatnonzero(np.isfinite(values) & (values > 0))
        reached = shown[steps[shown] >= end]
        shown = shown[steps[shown] <= steps[reached[0]]] if reached.size else shown
        ax.plot(steps[shown], values[shown], color=colour)
        marker = "o" if reached.size else "x" if np.isposinf(values).any() else None
        if marker and shown.size:
            last = shown[-1]
            style = {"color": colour, "markeredgewidth": 2, "zorder": 3}
            _mark_end(ax, steps[last], values[last], marker, style)


def _mark_end(ax: Axes, step: int, loss: float, marker: str, style: Mapping[str, Any]) -> None:
    """Mark the end of a run, at most at HIGHEST."""
    ax.plot(step, min(loss, HIGHEST), marker, clip_on=False, **style)


def _draw_runs(runs: "Mapping[str, TrainResult]", scale: str, title: str | None) -> Figure:
    figure, axes = panels(1, 1, (6.4, 4.0))
    ax = axes[0, 0]
    for colour, (name, run) in zip(_colours(len(runs)), runs.items(), strict=True):
        loss = np.asarray(run.relative_loss, dtype=np.float64)
        shown = np.where(np.isfinite(loss) & (loss > 0), loss, np.nan)
        ax.plot(np.arange(loss.size), shown, color=colour, label=name)
        finite = np.flatnonzero(np.isfinite(loss))
        if run.status == "diverged" and finite.size:
            last = finite[-1]
            _mark_end(ax, last, loss[last], "x", {"color": MARK, "markersize": 8})
    _finish_axes(axes, scale)
    if len(runs) > 1:
        ax.legend()
    ax.set_title(title or "Loss while training a deep linear network")
    return figure


def _finish_axes(axes: np.ndarray, scale: str) -> None:
    lowest = min(ax.dataLim.ymin for ax in axes.flat)
    highest = max(ax.dataLim.ymax for ax in axes.flat)
    for ax in axes.flat:
        ax.axhline(1, color="#999999", linewidth=0.8, zorder=0)
        ax.set_yscale("log")
        ax.set_xscale(scale)
        ax.margins(x=0.02)
        if HIGHEST < highest < np.inf:
            # Data far outside would overflow Matplotlib's search for ticks.
            ax.set_ylim(lowest / 3, HIGHEST)
    label_axes(axes, "gradient steps", "loss / loss before training")


def _colours(count: int) -> np.ndarray:
    """Return one RGBA colour per line, shape (count, 4)."""
    return colormaps[COLOURS](np.linspace(0.88, 0.0, count) if count > 1 else [0.25])


def _named_runs(
    data: "TrainResult | Mapping[str, TrainResult] | Iterable[TrainResult]",
) -> "Mapping[str, TrainResult]":
    """Return training results by the name of their line."""
    if _is_result(data):
        data = [data]
    if not isinstance(data, Mapping):
        if isinstance(data, str) or not isinstance(data, Iterable):
            raise TypeError(f"data must be a sweep or training results, not {type(data).__name__}")
        data = {f"run {i}": run for i, run in enumerate(data, 1)}
    if not data:
        raise ValueError("data must have at least one training result")
    for name, run in data.items():
        if not _is_result(run):
            raise TypeError(f"{name!r} must be a training result, not {type(run).__name__}")
    return data
