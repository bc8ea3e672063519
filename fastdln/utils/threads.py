"""The number of threads that a call may use, and the spreading of work over threads."""

import contextlib
import contextvars
import functools
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdln.kernels.cpu.compile_time import charge, compile_seconds, measured
from fastdln.utils import cgroups, validation

if TYPE_CHECKING:
    import numpy as np

# Variables by which users and job schedulers limit the threads of other libraries in the process.
_OTHERS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
# Seconds for which a quota is taken to be the same: reading it takes 1 ms, and `available` is
# called for every network that is drawn.
_QUOTA_SECONDS = 10

_limit: contextvars.ContextVar[int | None] = contextvars.ContextVar("fastdln_threads", default=None)
# The most threads that a call may ever use, and a function that returns how many by now; None where
# that does not change.
Growth = tuple[int, Callable[[], int]]
_growth: contextvars.ContextVar[Growth | None] = contextvars.ContextVar(
    "fastdln_growth", default=None
)


def available() -> int:
    """Return how many threads a call made here may use.

    The innermost `limited` block decides. Outside of all blocks it is the environment variable
    ``FASTDLN_NUM_THREADS``, or the least of `processors`, ``OMP_NUM_THREADS`` (the first number of
    a list) and ``NUMBA_NUM_THREADS``. Values of the last two that are no positive numbers are
    ignored, as OpenMP and Numba do.

    Raises
    ------
    ValueError
        If ``FASTDLN_NUM_THREADS`` is not a positive whole number.
    """
    limit = _limit.get()
    return _default(os.environ) if limit is None else limit


def _default(environment: Mapping[str, str]) -> int:
    """Return how many threads may be used outside of all `limited` blocks."""
    text = environment.get("FASTDLN_NUM_THREADS")
    if text is not None:
        if not (text.isascii() and text.isdigit()) or int(text) < 1:
            raise ValueError(f"FASTDLN_NUM_THREADS is {text!r}; it must be a positive whole number")
        return int(text)
    first = (re.match(r"\s*\+?(\d+)\s*(,|$)", environment.get(name, "")) for name in _OTHERS)
    others = [int(found[1]) for found in first if found is not None]
    return min([processors(), *(count for count in others if count > 0)])


def processors(process: Path = Path("/proc/self")) -> int:
    """Return how many processors this process may use: of its affinity mask and its CPU quota.

    Parameters
    ----------
    process : Path
        Of its files, as for `fastdln.utils.cgroups.processors`.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return min(count, _quota(process, int(time.monotonic() / _QUOTA_SECONDS)) or count)


@functools.lru_cache(maxsize=1)
def _quota(process: Path, _period: int) -> int | None:
    return cgroups.processors(process)


def checked(name: str, count: object) -> int:
    """Return a number of threads that a user asked for.

    Raises
    ------
    TypeError, ValueError
        If it is not a whole number from 1 to the number of `processors`.
    """
    most = processors()
    with contextlib.suppress(ValueError):  # of too small a number
        number = validation.positive_integer(name, count)
        if number <= most:
            return number
    allowed = "1" if most == 1 else f"from 1 to {most}"
    raise ValueError(
        f"{name} must be {allowed}, the processors that this process may use, not {count}"
    )


def allowance() -> Growth:
    """Return the most threads that a call made here may ever use, and how many it may use by now.

    The latter is a function, for a long call to call again: see `limited`.
    """
    now, growth = available(), _growth.get()
    if growth is None:
        return now, lambda: now
    most, count = growth
    return max(now, most), lambda: max(now, count())


@contextlib.contextmanager
def limited(count: int | None, growth: Growth | None = None) -> Iterator[None]:
    """Let calls inside the block, in this thread, use at most `count` threads; None is no limit.

    Inside another block, at most that block's threads, too.

    Parameters
    ----------
    count : int or None
    growth : (int, callable), optional
        Where the limit rises while calls run, because other threads end their work: its largest
        value, and a function that returns its value by now.
    """
    outer, outer_growth = _limit.get(), _growth.get()
    if growth is None and outer_growth is not None:
        most, by_now = outer_growth
        cap = most if count is None else min(count, most)
        growth = cap, lambda: min(cap, by_now())
    if count is None or outer is None:
        limit = outer if count is None else count
    else:
        limit = min(count, outer)
    token, growing = _limit.set(limit), _growth.set(growth)
    try:
        yield
    finally:
        _limit.reset(token)
        _growth.reset(growing)


def spread(function: Callable[..., Any], chunks: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Call ``function(*chunk)`` for every chunk on up to `available()` threads; results in order.

    Functions that hold the GIL gain nothing; kernels here release it. The pool lives for one
    call: starting a thread costs about 50 µs, so a chunk should take milliseconds.
    """
    chunks = list(chunks)
    threads = available()
    workers = min(threads, len(chunks))
    if workers <= 1:
        return [function(*chunk) for chunk in chunks]

    @measured
    def call(*chunk: Any) -> Any:
        with limited(threads // workers):  # a new thread is inside no block
            return function(*chunk)

    with ThreadPoolExecutor(workers) as pool:
        results = [f.result() for f in [pool.submit(call, *chunk) for chunk in chunks]]
    charge(max(seconds for _, seconds in results))
    return [result for result, _ in results]


def run_team(
    pool: ThreadPoolExecutor, team: int, work: Callable[..., Any], barrier: "np.ndarray"
) -> Any:
    """Call ``work(rank, team, barrier)`` for every member of a team; return member 0's result.

    Member 0 is the calling thread. If a member cannot be started (Ctrl-C, no thread left) or
    fails, the barrier is aborted, and the exception is raised once the others have returned.

    Parameters
    ----------
    pool : ThreadPoolExecutor
        Runs the other members.
    team : int
    work : callable
    barrier : ndarray
        A new barrier, from `fastdln.kernels.cpu.team.new_barrier`.
    """
    # Imported here: `import fastdln` must not import numba.
    from fastdln.kernels.cpu.team import abort

    @measured
    def member(rank: int) -> Any:
        try:
            return work(rank, team, barrier)
        except BaseException:
            abort(barrier)
            raise

    begun = compile_seconds()
    members: list[Future[Any]] = []
    try:
        for rank in range(1, team):
            members.append(pool.submit(member, rank))
        result = work(0, team, barrier)
    except BaseException:
        abort(barrier)
        wait(members)
        raise
    # Members wait for each other: what the slowest took to compile delayed all of them.
    slowest = max([0.0, *(future.result()[1] for future in members)])
    charge(max(0.0, slowest - (compile_seconds() - begun)))
    return result
