"""Batched training on the CPU: one thread trains small networks of one shape, one per SIMD lane.

The bits of a network do not depend on its batch; they are those of training it alone.
"""

import contextlib
import functools
import itertools
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fastdln.backends.cpu.batch_costs import batch_fits, batch_step_seconds
from fastdln.backends.cpu.batch_layers import LaneLayers
from fastdln.backends.cpu.batch_minibatches import MinibatchGradients, Sampled
from fastdln.backends.cpu.cost_model import choose
from fastdln.backends.cpu.packed_chain import chain_layout, oriented_regression
from fastdln.backends.interface import Outcome, Progress, Workload, is_plain_regression
from fastdln.kernels.cpu.batched import (
    BatchedRegression,
    BatchedStep,
    advance_batch,
    descend_batch,
    new_batched_chain,
    new_batched_step,
)
from fastdln.kernels.cpu.batched_momentum import (
    BatchedMomentum,
    advance_batch_with_momentum,
    descend_batch_with_momentum,
    new_batched_momentum,
)
from fastdln.objectives.base import ReducedObjective
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.loop import LossRecord, next_span
from fastdln.optim.optimizers import Optimizer

# Expected seconds of the first span; later ones follow from measured times.
FIRST_SPAN_SECONDS = 0.02
# Small networks are set up by one thread at a time, while others train: two threads at once pass
# the GIL to each other at every short kernel call, and took 17 ms for 64 networks of 10 × 4 where
# one took 13 ms. Networks that take longer than this to draw, in seconds, are set up in parallel.
BRIEF_SECONDS = 1e-3
_setting_up = threading.Lock()


def can_batch(
    widths: tuple[int, ...],
    dtype: np.dtype,
    optimizer: Optimizer,
    objective: ReducedObjective,
    kernel: str,
    minibatches: bool,
) -> bool:
    """Return whether a batch gives networks of these `widths` the bits of training them alone.

    Parameters
    ----------
    widths, dtype, optimizer, objective, kernel
        As in `Workload`.
    minibatches : bool
        Whether gradients are estimated from minibatches.
    """
    if optimizer.adam or not isinstance(objective, ReducedRegression) or kernel == "zigzag":
        return False
    layout = chain_layout(widths, dtype)
    plain = is_plain_regression(objective, optimizer, minibatches)
    chosen = choose(layout, 1, kernel=kernel, plain=plain)
    return batch_fits(layout) and chosen.kernel == "two-pass"


def train_batch(
    workloads: Iterator[tuple[int, Workload]], lanes: int
) -> Iterator[Outcome | Progress]:
    """Train networks of one shape, at most `lanes` at a time.

    Networks may differ in everything but their widths, their dtype, and whether they have momentum
    and minibatches.

    Parameters
    ----------
    workloads : iterator of (int, Workload)
        Indices and workloads for which `can_batch` holds; one is taken whenever a lane is idle.
    lanes : int
        Networks in training at a time, from 1 to the elements of a vector register.

    Yields
    ------
    Progress or Outcome
        After each span of steps, the progress of all networks in training, then the outcome of
        each that has ended. The layers of an outcome are copies.

    Raises
    ------
    ValueError
        If a workload cannot share the batch of the first.
    """
    first = next(workloads, None)
    if first is None:
        return
    batch = _Batch(first[1], lanes)
    waiting, steps = itertools.chain([first], workloads), batch.first_span
    while batch.fill(waiting):
        steps = batch.advance(steps)
        yield batch.progress()
        yield from batch.remove_ended()


class _Running(NamedTuple):
    """A network in training."""

    number: int
    workload: Workload
    record: LossRecord

    @property
    def ended(self) -> bool:
        """Whether no step is left to take."""
        return self.record.finished or self.remaining == 0

    @property
    def remaining(self) -> int:
        """Steps that may still be taken."""
        return self.record.losses.size - 1 - self.record.step


def _kind(workload: Workload) -> tuple[object, ...]:
    """Return the properties that all networks of a batch share."""
    momentum, sampled = workload.optimizer.momentum > 0, workload.schedule is not None
    return workload.widths, workload.dtype, momentum, sampled


