"""Training every network of a grid init × width × depth × seed, interruptible at any moment."""

from collections.abc import Iterable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from fastdln.sweeps.executors import Cluster, Threads
from fastdln.sweeps.grid import Cell, Grid
from fastdln.sweeps.keeper import Memory, keeper
from fastdln.sweeps.progress import Tally, reporter
from fastdln.sweeps.setting import Setting
from fastdln.utils import memory, threads, validation

if TYPE_CHECKING:
    import xarray as xr

    from fastdln.objectives.base import Objective
    from fastdln.reduction.plan import Plan


def sweep(
    problem: "Objective",
    widths: Iterable[int],
    depths: Iterable[int],
    inits: Iterable[str] = ("gaussian", "orthogonal"),
    seeds: Iterable[int] = (0,),
    steps: int = 10_000,
    record_steps: Iterable[int] | None = None,
    store: Any = None,
    client: Any = None,
    device: str = "auto",
    progress: bool = True,
    *,
    dtype: Any = None,
    learning_rate: float | None = None,
    method: str = "auto",
    workers: int | None = None,
    **options: Any,
) -> "xr.Dataset":
    """Train a network for every init, width, depth and seed.

    Networks are trained several at a time, each on one thread, the most expensive first; small ones
    of one shape share a thread (`fastdln.backends.cpu.batch`).

    With a `store`, finished cells are on disk at once. A sweep that was stopped, by Ctrl-C or
    ``kill -9`` or a power cut, continues when called again with the same arguments; at most
    the cells in work are done again, and the finished dataset (all but ``seconds``) equals
    that of an uninterrupted sweep bit for bit (on a card, on one of the same kind). A problem is
    known again by what it holds (arrays, numbers, text), not by its code.

    Parameters
    ----------
    problem : Regression or other objective
        The loss, the same for all networks.
    widths, depths : iterable of int
        Widths of the hidden layers and numbers of layers, each ≥ 1, without repetition.
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
        by this process. With ``device="gpu"`` its workers need cards, and train cell by cell.
    device : str
        ``"cpu"``, ``"gpu"``, ``"gpu:N"`` or ``"auto"``, as in `fastdln.train`. A card trains many
        networks in one launch.
    progress : bool
        Whether to show progress on standard error.
    dtype : dtype, optional
        ``"float32"`` or ``"float64"``; None means float64.
    learning_rate : float, optional
        The paper's step size η for all networks; None means each depth's largest of Theorem 4.1.
    method : str
        ``"auto"``, ``"dense"`` or ``"reduced"``, as in `fastdln.train`.
    workers : int, optional
        Threads of this process that train networks; None means all.
    **options
        ``optimizer``, ``momentum``, ``nesterov``, ``weight_decay``, ``batch_size``, ``gain``
        and ``kernel``, as in `fastdln.train`, the same for all networks.

    Returns
    -------
    xarray.Dataset
        Dimensions init, width, depth, seed and step. Variables: ``loss`` (float64; of a
        converged network the last value reached from then on, of a diverged one inf),
        ``initial_loss``, ``learning_rate``, ``steps_taken``, ``seconds``, ``method`` and
        ``status`` (``"completed"``, ``"converged"``, ``"diverged"``; in a store that is not
        finished also ``"pending"``).

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or the store holds something else, or a sweep with
        other arguments (the message says which), or a problem cannot be known again.
    MemoryError
        If the networks trained at a time would not fit in memory; before anything is trained.
    OSError
        If the store cannot be written, or another process is writing it.
    KeyboardInterrupt
        On Ctrl-C, within about a second; the message says how to continue.
    """
    setting = Setting.of(
        problem, steps, record_steps, dtype, learning_rate, method, device, options,
        here=client is None,
    )  # fmt: skip
    grid = Grid(
        init=_names("inits", inits),
        width=_axis("widths", widths, least=1),
        depth=_axis("depths", depths, least=1),
        seed=_axis("seeds", seeds, least=0),
        step=setting.record_steps,
    )
    attributes = setting.attributes(grid, told_apart=store is not None)
    pool = _pool(client, workers, setting)
    plans = setting.plans(grid.cells())
    _require_memory(pool, setting, plans, grid)
    with ExitStack() as stack:
        kept = keeper(grid, attributes, store)
        stack.callback(kept.close)
        _run(kept, pool, setting, plans, progress)
        return grid.dataset(kept.values, kept.attributes)


