"""Batched training on the GPU: networks grouped by width, deepest first, within free memory."""

import functools
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from fastdln.backends.interface import Outcome, Progress, Workload
from fastdln.kernels.cuda.packing import Packing
from fastdln.kernels.cuda.team import Team
from fastdln.kernels.cuda.zigzag import Batch, batch_bytes, to_host
from fastdln.objectives.base import ReducedObjective
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.loop import status_of
from fastdln.optim.optimizers import Optimizer

from .cost_model import class_of, common_team, is_carried
from .haar import drawing_bytes
from .launcher import Launcher
from .loading import (
    allocation_failed,
    load_layers,
    minibatch_samples,
    motion_of,
    regression_problem,
    require_memory,
)
from .pacing import MAX_INDICES, LaunchPacer

log = logging.getLogger("fastdln")

# Fraction of the GPU's free memory that a batch may use; the rest allows for fragmentation.
MEMORY_SHARE = 0.9


def can_batch(
    launcher: Launcher,
    widths: tuple[int, ...],
    objective: ReducedObjective,
    optimizer: Optimizer,
    kernel: str,
) -> bool:
    """Return whether networks with this objective and optimiser can be trained in a batch.

    Batches support gradient descent, with or without momentum, on a regression with few inputs and
    outputs.
    """
    regression = isinstance(objective, ReducedRegression)
    return (
        kernel != "two-pass" and regression and _batch_team(launcher, widths, optimizer) is not None
    )


def train_batch(
    launcher: Launcher, workloads: Sequence[Workload], max_indices: int = MAX_INDICES
) -> Iterator[Outcome | Progress]:
    """Train workloads on one regression by gradient descent; yield each as it finishes.

    The bits of a network depend on its class of widths and on the GPU, but not on the other
    workloads.

    Parameters
    ----------
    launcher : Launcher
        Launcher for the GPU, which is current, and for the workloads' dtype.
    workloads : sequence of Workload
        Workloads for which `can_batch` holds. All share objective, optimiser, steps, tolerance,
        number of inputs and of outputs, and minibatch size (or full batch).
    max_indices : int
        Maximum number of minibatch indices per launch.

    Yields
    ------
    Outcome, or about every 0.2 s Progress
        Training continues when the next item is requested, and ends when the iterator is closed.

    Raises
    ------
    MemoryError
        If a single network does not fit on the GPU; the message names the bytes.
    ValueError
        If a network cannot be trained in a batch.
    """
    for members in _width_classes(workloads):
        yield from _WidthClass(launcher, workloads, members, max_indices).train()


def _batch_team(launcher: Launcher, widths: tuple[int, ...], optimizer: Optimizer) -> Team | None:
    """Return the team of a network in a batch; None if the network cannot be batched."""
    width_class = class_of(max(widths))
    if not (optimizer.equivariant and width_class and is_carried(widths)):
        return None
    ends, momentum = (widths[0], widths[-1]), optimizer.momentum > 0
    return common_team(width_class, ends, launcher.dtype.name, momentum, launcher.device)


def _width_classes(workloads: Sequence[Workload]) -> list[list[int]]:
    """Return, for each class of widths, the indices of its workloads, longest first.

    Order by depth, then by width: layers are updated one after the other.
    """
    classes: dict[int, list[int]] = {}
    for i, workload in enumerate(workloads):
        classes.setdefault(class_of(max(workload.widths)), []).append(i)
    for members in classes.values():
        members.sort(key=lambda i: (-workloads[i].depth, -_weights(workloads[i])))
    return [classes[k] for k in sorted(classes, reverse=True)]


def _weights(workload: Workload) -> int:
    return sum(a * b for a, b in zip(workload.widths, workload.widths[1:], strict=False))


