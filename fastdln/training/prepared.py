"""A training run between its arguments and its result: checked and planned, then drawn, trained.

`Preparation` is what runs of different seeds and learning rates have in common, so that many of
them are checked and planned once; `Task` is one of these runs.
"""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastdln import theory
from fastdln.backends.cpu.cost_model import KERNELS, check_kernel
from fastdln.backends.cpu.trainer import Descent, plain_regression
from fastdln.network import Network
from fastdln.objectives.base import reduced_objective
from fastdln.optim.loop import FRESH, Callback, Past, Schedule
from fastdln.optim.optimizers import Rule
from fastdln.reduction.initial_layers import Draw, Start, start_dense, start_drawn, start_restricted
from fastdln.reduction.lifting import Lift, LiftedWeights, layer_shapes
from fastdln.reduction.plan import Plan, plan, plan_network
from fastdln.result import TrainResult
from fastdln.rng import Stream, standard_normal, stream_id
from fastdln.utils import memory, validation

log = logging.getLogger("fastdln")


@dataclass(frozen=True)
class Preparation:
    """All of a run but its seed and its learning rate, checked.

    Attributes
    ----------
    problem, objective : Objective
        As given, and on the span of its inputs.
    plan : Plan
    network : Network or None
        The network to train, where it is not drawn.
    bases : list of ndarray
        Its invariant subspaces; empty where it is trained at full width.
    init, gain
        What a drawn network starts from.
    rule : Rule
    steps : int
    tolerance : float
        Relative loss at or below which the run has converged.
    batch_size : int or None
    device, kernel : str
    resumable : bool
        Whether results keep what `fastdln.resume` goes on from.
    """

    problem: Any
    objective: Any
    plan: Plan
    network: Network | None
    bases: list[np.ndarray]
    init: str
    gain: float
    rule: Rule
    steps: int
    tolerance: float
    batch_size: int | None
    device: str
    kernel: str
    resumable: bool = False

    def task(self, key: int, learning_rate: float | None, begun: float | None = None) -> "Task":
        """Return the run of a seed (its `seed_key`) and a learning rate, its network drawn.

        Its time counts from `begun`, or from now.

        Raises
        ------
        TypeError, ValueError
            For a learning rate out of range.
        MemoryError
            If the network does not fit in what is free now.
        """
        begun = time.perf_counter() if begun is None else begun
        self.require_memory()
        depth = len(self.plan.full_widths) - 1
        rate = learning_rate_or_default(self.problem, learning_rate, depth)
        schedule = minibatches(self.problem, self.batch_size, key)
        return Task(self, rate, schedule, self._start(key), begun)

    def require_memory(self) -> None:
        """Raise MemoryError unless the network fits; a card says so for itself."""
        if self.device == "cpu":
            what = f"training {_described(self.plan)}"
            memory.require(self.plan.bytes, memory.available(), what, "reduce width or depth")

    def _start(self, key: int) -> Start:
        basis = self.objective.basis
        if self.network is None:
            draw = Draw(self.plan.full_widths, self.init, key, self.plan.dtype, self.gain)
            if self.device == "cpu":
                return start_drawn(draw, self.plan, basis)
            from fastdln.backends.gpu.layers import start_on_card

            return start_on_card(self.launcher, draw, self.plan, basis)
        if self.bases:
            return start_restricted(self.network, self.bases, basis)
        return start_dense(iter(self.network.weights), basis)

    @property
    def rows(self) -> np.ndarray:
        """Rows of every layer of the full-width network, which decide its step size."""
        return np.array(self.plan.full_widths[1:], dtype=np.float64)

    @functools.cached_property
    def launcher(self) -> Any:
        """What starts kernels on the card that `device` names."""
        from fastdln.backends.gpu.launcher import launcher_on

        return launcher_on(self.device, self.plan.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "launcher"}

    @property
    def descent(self) -> Callable[..., Any]:
        """What makes a descent on the device; both kinds have the same interface."""
        if self.device == "cpu":
            return functools.partial(Descent, kernel=self.kernel)
        from fastdln.backends.gpu.trainer import Descent as DescentOnCard

        return functools.partial(DescentOnCard, kernel=self.kernel, launcher=self.launcher)


