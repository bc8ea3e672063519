"""Train every network of a grid init × width × depth × seed, interruptible at any moment."""

import contextlib
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, NamedTuple

from fastdln.config import SWEPT_INITS, SWEPT_SEEDS, TrainConfig
from fastdln.sweeps import axes
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.executors import CellBatch, Cluster, Executor, Threads, TrainCells
from fastdln.sweeps.grid import Cell, Grid
from fastdln.sweeps.progress import Silent, Tally, reporter
from fastdln.sweeps.results import ResultsInMemory, open_results
from fastdln.utils import memory, validation
from fastdln.utils.threads import available, limited

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import DTypeLike

    from fastdln.objectives.base import Objective
    from fastdln.reduction.plan import Plan


def sweep(
    problem: "Objective",
    widths: int | Iterable[int] | None = None,
    depths: int | Iterable[int] | None = None,
    inits: str | Iterable[str] = SWEPT_INITS,
    seeds: int | Iterable[int] = SWEPT_SEEDS,
    steps: int = TrainConfig.steps,
    record_steps: Iterable[int] | None = None,
    store: str | os.PathLike[str] | None = None,
    client: Any = None,
    device: str = "auto",
    progress: bool = True,
    *,
    dtype: "DTypeLike | None" = TrainConfig.dtype,
    learning_rate: float | None = TrainConfig.learning_rate,
    method: str = TrainConfig.method,
    threads: int | None = TrainConfig.threads,
    workers: int | None = None,
    **options: Any,
) -> "xr.Dataset":
    """Train a network for every init, width, depth and seed.

    Networks are trained several at a time, each on one thread, the most expensive first; a thread
    trains small ones of one shape in a batch (`fastdln.backends.cpu.batch`).

    With a `store`, finished cells are on disk at once. A sweep that was stopped, by Ctrl-C or
    ``kill -9`` or a power cut, continues when called again with the same arguments; at most
    the cells in training are done again, and the finished dataset (all but ``seconds``) equals
    that of an uninterrupted sweep bit for bit (on a GPU, on one of the same kind). A problem is
    recognised by the data it holds (arrays, numbers, text), not by its code.

    Parameters
    ----------
    problem : Regression or other objective
        The loss, the same for all networks.
    widths, depths : iterable of int
        Widths of the hidden layers and numbers of layers, each ≥ 1, without repetition. One value
        may be given as it is, and every axis also under its singular name (``width=100``).
    inits : iterable of str
        Initialisations, as in `fastdln.initialize`.
    seeds : iterable of int
        Seeds of the networks, each ≥ 0.
    steps : int
        Gradient steps of each network.
    record_steps : iterable of int, optional
        Increasing steps from 0 to `steps` whose loss is kept; None means 0, `steps` and about
        60 between them, evenly spread in logarithm.
    store : path, optional
        A directory for the results, in Zarr format: absent, empty, or left by this same sweep.
        None keeps them in memory only.
    client : dask.distributed.Client, optional
        Train on this cluster instead of on threads of this process. The results are written
        by this process. With ``device="gpu"`` its workers need GPUs, and train cell by cell;
        ``"auto"`` is the CPU.
    device : str
        ``"cpu"``, ``"gpu"``, ``"gpu:N"`` or ``"auto"``, as in `fastdln.train`; ``"auto"`` continues
        a store on the kind of device it was begun on. A GPU trains many networks in one launch.
    progress : bool
        Whether to show progress on standard error.
    dtype : dtype, optional
        ``"float32"`` or ``"float64"``; None means float64.
    learning_rate : float, optional
        The paper's step size η for all networks; None means each depth's largest of Theorem 4.1.
    method : str
        ``"auto"``, ``"dense"`` or ``"reduced"``, as in `fastdln.train`.
    threads : int, optional
        Most threads that this process uses, as in `fastdln.train`; a store does not record it.
    workers : int, optional
        Networks, or batches of small ones, that are trained at a time by this process, each on a
        thread of its own; None means as many as `threads`.
    **options
        ``optimizer``, ``momentum``, ``nesterov``, ``weight_decay``, ``batch_size``, ``gain``,
        ``kernel`` and ``tolerance``, as in `fastdln.train`, the same for all networks.

    Returns
    -------
    xarray.Dataset
        Dimensions init, width, depth, seed and step. Variables: ``loss`` (float64; of a
        converged network the last value reached from then on, of a diverged one inf),
        ``initial_loss``, ``learning_rate``, ``steps_taken``, ``seconds`` (without the compiling of
        kernels), ``method`` and
        ``status`` (``"completed"``, ``"converged"``, ``"diverged"``; in a store that is not
        finished also ``"pending"``).

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or the store holds something else, or a sweep with
        other arguments (the message says which), or a problem cannot be recognised.
    MemoryError
        If the networks trained at a time would not fit in memory; before anything is trained.
    OSError
        If the store cannot be written, or another process is writing it.
    KeyboardInterrupt
        On Ctrl-C, within about a second; the message says how to continue.
    """
    from fastdln.backends.devices import check_device

    axes.check_names(options, inspect.signature(sweep).parameters)
    given = axes.split({"width": widths, "depth": depths, "init": inits, "seed": seeds}, options)
    options |= {
        "steps": steps,
        "dtype": dtype,
        "learning_rate": learning_rate,
        "method": method,
        "device": device,
        "threads": threads,
    }
    config = TrainConfig(**options)
    if client is None:
        check_device(config.device)
    runs = CellRuns.of(problem, config, record_steps)
    return run_sweep(
        runs, axes.grid(given, runs.record_steps), store, client, workers, progress=progress
    )


