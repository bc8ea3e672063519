"""Many networks on one card at once: packed by width, longest first, as many as memory holds."""

import functools
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdln.backends.gpu.cost_model import class_of, common_team, is_carried
from fastdln.backends.gpu.layers import drawing_bytes
from fastdln.backends.gpu.pacing import MOST_INDICES, Pace
from fastdln.kernels.cuda.packing import Packing
from fastdln.kernels.cuda.zigzag import Batch, Motion, Problem, Samples, Team, batch_bytes, to_host
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.loop import Schedule, status_of
from fastdln.optim.optimizers import Rates, Rule
from fastdln.reduction.initial_layers import whole
from fastdln.utils import memory

log = logging.getLogger("fastdln")

# The step that each network in work has reached, and its loss there.
Progress = dict[int, tuple[int, float]]

# Share of the card's free memory that a batch may plan to take: the rest is for the pool's gaps.
MEMORY_SHARE = 0.9
SMALLER = "use a smaller width, depth or dtype"


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
    schedule : callable, optional
        From a step to the indices of its minibatch; None is full-batch.
    """

    widths: tuple[int, ...]
    rows: np.ndarray
    learning_rate: float
    draw: Callable[[], Any]
    schedule: Schedule | None = None


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
    moments : callable
        Returns what the optimiser remembers, as in `fastdln.optim.loop.Past`; valid as long.
    """

    index: int
    loss: np.ndarray
    status: str
    layers: Callable[[int], np.ndarray]
    moments: Callable[[], tuple[tuple[np.ndarray, ...], ...]]


def motion(job: Job, rule: Rule) -> Motion:
    """Return how a job's weights move."""
    rates = Rates.of(rule, job.learning_rate, job.rows)
    return Motion(rates.steps, rates.pulls, rates.decay, rule.momentum)


def regression_problem(objective: ReducedRegression) -> Problem:
    """Return a reduced regression as the kernels take it."""
    scale = np.broadcast_to(objective.scale, objective.target.shape)
    return Problem(np.ascontiguousarray(scale), objective.target, objective.constant)


def samples_of(objective: ReducedRegression, jobs: Sequence[Job]) -> Samples | None:
    """Return what the jobs' minibatches need on a card: all have them, and of one size, or none."""
    if jobs[0].schedule is None:
        return None
    samples = np.concatenate([data.T for data in objective.samples], axis=1)
    return Samples(samples, len(jobs[0].schedule(0)))


def put_layers(launcher: Any, layers: Sequence[Any], place: Callable[[int], Any]) -> None:
    """Write the layers of a start, one by one, to their places on a card."""
    for i, layer in enumerate(layers):
        place(i)[...] = launcher.xp.asarray(whole(layer), dtype=launcher.dtype)


def require_room(launcher: Any, widths: tuple[int, ...], needed: int) -> None:
    """Raise MemoryError unless a network that takes `needed` bytes can be drawn on the card."""
    needed += drawing_bytes(widths, launcher.dtype)
    memory.require(needed, launcher.free_bytes(), _named(launcher, widths), SMALLER)


def no_room(launcher: Any, widths: tuple[int, ...]) -> MemoryError:
    """Return the error for a network that seemed to fit, and yet an allocation of it failed."""
    free = launcher.free_bytes()
    return MemoryError(
        f"{_named(launcher, widths)} ran out of memory with {free:,} bytes"
        f" ({memory.readable(free)}) left in pieces; other processes may use the card, or {SMALLER}"
    )


def _named(launcher: Any, widths: tuple[int, ...]) -> str:
    width = max(widths[1:-1], default=0)
    return f"a network of depth {len(widths) - 1} and width {width} on {launcher.card}"


def team_of(launcher: Any, widths: tuple[int, ...], objective: Any, rule: Rule) -> Team | None:
    """Return the team with which a network is trained together with others; None where it is not.

    Gradient descent is, with or without momentum, on a regression from few inputs to few outputs.
    """
    inside = isinstance(objective, ReducedRegression) and rule.equivariant
    class_ = class_of(max(widths))
    if not (inside and class_ and is_carried(widths)):
        return None
    return common_team(
        class_, (widths[0], widths[-1]), launcher.dtype.name, rule.momentum > 0, launcher.card
    )