class _WidthClass:
    """The workloads of one class of widths, trained in successive batches."""

    def __init__(
        self,
        launcher: Launcher,
        workloads: Sequence[Workload],
        members: Sequence[int],
        max_indices: int,
    ):
        self._launcher, self._workloads, self._waiting = launcher, workloads, list(members)
        self._max_indices = max_indices
        common = workloads[members[0]]
        team = _batch_team(launcher, common.widths, common.optimizer)
        if team is None or not isinstance(common.objective, ReducedRegression):
            raise ValueError(f"networks of widths {common.widths} are trained one by one on a GPU")
        self._common, self._objective, self._team = common, common.objective, team
        self._samples = minibatch_samples(self._objective, workloads)

    def train(self) -> Iterator[Outcome | Progress]:
        """Train all workloads, in batches as large as free memory allows."""
        most, reported = len(self._waiting), False
        while self._waiting:
            packing = self._fitting(most)
            taken = self._waiting[: len(packing.widths)]
            if len(taken) < min(most, len(self._waiting)) and not reported:
                reported = True
                log.info(
                    "%s holds %d of %d networks at once",
                    *(self._launcher.device, len(taken), len(self._waiting)),
                )
            try:
                batch = self._loaded(packing, taken)
            except self._launcher.out_of_memory() as error:
                if len(taken) == 1:
                    widths = self._workloads[taken[0]].widths
                    raise allocation_failed(self._launcher, widths) from error
                most = len(taken) // 2
                log.warning(
                    "%s ran out of memory with %d networks at once; going on with %d",
                    *(self._launcher.device, len(taken), most),
                )
                continue
            yield from self._finish(batch, taken)
            self._waiting = self._waiting[len(taken) :]
            del batch  # free its memory before planning the next batch

    def _fitting(self, most: int) -> Packing:
        """Return the packing of the first waiting workloads, at most `most`, that fit in memory."""
        launcher, common = self._launcher, self._common
        members = self._waiting[:most]
        all_widths = [self._workloads[i].widths for i in members]
        drawing = max(drawing_bytes(widths, launcher.dtype) for widths in all_widths)
        samples = self._samples
        shared = 0 if samples is None else samples.rows.nbytes + 4 * self._max_indices
        count = len(members)
        while True:
            packing = Packing(all_widths[:count], launcher.dtype)
            momentum = common.optimizer.momentum > 0
            needed = batch_bytes(packing, self._team, momentum, common.steps) + shared
            if count == 1:
                require_memory(launcher, packing.widths[0], needed)
                return packing
            fraction = launcher.free_bytes() * MEMORY_SHARE / (needed + drawing)
            if fraction >= 1:
                return packing
            count = min(count - 1, max(1, int(fraction * count)))

    def _loaded(self, packing: Packing, members: Sequence[int]) -> Batch:
        """Return the batch of the workloads `members`, with their layers drawn."""
        common, workloads = self._common, [self._workloads[i] for i in members]
        batch = Batch(
            self._launcher.xp,
            packing,
            [motion_of(workload) for workload in workloads],
            steps=common.steps,
            tolerance=common.tolerance,
            problems=[regression_problem(self._objective)],
            team=self._team,
            nesterov=common.optimizer.nesterov,
            samples=self._samples,
        )
        for i, workload in enumerate(workloads):
            load_layers(self._launcher, workload.draw(), functools.partial(batch.layer, i))
        return batch

    def _finish(self, batch: Batch, members: Sequence[int]) -> Iterator[Outcome | Progress]:
        """Advance the networks of a batch until all have ended; yield each outcome as it ends."""
        schedules = [self._workloads[i].schedule for i in members]
        pacer = LaunchPacer(self._launcher, batch, schedules, self._max_indices)
        waiting = np.arange(len(members))
        while waiting.size:
            active = waiting[: pacer.at_once]
            batch.advance(self._launcher.zigzag, active, *pacer.plan(active))
            steps = pacer.finish(active)[active]
            last, first = batch.losses_at(active, steps), batch.losses_at(active, 0 * steps)
            yield {
                members[i]: (int(step), float(loss))
                for i, step, loss in zip(active, steps, last, strict=True)
            }
            ended = []
            for i, step, loss, start in zip(active, steps, last, first, strict=True):
                status = status_of(loss, self._common.tolerance * start)
                if step == batch.limit or status != "completed":
                    ended.append(i)
                    yield _outcome(batch, int(i), members[i], int(step), status)
            waiting = np.setdiff1d(waiting, ended)


def _outcome(batch: Batch, number: int, index: int, step: int, status: str) -> Outcome:
    """Return the outcome of network `number` of a batch, which is workload number `index`.

    The outcome has a weak reference to the batch: keeping it does not keep GPU memory.
    """
    reference, depth = weakref.ref(batch), batch.packing.depth(number)

    def layer(i: int) -> np.ndarray:
        return to_host(_referenced(reference).layer(number, i))

    def optimizer_state() -> tuple[tuple[np.ndarray, ...], ...]:
        held = _referenced(reference)
        if not held.velocity_kept:
            return ()
        return (tuple(to_host(held.velocity_of(number, i)) for i in range(depth)),)

    return Outcome(index, batch.recorded(number, step), status, layer, optimizer_state)


def _referenced(reference: Callable[[], Batch | None]) -> Batch:
    batch = reference()
    if batch is None:
        raise RuntimeError("an outcome can be read until the next outcome is asked for")
    return batch
