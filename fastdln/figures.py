"""The paper's Figures 1 and 2, each at three sizes."""

import functools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastdln.config import SWEPT_INITS, SWEPT_SEEDS, TrainConfig, check_device_name
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.grid import Cell, Grid
from fastdln.sweeps.progress import duration
from fastdln.utils import validation
from fastdln.utils.threads import available, limited

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from fastdln.reduction.plan import Plan

# Draws a sweep.
Draw = Callable[["xr.Dataset"], "Figure"]
# The formats in which a figure is written.
ENDINGS = ("png", "svg")
# The dtype in which the networks of a figure are trained.
DTYPE = "float32"


@dataclass(frozen=True)
class Preset:
    """The networks of a figure.

    Attributes
    ----------
    widths, depths : tuple of int
    steps : int
        Gradient steps of each network, at the largest step size of Theorem 4.1.
    record_steps : tuple of int
        Steps whose loss is kept.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    steps: int
    record_steps: tuple[int, ...]


# Steps after which the paper shows Figure 1.
PAPER_STEPS = (0, 1258, 10_000)
# All presets draw Figure 1 at their record_steps.
FIGURE1 = {
    "quick": Preset(tuple(range(20, 201, 20)), (1, *range(10, 81, 10)), 1258, (0, 200, 1258)),
    "laptop": Preset((10, *range(50, 501, 50)), (1, 25, *range(50, 301, 50)), 10_000, PAPER_STEPS),
    "paper": Preset((10, *range(50, 1001, 50)), (1, *range(35, 701, 35)), 10_000, PAPER_STEPS),
}
FIGURE2 = {
    "quick": Preset((30, 100, 300), (5, 20, 80), 1258, tuple(range(0, 1259, 17))),
    "laptop": Preset((25, 100, 400), (10, 50, 250), 10_000, tuple(range(0, 10_001, 50))),
    "paper": Preset((100, 400, 1000), (50, 200, 700), 10_000, tuple(range(0, 10_001, 50))),
}


def figure1(
    preset: str = "quick",
    output: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    device: str = "auto",
    threads: int | None = None,
    client: Any = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Path, ...]:
    """Train the networks of the paper's Figure 1 and draw it.

    Heatmaps of ``log10(ℓ(t)/ℓ(0))`` over width × depth on the paper's data, for Gaussian and
    orthogonal initialisation and two numbers of steps (Hu, Xiao & Pennington 2020, section 6).
    After an interruption, the same call continues.

    Parameters
    ----------
    preset : {"quick", "laptop", "paper"}
        Selects widths, depths and steps; ``"paper"`` is the paper's selection.
    output : path, optional
        Directory for ``figure1.png``, ``figure1.svg`` and ``figure1.zarr`` (the sweep); None
        means ``figure1-PRESET`` in the current directory.
    progress : bool
        Whether to show progress on standard error.
    device : {"auto", "cpu", "gpu", "gpu:N"}
        As for `fastdln.sweep`.
    threads : int, optional
        Most threads to use, as for `fastdln.train`.
    client : dask.distributed.Client, optional
        Train on this cluster.
    say : callable, optional
        Called with lines to print: the estimated time before the start.

    Returns
    -------
    tuple of pathlib.Path
        The PNG, the SVG and the store.

    Raises
    ------
    ValueError
        If there is no such preset, or `output` holds other files.
    MemoryError, OSError, KeyboardInterrupt
        As `fastdln.sweep` does.
    """
    arguments = Arguments(preset, output, progress, device, threads, client, say)
    return _figure("figure1", FIGURE1, _heatmaps, arguments)


def figure2(
    preset: str = "quick",
    output: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    device: str = "auto",
    threads: int | None = None,
    client: Any = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Path, ...]:
    """Train the networks of the paper's Figure 2 and draw it: loss against steps.

    Parameters, results and errors are those of `figure1`, with ``figure2`` in all names.
    """
    arguments = Arguments(preset, output, progress, device, threads, client, say)
    return _figure("figure2", FIGURE2, _curves, arguments)


class Arguments(NamedTuple):
    """The arguments of `figure1` and `figure2`."""

    preset: str
    output: str | os.PathLike[str] | None
    progress: bool
    device: str
    threads: int | None
    client: Any
    say: Callable[[str], None] | None


def _heatmaps(dataset: "xr.Dataset") -> "Figure":
    from fastdln.plot import heatmaps

    return heatmaps(dataset, [int(s) for s in dataset["step"].values if s])


def _curves(dataset: "xr.Dataset") -> "Figure":
    from fastdln.plot import loss_curves

    return loss_curves(dataset)


def _figure(
    name: str,
    presets: Mapping[str, Preset],
    draw: Draw,
    given: Arguments,
) -> tuple[Path, ...]:
    chosen = presets[validation.one_of("preset", given.preset, presets)]
    if given.client is None:
        _check_device(given.device)
    else:
        check_device_name("device", given.device)
    directory = _directory(given.output, f"{name}-{given.preset}")
    store = directory / f"{name}.zarr"
    dataset = _sweep(f"{name}, preset {given.preset}", chosen, store, given, draw)
    from fastdln.plot import save

    files = tuple(directory / f"{name}.{ending}" for ending in ENDINGS)
    save(draw(dataset), *files)
    return (*files, store)


def _check_device(name: str) -> None:
    from fastdln.backends.devices import check_device

    check_device(name)


def _directory(output: str | os.PathLike[str] | None, default: str) -> Path:
    """Return the directory for the results, created if absent."""
    from fastdln.sweeps.store import local_path

    directory = local_path(default if output is None else output)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"output must be a directory, but {directory} is a file")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"{directory} cannot be created: {error.strerror}") from None
    return directory


def _sweep(title: str, preset: Preset, store: Path, given: Arguments, draw: Draw) -> "xr.Dataset":
    """Train the networks of a figure, and say before how long it may take."""
    from fastdln.objectives.regression import paper_regression
    from fastdln.sweeps.sweep import Hooks, run_sweep

    config = TrainConfig(
        steps=preset.steps, dtype=DTYPE, device=given.device, threads=given.threads
    )
    runs = CellRuns.of(paper_regression(), config, preset.record_steps)
    grid = Grid(SWEPT_INITS, preset.widths, preset.depths, SWEPT_SEEDS, preset.record_steps)
    say = given.say

    def announce(runs: CellRuns, pending: "dict[Cell, Plan]") -> None:
        if say is not None:
            estimates = given.client is None and runs.config.device == "cpu"
            say(f"{title}: {_announcement(runs, grid, pending, estimates)}")

    return run_sweep(
        runs,
        grid,
        store,
        given.client,
        None,
        progress=given.progress,
        hooks=Hooks(announce, functools.partial(_drawn, draw)),
    )


def _announcement(runs: CellRuns, grid: Grid, pending: "dict[Cell, Plan]", estimates: bool) -> str:
    """Return a line with the networks to train and, if asked for, the estimated time."""
    total = math.prod(grid.shape)
    parts = [
        f"{total} networks, widths {grid.width[0]} to {grid.width[-1]:,},"
        f" depths {grid.depth[0]} to {grid.depth[-1]:,}, {runs.config.steps:,} steps"
    ]
    if len(pending) < total:
        parts.append(f"{total - len(pending)} of them are done")
    if estimates and pending:
        from fastdln.sweeps.estimate import estimate

        with limited(runs.config.threads):
            seconds = estimate(runs, pending, available())
        parts.append(f"estimated time: up to {duration(seconds)}")
    return "; ".join(parts)


def _drawn(draw: Draw, dataset: "xr.Dataset") -> None:
    """Draw a figure and forget it: modules and fonts are loaded for the next."""
    from fastdln.plot.style import load_formats

    load_formats(ENDINGS)
    draw(dataset)