class Hooks(NamedTuple):
    """Calls that a caller of `run_sweep` has made on the way.

    Attributes
    ----------
    before : callable, optional
        Called with the runs, their device chosen, and the plans of the cells still to be trained.
    meanwhile : callable, optional
        Called on a thread of its own once networks are in training, with the dataset of a sweep in
        which all cells are pending: to load what a use of the final dataset will need.
    """

    before: "Callable[[CellRuns, dict[Cell, Plan]], None] | None" = None
    meanwhile: "Callable[[xr.Dataset], None] | None" = None


def run_sweep(
    runs: CellRuns,
    grid: Grid,
    store: str | os.PathLike[str] | None,
    client: Any,
    workers: int | None,
    *,
    progress: bool,
    hooks: Hooks | None = None,
) -> "xr.Dataset":
    """Train the cells of a grid that a store does not hold yet; return the dataset of all.

    Parameters and errors are those of `sweep`.
    """
    with ThreadPoolExecutor(1) as pool:
        # The data's singular value decomposition runs beside these imports, some 0.1 s each.
        objective = pool.submit(lambda: runs.objective)
        from fastdln.sweeps.device import check_kernel, with_device

        objective.result()
    hooks = Hooks() if hooks is None else hooks
    plans = runs.plans(grid.cells())
    with limited(runs.config.threads):
        runs = with_device(runs, plans, store, client)
    check_kernel(runs)
    attributes = runs.attributes(grid, needs_fingerprint=store is not None)
    executor = _executor(client, workers, runs)
    _require_memory(executor, runs, plans, grid)
    with ExitStack() as stack:
        results = open_results(grid, attributes, store)
        stack.callback(results.close)
        pending = {cell: plan for cell, plan in plans.items() if results.pending(cell)}
        if hooks.before is not None:
            hooks.before(runs, pending)
        if pending:
            costs = {cell: work(plan, runs.config.steps) for cell, plan in pending.items()}
            tally = Tally(costs, runs.config.steps, finished=len(plans) - len(pending))
            order = _ordered(runs, pending, costs, executor)
            aside = functools.partial(_aside, grid, hooks.meanwhile)
            _run(results, executor, runs.train, order, tally, progress, aside)
        return grid.dataset(results.values, results.attributes)


