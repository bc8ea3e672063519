"""The training runs of a sweep's cells: a shared problem and options, and each cell's axes."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdln.config import TrainConfig
from fastdln.objectives.base import Objective, ReducedObjective, check_objective, reduced_objective
from fastdln.sweeps.executors import CellBatch, CellCallback
from fastdln.sweeps.fingerprint import digest
from fastdln.sweeps.grid import Cell, Grid, default_record_steps, recorded
from fastdln.utils import validation
from fastdln.utils.stopwatch import Stopwatch

if TYPE_CHECKING:  # imports Numba, which figures and the command line must not load
    from fastdln.reduction.plan import Plan
    from fastdln.result import TrainResult
    from fastdln.training.prepared import PreparedRun
    from fastdln.training.run import Run

# One value for each variable of a dataset.
Values = dict[str, Any]

# The attribute `learning_rate` of a dataset where none was given.
LARGEST = "largest of Theorem 4.1"
# The order in which the first version wrote attributes, so that its stores stay the same files.
FIRST_ATTRIBUTES = (
    "steps",
    "record_steps",
    "learning_rate",
    "dtype",
    "method",
    "device",
    "optimizer",
    "momentum",
    "nesterov",
    "weight_decay",
    "batch_size",
    "gain",
    "kernel",
)


@dataclass(frozen=True)
class CellRuns:
    """The problem and options that all runs of a sweep share.

    Attributes
    ----------
    problem : Objective
    config : TrainConfig
        The options that all cells share.
    record_steps : tuple of int
        Steps whose loss is kept.
    """

    problem: Objective
    config: TrainConfig
    record_steps: tuple[int, ...]

    @classmethod
    def of(
        cls, problem: Objective, config: TrainConfig, record_steps: Iterable[int] | None = None
    ) -> "CellRuns":
        """Check the options of a sweep against its problem; fill in the recorded steps.

        Raises
        ------
        TypeError, ValueError
            For options out of range.
        """
        from fastdln.optim.minibatches import minibatches

        check_objective(problem)
        minibatches(problem, config.batch_size, key=0)  # only to check the size
        steps = (
            default_record_steps(config.steps)
            if record_steps is None
            else _checked_steps(record_steps, config.steps)
        )
        return cls(problem, config, steps)

    @property
    def objective(self) -> ReducedObjective:
        """The problem on the span of its inputs, as networks see it."""
        from fastdln.optim.optimizers import Optimizer

        return reduced_objective(self.problem, whole=not Optimizer.of(self.config).equivariant)

    def config_of(self, cell: Cell) -> TrainConfig:
        """Return all options of one cell."""
        return dataclasses.replace(
            self.config, init=cell.init, width=cell.width, depth=cell.depth, seed=cell.seed
        )

    def plans(self, cells: Iterable[Cell]) -> "dict[Cell, Plan]":
        """Return the plan of every cell; cells that differ only in their seed share one."""
        from fastdln.training.prepared import planned_draw

        known: dict[tuple[str, int, int], Plan] = {}
        found = {}
        for cell in cells:
            key = cell.init, cell.width, cell.depth
            if key not in known:
                known[key] = planned_draw(self.problem, self.config_of(cell))
            found[cell] = known[key]
        return found

    def prepared(self, cell: Cell) -> "PreparedRun":
        """Return the run of a cell, checked and planned."""
        from fastdln.training.prepared import prepare

        return prepare(self.problem, self.config_of(cell))

    def run(self, cell: Cell, prepared: "PreparedRun | None" = None) -> "Run":
        """Return the run of a cell, ready to be trained; its time counts from now."""
        from fastdln.rng import seed_key
        from fastdln.training.run import Run

        watch, rate = Stopwatch(), self.config.learning_rate
        prepared = self.prepared(cell) if prepared is None else prepared
        return Run.of(prepared, seed_key(cell.seed), rate, watch)

    def train(
        self, batch: CellBatch, report: CellCallback | None = None
    ) -> Iterator[tuple[Cell, Values]]:
        """Train cells, several in SIMD lanes, and yield the values of each as it ends."""
        from fastdln.kernels.cpu.tiles import lanes
        from fastdln.training.batched import can_batch_on_cpu, train_on_cpu

        example = self.prepared(batch[0])
        # A worker of a cluster may have narrower vectors than the machine that made the batch.
        if len(batch) == 1 or not can_batch_on_cpu(example):
            for cell in batch:
                callback = None if report is None else _cell_callback(report, cell)
                run = self.run(cell, example if cell == batch[0] else None)
                yield cell, self.values(run.train(callback))
            return
        most = min(len(batch), lanes(example.plan.dtype))
        for found in train_on_cpu(enumerate(map(self.run, batch)), most):
            if isinstance(found, tuple):
                index, result = found
                yield batch[index], self.values(result)
            elif report is not None:
                for index, (step, _) in found.items():
                    report(batch[index], step)

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

    def attributes(self, grid: Grid, needs_fingerprint: bool) -> dict[str, Any]:
        """Return everything that decides the results, under the names of `sweep`'s arguments.

        Raises
        ------
        TypeError
            If a problem has no fingerprint, but needs one to be recognised.
        """
        from importlib.metadata import version

        found = self.config.record()
        if found["learning_rate"] is None:
            found["learning_rate"] = LARGEST
        found["record_steps"] = list(self.record_steps)
        found["device"] = self.config.device.partition(":")[0]  # a sweep may continue on any GPU
        return {
            "fastdln_version": version("fastdln"),
            "problem": _problem_name(self.problem, needs_fingerprint),
            "widths": list(grid.width),
            "depths": list(grid.depth),
            "inits": list(grid.init),
            "seeds": list(grid.seed),
            **{name: found[name] for name in sorted(found, key=_place)},
        }


def _place(name: str) -> int:
    """Return the place of an attribute in a store: that of the first version, or after those."""
    return FIRST_ATTRIBUTES.index(name) if name in FIRST_ATTRIBUTES else len(FIRST_ATTRIBUTES)


def _cell_callback(report: CellCallback, cell: Cell) -> Any:
    """Return the callback of one cell's run."""
    return lambda step, loss: report(cell, step)


def _problem_name(problem: Objective, needs_fingerprint: bool) -> str:
    name = f"{type(problem).__name__}(d_x={problem.d_x}, d_y={problem.d_y})"
    try:
        return f"{name} sha256:{digest(problem)}"
    except TypeError:
        if needs_fingerprint:
            raise
        return name


def _checked_steps(record_steps: Iterable[int], steps: int) -> tuple[int, ...]:
    """Return the steps to keep, increasing and within the run."""
    name = "record_steps"
    found = tuple(
        validation.integer(f"every one of {name}", s, 0)
        for s in validation.listed(name, record_steps)
    )
    if list(found) != sorted(set(found)):
        raise ValueError(f"{name} must increase without repetition, not be {list(found)}")
    if found[-1] > steps:
        raise ValueError(f"{name} must be at most steps ({steps}), not {found[-1]}")
    return found