@dataclass(frozen=True)
class Task:
    """One training run whose network has been drawn.

    Attributes
    ----------
    preparation : Preparation
    learning_rate : float
    schedule : callable or None
        From a step to the indices of its minibatch.
    start : Start
        The layers to train; they can be taken once.
    begun : float
        When it began, by `time.perf_counter`.
    past : Past
        What it goes on from.
    before : ndarray
        All losses before; the last is formed again.
    """

    preparation: Preparation
    learning_rate: float
    schedule: Schedule | None
    start: Start
    begun: float
    past: Past = FRESH
    before: np.ndarray = field(default_factory=lambda: np.empty(0))

    def run(self, callback: Callback | None = None) -> TrainResult:
        """Train alone."""
        p, taken = self.preparation, self.past.steps
        schedule = self.schedule
        descent = p.descent(
            self.start.layers, p.plan.widths, p.plan.dtype, p.rows, self.learning_rate, p.rule,
            p.objective, p.steps, p.tolerance,
            None if schedule is None else lambda step: schedule(taken + step), past=self.past,
        )  # fmt: skip
        descent.run(callback and (lambda step, loss: callback(taken + step, loss)))
        losses = descent.losses[: descent.step + 1].copy()  # not a view of all steps allowed
        moments = descent.moments() if p.resumable else ()
        return self.result(losses, descent.status, descent.trained(), moments)

    def result(
        self,
        losses: np.ndarray,
        status: str,
        layer: Callable[[int], np.ndarray],
        moments: tuple[tuple[np.ndarray, ...], ...] = (),
    ) -> TrainResult:
        """Return the result of a run with these losses, whose trained layers `layer` returns."""
        p, losses = self.preparation, np.concatenate([self.before[:-1], losses])
        steps = losses.size - 1
        return TrainResult(
            loss=losses,
            status=status,
            steps_taken=steps,
            seconds=time.perf_counter() - self.begun,
            method=p.plan.method,
            reason=p.plan.reason,
            device=p.device,
            learning_rate=self.learning_rate,
            network=self._lifted(layer, steps),
            state=State.of(self, layer, moments) if p.resumable else None,
        )

    def _lifted(self, layer: Callable[[int], np.ndarray], steps: int) -> Network:
        """Return the trained network at full width, keeping no more than its weights need."""
        p, widths = self.preparation, self.preparation.plan.full_widths
        complement = functools.partial(p.rule.complement, self.learning_rate, steps)
        form = Lift(self.start.origins, layer, complement)
        return Network.trusted(LiftedWeights(layer_shapes(widths), p.plan.dtype, form))


@dataclass(frozen=True)
class State:
    """A run that has ended and may go on.

    Attributes
    ----------
    task : Task
        As it was run.
    layer : callable
        From an index to the layer that was trained.
    moments : tuple of tuple of ndarray
        What its optimiser remembers, as in `Past`.
    """

    task: Task
    layer: Callable[[int], np.ndarray]
    moments: tuple[tuple[np.ndarray, ...], ...]

    @classmethod
    def of(
        cls,
        task: Task,
        layer: Callable[[int], np.ndarray],
        moments: tuple[tuple[np.ndarray, ...], ...],
    ) -> "State":
        """Return the state of a task that was run, without what only its beginning needed."""
        preparation = dataclasses.replace(task.preparation, network=None, bases=[])
        spent = dataclasses.replace(
            task,
            preparation=preparation,
            start=Start((), task.start.origins),
            past=FRESH,
            before=np.empty(0),
        )
        return cls(spent, layer, moments)

    def going_on(self, losses: np.ndarray, seconds: float, steps: int) -> Task:
        """Return the run of `steps` more steps, after so many losses and seconds.

        Raises
        ------
        MemoryError
            If the network does not fit in what is free now.
        """
        preparation = dataclasses.replace(self.task.preparation, steps=steps)
        preparation.require_memory()
        layers = (self.layer(i) for i in range(len(preparation.plan.full_widths) - 1))
        return dataclasses.replace(
            self.task,
            preparation=preparation,
            start=Start(layers, self.task.start.origins),
            begun=time.perf_counter() - seconds,
            past=Past(losses.size - 1, self.moments, float(losses[0])),
            before=losses,
        )


