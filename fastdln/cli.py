"""The program ``fastdln``: each command checks its arguments, calls the library and prints."""

import functools
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastdln.command_options import SuggestingCommand, with_run_options
from fastdln.config import SWEPT_INITS

if TYPE_CHECKING:
    import xarray as xr

    from fastdln.objectives.regression import Regression
    from fastdln.result import TrainResult

# Heavy imports are inside the commands, so that --help and usage errors respond at once.

app = typer.Typer(
    help="Train deep linear networks: the paper's figures, sweeps and single networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich would read ``10:100:10`` as an emoji
)

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="NumPy file (.npz) of X (d_x, n), Y (d_y, n); else the paper's"),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", help="Directory for the figure and its data")
]
PresetOption = Annotated[str, typer.Option("--preset", help="quick, laptop or paper")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Show no progress")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, gpu, gpu:1 … or auto")]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", help="Most threads to use; else one for each processor"),
]


def main() -> None:
    """Run the command line; the entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        # A pipe on Windows may not encode every character of a report.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="fastdln")


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the library's errors into one line and exit code 2, and Ctrl-C into exit code 130."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as stop:
            typer.echo(f"fastdln: {stop or 'stopped'}", err=True)
            _exit_with(130)
        except (ValueError, TypeError, MemoryError, OSError, ImportError, RuntimeError) as error:
            if _tracebacks:
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            typer.echo(f"fastdln: {message}", err=True)
            raise typer.Exit(2) from None

    return run


def _exit_with(code: int) -> None:
    """Exit; skip the interpreter's shutdown if threads that cannot be stopped still run."""
    import threading

    # Shutting the interpreter down under a thread inside LLVM or a kernel may crash it.
    if any(t.name.startswith("fastdln") and t.is_alive() for t in threading.enumerate()):
        os._exit(code)
    raise typer.Exit(code)


# Set by --traceback: an error of the package may look like one of the user's.
_tracebacks = False


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"fastdln {version('fastdln')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version"),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where in the code an error arose")
    ] = False,
) -> None:
    """Train deep linear networks: the paper's figures, sweeps and single networks."""
    global _tracebacks
    _tracebacks = traceback


def _add_figure(name: str, help: str) -> None:
    """Add the command that draws one of the paper's figures."""

    def command(
        preset: PresetOption = "quick",
        output: OutputOption = None,
        device: DeviceOption = "auto",
        threads: ThreadsOption = None,
        quiet: QuietOption = False,
    ) -> None:
        from fastdln import figures

        draw = getattr(figures, name)
        files = draw(
            preset, output, device=device, threads=threads, progress=not quiet, say=typer.echo
        )
        typer.echo(f"wrote {', '.join(map(str, files))}")

    app.command(name, help=help, cls=SuggestingCommand)(guarded(command))


_add_figure(
    "figure1", "Draw the paper's Figure 1: how far networks have trained, over width and depth."
)
_add_figure(
    "figure2", "Draw the paper's Figure 2: loss while training, for several widths and depths."
)


@app.command(cls=SuggestingCommand)
@guarded
@with_run_options()
def train(
    options: dict[str, Any],
    width: Annotated[str, typer.Option("--width", help="One width, or one for each hidden layer")],
    data: DataOption = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the loss to this file")] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Keep the network and the losses in this .npz")
    ] = None,
) -> None:
    """Train one network and print the result."""
    from fastdln.training.train import train as run

    widths = whole_numbers("--width", width)
    if plot is not None:
        _check_figure_name(plot)
    if save is not None:
        _check_directory(save, "the network")
    result = run(_problem(data), width=widths[0] if len(widths) == 1 else widths, **options)
    if save is not None:
        result.save(save)  # before anything is printed: standard output may be closed
    typer.echo(_report(result))
    if save is not None:
        typer.echo(f"wrote {save}")
    if plot is not None:
        from fastdln import plot as plots

        plots.save(plots.loss_curves(result), plot)
        typer.echo(f"wrote {plot}")