class _Batch:
    """The SIMD lanes and the networks in training in them."""

    def __init__(self, example: Workload, most: int):
        layout = chain_layout(example.widths, example.dtype)
        self._kind = _kind(example)
        self._mirrored = example.widths[0] < example.widths[-1]
        self._chain = chain = new_batched_chain(layout)
        momentum = example.optimizer.momentum > 0
        self._step: BatchedStep | BatchedMomentum = (
            new_batched_momentum(layout, chain) if momentum else new_batched_step(layout)
        )
        self._layers = LaneLayers(chain, self._mirrored)
        size = chain.end_to_end().shape
        self._scale, self._target, self._constants = (
            np.zeros(size),
            np.zeros(size),
            np.zeros(size[2]),
        )
        self._objectives: list[ReducedObjective | None] = [None] * chain.lanes
        self._gradients = (
            None if example.schedule is None else MinibatchGradients(chain, self._mirrored)
        )
        self._running: dict[int, _Running] = {}  # by lane
        self._brief = (
            True  # whether networks are set up in less than BRIEF_SECONDS, as far as known
        )
        self._lanes = range(most)
        self.first_span = max(1, int(FIRST_SPAN_SECONDS / batch_step_seconds(layout)))

    def fill(self, workloads: Iterator[tuple[int, Workload]]) -> bool:
        """Give workloads to idle lanes; return whether any network is in training."""
        idle = [lane for lane in self._lanes if lane not in self._running]
        added = []
        with contextlib.ExitStack() as turn:
            if self._brief and idle:
                turn.enter_context(_setting_up)
            for lane, (index, workload) in zip(idle, workloads, strict=False):
                begun = time.perf_counter()
                self._add(lane, index, workload)
                added.append(lane)
                if self._brief and time.perf_counter() - begun > BRIEF_SECONDS:
                    self._brief = False
                    turn.close()
            self._layers.draw()
        if added:
            self._set_gradients()
            losses, _ = self._descend(0)
            for lane in added:
                record = self._running[lane].record
                record.losses[0], record.step = losses[0, lane], 0
        return bool(self._running)

    def advance(self, steps: int) -> int:
        """Take up to `steps` steps, none past a network's end; return the next span's steps."""
        if any(running.ended for running in self._running.values()):
            return steps  # `remove_ended` first: a step would change the ended networks' weights
        most = min(steps, *(running.remaining for running in self._running.values()))
        begun = time.perf_counter()
        losses, taken = self._descend(most)
        seconds = time.perf_counter() - begun
        for lane, (_, _, record) in self._running.items():
            first = record.step + 1
            record.losses[first : first + taken] = losses[1 : taken + 1, lane]
            record.step += taken
        return next_span(steps, taken, seconds)

    def progress(self) -> Progress:
        """Return the step and the loss of every network in training."""
        return {
            index: (record.step, float(record.losses[record.step]))
            for index, _, record in self._running.values()
        }

    def remove_ended(self) -> Iterator[Outcome]:
        """Yield the outcome of every network that has ended; its lane is idle afterwards."""
        for lane in sorted(self._running):
            index, _, record = self._running[lane]
            if not self._running[lane].ended:
                continue
            layer, state = self._layers.read(lane, self._chain.weights), self._optimizer_state(lane)
            self._idle(lane)
            losses = record.losses[: record.step + 1].copy()
            yield Outcome(index, losses, record.status, layer, functools.partial(tuple, state))

    def _optimizer_state(self, lane: int) -> tuple[tuple[np.ndarray, ...], ...]:
        if not isinstance(self._step, BatchedMomentum):
            return ()
        velocity = self._layers.read(lane, self._step.velocity)
        return (tuple(velocity(i) for i in range(len(self._chain.layers))),)

    def _add(self, lane: int, index: int, workload: Workload) -> None:
        if _kind(workload) != self._kind:
            raise ValueError(
                "networks of a batch must have the same widths and dtype, and all or none of them"
                f" momentum and minibatches: {_kind(workload)} does not fit {self._kind}"
            )
        self._layers.write(lane, workload.draw())
        self._set_rates(lane, workload)
        self._set_objective(lane, workload.objective)
        record = LossRecord(
            workload.objective,
            workload.steps,
            workload.tolerance,
            checkpoint=workload.checkpoint,
        )
        self._running[lane] = _Running(index, workload, record)

    def _set_rates(self, lane: int, workload: Workload) -> None:
        """Set the constants of a lane's optimiser, and its state after a checkpoint."""
        rates, optimizer, step = workload.rates, workload.optimizer, self._step
        order = slice(None, None, -1 if self._mirrored else 1)
        step_sizes = rates.step_sizes[order]
        if isinstance(step, BatchedStep):
            step.set_lane(lane, step_sizes, rates.decay_factor)
            return
        decays, momentum = rates.weight_decays[order], optimizer.momentum
        step.set_lane(lane, step_sizes, decays, momentum, optimizer.nesterov)
        for layers in workload.checkpoint.optimizer_state:
            self._layers.load(lane, step.velocity, layers)

    def _set_objective(self, lane: int, objective: ReducedObjective) -> None:
        """Set the data of a lane, where they are not those of the network before."""
        assert isinstance(objective, ReducedRegression)  # as `can_batch` says
        if self._objectives[lane] is objective:
            return
        scale, target = oriented_regression(objective, self._mirrored)
        self._scale[:, :, lane], self._target[:, :, lane] = scale, target
        self._constants[lane] = objective.constant
        self._objectives[lane] = objective

    def _set_gradients(self) -> None:
        """Set the networks that the evaluation of minibatches goes through."""
        if self._gradients is None:
            return
        sampled = {}
        for lane, (_, workload, _) in self._running.items():
            assert isinstance(workload.objective, ReducedRegression)  # as `can_batch` says
            assert workload.schedule is not None  # as in all workloads of the batch
            sampled[lane] = Sampled(workload.objective, workload.schedule)
        self._gradients.set_lanes(sampled)

    def _idle(self, lane: int) -> None:
        """Clear a lane, which then stays as it is: zero weights have zero gradients."""
        for array in (self._chain.weights, self._chain.C):
            array.reshape(-1, self._chain.lanes)[:, lane] = 0
        self._step.clear_lane(lane)
        del self._running[lane]
        self._set_gradients()

    def _descend(self, steps: int) -> tuple[np.ndarray, int]:
        """Take steps until a network ends; return the losses from now on and the step count."""
        lanes = self._chain.lanes
        losses, floors = np.zeros((steps + 1, lanes)), np.full(lanes, -np.inf)
        for lane, (_, _, record) in self._running.items():
            floors[lane] = record.floor
        if self._gradients is not None:
            return losses, self._descend_by_minibatches(self._gradients, losses, floors)
        data = self._scale.reshape(-1), self._target.reshape(-1), self._constants
        problem, step = BatchedRegression(*data, losses, floors), self._step
        if isinstance(step, BatchedStep):
            return losses, descend_batch(self._chain, step, problem)
        return losses, descend_batch_with_momentum(self._chain, step, problem)

    def _descend_by_minibatches(
        self, gradients: MinibatchGradients, losses: np.ndarray, floors: np.ndarray
    ) -> int:
        """Fill `losses` step by step until a network ends; return the steps taken."""
        first = np.zeros(self._chain.lanes, np.int64)
        for lane, (_, _, record) in self._running.items():
            first[lane] = max(record.step, 0)
        self._take_step(updating=False)
        for t in range(len(losses)):
            if t:
                gradients.put_gradients(first + (t - 1), self._step.gradient_factors)
                self._take_step(updating=True)
            gradients.put_losses(losses[t])
            if not (np.isfinite(losses[t]) & (losses[t] > floors)).all():
                break
        return t

    def _take_step(self, updating: bool) -> None:
        step = self._step
        if isinstance(step, BatchedStep):
            advance_batch(self._chain, step, updating)
        else:
            advance_batch_with_momentum(self._chain, step, updating)
