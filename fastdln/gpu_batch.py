"""Many networks on one card at once: packed by width, longest first, as many as memory holds."""

import logging
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdln.kernels.cuda.batch import (
    Batch,
    Motion,
    Problem,
    Team,
    batch_bytes,
    kernel_constants,
    shared_bytes,
)
from fastdln.kernels.cuda.packing import Packing

from . import memory
from .gpu_teams import choose_team
from .regression import ReducedRegression
from .rules import Rule
from .run import status_of
from .start import whole

log = logging.getLogger("fastdln")

Progress = dict[int, int]

# Seconds between returns to Python: Ctrl-C and progress wait at most about this long.
PIECE_SECONDS = 0.2
# Share of the card's free memory that a batch may plan to take: the rest is for the pool's gaps.
MEMORY_SHARE = 0.9
# Widths that share a launch: a block's shared memory is that of the widest beside it.
CLASSES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes
    ----------
    widths : tuple of int
        ``(d, m_1, …, m_{L-1}, q)`` of the network that is trained.
    rows : ndarray, shape (depth,)
        Rows of every layer of the full-width network, which decide its step size.
    learning_rate : float
    draw : callable
        Returns the layers, input first; called when the network's turn comes.
    """

    widths: tuple[int, ...]
    rows: np.ndarray
    learning_rate: float
    draw: Callable[[], Any]


@dataclass(frozen=True)
class Outcome:
    """What became of job number `index`.

    Attributes
    ----------
    index : int
    loss : ndarray of float64, shape (steps_taken + 1,)
    status : {"completed", "converged", "diverged"}
    layers : callable
        From an index to that trained layer as a NumPy array; valid until the next outcome.
    """

    index: int
    loss: np.ndarray
    status: str
    layers: Callable[[int], np.ndarray]


def motion(job: Job, rule: Rule) -> Motion:
    """Return how a job's weights move, as `fastdln.rules.Moving` does on the CPU."""
    return Motion(
        job.learning_rate / job.rows,
        rule.weight_decay * job.rows,
        1 - job.learning_rate * rule.weight_decay,
        rule.momentum,
    )


def regression_problem(objective: ReducedRegression) -> Problem:
    """Return a reduced regression as the kernels take it."""
    scale = np.broadcast_to(objective.scale, objective.target.shape)
    return Problem(np.ascontiguousarray(scale), objective.target, objective.constant)


def train_many(
    launcher: Any,
    jobs: Sequence[Job],
    rule: Rule,
    objective: ReducedRegression,
    steps: int,
    tolerance: float,
) -> Iterator[Outcome | Progress]:
    """Train every job on one regression by gradient descent; yield each as it finishes.

    Parameters
    ----------
    launcher : Launcher
        Of the card and the dtype.
    jobs : sequence of Job
        All from as many inputs to as many outputs, each at most 32.
    rule : Rule
        Not Adam.
    steps, tolerance
        As for `fastdln.engine.Descent`.

    Yields
    ------
    Outcome, or about every 0.2 s a dict from the jobs in work to the step each has reached
        Training goes on when the next one is asked for, and ends where none is.

    Raises
    ------
    MemoryError
        If one network alone does not fit on the card; the message names the bytes.
    ValueError
        If a network is too wide for the kernel, or `rule` is Adam.
    """
    if not rule.equivariant:
        raise ValueError("Adam is not trained in batches; train its networks one by one")
    for members in _classes(jobs):
        most = len(members)
        while members:
            packing, team = _fitting(launcher, jobs, members[:most], rule, steps)
            taken = members[: len(packing.widths)]
            try:
                batch = _loaded(
                    launcher, [jobs[i] for i in taken], packing, team, rule, objective, steps,
                    tolerance,
                )  # fmt: skip
            except launcher.out_of_memory() as error:
                if len(taken) == 1:
                    raise MemoryError(f"{launcher.card} has no room for one network") from error
                most = len(taken) // 2
                log.warning(
                    "%s ran out of memory with %d networks at once; going on with %d",
                    launcher.card, len(taken), most,
                )  # fmt: skip
                continue
            yield from _finish(launcher, batch, taken, tolerance)
            members = members[len(taken) :]
            del batch


def _classes(jobs: Sequence[Job]) -> list[list[int]]:
    """Return the numbers of jobs whose widths share a launch, the most work first in each."""
    classes: dict[int, list[int]] = {}
    for i, job in enumerate(jobs):
        classes.setdefault(int(np.searchsorted(CLASSES, max(job.widths))), []).append(i)
    for members in classes.values():
        members.sort(key=lambda i: -_work(jobs[i]))
    return [classes[k] for k in sorted(classes, reverse=True)]


def _work(job: Job) -> int:
    return sum(a * b for a, b in zip(job.widths, job.widths[1:], strict=False))