def train_together(
    launcher: Any,
    jobs: Sequence[Job],
    rule: Rule,
    objective: ReducedRegression,
    steps: int,
    tolerance: float,
) -> Iterator[Outcome | Progress]:
    """Train every job on one regression by gradient descent; yield each as it finishes.

    A network's bits depend on its class of widths and on the card, but not on the other jobs.

    Parameters
    ----------
    launcher : Launcher
        Of the card and the dtype; the card is the current one.
    jobs : sequence of Job
        All from as many inputs to as many outputs, and each with a `team_of` its own; all with
        minibatches of one size, or none.
    rule : Rule
    steps, tolerance
        As for `fastdln.optim.loop.Run`.

    Yields
    ------
    Outcome, or about every 0.2 s a dict from the jobs in work to step and loss of each
        Training goes on when the next one is asked for, and ends where none is.

    Raises
    ------
    MemoryError
        If one network alone does not fit on the card; the message names the bytes.
    ValueError
        If a network is not trained together with others.
    """
    some = samples_of(objective, jobs) if jobs else None
    extra = 0 if some is None else some.rows.nbytes + 4 * MOST_INDICES
    for members in _classes(jobs):
        widths = jobs[members[0]].widths
        team = team_of(launcher, widths, objective, rule)
        if team is None:
            raise ValueError(f"networks of widths {widths} are trained one by one on a card")
        most, said = len(members), False
        while members:
            packing = _fitting(launcher, jobs, members[:most], team, rule, steps, extra)
            taken = members[: len(packing.widths)]
            if len(taken) < min(most, len(members)) and not said:
                log.info(
                    "%s holds %d of %d networks at once", launcher.card, len(taken), len(members)
                )
                said = True
            try:
                batch = _loaded(
                    launcher, [jobs[i] for i in taken], packing, team, rule, objective, steps,
                    tolerance, some,
                )  # fmt: skip
            except launcher.out_of_memory() as error:
                if len(taken) == 1:
                    raise no_room(launcher, jobs[taken[0]].widths) from error
                most = len(taken) // 2
                log.warning(
                    "%s ran out of memory with %d networks at once; going on with %d",
                    launcher.card, len(taken), most,
                )  # fmt: skip
                continue
            schedules = [jobs[i].schedule for i in taken]
            yield from _finish(launcher, batch, taken, schedules, tolerance)
            members = members[len(taken) :]
            del batch


def _classes(jobs: Sequence[Job]) -> list[list[int]]:
    """Return the numbers of jobs whose widths share a launch, the longest first in each.

    Layers come one after the other, so that depth counts before width.
    """
    classes: dict[int, list[int]] = {}
    for i, job in enumerate(jobs):
        classes.setdefault(class_of(max(job.widths)), []).append(i)
    for members in classes.values():
        members.sort(key=lambda i: (-len(jobs[i].widths), -_work(jobs[i])))
    return [classes[k] for k in sorted(classes, reverse=True)]


def _work(job: Job) -> int:
    return sum(a * b for a, b in zip(job.widths, job.widths[1:], strict=False))


def _fitting(
    launcher: Any, jobs: Sequence[Job], members: Sequence[int], team: Team, rule: Rule, steps: int,
    extra: int,
) -> Packing:  # fmt: skip
    """Return the packing of as many of the first `members` as the card's memory holds.

    `extra` are the bytes that they take together, however many they are.
    """
    count = len(members)
    drawing = max(drawing_bytes(jobs[i].widths, launcher.dtype) for i in members)
    while True:
        packing = Packing([jobs[i].widths for i in members[:count]], launcher.dtype)
        needed = batch_bytes(packing, team, rule.momentum > 0, steps) + extra
        if count == 1:
            require_room(launcher, packing.widths[0], needed)
            return packing
        room = launcher.free_bytes() * MEMORY_SHARE / (needed + drawing)
        if room >= 1:
            return packing
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
    some: Samples | None,
) -> Batch:
    batch = Batch(
        launcher.xp, packing, [motion(job, rule) for job in jobs], steps=steps,
        tolerance=tolerance, problems=[regression_problem(objective)], team=team,
        nesterov=rule.nesterov, samples=some,
    )  # fmt: skip
    for i, job in enumerate(jobs):
        put_layers(launcher, job.draw(), functools.partial(batch.layer, i))
    return batch


def _finish(
    launcher: Any,
    batch: Batch,
    members: Sequence[int],
    schedules: Sequence[Schedule | None],
    tolerance: float,
) -> Iterator[Outcome | Progress]:
    """Advance all networks of a batch until each has ended, yielding them as they do."""
    waiting = np.arange(len(members))
    pace = Pace(launcher, batch, schedules)
    while waiting.size:
        active = waiting[: pace.at_once]
        steps = pace.advance(active)[active]
        last, first = batch.losses_at(active, steps), batch.losses_at(active, 0 * steps)
        yield {
            members[i]: (int(step), float(loss))
            for i, step, loss in zip(active, steps, last, strict=True)
        }
        ended = []
        for i, step, loss, start in zip(active, steps, last, first, strict=True):
            status = status_of(loss, tolerance * start)
            if step == batch.limit or status != "completed":
                ended.append(i)
                loss, number = batch.recorded(i, int(step)), int(i)
                layers, moments = _reader(batch, number), _moments(batch, number)
                yield Outcome(members[number], loss, status, layers, moments)
        waiting = np.setdiff1d(waiting, ended)


def _reader(batch: Batch, number: int) -> Callable[[int], np.ndarray]:
    """Return what reads layers of a network: who keeps it does not keep the batch on the card."""
    kept = weakref.ref(batch)
    return lambda index: to_host(_held(kept).layer(number, index))


def _moments(batch: Batch, number: int) -> Callable[[], tuple[tuple[np.ndarray, ...], ...]]:
    """Return what reads the velocity of a network, where there is one."""
    kept, depth = weakref.ref(batch), batch.packing.depth(number)

    def moments() -> tuple[tuple[np.ndarray, ...], ...]:
        held = _held(kept)
        if not held.velocity_kept:
            return ()
        return (tuple(to_host(held.velocity_of(number, index)) for index in range(depth)),)

    return moments


def _held(kept: "weakref.ref[Batch]") -> Batch:
    batch = kept()
    if batch is None:
        raise RuntimeError("an outcome can be read until the next outcome is asked for")
    return batch