def _run(
    kept: Memory,
    pool: Threads | Cluster,
    setting: Setting,
    plans: "dict[Cell, Plan]",
    progress: bool,
) -> None:
    """Train the pending cells, the most expensive first, so that none is left to the end alone."""
    from fastdln.sweeps.scheduling import bundles

    costs = {c: work(p, setting.steps) for c, p in plans.items() if kept.pending(c)}
    order = bundles(setting, plans, list(costs), pool.count, pool.most)
    order.sort(key=lambda bundle: sum(costs[cell] for cell in bundle), reverse=True)
    tally = Tally(costs, setting.steps, finished=len(plans) - len(costs))
    if not order:
        return
    try:
        with reporter(progress) as report, closing(pool.results(setting.train, order)) as results:
            for result in results:
                if result is not None:
                    cell, values = result
                    kept.write(cell, values)
                    tally.finish(cell, values["steps_taken"])
                tally.watch(pool.running)
                report.show(tally)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped with {tally.finished} of {tally.cells} networks done; {kept.advice}"
        ) from None


def work(plan: "Plan", steps: int) -> float:
    """Return the cost of a cell in floating-point operations, its initialisation included.

    Drawing a number costs about as much as a hundred operations of a matrix product.
    """
    return plan.flops_per_step * max(steps, 1) + 25.0 * plan.bytes


def _pool(client: Any, workers: Any, setting: Setting) -> Any:
    """Return what trains the cells: threads, a cluster, or a card."""
    if client is None and setting.device != "cpu":
        from fastdln.sweeps.gpu_executor import OneCard

        if workers is not None:
            raise ValueError("workers is for the CPU; a card takes as many networks as fit")
        return OneCard(setting)
    if client is None:
        count = (
            threads.available()
            if workers is None
            else validation.positive_integer("workers", workers)
        )
        return Threads(count)
    if workers is not None:
        raise ValueError("workers is for this process; with a client its workers decide")
    return Cluster(client)


def _require_memory(pool: Any, setting: Setting, plans: "dict[Cell, Plan]", grid: Grid) -> None:
    """Raise MemoryError if the largest networks, trained at the same time, would not fit."""
    from fastdln.sweeps.scheduling import bundle_bytes, bundles

    found = bundles(setting, plans, list(plans), pool.count, pool.most)
    sizes = sorted((bundle_bytes(bundle, plans) for bundle in found), reverse=True)
    results = grid.bytes
    if isinstance(pool, Threads):
        count = min(pool.count, len(sizes))
        memory.require(
            sum(sizes[:count]) + results,
            memory.available(),
            f"training {count} networks at a time" if count > 1 else "training one network",
            "use fewer workers or a smaller width, depth or dtype",
        )
        return
    memory.require(results, memory.available(), "keeping the results", "record fewer steps")
    if setting.device != "cpu":
        return  # a card plans its own memory
    for count, limit in pool.memory():
        if limit:
            needed = sum(sizes[:count])
            what = f"a cluster worker of {threads} threads"
            memory.require(needed, limit, what, "give its workers fewer threads or more memory")


def _axis(name: str, values: Any, least: int) -> tuple[int, ...]:
    """Return the values of an axis as distinct whole numbers that fit in int64."""
    found = tuple(
        validation.integer(f"every one of {name}", v, least)
        for v in validation.listed(name, values)
    )
    if max(found) >= 2**63:
        raise ValueError(f"every one of {name} must be less than 2**63, not {max(found)}")
    return validation.distinct(name, found)


def _names(name: str, values: Any) -> tuple[str, ...]:
    from fastdln.initializers.layers import INITS

    listed = (values,) if isinstance(values, str) else validation.listed(name, values)
    return validation.distinct(
        name, tuple(validation.one_of(f"every one of {name}", v, INITS) for v in listed)
    )