def _fitting(
    launcher: Any, jobs: Sequence[Job], members: Sequence[int], rule: Rule, steps: int
) -> tuple[Packing, Team]:
    """Return the packing of as many of the first `members` as the card holds, and their team."""
    velocity, count = rule.momentum > 0, len(members)
    while True:
        packing = Packing([jobs[i].widths for i in members[:count]], launcher.dtype)
        team = choose_team(packing, velocity, launcher.card)
        if team is None:
            widest = max(max(w) for w in packing.widths)
            raise ValueError(
                f"no team of blocks on {launcher.card} holds a network of width {widest} with"
                f" {packing.d} inputs and {packing.q} outputs"
            )
        needed, free = batch_bytes(packing, team, velocity, steps), launcher.free_bytes()
        if count == 1:
            memory.require(
                needed, free, f"a network of depth {packing.depth(0)} on {launcher.card}",
                "use a smaller width, depth or dtype",
            )  # fmt: skip
            return packing, team
        room = free * MEMORY_SHARE / needed
        if team.group > 1:
            blocks = launcher.sweep_room(
                kernel_constants(packing.q, packing.d, velocity, True), team.threads,
                shared_bytes(packing, team, velocity),
            )  # fmt: skip
            room = min(room, blocks // team.group / count)
        if room >= 1:
            return packing, team
        log.info("%s holds %d of %d networks at once", launcher.card, int(room * count), count)
        count = min(count - 1, max(1, int(room * count)))


def _loaded(
    launcher: Any,
    jobs: Sequence[Job],
    packing: Packing,
    team: Team,
    rule: Rule,
    objective: ReducedRegression,
    steps: int,
    tolerance: float,
) -> Batch:
    batch = Batch(
        launcher.xp, packing, [motion(job, rule) for job in jobs], steps=steps,
        tolerance=tolerance, problems=[regression_problem(objective)], team=team,
        nesterov=rule.nesterov,
    )  # fmt: skip
    for i, job in enumerate(jobs):
        for j, layer in enumerate(job.draw()):
            batch.layer(i, j)[...] = launcher.xp.asarray(whole(layer), dtype=launcher.dtype)
    return batch


def _finish(
    launcher: Any,
    batch: Batch,
    members: Sequence[int],
    tolerance: float,
) -> Iterator[Outcome | Progress]:
    """Advance all networks of a batch until each has ended, yielding them as they do."""
    active = np.arange(len(members))
    pace = Pace(launcher, batch)
    while active.size:
        steps = pace.advance(active)
        yield {members[int(i)]: int(steps[i]) for i in active}
        last = batch.last_losses(steps)
        first = batch.last_losses(np.zeros_like(steps))
        ended = [
            int(i) for i in active
            if steps[i] == batch.limit or status_of(last[i], tolerance * first[i]) != "completed"
        ]  # fmt: skip
        for i in ended:
            yield Outcome(
                members[i],
                batch.recorded(i, int(steps[i])),
                status_of(last[i], tolerance * first[i]),
                _reader(batch, i),
            )
        active = np.setdiff1d(active, ended)


def _reader(batch: Batch, number: int) -> Callable[[int], np.ndarray]:
    """Return what reads layers of a network: who keeps it does not keep the batch on the card."""
    kept = weakref.ref(batch)

    def layer(index: int) -> np.ndarray:
        held = kept()
        if held is None:
            raise RuntimeError(
                "an outcome's layers can be read until the next outcome is asked for"
            )
        return to_host(held.layer(number, index))

    return layer


class Pace:
    """Pieces of training that each take about `PIECE_SECONDS`."""

    def __init__(self, launcher: Any, batch: Batch):
        self._launcher, self._batch = launcher, batch
        self._steps = 1
        team = batch.team
        self._room = launcher.sweep_room(batch.constants, team.threads, batch.shared_bytes)

    def advance(self, active: np.ndarray, goal: int | None = None) -> np.ndarray:
        """Advance the active networks by one piece, to `goal` at most; return all steps."""
        batch, grouped = self._batch, self._batch.team.group > 1
        before = int(batch.steps_taken()[active].min())
        most = batch.limit if goal is None else goal
        # Single blocks watch the clock themselves; in waves, each has a part of the piece.
        waves = -(-len(active) // max(self._room, 1))
        target = min(most, max(before, 0) + self._steps) if grouped else most
        begun = time.perf_counter()
        batch.advance(self._launcher.sweep, active, target, PIECE_SECONDS / waves)
        self._launcher.synchronize()
        seconds = time.perf_counter() - begun
        scaled = int(self._steps * PIECE_SECONDS / max(seconds, 1e-9))
        self._steps = max(1, min(scaled, 4 * self._steps))
        return batch.steps_taken()


def to_host(array: Any) -> np.ndarray:
    """Return an array as NumPy's."""
    return array.copy() if isinstance(array, np.ndarray) else array.get()
