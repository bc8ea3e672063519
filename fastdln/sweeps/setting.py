"""What all networks of a sweep have in common, checked, and how one of them is trained."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdln.objectives.base import Objective, check_objective
from fastdln.sweeps.executors import Bundle, Report
from fastdln.sweeps.fingerprint import digest
from fastdln.sweeps.grid import Cell, Grid, default_record_steps, recorded
from fastdln.utils import validation

if TYPE_CHECKING:
    from fastdln.optim.loop import Callback
    from fastdln.optim.optimizers import Rule
    from fastdln.reduction.plan import Plan
    from fastdln.result import TrainResult
    from fastdln.training.prepared import Preparation, Task

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
        here: bool = True,
    ) -> "Setting":
        """Check the arguments of a sweep and fill in what was left to it.

        A card that is asked for must be in this machine where networks are trained `here`.
        """
        check_objective(problem)
        steps = validation.non_negative_integer("steps", steps)
        device = validation.device(device) if here else validation.device_name(device)
        if learning_rate is not None:
            learning_rate = validation.positive_number("learning_rate", learning_rate)
        return cls(
            problem,
            steps,
            default_record_steps(steps) if record_steps is None else _kept(record_steps, steps),
            validation.float_dtype("float64" if dtype is None else dtype).name,
            learning_rate,
            validation.one_of("method", method, ("auto", "dense", "reduced")),
            device,
            _checked_options(problem, device, options),
        )

    @property
    def rule(self) -> "Rule":
        """The optimiser of all networks."""
        from fastdln.optim.optimizers import Rule

        return Rule(**{name: self.options[name] for name in RULE_OPTIONS})

    def plan(self, cell: Cell) -> "Plan":
        """Return how a cell would be trained, and what that costs."""
        from fastdln.reduction.plan import plan

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

    def attributes(self, grid: Grid, told_apart: bool) -> dict[str, Any]:
        """Return everything that decides the results, under the names of `sweep`'s arguments.

        Raises TypeError where the problem must be `told_apart` from others, but has no digest.
        """
        from importlib.metadata import version

        return {
            "fastdln_version": version("fastdln"),
            "problem": self._problem_name(told_apart),
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

    def _problem_name(self, told_apart: bool) -> str:
        name = f"{type(self.problem).__name__}(d_x={self.problem.d_x}, d_y={self.problem.d_y})"
        try:
            return f"{name} sha256:{digest(self.problem)}"
        except TypeError:
            if told_apart:
                raise
            return name

    @property
    def objective(self) -> Any:
        """The problem on the span of its inputs, as networks see it."""
        from fastdln.objectives.base import reduced_objective

        return reduced_objective(self.problem, whole=not self.rule.equivariant)

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
        from fastdln.backends.cpu.batch import SideBySide, may_go_side_by_side

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
        from fastdln.training.prepared import prepare

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
        from fastdln.rng import seed_key

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
    from fastdln.backends.cpu.cost_model import check_kernel
    from fastdln.backends.cpu.trainer import plain_regression
    from fastdln.objectives.base import reduced_objective
    from fastdln.optim.optimizers import Rule
    from fastdln.training.prepared import minibatches

    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise TypeError(f"options must be among {', '.join(OPTIONS)}, not {unknown[0]!r}")
    chosen = OPTIONS | dict(options)
    rule = Rule(**{name: chosen[name] for name in RULE_OPTIONS})
    chosen |= dataclasses.asdict(rule)
    schedule = minibatches(problem, chosen["batch_size"], key=0)
    chosen["batch_size"] = None if schedule is None else schedule.size
    objective = reduced_objective(problem, whole=not rule.equivariant)
    plain = plain_regression(objective, rule, chosen["batch_size"])
    check_kernel(chosen["kernel"], device, plain, rule.adam)
    chosen["gain"] = validation.positive_number("gain", chosen["gain"])
    return chosen


def _kept(record_steps: Any, steps: int) -> tuple[int, ...]:
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
