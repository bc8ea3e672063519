"""Runs on one card, many at once where the kernels allow it: for `train_many` and for sweeps."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fastdln.backends.gpu.batch import Job, Outcome, Progress, team_of, train_together
from fastdln.optim.loop import Callback
from fastdln.reduction.initial_layers import Start
from fastdln.result import TrainResult
from fastdln.training.prepared import Preparation, Task, learning_rate_or_default, minibatches


class Order(NamedTuple):
    """A run to be made: what decides it, its seed (a `seed_key`) and its learning rate."""

    preparation: Preparation
    key: int
    learning_rate: float | None


def goes_together(preparation: Preparation) -> bool:
    """Return whether a run is trained together with others of its problem and its rule."""
    p = preparation
    return p.kernel != "two-pass" and bool(team_of(p.launcher, p.plan.widths, p.objective, p.rule))


def train_orders(
    launcher: Any, orders: Sequence[Order], hold: bool
) -> Iterator[tuple[int, TrainResult] | Progress]:
    """Train runs that go together; yield the number and the result of each as it ends.

    They differ in widths, depths, initialisations, seeds and learning rates only. A result holds
    its layers, or where `hold` is false they can be read until the next one is asked for.

    Yields
    ------
    (int, TrainResult), or about every 0.2 s a dict from the runs in work to step and loss of each

    Raises
    ------
    MemoryError
        If one network alone does not fit on the card.
    """
    tasks: dict[int, Task] = {}

    def draw(index: int) -> Any:
        order = orders[index]
        task = order.preparation.task(order.key, order.learning_rate)
        # Origins hold what full weights are formed from, and nobody forms those that are not held.
        origins = task.start.origins if hold else _no_origin
        tasks[index] = dataclasses.replace(task, start=Start((), origins))
        return task.start.layers

    jobs = [
        Job(
            order.preparation.plan.widths,
            order.preparation.rows,
            learning_rate_or_default(
                order.preparation.problem, order.learning_rate, len(order.preparation.rows)
            ),
            functools.partial(draw, index),
            minibatches(order.preparation.problem, order.preparation.batch_size, order.key),
        )
        for index, order in enumerate(orders)
    ]
    common = orders[0].preparation
    for found in train_together(
        launcher, jobs, common.rule, common.objective, common.steps, common.tolerance
    ):
        if isinstance(found, Outcome):
            task = tasks.pop(found.index)
            layers = found.layers
            if hold:
                layers = [layers(i) for i in range(len(jobs[found.index].rows))].__getitem__
            moments = found.moments() if task.preparation.resumable else ()
            yield found.index, task.result(found.loss, found.status, layers, moments)
        else:
            yield found


def _no_origin(index: int) -> None:
    return None


def train_many_on_card(orders: Sequence[Order], callback: Callback | None) -> list[TrainResult]:
    """Train runs of one shape, together if they go together; return their results in order."""
    if not goes_together(orders[0].preparation):
        return [
            order.preparation.task(order.key, order.learning_rate).run(callback) for order in orders
        ]
    results: dict[int, TrainResult] = {}
    launcher = orders[0].preparation.launcher
    with launcher.here():
        for found in train_orders(launcher, orders, hold=True):
            if isinstance(found, tuple):
                index, result = found
                results[index] = result
            elif callback is not None:
                for step, loss in found.values():
                    callback(step, loss)
    return [results[i] for i in range(len(orders))]
