"""Small networks of one shape trained side by side by one thread, one in each vector lane.

A network that has ended makes room for the next one. Its bits are those of the network alone.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from fastdln.backends.cpu.cost_model import choose, fits_side_by_side
from fastdln.backends.cpu.trainer import plain_regression, turned_regression
from fastdln.kernels.cpu.batched import buffers, descend_side_by_side, make_table
from fastdln.kernels.cpu.layout import Layout
from fastdln.kernels.cpu.tiles import lanes
from fastdln.optim.loop import next_piece, status_of
from fastdln.optim.optimizers import Moving, Rule
from fastdln.reduction.initial_layers import put
from fastdln.reduction.plan import Plan, chain_layout
from fastdln.result import TrainResult
from fastdln.training.prepared import Preparation, Task

Key = TypeVar("Key")
# Called with the key, the step and the loss of every network in work, a few times a second.
Report = Callable[[Any, int, float], None]


class Place(NamedTuple):
    """A network in work: what was asked for, its losses, and the loss at which it has converged."""

    key: Any
    task: Task
    losses: np.ndarray
    floor: float
    step: int

    @property
    def status(self) -> str:
        """As of `fastdln.optim.loop.Run`."""
        return status_of(self.losses[self.step], self.floor)

    @property
    def ended(self) -> bool:
        """Whether there is no step left to take."""
        return self.status != "completed" or self.step == self.losses.size - 1


class SideBySide(Generic[Key]):
    """Networks of one trained shape on one regression, as many at a time as there are lanes.

    Parameters
    ----------
    example : Preparation
        Of any of the networks: trained widths, dtype and problem are those of all.
    most : int, optional
        Lanes to use; all of them where it is left out.
    """

    def __init__(self, example: Preparation, most: int | None = None):
        assert may_go_side_by_side(example, example.plan)
        widths, dtype = example.plan.widths, example.plan.dtype
        self._mirrored = widths[0] < widths[-1]
        self._layout: Layout = chain_layout(widths, dtype)
        self._table = make_table(self._layout)
        self._work = buffers(self._table, dtype)
        self._constant = example.objective.constant
        self._problem = turned_regression(example.objective, self._mirrored)
        count = lanes(dtype)
        self._places: list[Place | None] = [None] * count
        self._most = count if most is None else most
        self._rates = np.zeros((self._layout.depth, count), dtype)
        self._decay = np.ones(count, dtype)

    def run(
        self, tasks: Iterator[tuple[Key, Task]], report: Report | None = None
    ) -> Iterator[tuple[Key, TrainResult]]:
        """Train all tasks, drawn one by one as there is room; yield each as it ends."""
        steps = 1
        while self._fill(tasks):
            steps = self._advance(steps)
            for lane, place in enumerate(self._places):
                if place is None:
                    continue
                if report is not None:
                    report(place.key, place.step, float(place.losses[place.step]))
                if place.ended:
                    yield place.key, self._take_out(lane, place)

    def _fill(self, tasks: Iterator[tuple[Key, Task]]) -> bool:
        """Put tasks into free lanes; return whether any network is in work."""
        fresh = []
        for lane, place in enumerate(self._places[: self._most]):
            if place is None and (found := next(tasks, None)) is not None:
                self._put_in(lane, *found)
                fresh.append(lane)
        if fresh:
            losses, _ = self._descend(0)
            for lane in fresh:
                place = self._places[lane]
                assert place is not None
                place.losses[0] = losses[0, lane]
                floor = place.task.preparation.tolerance * place.losses[0]
                self._places[lane] = place._replace(floor=floor)
        return any(self._places)

    def _put_in(self, lane: int, key: Key, task: Task) -> None:
        p = task.preparation
        for index, layer in enumerate(task.start.layers):
            put(layer, self._layer(lane, index))
        order = slice(None, None, -1) if self._mirrored else slice(None)
        moving = Moving(p.rule, task.learning_rate, p.rows[order], self._layout)
        self._rates[:, lane], self._decay[lane] = moving.rates, moving.decay
        self._places[lane] = Place(key, task, np.empty(p.steps + 1), -np.inf, 0)

    def _take_out(self, lane: int, place: Place) -> TrainResult:
        """Return a network's result, and leave its lane at rest."""
        layers = [self._layer(lane, i).copy() for i in range(self._layout.depth)]
        # At rest: zero weights give no gradient, and no rate moves them.
        self._work.weights.reshape(-1, len(self._places))[:, lane] = 0
        self._rates[:, lane], self._decay[lane] = 0, 1
        self._places[lane] = None
        return place.task.result(
            place.losses[: place.step + 1].copy(), place.status, layers.__getitem__
        )

    def _layer(self, lane: int, index: int) -> np.ndarray:
        """Return layer `index`, input first, of one network as a view."""
        if self._mirrored:
            return self._work.layer(self._table, self._layout.depth - 1 - index)[:, :, lane].T
        return self._work.layer(self._table, index)[:, :, lane]

    def _advance(self, steps: int) -> int:
        """Take at most `steps` steps, none past the end of any network; return the next number."""
        running = [place for place in self._places if place is not None]
        if any(place.ended for place in running):
            return steps  # they go first: a step would move them, too
        most = min(steps, *(place.losses.size - 1 - place.step for place in running))
        begun = time.perf_counter()
        losses, taken = self._descend(most)
        seconds = time.perf_counter() - begun
        for lane, place in enumerate(self._places):
            if place is not None:
                stop = place.step + taken
                place.losses[place.step + 1 : stop + 1] = losses[1 : taken + 1, lane]
                self._places[lane] = place._replace(step=stop)
        return next_piece(steps, taken, seconds)

    def _descend(self, steps: int) -> tuple[np.ndarray, int]:
        """Take steps until a network ends; return the losses from now on, and how many it took."""
        losses = np.empty((steps + 1, len(self._places)))
        floors = np.array([-np.inf if place is None else place.floor for place in self._places])
        q = self._layout.q
        taken = descend_side_by_side(
            self._work.weights, self._table.layers, *self._work[1:], self._rates, self._decay,
            *self._problem, self._constant, losses, floors, q, len(self._places),
        )  # fmt: skip
        return losses, taken


class Common(Protocol):
    """What decides whether networks may go side by side, besides their shape."""

    @property
    def objective(self) -> Any: ...  # noqa: D102
    @property
    def rule(self) -> Rule: ...  # noqa: D102
    @property
    def batch_size(self) -> int | None: ...  # noqa: D102
    @property
    def kernel(self) -> str: ...  # noqa: D102


def may_go_side_by_side(common: Common, plan: Plan) -> bool:
    """Return whether networks on the CPU have the bits of one alone side by side."""
    if not plain_regression(common.objective, common.rule, common.batch_size):
        return False
    layout = chain_layout(plan.widths, plan.dtype)
    return (
        fits_side_by_side(layout) and choose(layout, 1, kernel=common.kernel).kernel == "two-pass"
    )
