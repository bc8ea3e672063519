"""Figures of sweeps and of training runs, readable without the paper."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdln.utils import validation

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
MARK = "#b2182b"
# Losses this far below the start count as trained; deeper differences are rounding.
DEEPEST = -8.0
MOST_PANELS = 8
# Loss curves are cut off above this: a run on its way to infinity would flatten the others.
HIGHEST = 1e3


def heatmaps(
    dataset: "xr.Dataset",
    steps: Iterable[int] | None = None,
    *,
    lowest: float | None = None,
    title: str | None = None,
) -> "Figure":
    """Draw the relative loss over width × depth: a row for each step, a column for each init.

    The layout of Figure 1 of Hu, Xiao & Pennington (ICLR 2020). Colour is
    ``log10(ℓ(t) / ℓ(0))``, the median over seeds. Cells whose networks diverged are grey with
    a cross, cells that are not trained yet are white and hatched.

    Parameters
    ----------
    dataset : xarray.Dataset
        What `fastdln.sweep` returns, or its store opened with `xarray.open_zarr`.
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
    import matplotlib as mpl

    dataset = _sweep_dataset(dataset)
    steps = _recorded_steps(dataset, steps)
    with mpl.rc_context(STYLE):
        return _draw_heatmaps(dataset, steps, lowest, title)


def loss_curves(
    data: Any,
    *,
    scale: str = "linear",
    title: str | None = None,
) -> "Figure":
    """Draw relative loss against gradient steps.

    Of a sweep, a row of panels for each init and a panel for each depth, with a line for each
    width (the median over seeds), as in Figure 2 of Hu, Xiao & Pennington (ICLR 2020). A run
    that converged ends in a dot, one that diverged in a cross. Of training results, one panel
    with a line for each.

    Parameters
    ----------
    data : xarray.Dataset, TrainResult, mapping or iterable of TrainResult
        What `fastdln.sweep` or `fastdln.train` returns; the keys of a mapping name the lines.
    scale : str
        Of the axis of steps, ``"linear"`` or ``"log"``.
    title : str, optional
        Heading of the figure; None writes one.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    TypeError, ValueError
        If there is nothing to draw, or more than eight depths, which would be too small to
        read: take some with ``dataset.sel(depth=[…])``.
    """
    import matplotlib as mpl

    validation.one_of("scale", scale, ("linear", "log"))
    with mpl.rc_context(STYLE):
        if hasattr(data, "data_vars"):
            return _draw_sweep_curves(_sweep_dataset(data), scale, title)
        return _draw_runs(_named_runs(data), scale, title)


def relative_loss(dataset: "xr.Dataset") -> "xr.DataArray":
    """Return ``ℓ(t)/ℓ(0)``, the median over seeds; nan where not all seeds are trained yet."""
    loss = dataset["loss"]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = loss / dataset["initial_loss"]
    # A run that overflowed at once has inf/inf, one that started at its optimum may have 0/0.
    ratio = ratio.where(loss != np.inf, np.inf).where(loss != 0, 0.0)
    return ratio.median("seed", skipna=False)