@app.command(cls=SuggestingCommand)
@guarded
@with_run_options(axes=False)
def sweep(
    options: dict[str, Any],
    store: Annotated[Path, typer.Argument(help="Directory for the results (Zarr)")],
    widths: Annotated[str, typer.Option("--widths", help="As 10,50,100 or 100:500:100")],
    depths: Annotated[str, typer.Option("--depths", help="As 1,10,100 or 10:100:10")],
    inits: Annotated[str, typer.Option("--inits", help="Initialisations")] = ",".join(SWEPT_INITS),
    seeds: Annotated[str, typer.Option("--seeds", help="As 0 or 0:9")] = "0",
    record: Annotated[
        str | None, typer.Option("--record-steps", help="Steps whose loss is kept")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Networks trained at a time")
    ] = None,
    data: DataOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a network for every init, width, depth and seed; run again to continue."""
    from fastdln.sweeps.sweep import sweep as run

    dataset = run(
        _problem(data),
        widths=whole_numbers("--widths", widths),
        depths=whole_numbers("--depths", depths),
        inits=[name.strip() for name in inits.split(",")],
        seeds=whole_numbers("--seeds", seeds),
        record_steps=None if record is None else whole_numbers("--record-steps", record),
        store=store,
        progress=not quiet,
        workers=workers,
        **options,
    )
    typer.echo(f"{_summary(dataset)}; results in {store}")


@app.command(cls=SuggestingCommand)
@guarded
def plot(
    store: Annotated[Path, typer.Argument(help="Results of a sweep (Zarr)")],
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write; its ending is the format")
    ] = None,
    kind: Annotated[str, typer.Option("--kind", help="heatmaps or curves")] = "heatmaps",
    steps: Annotated[
        str | None, typer.Option("--steps", help="Recorded steps to show in heatmaps")
    ] = None,
    depths: Annotated[str | None, typer.Option("--depths", help="Only these depths")] = None,
    widths: Annotated[str | None, typer.Option("--widths", help="Only these widths")] = None,
) -> None:
    """Draw a sweep, finished or not."""
    from fastdln import plot as plots
    from fastdln.sweeps.store import read
    from fastdln.utils import validation

    validation.one_of("--kind", kind, ("heatmaps", "curves"))
    output = output or store.with_suffix(".png")
    _check_figure_name(output)
    dataset = _selected(read(store), width=widths, depth=depths)
    if kind == "heatmaps":
        shown = None if steps is None else whole_numbers("--steps", steps)
        figure = plots.heatmaps(dataset, shown)
    elif steps is not None:
        raise ValueError("--steps is for heatmaps; curves show every recorded step")
    else:
        figure = plots.loss_curves(dataset)
    plots.save(figure, output)
    typer.echo(f"wrote {output}")


@app.command(cls=SuggestingCommand)
@guarded
def info() -> None:
    """Print versions, processor, kernels chosen and why, memory, BLAS and GPU (or why none)."""
    from fastdln.info import info as find

    typer.echo(str(find()))


def whole_numbers(name: str, text: str) -> list[int]:
    """Read ``10,50,100`` or ``first:last`` or ``first:last:step`` (last included), or a mixture.

    Raises
    ------
    ValueError
        If the text is none of these.
    """
    found: list[int] = []
    for part in text.split(","):
        try:
            numbers = [int(number) for number in part.split(":")]
            first, last, step = (numbers * 2 + [1])[:3] if len(numbers) == 1 else (*numbers, 1)[:3]
        except ValueError:
            numbers = []
        if not 1 <= len(numbers) <= 3 or step < 1 or last < first:
            raise ValueError(
                f"{name} must be whole numbers such as 10,50,100 or 100:500:100"
                f" (first:last:step, last included), not {text!r}"
            )
        found.extend(range(first, last + 1, step))
    return found


def _problem(data: Path | None) -> "Regression":
    """Return the regression problem stored in a file, or the paper's."""
    import numpy as np

    from fastdln.objectives.regression import Regression, paper_regression

    if data is None:
        return paper_regression()
    try:
        with np.load(data, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("X", "Y")}
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {data}") from None
    except (KeyError, ValueError, EOFError, AttributeError, TypeError):
        raise ValueError(
            f"{data} must be a NumPy file (.npz) with numeric arrays X (d_x, n) and Y (d_y, n)"
        ) from None
    return Regression(found["X"], found["Y"])


def _report(result: "TrainResult") -> str:
    lines = {
        "loss": f"{result.loss[0]:.6g} → {result.loss[-1]:.6g}",
        "relative loss": f"{result.relative_loss[-1]:.6g}",
        "status": f"{result.status} after {result.steps_taken:,} steps",
        "learning rate": f"{result.learning_rate:.6g}",
        "time": f"{result.seconds:.3f} s ({result.method}, {result.device})",
        "compiling": f"{result.compile_seconds:.3f} s",
    }
    return "\n".join(f"{name:<14} {value}" for name, value in lines.items())


def _summary(dataset: "xr.Dataset") -> str:
    import numpy as np

    names, counts = np.unique(dataset["status"].values, return_counts=True)
    parts = ", ".join(f"{count:,} {name}" for name, count in zip(names, counts, strict=True))
    return f"{dataset['status'].size:,} networks: {parts}"


def _selected(dataset: "xr.Dataset", **texts: str | None) -> "xr.Dataset":
    """Return the part of a sweep with the given widths or depths."""
    for dim, text in texts.items():
        if text is not None:
            values = whole_numbers(f"--{dim}s", text)
            missing = [v for v in values if v not in dataset[dim].values]
            if missing:
                raise ValueError(f"{dim} {missing[0]} is not in the sweep")
            dataset = dataset.sel({dim: values})
    return dataset


def _check_figure_name(path: Path) -> None:
    """Raise if no figure can be written to this path; called before training."""
    endings = (".png", ".svg", ".pdf")
    if path.suffix.lower() not in endings:
        raise ValueError(f"a figure's name must end in {', '.join(endings)}, not be {str(path)!r}")
    _check_directory(path, "the figure")


def _check_directory(path: Path, what: str) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, not a file for {what}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {path.parent} for {what} {path.name}")
