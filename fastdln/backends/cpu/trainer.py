"""Training of one network on the CPU, by one thread or a team of threads."""

import logging
import math
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np

from fastdln.backends.cpu import kept_choices
from fastdln.backends.cpu.cost_model import ALONE, Choice, choose
from fastdln.backends.cpu.optimizer_state import OptimizerState
from fastdln.backends.cpu.pacing import TeamPacing
from fastdln.backends.cpu.packed_chain import PackedChain
from fastdln.backends.cpu.steppers import ObjectiveStepper, RegressionStepper, Stepper
from fastdln.backends.cpu.thread_pool import helpers
from fastdln.backends.interface import Workload
from fastdln.backends.recorded import RecordedTrainer
from fastdln.backends.view import TrainingView
from fastdln.objectives.regression import ReducedRegression
from fastdln.utils import threads
from fastdln.utils.stopwatch import Stopwatch

log = logging.getLogger("fastdln")


class CpuTrainer(RecordedTrainer):
    """One network in training on the CPU; a `fastdln.backends.interface.Trainer`.

    Parameters
    ----------
    workload : Workload
    choice : Choice, optional
        Kernel and team; by default the cost model's choice.
    pacing : TeamPacing, optional
        Steps and team of every span; by default chosen from measured times.

    Attributes
    ----------
    kernel : {"two-pass", "zigzag"}
    reason : str
        Explanation of the choice of kernel and team.

    Raises
    ------
    ValueError
        For a kernel that cannot train this workload; see `fastdln.backends.cpu.cost_model`.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        choice: Choice | None = None,
        pacing: TeamPacing | None = None,
    ):
        self._objective, self._depth = workload.objective, workload.depth
        super().__init__(workload)
        self._chain = PackedChain(workload.draw(), workload.widths, workload.dtype)
        layout = self._chain.layout
        most, by_now = threads.allowance()
        if choice is None:
            choice = choose(layout, most, kernel=workload.kernel, plain=workload.plain)
        self.kernel, self.reason = choice.kernel, choice.reason
        log.debug("kernel: %s", choice.reason)
        largest = max(team.size for team in choice.teams)
        in_one_call = _in_one_call(workload)
        self._case = _case(workload, choice.kernel, largest, in_one_call)
        if pacing is None:
            kept = kept_choices.load(self._case) if len(choice.teams) > 1 else {}
            pacing = TeamPacing(choice.teams, kept, most=by_now, even=choice.kernel == "zigzag")
        self._pacing = pacing
        self._state = OptimizerState(workload.optimizer, workload.rates, self._chain, largest)
        self._state.load(workload.checkpoint.optimizer_state)
        self._stepper = self._new_stepper(workload, choice, largest, in_one_call)

    def _new_stepper(
        self, workload: Workload, choice: Choice, largest: int, in_one_call: bool
    ) -> Stepper:
        chain, state, record, pool = self._chain, self._state, self._record, helpers()
        if in_one_call:
            assert isinstance(workload.objective, ReducedRegression)
            regression, kernel, teams = workload.objective, choice.kernel, tuple(choice.teams)
            return RegressionStepper(chain, state, regression, record, kernel, teams, pool)
        return ObjectiveStepper(chain, state, record, workload.checkpoint.steps, largest, pool)

    def advance(self, goal: int) -> None:
        """Take steps to number `goal`, or fewer: for about 0.2 s, or until the run is finished.

        ``advance(0)`` evaluates the loss before any step.
        """
        record = self._record
        if record.step < 0:
            self._stepper.advance(0, ALONE, math.inf)
        if record.step >= goal or record.finished:
            return
        first = record.step
        team, steps, patience = self._pacing.next_span(goal - first)
        watch = Stopwatch()
        late = self._stepper.advance(first + steps, team, patience)
        self._pacing.record(team, record.step - first, watch.read()[0], late)

    def optimizer_state(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """Return copies of the optimiser's arrays, as in `Checkpoint`."""
        return self._state.copies()

    def view(self) -> TrainingView:
        """Return a read-only view of the network at this step, valid until the next `advance`.

        Where the zigzag kernel has deferred an update, the view holds an updated copy.
        """
        weights, step = self._stepper.weights(), self.step
        return TrainingView(
            step,
            float(self.losses[step]),
            self._depth,
            lambda index: self._chain.part(weights, index),
            self._objective,
        )

    def trained_layers(self) -> Callable[[int], np.ndarray]:
        """End the training; return a function from an index to that trained layer.

        All buffers but the weights and the optimiser's arrays are freed.
        """
        del self._stepper
        self._chain.release()
        return self._chain.layer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Also of a run that a callback has stopped. The threads of teams are the process's helpers.
        kept_choices.save(self._case, self._pacing.measured)


def _in_one_call(workload: Workload) -> bool:
    """Return whether a kernel can take many steps of this workload in one call."""
    one_by_one = workload.optimizer.adam or workload.schedule is not None
    return isinstance(workload.objective, ReducedRegression) and not one_by_one


def _case(workload: Workload, kernel: str, largest: int, in_one_call: bool) -> kept_choices.Case:
    """Return the case under which the times of this workload's teams are kept."""
    optimizer = "adam" if workload.optimizer.adam else "gd"
    if workload.optimizer.momentum:
        optimizer = "momentum"
    if not in_one_call:
        optimizer += ", step by step"
    return kept_choices.Case(workload.widths, workload.dtype.name, kernel, optimizer, largest)