def save(figure: "Figure", path: Any) -> None:
    """Write a figure to a file, in the format of its name's ending.

    Raises
    ------
    ValueError
        If the ending is not a format that Matplotlib writes.
    OSError
        If the file cannot be written.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure.savefig(path, bbox_inches="tight", facecolor="white")


def _sweep_dataset(dataset: Any) -> "xr.Dataset":
    """Return the dataset with all five dimensions, those that were selected away put back."""
    wanted = ("loss", "initial_loss", "status")
    if not hasattr(dataset, "data_vars"):
        raise TypeError(f"dataset must be the Dataset of a sweep, not {type(dataset).__name__}")
    missing = [name for name in wanted if name not in dataset.data_vars]
    if missing:
        raise ValueError(f"dataset must be that of a sweep, but it has no variable {missing[0]!r}")
    for dim in ("init", "width", "depth", "seed"):
        if dim not in dataset.dims:
            if dim not in dataset.coords:
                raise ValueError(f"dataset must be that of a sweep, but it has no {dim!r}")
            dataset = dataset.expand_dims(dim)
    if "step" not in dataset.dims:
        dataset = dataset.assign(loss=dataset["loss"].expand_dims("step"))
    if 0 in dataset["loss"].shape:
        raise ValueError("dataset must have at least one network and one step")
    return dataset


def _recorded_steps(dataset: "xr.Dataset", steps: Iterable[int] | None) -> list[int]:
    recorded = [int(s) for s in dataset["step"].values]
    if steps is None:
        return recorded[-1:]
    if isinstance(steps, str) or not isinstance(steps, Iterable):
        raise TypeError(f"steps must be a list of recorded steps, not {steps!r}")
    chosen = [validation.integer("every one of steps", s, 0) for s in steps]
    for step in chosen:
        if step not in recorded:
            raise ValueError(f"step {step} was not recorded; recorded are {_few(recorded)}")
    if not chosen:
        raise ValueError("steps must have at least one value")
    return chosen


def _few(values: list[int]) -> str:
    shown = values if len(values) <= 12 else [*values[:5], "…", *values[-5:]]
    return ", ".join(map(str, shown))


def _draw_heatmaps(
    dataset: "xr.Dataset", steps: list[int], lowest: float | None, title: str | None
) -> "Figure":
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    inits = [str(v) for v in dataset["init"].values]
    levels = _logarithm(relative_loss(dataset).transpose("init", "step", "width", "depth"))
    low = _lowest(levels.sel(step=steps).values) if lowest is None else float(lowest)
    if not low < 0:
        raise ValueError(f"lowest must be less than 0, not {low}")
    size = max(4.1 * len(inits) + 1.2, 7.0), 3.3 * len(steps) + 1.0
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(steps), len(inits), squeeze=False, sharex=True, sharey=True)
    norm = Normalize(low, 0)
    for row, step in enumerate(steps):
        for column, init in enumerate(inits):
            ax = axes[row, column]
            _draw_heatmap(ax, levels.sel(step=step, init=init).values, norm)
            ax.set_title(f"{init.capitalize()}, after {step:,} steps")
    _label_grid(axes, dataset)
    _colour_bar(figure, axes, norm, bool((levels.sel(step=steps) < low).any()))
    _explain_marks(figure, levels.sel(step=steps).values)
    figure.suptitle(title or _heatmap_title(dataset), fontsize=13, fontweight="bold", wrap=True)
    return figure


def _logarithm(values: "xr.DataArray") -> "xr.DataArray":
    with np.errstate(divide="ignore"):
        return values.copy(data=np.log10(values.values))


def _heatmap_title(dataset: "xr.Dataset") -> str:
    seeds = dataset.sizes["seed"]
    median = f", median of {seeds} seeds" if seeds > 1 else ""
    return f"How far deep linear networks have trained, by width and depth{median}"


def _lowest(levels: np.ndarray) -> float:
    """Return the least whole power of ten among the levels, within what is worth a colour."""
    finite = levels[np.isfinite(levels)]
    least = math.floor(finite.min()) if finite.size else -1
    return float(min(max(least, DEEPEST), -1))


def _draw_heatmap(ax: "Axes", levels: np.ndarray, norm: Any) -> None:
    """Draw one panel, width upwards and depth to the right, every cell of the same size."""
    rows, columns = levels.shape
    edges = np.arange(columns + 1), np.arange(rows + 1)
    ax.grid(False)
    ax.set_facecolor(PENDING)
    shown = np.ma.masked_invalid(np.where(np.isneginf(levels), norm.vmin, levels))
    ax.pcolormesh(*edges, shown, cmap=COLOURS, norm=norm, rasterized=True)
    for kind, mask in (("diverged", np.isposinf(levels)), ("pending", np.isnan(levels))):
        _mark(ax, kind, mask)
    ax.set_xlim(0, columns)
    ax.set_ylim(0, rows)


def _mark(ax: "Axes", kind: str, mask: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    for y, x in zip(*np.nonzero(mask), strict=True):
        ax.add_patch(Rectangle((x, y), 1, 1, linewidth=0, **_patch(kind)))
    if kind == "diverged" and mask.any():
        y, x = np.nonzero(mask)
        size = min(7.0, 110 / max(mask.shape))
        ax.plot(x + 0.5, y + 0.5, "x", color=MARK, markersize=size, markeredgewidth=1.1)


def _patch(kind: str) -> dict[str, Any]:
    if kind == "diverged":
        return {"facecolor": DIVERGED}
    return {"facecolor": PENDING, "edgecolor": "#888888", "hatch": "////"}


def _label_grid(axes: np.ndarray, dataset: "xr.Dataset") -> None:
    for ax in axes.flat:
        ax.set_xticks(*_ticks(dataset["depth"].values))
        ax.set_yticks(*_ticks(dataset["width"].values))
        ax.tick_params(length=3)
    for ax in axes[-1]:
        ax.set_xlabel("depth (number of layers)")
    for ax in axes[:, 0]:
        ax.set_ylabel("width (of the hidden layers)")


def _ticks(values: np.ndarray, most: int = 12) -> tuple[np.ndarray, list[str]]:
    """Return the positions and labels of every cell, or of every second, third and so on."""
    stride = max(1, math.ceil(len(values) / most))
    chosen = np.arange(0, len(values), stride)
    return chosen + 0.5, [f"{values[i]:,}" for i in chosen]


def _colour_bar(figure: "Figure", axes: np.ndarray, norm: Any, below: bool) -> None:
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(
        ScalarMappable(norm, COLOURS),
        ax=axes,
        extend="min" if below else "neither",
        aspect=30,
        pad=0.02,
    )
    bar.set_label("log₁₀ (loss / loss before training)")
    bar.outline.set_visible(False)
    bar.ax.grid(False)


def _explain_marks(figure: "Figure", levels: np.ndarray) -> None:
    """Add a legend for the marks that occur."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    labels = []
    if np.isposinf(levels).any():
        cross = Line2D([], [], linestyle="", marker="x", color=MARK, markersize=6)
        handles.append((Patch(**_patch("diverged")), cross))
        labels.append("diverged: the loss became infinite")
    if np.isnan(levels).any():
        handles.append(Patch(**_patch("pending")))
        labels.append("not trained yet")
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=len(handles),
            handler_map={tuple: HandlerTuple(ndivide=1)},
        )


