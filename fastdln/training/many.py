"""Train many networks of one shape: each thread trains whole networks, not parts of one."""

import functools
import itertools
import logging
import numbers
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastdln.backends.cpu.batch_costs import batching_pays
from fastdln.config import TrainConfig
from fastdln.kernels.cpu.tiles import lanes
from fastdln.network import Network
from fastdln.objectives.base import Objective
from fastdln.optim.loop import Callback
from fastdln.result import TrainResult
from fastdln.rng import Seed, seed_key
from fastdln.training.batched import (
    can_batch_on_cpu,
    can_batch_on_gpu,
    train_on_cpu,
    train_on_gpu,
)
from fastdln.training.prepared import PreparedRun, prepare
from fastdln.training.run import Run
from fastdln.utils import threads, validation

log = logging.getLogger("fastdln")

_T = TypeVar("_T")
# Trains runs from a queue; yields (index, result) as networks end.
TrainQueue = Callable[["_Queue", Callback], Iterator[tuple[int, TrainResult]]]


def train_many(
    problem: Objective,
    *,
    seeds: Iterable[Seed],
    learning_rates: float | Iterable[float | None] | None = None,
    callback: Callback | None = None,
    network: Network | None = None,
    **options: Any,
) -> list[TrainResult]:
    """Train one network for every seed, as many at a time as there are `threads`.

    Every network is trained by one thread in a few calls that release the GIL, and ends when it
    has converged or diverged itself. Where networks are small (at most two vectors wide: 32 in
    float32 with AVX-512), on a regression by gradient descent, with or without momentum, weight
    decay and minibatches, a thread trains several of them at a time, one in each SIMD lane. The
    results are those of `fastdln.train`, bit for bit. On a GPU (``device="gpu"``) as many networks
    are trained at a time as its memory holds, and the results are those of `fastdln.train` to
    rounding.

    Parameters
    ----------
    problem : Regression or other objective
    seeds : iterable
        One for every network, each as in `fastdln.train`; may repeat.
    learning_rates : float or iterable of float, optional
        One for all networks, or one for each; None means the theorem's largest.
    callback : callable, optional
        Called as ``callback(step, loss)`` a few times a second for every network in training, on
        the CPU from several threads; may raise to stop.
    network : Network, optional
        As in `fastdln.train`: every run starts from this network.
    **options
        All other options of `fastdln.train` (width, depth, init, steps, dtype, …), the same for all
        networks.

    Returns
    -------
    list of TrainResult
        In the order of `seeds`. All trained networks are held in memory. ``seconds`` of networks
        that were trained in a batch overlap.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `fastdln.train`; and if `learning_rates` does not hold one number for every seed.
    """
    keys = [seed_key(seed) for seed in _listed("seeds", seeds)]
    rates = _checked_rates(learning_rates, len(keys))
    for name in ("seed", "learning_rate"):
        if name in options:
            raise TypeError(f"{name} must be given as {name}s, one for each network")
    config = TrainConfig.from_options("train_many", options, _argument_names())
    validation.function("callback", callback)
    prepared = prepare(problem, config, network, count=max(len(keys), 1))
    if not keys:
        return []
    if prepared.launcher is not None:
        return _on_gpu(
            [Run.of(prepared, *each) for each in zip(keys, rates, strict=True)], callback
        )
    queue = _Queue(prepared, zip(keys, rates, strict=True))
    with threads.limited(config.threads):
        workers = min(threads.available(), len(rates))
    train: TrainQueue = _one_by_one
    each = -(-len(rates) // workers)
    chosen = prepared.plan
    if can_batch_on_cpu(prepared) and batching_pays(chosen.widths, chosen.dtype, each):
        most = min(each, lanes(chosen.dtype))
        log.debug("kernel: two-pass, %d networks in SIMD lanes of %d threads", most, workers)
        train = functools.partial(_batched, most=most)
    return _collect(train, queue, callback, workers, len(rates))


def _argument_names() -> list[str]:
    """Return the names that arguments of `train_many` may have."""
    singular = ("seed", "learning_rate")
    own = ["seeds", "learning_rates", "callback", "network"]
    return own + [name for name in TrainConfig.names() if name not in singular]


class _Queue(Iterator[tuple[int, Run]]):
    """Thread-safe iterator of (index, run), exhausted once `closed` is set."""

    def __init__(self, prepared: PreparedRun, runs: Iterator[tuple[int, float | None]]):
        self.closed = False
        self._prepared, self._runs = prepared, enumerate(runs)
        self._lock = threading.Lock()

    def __next__(self) -> tuple[int, Run]:
        with self._lock:
            if self.closed:
                raise StopIteration
            index, (key, rate) = next(self._runs)
        return index, Run.of(self._prepared, key, rate)

    def closing(self, callback: Callback | None) -> Callback:
        """Return a callback that also stops networks in training once the queue is closed."""

        def call(step: int, loss: float) -> None:
            if self.closed:
                raise _Closed
            if callback is not None:
                callback(step, loss)

        return call


class _Closed(Exception):
    """Raised in a network's callback to stop its training: the queue is closed."""


def _one_by_one(queue: _Queue, callback: Callback) -> Iterator[tuple[int, TrainResult]]:
    for index, run in queue:
        yield index, run.train(callback)


def _batched(queue: _Queue, callback: Callback, most: int) -> Iterator[tuple[int, TrainResult]]:
    for found in train_on_cpu(queue, most):
        if isinstance(found, tuple):
            yield found
        else:
            for step, loss in found.values():
                callback(step, loss)


def _collect(
    train: TrainQueue, queue: _Queue, callback: Callback | None, workers: int, count: int
) -> list[TrainResult]:
    """Train the runs of the queue on `workers` threads; return results in order."""
    callback = queue.closing(callback)

    def work() -> list[tuple[int, TrainResult]]:
        # One thread a network; set here, because a limit applies to the thread that sets it.
        with threads.limited(1):
            try:
                return list(train(queue, callback))
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
            except BaseException:  # also Ctrl-C; leaving the pool waits for its threads
                queue.closed = True
                raise
    results = dict(found)
    return [results[i] for i in range(count)]


def _on_gpu(runs: Sequence[Run], callback: Callback | None) -> list[TrainResult]:
    """Train runs of one shape on a GPU, in a batch if the kernels can; return results in order."""
    if not can_batch_on_gpu(runs[0].prepared):
        return [run.train(callback) for run in runs]
    results: dict[int, TrainResult] = {}
    for found in train_on_gpu(runs, keep_layers=True):
        if isinstance(found, tuple):
            results[found[0]] = found[1]
        elif callback is not None:
            for step, loss in found.values():
                callback(step, loss)
    return [results[i] for i in range(len(runs))]


def _listed(name: str, values: Iterable[_T] | float) -> list[_T]:
    if not isinstance(values, Iterable) or isinstance(values, Mapping | str):
        raise TypeError(f"{name} must be a sequence, one for each network, not {values!r}")
    return list(values)


def _checked_rates(rates: float | Iterable[float | None] | None, count: int) -> list[float | None]:
    """Return one rate for each network, all checked before any is trained."""
    if rates is None or isinstance(rates, numbers.Real):
        each: list[Any] = [rates] * count
    else:
        each = _listed("learning_rates", rates)
    if len(each) != count:
        raise ValueError(
            f"learning_rates must hold one number for each of the {count} seeds, not {len(each)}"
        )
    return [None if r is None else validation.positive_number("learning_rates", r) for r in each]