def _ordered(
    runs: CellRuns, plans: "dict[Cell, Plan]", costs: dict[Cell, float], executor: Executor
) -> list[CellBatch]:
    """Return batches, the most expensive first, so that no long cell runs last alone."""
    from fastdln.sweeps.scheduling import cell_batches

    batches = cell_batches(runs, plans, list(plans), executor.count, executor.most)
    return sorted(batches, key=lambda batch: sum(costs[cell] for cell in batch), reverse=True)


def _run(
    results: ResultsInMemory,
    executor: Executor,
    train: TrainCells,
    order: list[CellBatch],
    tally: Tally,
    progress: bool,
    meanwhile: Callable[[], None],
) -> None:
    """Train the cells in this order, and write the values of each as it ends."""
    shown: Silent | None = None
    aside = threading.Thread(target=meanwhile, name="fastdln-aside", daemon=True)
    try:
        with ExitStack() as stack:
            for found in stack.enter_context(closing(executor.results(train, order))):
                if shown is None:  # networks are in training from here on
                    results.create()
                    shown = stack.enter_context(reporter(progress))
                    aside.start()
                if found is not None:
                    cell, values = found
                    results.write(cell, values)
                    tally.finish(cell, values["steps_taken"])
                tally.watch(executor.running)
                shown.show(tally)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped with {tally.finished} of {tally.cells} networks done; {results.advice}"
        ) from None
    aside.join()


def _aside(grid: Grid, meanwhile: "Callable[[xr.Dataset], None] | None") -> None:
    """Load, while networks are in training, what the dataset and its use will need."""
    with contextlib.suppress(Exception):  # an error is raised again where the results are used
        dataset = grid.dataset(grid.empty(), {})
        if meanwhile is not None:
            meanwhile(dataset)


def work(plan: "Plan", steps: int) -> float:
    """Return the cost of a cell in floating-point operations, its initialisation included.

    Drawing a number costs about as much as a hundred operations of a matrix product.
    """
    return plan.flops_per_step * max(steps, 1) + 25.0 * plan.bytes


def _executor(client: Any, workers: int | None, runs: CellRuns) -> Executor:
    """Return the executor of the cells: threads, a cluster, or a GPU."""
    most = runs.config.threads
    if client is None and runs.config.device != "cpu":
        from fastdln.sweeps.gpu_executor import OneGpu

        if workers is not None:
            raise ValueError("workers is for the CPU; a GPU takes as many networks as fit")
        return OneGpu(runs)
    if client is None:
        if workers is None:
            with limited(most):
                return Threads(available())
        count = validation.positive_integer("workers", workers)
        if most is not None and count > most:
            raise ValueError(f"workers must be at most threads ({most}), not {count}")
        return Threads(count)
    for name, value in (("workers", workers), ("threads", most)):
        if value is not None:
            raise ValueError(f"{name} is for this process; with a client its workers decide")
    return Cluster(client)


def _require_memory(
    executor: Executor, runs: CellRuns, plans: "dict[Cell, Plan]", grid: Grid
) -> None:
    """Raise MemoryError if the largest networks, trained at the same time, would not fit."""
    from fastdln.sweeps.scheduling import batch_bytes, cell_batches

    found = cell_batches(runs, plans, list(plans), executor.count, executor.most)
    sizes = sorted((batch_bytes(batch, plans) for batch in found), reverse=True)
    results = grid.bytes
    if isinstance(executor, Threads):
        count = min(executor.count, len(sizes))
        memory.require(
            sum(sizes[:count]) + results,
            memory.available(),
            f"training {count} networks at a time" if count > 1 else "training one network",
            "use fewer workers or a smaller width, depth or dtype",
        )
        return
    memory.require(results, memory.available(), "keeping the results", "record fewer steps")
    if not isinstance(executor, Cluster) or runs.config.device != "cpu":
        return  # the GPU backend plans the GPU's memory
    for count, limit in executor.memory():
        if limit:
            needed = sum(sizes[:count])
            what = f"a cluster worker of {count} threads"
            memory.require(needed, limit, what, "give its workers fewer threads or more memory")
