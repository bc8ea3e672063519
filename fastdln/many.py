"""Many networks of one shape trained together: threads take networks, not parts of one."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import check, parallel
from .training import TrainResult, train


def train_many(
    problem: Any,
    *,
    seeds: Sequence[Any],
    learning_rates: float | Sequence[float | None] | None = None,
    **options: Any,
) -> list[TrainResult]:
    """Train one network for every seed, as many at a time as there are threads.

    Every network is trained by one thread in a few calls that hold no lock, and ends by its own
    rule (converged, diverged). The results are those of `fastdln.train`, bit for bit: the bits of
    a network do not depend on how many threads share it.

    Parameters
    ----------
    problem : Regression or other objective
    seeds : sequence
        One for every network, each as in `fastdln.train`; may repeat.
    learning_rates : float or sequence of float, optional
        One for all networks, or one for each; None means the theorem's largest.
    **options
        Everything else that `fastdln.train` takes (width, depth, init, steps, dtype, …), the same
        for all networks; a `callback` is called from several threads.

    Returns
    -------
    list of TrainResult
        In the order of `seeds`. All trained networks are held in memory.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `fastdln.train`; and where `learning_rates` has not one number for every seed.
    """
    rates = _one_each(learning_rates, len(seeds))
    for name in ("seed", "learning_rate"):
        if name in options:
            raise TypeError(f"{name} must be given as {name}s, one for each network")

    def one(seed: Any, rate: float | None) -> TrainResult:
        # One thread a network: here, for limits belong to the thread that sets them.
        with parallel.limited(1):
            return train(problem, seed=seed, learning_rate=rate, **options)

    workers = max(1, min(parallel.threads(), len(rates)))
    if workers == 1:
        return [one(*pair) for pair in zip(seeds, rates, strict=True)]
    with ThreadPoolExecutor(workers) as pool:
        runs = [pool.submit(one, *pair) for pair in zip(seeds, rates, strict=True)]
        try:
            return [run.result() for run in runs]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_each(rates: float | Sequence[float | None] | None, count: int) -> list[float | None]:
    if rates is None or isinstance(rates, int | float):
        return [None if rates is None else check.positive_number("learning_rates", rates)] * count
    if len(rates) != count:
        raise ValueError(
            f"learning_rates must hold one number for each of the {count} seeds, not {len(rates)}"
        )
    return list(rates)
