"""The figures of the paper, at three sizes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdln.sweeps.grid import Cell, Grid
from fastdln.sweeps.progress import duration
from fastdln.utils import threads, validation

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

INITS = ("gaussian", "orthogonal")


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


# The paper shows t = 1258 and t = 10000; all presets draw Figure 1 at their record_steps.
FIGURE1 = {
    "quick": Preset(tuple(range(20, 201, 20)), (1, *range(10, 81, 10)), 1258, (0, 200, 1258)),
    "laptop": Preset(
        (10, *range(50, 501, 50)), (1, 25, *range(50, 301, 50)), 10_000, (0, 1258, 10_000)
    ),
    "paper": Preset(
        (10, *range(50, 1001, 50)), (1, *range(35, 701, 35)), 10_000, (0, 1258, 10_000)
    ),
}
FIGURE2 = {
    "quick": Preset((30, 100, 300), (5, 20, 80), 1258, tuple(range(0, 1259, 17))),
    "laptop": Preset((25, 100, 400), (10, 50, 250), 10_000, tuple(range(0, 10_001, 50))),
    "paper": Preset((100, 400, 1000), (50, 200, 700), 10_000, tuple(range(0, 10_001, 50))),
}


def figure1(
    preset: str = "quick",
    output: Any = None,
    *,
    progress: bool = True,
    device: str = "auto",
    client: Any = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Path, ...]:
    """Train the networks of the paper's Figure 1 and draw it.

    Heatmaps of ``log10(ℓ(t)/ℓ(0))`` over width × depth on the paper's data, for Gaussian and
    orthogonal initialisation and two numbers of steps (Hu, Xiao & Pennington 2020, section 6).
    Interrupted, it continues when called again.

    Parameters
    ----------
    preset : {"quick", "laptop", "paper"}
        Which widths, depths and steps; ``"paper"`` is the paper's.
    output : path, optional
        Directory for ``figure1.png``, ``figure1.svg`` and ``figure1.zarr`` (the sweep); None
        means ``figure1-PRESET`` in the current directory.
    progress : bool
        Whether to show progress on standard error.
    device : {"auto", "cpu", "gpu", "gpu:N"}
        As for `fastdln.sweep`.
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
        If there is no such preset, or `output` holds something else.
    MemoryError, OSError, KeyboardInterrupt
        As `fastdln.sweep` does.
    """

    def draw(dataset: "xr.Dataset") -> "Figure":
        from fastdln.plot import heatmaps

        return heatmaps(dataset, [int(s) for s in dataset["step"].values if s])

    return _figure("figure1", FIGURE1, preset, output, draw, progress, device, client, say)


def figure2(
    preset: str = "quick",
    output: Any = None,
    *,
    progress: bool = True,
    device: str = "auto",
    client: Any = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Path, ...]:
    """Train the networks of the paper's Figure 2 and draw it: loss against steps.

    Parameters, results and errors are those of `figure1`, with ``figure2`` in all names.
    """

    def draw(dataset: "xr.Dataset") -> "Figure":
        from fastdln.plot import loss_curves

        return loss_curves(dataset)

    return _figure("figure2", FIGURE2, preset, output, draw, progress, device, client, say)


def _figure(
    name: str,
    presets: dict[str, Preset],
    preset: str,
    output: Any,
    draw: Callable[["xr.Dataset"], "Figure"],
    progress: bool,
    device: str,
    client: Any,
    say: Callable[[str], None] | None,
) -> tuple[Path, ...]:
    from fastdln.plot import save

    chosen = presets[validation.one_of("preset", preset, presets)]
    device = validation.device(device) if client is None else validation.device_name(device)
    directory = _directory(output, f"{name}-{preset}")
    store = directory / f"{name}.zarr"
    if say is not None:
        say(
            _announcement(
                f"{name}, preset {preset}", chosen, store, device if client is None else None
            )
        )
    figure = draw(_sweep(chosen, store, progress, device, client))
    files = directory / f"{name}.png", directory / f"{name}.svg"
    for file in files:
        save(figure, file)
    return (*files, store)


def _directory(output: Any, default: str) -> Path:
    """Return the directory for the results, made if need be."""
    from fastdln.sweeps.store import local_path

    directory = local_path(default if output is None else output)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"output must be a directory, but {directory} is a file")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"{directory} cannot be created: {error.strerror}") from None
    return directory


def _sweep(preset: Preset, store: Path, progress: bool, device: str, client: Any) -> "xr.Dataset":
    from fastdln.objectives.regression import paper_regression
    from fastdln.sweeps.sweep import sweep

    return sweep(
        paper_regression(),
        preset.widths,
        preset.depths,
        INITS,
        steps=preset.steps,
        record_steps=preset.record_steps,
        store=store,
        device=device,
        client=client,
        progress=progress,
        dtype="float32",
    )


def _announcement(title: str, preset: Preset, store: Path, device: str | None) -> str:
    """Say what will be trained and, where that is on this machine's CPU, how long it takes."""
    grid = _grid(preset)
    pending = _pending(grid, store)
    total = len(INITS) * len(grid.width) * len(grid.depth)
    parts = [
        f"{title}: {total} networks, widths {grid.width[0]} to {grid.width[-1]:,},"
        f" depths {grid.depth[0]} to {grid.depth[-1]:,}, {preset.steps:,} steps"
    ]
    if len(pending) < total:
        parts.append(f"{total - len(pending)} of them are done")
    if device == "cpu" and pending:
        parts.append(f"estimated time: up to {duration(_seconds(preset, pending))}")
    return "; ".join(parts)


def _grid(preset: Preset) -> Grid:
    return Grid(INITS, preset.widths, preset.depths, (0,), preset.record_steps)


def _pending(grid: Grid, store: Path) -> list[Cell]:
    """Return the cells that are not done yet; all of them where the store is not this grid's."""
    from fastdln.sweeps.store import read

    cells = list(grid.cells())
    try:
        status = read(store)["status"].values
    except (FileNotFoundError, ValueError):
        return cells
    if status.shape != grid.shape:
        return cells
    return [cell for cell in cells if status[cell.index] == "pending"]


def _seconds(preset: Preset, cells: list[Cell], workers: int | None = None) -> float:
    from fastdln.objectives.regression import paper_regression
    from fastdln.sweeps.estimate import estimate
    from fastdln.sweeps.setting import Setting

    setting = Setting.of(paper_regression(), preset.steps, preset.record_steps, "float32")
    return estimate(setting, setting.plans(cells), workers or threads.available())