def _draw_sweep_curves(dataset: "xr.Dataset", scale: str, title: str | None) -> "Figure":
    from matplotlib.figure import Figure

    inits = [str(v) for v in dataset["init"].values]
    depths = [int(v) for v in dataset["depth"].values]
    if len(depths) > MOST_PANELS:
        raise ValueError(
            f"loss curves of {len(depths)} depths would be too small to read; take at most"
            f" {MOST_PANELS}, as with dataset.sel(depth={depths[:2]})"
        )
    figure = Figure(figsize=(2.9 * len(depths) + 1.4, 2.7 * len(inits) + 0.8), layout="constrained")
    axes = figure.subplots(len(inits), len(depths), squeeze=False, sharex=True, sharey=True)
    curves = relative_loss(dataset).transpose("init", "depth", "width", "step")
    for row, init in enumerate(inits):
        for column, depth in enumerate(depths):
            ax = axes[row, column]
            layers = f"{depth:,} layer" + ("s" if depth != 1 else "")
            ax.set_title(f"{init.capitalize()}, {layers}")
            cells = dataset.sel(init=init, depth=depth)
            _draw_widths(ax, curves.sel(init=init, depth=depth), _converged_at(cells))
    _finish_curves(axes, scale)
    converged = bool((dataset["status"] == "converged").all("seed").any())
    _explain_lines(figure, dataset, converged, bool(np.isposinf(curves).any()))
    heading = title or "Loss while training deep linear networks"
    figure.suptitle(heading, fontsize=13, fontweight="bold")
    return figure


