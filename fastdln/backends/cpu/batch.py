"""Batched training on the CPU: one thread trains small networks of one shape, one per SIMD lane.

The bits of a network do not depend on its batch; they are those of training it alone.
"""

import itertools
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fastdln.backends.cpu.batch_costs import batch_fits
from fastdln.backends.cpu.cost_model import choose
from fastdln.backends.cpu.packed_chain import chain_layout, oriented_regression
from fastdln.backends.interface import (
    Outcome,
    Progress,
    Workload,
    is_plain_regression,
    write_layer,
)
from fastdln.kernels.cpu.batched import BatchedStep, descend_batch, new_batched_chain
from fastdln.kernels.cpu.groups import Regression
from fastdln.objectives.base import ReducedObjective
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.loop import LossRecord, next_span
from fastdln.optim.optimizers import Optimizer


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
    if not is_plain_regression(objective, optimizer, minibatches):
        return False
    layout = chain_layout(widths, dtype)
    return batch_fits(layout) and choose(layout, 1, kernel=kernel).kernel == "two-pass"


def train_batch(
    workloads: Iterator[tuple[int, Workload]], lanes: int
) -> Iterator[Outcome | Progress]:
    """Train networks of one shape on one regression, at most `lanes` at a time.

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
    """
    first = next(workloads, None)
    if first is None:
        return
    batch = _Batch(first[1], lanes)
    waiting, steps = itertools.chain([first], workloads), 1
    while batch.fill(waiting):
        steps = batch.advance(steps)
        yield batch.progress()
        yield from batch.remove_ended()


class _Running(NamedTuple):
    """A network in training."""

    number: int
    record: LossRecord

    @property
    def ended(self) -> bool:
        """Whether no step is left to take."""
        return self.record.finished or self.remaining == 0

    @property
    def remaining(self) -> int:
        """Steps that may still be taken."""
        return self.record.losses.size - 1 - self.record.step


class _Batch:
    """The SIMD lanes and the networks in training in them."""

    def __init__(self, example: Workload, most: int):
        layout = chain_layout(example.widths, example.dtype)
        self._mirrored = example.widths[0] < example.widths[-1]
        self._chain = new_batched_chain(layout)
        lanes = self._chain.sums.size
        self._step = BatchedStep(
            np.zeros((layout.depth, lanes), layout.dtype), np.ones(lanes, layout.dtype)
        )
        assert isinstance(example.objective, ReducedRegression)  # as `can_batch` says
        scale, target = oriented_regression(example.objective, self._mirrored)
        self._problem = scale, target, example.objective.constant
        self._running: dict[int, _Running] = {}  # by lane
        self._lanes = range(most)

    def fill(self, workloads: Iterator[tuple[int, Workload]]) -> bool:
        """Give workloads to idle lanes; return whether any network is in training."""
        idle = [lane for lane in self._lanes if lane not in self._running]
        added = []
        for lane, (index, workload) in zip(idle, workloads, strict=False):
            self._add(lane, index, workload)
            added.append(lane)
        if added:
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
        for lane, (_, record) in self._running.items():
            first = record.step + 1
            record.losses[first : first + taken] = losses[1 : taken + 1, lane]
            record.step += taken
        return next_span(steps, taken, seconds)

    def progress(self) -> Progress:
        """Return the step and the loss of every network in training."""
        return {
            index: (record.step, float(record.losses[record.step]))
            for index, record in self._running.values()
        }

    def remove_ended(self) -> Iterator[Outcome]:
        """Yield the outcome of every network that has ended; its lane is idle afterwards."""
        for lane in sorted(self._running):
            index, record = self._running[lane]
            if not self._running[lane].ended:
                continue
            layers = [self._layer(lane, i).copy() for i in range(len(self._chain.layers))]
            self._idle(lane)
            losses = record.losses[: record.step + 1].copy()
            yield Outcome(index, losses, record.status, layers.__getitem__, tuple)

    def _add(self, lane: int, index: int, workload: Workload) -> None:
        for i, layer in enumerate(workload.draw()):
            write_layer(layer, self._layer(lane, i))
        rates = workload.rates
        step_sizes = rates.step_sizes[::-1] if self._mirrored else rates.step_sizes
        self._step.step_sizes[:, lane], self._step.decay[lane] = step_sizes, rates.decay_factor
        record = LossRecord(
            workload.objective,
            workload.steps,
            workload.tolerance,
            checkpoint=workload.checkpoint,
        )
        self._running[lane] = _Running(index, record)

    def _idle(self, lane: int) -> None:
        """Clear a lane's weights and step sizes: zero weights have zero gradients."""
        self._chain.weights.reshape(-1, self._step.decay.size)[:, lane] = 0
        self._step.step_sizes[:, lane], self._step.decay[lane] = 0, 1
        del self._running[lane]

    def _layer(self, lane: int, index: int) -> np.ndarray:
        """Return layer `index`, input first, of one network as a view."""
        if self._mirrored:
            return self._chain.layer(len(self._chain.layers) - 1 - index)[:, :, lane].T
        return self._chain.layer(index)[:, :, lane]

    def _descend(self, steps: int) -> tuple[np.ndarray, int]:
        """Take steps until a network ends; return the losses from now on and the step count."""
        lanes = self._step.decay.size
        losses, floors = np.empty((steps + 1, lanes)), np.full(lanes, -np.inf)
        for lane, (_, record) in self._running.items():
            floors[lane] = record.floor
        regression = Regression(*self._problem, losses)
        return losses, descend_batch(self._chain, self._step, regression, floors)
