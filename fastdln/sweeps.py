"""Training every network of a grid init × width × depth × seed, interruptible at any moment."""

import dataclasses
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import check, memory, parallel
from .cells import Cell, Grid, default_record_steps, recorded
from .objective import Objective, check_objective
from .progress import Tally, reporter
from .workers import Bundle, Cluster, Report, Threads

if TYPE_CHECKING:
    import xarray as xr

    from .plan import Plan
    from .result import TrainResult
    from .rules import Rule
    from .run import Callback
    from .task import Preparation, Task

# One value for each variable of a dataset.
Values = dict[str, Any]

RULE_OPTIONS: dict[str, Any] = {
    "optimizer": "gd",
    "momentum": 0.0,
    "nesterov": False,
    "weight_decay": 0.0,
}
OPTIONS: dict[str, Any] = RULE_OPTIONS | {"batch_size": None, "gain": 1.0, "kernel": "auto"}
# What the attribute `learning_rate` of a dataset says where none was given.
LARGEST = "largest of Theorem 4.1"


def sweep(
    problem: Objective,
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
    of one shape share a thread (`fastdln.side_by_side`).

    With a `store`, finished cells are on disk at once. A sweep that was stopped, by Ctrl-C or
    ``kill -9`` or a power cut, continues when called again with the same arguments; at most
    the cells in work are done again, and the finished dataset (all but ``seconds``) equals
    that of an uninterrupted sweep bit for bit.

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
        by this process.
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
        other arguments (the message says which).
    MemoryError
        If the networks trained at a time would not fit in memory; before anything is trained.
    OSError
        If the store cannot be written, or another process is writing it.
    KeyboardInterrupt
        On Ctrl-C, within about a second; the message says how to continue.
    """
    setting = Setting.of(
        problem, steps, record_steps, dtype, learning_rate, method, device, options
    )
    grid = Grid(
        init=_names("inits", inits),
        width=_axis("widths", widths, least=1),
        depth=_axis("depths", depths, least=1),
        seed=_axis("seeds", seeds, least=0),
        step=setting.record_steps,
    )
    pool = _pool(client, workers, setting)
    plans = setting.plans(grid.cells())
    _require_memory(pool, setting, plans, grid)
    with ExitStack() as stack:
        keeper = _keeper(grid, setting.attributes(grid), store)
        stack.callback(keeper.close)
        _run(keeper, pool, setting, plans, progress)
        return grid.dataset(keeper.values, keeper.attributes)


@dataclass(frozen=True)
class Setting:
    """What all cells of a sweep have in common."""

    problem: Objective
    steps: int
    record_steps: tuple[int, ...]
    dtype: str
    learning_rate: float | None
    method: str
    device: str
    options: Mapping[str, Any] = field(default_factory=OPTIONS.copy)

    @classmethod
    def of(
        cls,
        problem: Any,
        steps: Any,
        record_steps: Any = None,
        dtype: Any = None,
        learning_rate: Any = None,
        method: str = "auto",
        device: str = "auto",
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> "Setting":
        """Check the arguments of a sweep and fill in what was left to it."""
        check_objective(problem)
        steps = check.non_negative_integer("steps", steps)
        device = check.device(device)
        if learning_rate is not None:
            learning_rate = check.positive_number("learning_rate", learning_rate)
        return cls(
            problem,
            steps,
            default_record_steps(steps) if record_steps is None else _kept(record_steps, steps),
            check.float_dtype("float64" if dtype is None else dtype).name,
            learning_rate,
            check.one_of("method", method, ("auto", "dense", "reduced")),
            device,
            _checked_options(problem, device, options),
        )

    @property
    def rule(self) -> "Rule":
        """The optimiser of all networks."""
        from .rules import Rule

        return Rule(**{name: self.options[name] for name in RULE_OPTIONS})

    def plan(self, cell: Cell) -> "Plan":
        """Return how a cell would be trained, and what that costs."""
        from .plan import plan

        return plan(
            self.problem,
            width=cell.width,
            depth=cell.depth,
            init=cell.init,
            dtype=self.dtype,
            method=self.method,
            rule=self.rule,
        )

    def plans(self, cells: Iterable[Cell]) -> "dict[Cell, Plan]":
        """Return the plan of every cell, made once for those that differ in their seed only."""
        known: dict[tuple[str, int, int], Plan] = {}
        found = {}
        for cell in cells:
            key = cell.init, cell.width, cell.depth
            if key not in known:
                known[key] = self.plan(cell)
            found[cell] = known[key]
        return found

    def attributes(self, grid: Grid) -> dict[str, Any]:
        """Return everything that decides the results, under the names of `sweep`'s arguments."""
        from importlib.metadata import version

        return {
            "fastdln_version": version("fastdln"),
            "problem": f"{self._problem_name()} sha256:{digest(self.problem)}",
            "widths": list(grid.width),
            "depths": list(grid.depth),
            "inits": list(grid.init),
            "seeds": list(grid.seed),
            "steps": self.steps,
            "record_steps": list(self.record_steps),
            "learning_rate": LARGEST if self.learning_rate is None else self.learning_rate,
            "dtype": self.dtype,
            "method": self.method,
            "device": self.device.partition(":")[0],  # any card can go on
            **self.options,
        }

    def _problem_name(self) -> str:
        return f"{type(self.problem).__name__}(d_x={self.problem.d_x}, d_y={self.problem.d_y})"

    @property
    def objective(self) -> Any:
        """The problem on the span of its inputs, as networks see it."""
        from .objective import on_inputs

        return on_inputs(self.problem, whole=not self.rule.equivariant)

    @property
    def batch_size(self) -> int | None:
        """Samples of a step, None for all."""
        return self.options["batch_size"]

    @property
    def kernel(self) -> str:
        """The kernel asked for."""
        return self.options["kernel"]

    def train(self, bundle: Bundle, report: Report | None = None) -> Iterator[tuple[Cell, Values]]:
        """Train cells, several side by side, and yield the values of each as it ends."""
        from .side_by_side import SideBySide, may_go_side_by_side

        example = self.preparation(bundle[0])
        # A cluster's worker may have narrower vectors than the machine that made the bundle.
        if len(bundle) == 1 or not may_go_side_by_side(self, example.plan):
            for cell in bundle:
                task = self._task(cell, example if cell == bundle[0] else None)
                yield cell, self.values(task.run(_hearing(report, cell)))
            return
        tasks = ((cell, self._task(cell)) for cell in bundle)
        side_by_side = SideBySide[Cell](example, len(bundle))
        tell = None if report is None else lambda cell, step, loss: report(cell, step)
        for cell, result in side_by_side.run(tasks, tell):
            yield cell, self.values(result)

    def preparation(self, cell: Cell) -> "Preparation":
        """Return the run of a cell, checked and planned."""
        from .task import prepare

        return prepare(
            self.problem,
            width=cell.width,
            depth=cell.depth,
            init=cell.init,
            steps=self.steps,
            dtype=self.dtype,
            device=self.device,
            method=self.method,
            **self.options,
        )

    def _task(self, cell: Cell, preparation: "Preparation | None" = None) -> "Task":
        from .random import seed_key

        begun = time.perf_counter()
        preparation = preparation or self.preparation(cell)
        return preparation.task(seed_key(cell.seed), self.learning_rate, begun)

    def values(self, result: "TrainResult") -> Values:
        """Return one value for each variable of the dataset."""
        return {
            "loss": recorded(result.loss, result.status, np.array(self.record_steps)),
            "initial_loss": result.loss[0],
            "learning_rate": result.learning_rate,
            "steps_taken": result.steps_taken,
            "seconds": result.seconds,
            "method": result.method,
            "status": result.status,
        }


def _hearing(report: Report | None, cell: Cell) -> "Callback | None":
    """Return what tells of one cell's steps."""
    return None if report is None else lambda step, loss: report(cell, step)


def _checked_options(problem: Objective, device: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of `fastdln.train`, each checked at the door."""
    from .engine import plain_regression
    from .kernel_choice import check_kernel
    from .objective import on_inputs
    from .rules import Rule
    from .task import minibatches

    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise TypeError(f"options must be among {', '.join(OPTIONS)}, not {unknown[0]!r}")
    chosen = OPTIONS | dict(options)
    rule = Rule(**{name: chosen[name] for name in RULE_OPTIONS})
    chosen |= dataclasses.asdict(rule)
    minibatches(problem, chosen["batch_size"], key=0)
    objective = on_inputs(problem, whole=not rule.equivariant)
    plain = plain_regression(objective, rule, chosen["batch_size"])
    check_kernel(chosen["kernel"], device, plain, rule.adam)
    chosen["gain"] = check.positive_number("gain", chosen["gain"])
    return chosen


def digest(problem: Objective) -> str:
    """Return the SHA-256 of everything that a problem holds, as hexadecimal digits.

    Its attributes count in the order of their names: arrays with their shapes, numbers and
    text as they are written. What it has computed from them (cached properties) does not.
    """
    found = hashlib.sha256()
    for name, value in sorted(vars(problem).items()):
        if not isinstance(getattr(type(problem), name, None), cached_property):
            found.update(f"{name}={_written(value)};".encode())
    return found.hexdigest()


def _written(value: Any) -> str:
    """Return a text that is the same for equal values in every process."""
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        bits = hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes())
        return f"{array.dtype.name}{array.shape}{bits.hexdigest()}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    if value is None or isinstance(value, bool | int | float | str | np.number):
        return str(value)
    return type(value).__name__  # a repr may hold an address, which differs between processes


class _Memory:
    """Results in memory only."""

    def __init__(self, grid: Grid, attributes: dict[str, Any]):
        self.values = grid.empty()
        self.attributes = {"kind": "fastdln sweep", **attributes}
        self.advice = "no store was given, so nothing is kept; with store=PATH it could go on"

    def write(self, cell: Cell, values: dict[str, Any]) -> None:
        for name, array in self.values.items():
            array[cell.index] = values[name]

    def pending(self, cell: Cell) -> bool:
        return str(self.values["status"][cell.index]) == "pending"

    def close(self) -> None:
        pass


class _Disk(_Memory):
    """Results in memory and, as each cell finishes, in a store."""

    def __init__(self, grid: Grid, attributes: dict[str, Any], store: Any):
        from .store import Store

        super().__init__(grid, attributes)
        self._store = Store(store, grid, attributes)
        self.values = self._store.values()
        self.advice = f"run the same sweep again to continue from {Path(store)}"

    def write(self, cell: Cell, values: dict[str, Any]) -> None:
        self._store.write(cell, values)
        super().write(cell, values)

    def close(self) -> None:
        self._store.close()


def _keeper(grid: Grid, attributes: dict[str, Any], store: Any) -> _Memory:
    return _Memory(grid, attributes) if store is None else _Disk(grid, attributes, store)


def _run(
    keeper: _Memory,
    pool: Threads | Cluster,
    setting: Setting,
    plans: "dict[Cell, Plan]",
    progress: bool,
) -> None:
    """Train the pending cells, the most expensive first, so that none is left to the end alone."""
    from .bundles import bundles

    costs = {c: work(p, setting.steps) for c, p in plans.items() if keeper.pending(c)}
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
                    keeper.write(cell, values)
                    tally.finish(cell, values["steps_taken"])
                tally.watch(pool.running)
                report.show(tally)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped with {tally.finished} of {tally.cells} networks done; {keeper.advice}"
        ) from None


def work(plan: "Plan", steps: int) -> float:
    """Return the cost of a cell in floating-point operations, its initialisation included.

    Drawing a number costs about as much as a hundred operations of a matrix product.
    """
    return plan.flops_per_step * max(steps, 1) + 25.0 * plan.bytes


def _pool(client: Any, workers: Any, setting: Setting) -> Any:
    """Return what trains the cells: threads, a cluster, or a card."""
    if client is None and setting.device != "cpu":
        from .gpu_pool import OneCard

        if workers is not None:
            raise ValueError("workers is for the CPU; a card takes as many networks as fit")
        return OneCard(setting)
    if client is None:
        count = (
            parallel.threads() if workers is None else check.positive_integer("workers", workers)
        )
        return Threads(count)
    if workers is not None:
        raise ValueError("workers is for this process; with a client its workers decide")
    return Cluster(client)


def _require_memory(pool: Any, setting: Setting, plans: "dict[Cell, Plan]", grid: Grid) -> None:
    """Raise MemoryError if the largest networks, trained at the same time, would not fit."""
    from .bundles import bundle_bytes, bundles

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
    if not isinstance(pool, Cluster):
        return  # a card plans its own memory
    for threads, limit in pool.memory():
        if limit:
            needed = sum(sizes[:threads])
            what = f"a cluster worker of {threads} threads"
            memory.require(needed, limit, what, "give its workers fewer threads or more memory")


def _axis(name: str, values: Any, least: int) -> tuple[int, ...]:
    """Return the values of an axis as distinct whole numbers that fit in int64."""
    found = tuple(check.integer(f"every one of {name}", v, least) for v in _listed(name, values))
    if max(found) >= 2**63:
        raise ValueError(f"every one of {name} must be less than 2**63, not {max(found)}")
    return _distinct(name, found)


def _names(name: str, values: Any) -> tuple[str, ...]:
    from .initialization import INITS

    listed = (values,) if isinstance(values, str) else _listed(name, values)
    return _distinct(name, tuple(check.one_of(f"every one of {name}", v, INITS) for v in listed))


def _kept(record_steps: Any, steps: int) -> tuple[int, ...]:
    """Return the steps to keep, increasing and within the run."""
    name = "record_steps"
    found = tuple(check.integer(f"every one of {name}", s, 0) for s in _listed(name, record_steps))
    if list(found) != sorted(set(found)):
        raise ValueError(f"{name} must increase without repetition, not be {list(found)}")
    if found[-1] > steps:
        raise ValueError(f"{name} must be at most steps ({steps}), not {found[-1]}")
    return found


def _listed(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list, not {values!r} of type {type(values).__name__}")
    listed = list(values)
    if not listed:
        raise ValueError(f"{name} must have at least one value")
    return listed


def _distinct(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    repeated = sorted({v for v in values if values.count(v) > 1})
    if repeated:
        raise ValueError(f"{name} must be distinct, but {repeated[0]!r} is given more than once")
    return tuple(values)