def _converged_at(cells: "xr.Dataset") -> np.ndarray:
    """Return for each width the step by which all seeds had converged; infinity if not all did."""
    converged = (cells["status"] == "converged").all("seed")
    return cells["steps_taken"].max("seed").where(converged, np.inf).values


def _explain_lines(
    figure: "Figure", dataset: "xr.Dataset", converged: bool, diverged: bool
) -> None:
    from matplotlib.lines import Line2D

    names = [f"{int(w):,}" for w in dataset["width"].values]
    handles = [Line2D([], [], color=colour) for colour in _colours(len(names))]
    for name, marker, occurs in (("converged", "o", converged), ("diverged", "x", diverged)):
        if occurs:
            handles.append(Line2D([], [], linestyle="", marker=marker, color="#444444"))
            names.append(name)
    figure.legend(handles, names, title="width", loc="outside right center")


def _draw_widths(ax: "Axes", curves: "xr.DataArray", converged_at: np.ndarray) -> None:
    """Draw a line for each width, to where its run converged (a dot) or diverged (a cross)."""
    steps = curves["step"].values
    rows = zip(_colours(len(curves)), curves.values, converged_at, strict=True)
    for colour, values, end in rows:
        # A loss of exactly zero has no place on a logarithmic axis.
        shown = np.flatnonzero(np.isfinite(values) & (values > 0))
        reached = shown[steps[shown] >= end]
        shown = shown[steps[shown] <= steps[reached[0]]] if reached.size else shown
        ax.plot(steps[shown], values[shown], color=colour)
        marker = "o" if reached.size else "x" if np.isposinf(values).any() else None
        if marker and shown.size:
            last = steps[shown[-1]], min(values[shown[-1]], HIGHEST)
            ax.plot(*last, marker, color=colour, markeredgewidth=2, clip_on=False, zorder=3)


def _draw_runs(runs: Mapping[str, Any], scale: str, title: str | None) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    ax = figure.subplots()
    for colour, (name, run) in zip(_colours(len(runs)), runs.items(), strict=True):
        loss = np.asarray(run.relative_loss, dtype=np.float64)
        shown = np.where(np.isfinite(loss) & (loss > 0), loss, np.nan)
        ax.plot(np.arange(loss.size), shown, color=colour, label=name)
        finite = np.flatnonzero(np.isfinite(loss))
        if run.status == "diverged" and finite.size:
            ax.plot(
                finite[-1],
                min(loss[finite[-1]], HIGHEST),
                "x",
                color=MARK,
                markersize=8,
                clip_on=False,
            )
    _finish_curves(np.array([[ax]]), scale)
    if len(runs) > 1:
        ax.legend()
    ax.set_title(title or "Loss while training a deep linear network")
    return figure


def _finish_curves(axes: np.ndarray, scale: str) -> None:
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
    for ax in axes[-1]:
        ax.set_xlabel("gradient steps")
    for ax in axes[:, 0]:
        ax.set_ylabel("loss / loss before training")


def _colours(count: int) -> Any:
    from matplotlib import colormaps

    return colormaps[COLOURS](np.linspace(0.88, 0.0, count) if count > 1 else [0.25])


def _named_runs(data: Any) -> Mapping[str, Any]:
    """Return training results by the name of their line."""
    if hasattr(data, "relative_loss"):
        data = [data]
    if not isinstance(data, Mapping):
        if isinstance(data, str) or not isinstance(data, Iterable):
            raise TypeError(f"data must be a sweep or training results, not {type(data).__name__}")
        data = {f"run {i}": run for i, run in enumerate(data, 1)}
    if not data:
        raise ValueError("data must have at least one training result")
    for name, run in data.items():
        if not hasattr(run, "relative_loss"):
            raise TypeError(f"{name!r} must be a training result, not {type(run).__name__}")
    return data
