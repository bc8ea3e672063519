"""Many networks of one shape trained together: threads take networks, not parts of one."""

import functools
import inspect
import itertools
import logging
import numbers
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastdln.backends.cpu.batch import SideBySide, may_go_side_by_side
from fastdln.backends.cpu.cost_model import worth_going_side_by_side
from fastdln.kernels.cpu.tiles import lanes
from fastdln.optim.loop import Callback
from fastdln.reduction.plan import chain_layout
from fastdln.result import TrainResult
from fastdln.rng import seed_key
from fastdln.training.prepared import Preparation, Task, prepare
from fastdln.utils import threads, validation

log = logging.getLogger("fastdln")

_OPTIONS = frozenset(inspect.signature(prepare).parameters) - {"problem"}
# Trains what it takes from a queue; yields results as networks end.
Trainer = Callable[["_Queue", Callback], Iterator[tuple[int, TrainResult]]]


def train_many(
    problem: Any,
    *,
    seeds: Iterable[Any],
    learning_rates: float | Iterable[float | None] | None = None,
    callback: Callback | None = None,
    **options: Any,
) -> list[TrainResult]:
    """Train one network for every seed, as many at a time as there are threads.

    Every network is trained by one thread in a few calls that hold no lock, and ends by its own
    rule (converged, diverged). Where networks are small (at most two vectors wide: 32 in float32
    with AVX-512) a thread trains several of them at a time, one in each vector lane. The results
    are those of `fastdln.train`, bit for bit. On a card (``device="gpu"``) as many networks are
    trained at a time as it has room for, and the results are those of `fastdln.train` to rounding.

    Parameters
    ----------
    problem : Regression or other objective
    seeds : iterable
        One for every network, each as in `fastdln.train`; may repeat.
    learning_rates : float or iterable of float, optional
        One for all networks, or one for each; None means the theorem's largest.
    callback : callable, optional
        Called as ``callback(step, loss)`` a few times a second for every network in work, on the
        CPU from several threads; may raise to stop.
    **options
        Everything else that `fastdln.train` takes (width, depth, init, steps, dtype, …), the same
        for all networks.

    Returns
    -------
    list of TrainResult
        In the order of `seeds`. All trained networks are held in memory. ``seconds`` of networks
        that were trained side by side overlap.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `fastdln.train`; and where `learning_rates` has not one number for every seed.
    """
    keys = [seed_key(seed) for seed in _listed("seeds", seeds)]
    rates = _one_each(learning_rates, len(keys))
    for name in ("seed", "learning_rate"):
        if name in options:
            raise TypeError(f"{name} must be given as {name}s, one for each network")
    for name in options:
        if name not in _OPTIONS:
            raise TypeError(f"train_many() got an unexpected keyword argument {name!r}")
    validation.function("callback", callback)
    preparation = prepare(problem, **options)
    if not keys:
        return []
    if preparation.device != "cpu":
        from fastdln.training.many_gpu import Order, train_many_on_card

        orders = [Order(preparation, key, rate) for key, rate in zip(keys, rates, strict=True)]
        return train_many_on_card(orders, callback)
    queue = _Queue(preparation, zip(keys, rates, strict=True))
    workers = min(threads.available(), len(rates))
    train: Trainer = _alone
    each = -(-len(rates) // workers)
    if _go_side_by_side(preparation, each):
        most = min(each, lanes(preparation.plan.dtype))
        log.debug("kernel: two-pass, %d networks side by side on each of %d threads", most, workers)
        train = functools.partial(_side_by_side, most=most)
    return _collect(train, queue, callback, workers, len(rates))


class _Queue(Iterator[tuple[int, Task]]):
    """Tasks drawn as they are asked for, by any thread, and none once it is closed."""

    def __init__(self, preparation: Preparation, runs: Iterator[tuple[int, float | None]]):
        self.preparation = preparation
        self.closed = False
        self._runs = enumerate(runs)
        self._lock = threading.Lock()

    def __next__(self) -> tuple[int, Task]:
        with self._lock:
            if self.closed:
                raise StopIteration
            index, (key, rate) = next(self._runs)
        return index, self.preparation.task(key, rate)

    def hearing(self, callback: Callback | None) -> Callback:
        """Return a callback that also stops networks in work once the queue is closed."""

        def hear(step: int, loss: float) -> None:
            if self.closed:
                raise _Closed
            if callback is not None:
                callback(step, loss)

        return hear


class _Closed(Exception):
    """Training was stopped from outside."""


def _go_side_by_side(preparation: Preparation, each: int) -> bool:
    plan = preparation.plan
    if not may_go_side_by_side(preparation, plan):
        return False
    return worth_going_side_by_side(chain_layout(plan.widths, plan.dtype), each)


def _alone(queue: _Queue, callback: Callback) -> Iterator[tuple[int, TrainResult]]:
    for index, task in queue:
        yield index, task.run(callback)


def _side_by_side(
    queue: _Queue, callback: Callback, most: int
) -> Iterator[tuple[int, TrainResult]]:
    company = SideBySide[int](queue.preparation, most)
    return company.run(queue, lambda key, step, loss: callback(step, loss))


def _collect(
    train: Trainer, queue: _Queue, callback: Callback | None, workers: int, count: int
) -> list[TrainResult]:
    """Let every worker train what it takes from the queue; return all results in order."""
    hear = queue.hearing(callback)

    def work() -> list[tuple[int, TrainResult]]:
        # One thread a network: here, for limits belong to the thread that sets them.
        with threads.limited(1):
            try:
                return list(train(queue, hear))
            except _Closed:
                return []
            except BaseException:
                queue.closed = True
                raise

    if workers == 1:
        found = work()
    else:
        with ThreadPoolExecutor(workers) as pool:
            try:
                running = [pool.submit(work) for _ in range(workers)]
                found = list(itertools.chain.from_iterable(run.result() for run in running))
            except BaseException:  # Ctrl-C among them: the pool waits for its threads
                queue.closed = True
                raise
    results = dict(found)
    return [results[i] for i in range(count)]


def _listed(name: str, values: Any) -> list[Any]:
    if not isinstance(values, Iterable) or isinstance(values, Mapping | str):
        raise TypeError(f"{name} must be a sequence, one for each network, not {values!r}")
    return list(values)


def _one_each(rates: Any, count: int) -> list[float | None]:
    """Return one checked rate for each network: a bad one must not wait for its turn."""
    if rates is None or isinstance(rates, numbers.Real):
        rates = [rates] * count
    rates = _listed("learning_rates", rates)
    if len(rates) != count:
        raise ValueError(
            f"learning_rates must hold one number for each of the {count} seeds, not {len(rates)}"
        )
    return [None if r is None else validation.positive_number("learning_rates", r) for r in rates]