def prepare(
    problem: Any,
    *,
    width: Any = None,
    depth: int | None = None,
    init: str | None = None,
    gain: float | None = None,
    steps: int = 10_000,
    optimizer: str = "gd",
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    batch_size: int | None = None,
    dtype: Any = None,
    device: str = "cpu",
    method: str = "auto",
    kernel: str = "auto",
    network: Network | None = None,
    rank_tolerance: float | None = None,
    tolerance: float | None = None,
    resumable: bool = False,
) -> Preparation:
    """Check the arguments of `fastdln.train` and plan the run; raises as it does."""
    validation.one_of("kernel", kernel, KERNELS)  # before anything slow
    rule = Rule(optimizer, momentum, nesterov, weight_decay)
    device = validation.device(device)
    steps = validation.non_negative_integer("steps", steps)
    bases: list[np.ndarray] = []
    given_init, scale = init, 1.0
    init = "orthogonal" if init is None else init
    if network is None:
        if rank_tolerance is not None:
            raise ValueError("rank_tolerance is for a given network; it must be left out")
        scale = validation.positive_number("gain", 1.0 if gain is None else gain)
        chosen = plan(
            problem, width=width, depth=depth, init=init,
            dtype="float64" if dtype is None else dtype, method=method, rule=rule,
        )  # fmt: skip
    else:
        if any(value is not None for value in (width, depth, given_init, gain)):
            raise ValueError(
                "width, depth, init and gain must be left out where a network is given"
            )
        chosen, bases = plan_network(
            problem, network, dtype=dtype, method=method, rule=rule, tolerance=rank_tolerance
        )
    floor = relative_floor(tolerance, chosen.dtype)
    minibatches(problem, batch_size, key=0)  # only to check it
    log.info("%s: %s", chosen.method, chosen.reason)
    objective = reduced_objective(problem, whole=not rule.equivariant)
    check_kernel(kernel, device, plain_regression(objective, rule, batch_size), rule.adam)
    return Preparation(
        problem, objective, chosen, network, bases, init, scale, rule, steps, floor, batch_size,
        device, kernel, bool(resumable),
    )  # fmt: skip


def _described(chosen: Plan) -> str:
    hidden = chosen.full_widths[1:-1]
    return f"a network of depth {len(hidden) + 1} and width {max(hidden, default=0)}"


def learning_rate_or_default(problem: Any, learning_rate: float | None, depth: int) -> float:
    """Return the η given, checked, or the theorem's largest."""
    if learning_rate is None:
        return theory.learning_rate(problem, depth)
    return validation.positive_number("learning_rate", learning_rate)


def relative_floor(tolerance: float | None, dtype: np.dtype) -> float:
    """Return the relative loss at which a run of this dtype has converged."""
    if tolerance is None:
        return float((10 * np.finfo(dtype).eps) ** 2)
    tolerance = validation.non_negative_number("tolerance", tolerance)
    if tolerance >= 1:
        raise ValueError(f"tolerance must be less than 1, not {tolerance}")
    return tolerance


def minibatches(problem: Any, batch_size: int | None, key: int) -> "Minibatches | None":
    """Return the seeded schedule of minibatches: from a step to the indices of its samples.

    The permutation of an epoch orders normals of a stream of its own, so that it is the same in
    every version and any step's batch can be found without those before it.
    """
    if batch_size is None:
        return None
    size = validation.positive_integer("batch_size", batch_size)
    for name in ("batch_gradient", "n"):
        if not hasattr(problem, name):
            raise TypeError(
                f"a {type(problem).__name__} has no {name}, so batch_size must be left out"
            )
    if size > problem.n:
        raise ValueError(f"batch_size must be at most the {problem.n} samples, not {size}")
    return Minibatches(problem.n, size, key)


@dataclass(frozen=True)
class Minibatches:
    """The samples of every step: parts of a permutation drawn for each epoch.

    Attributes
    ----------
    n, size : int
        Samples in all, and of a step.
    key : int
    """

    n: int
    size: int
    key: int

    def __call__(self, step: int) -> np.ndarray:
        """Return the indices of a step's samples."""
        epoch, part = divmod(step, self.n // self.size)
        return self._order(epoch)[part * self.size : (part + 1) * self.size]

    def _order(self, epoch: int) -> np.ndarray:
        """Return an epoch's permutation; the last one is kept, for its other steps."""
        known: tuple[int, np.ndarray] | None = vars(self).get("_last")
        if known is None or known[0] != epoch:
            normals = standard_normal(self.key, stream_id(Stream.MINIBATCH, epoch), (self.n,))
            known = epoch, np.argsort(normals, kind="stable")
            object.__setattr__(self, "_last", known)
        return known[1]
