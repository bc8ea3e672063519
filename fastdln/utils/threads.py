"""The number of threads that a call may use, and the spreading of work over threads."""

import contextlib
import contextvars
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_limit: contextvars.ContextVar[int | None] = contextvars.ContextVar("fastdln_threads", default=None)


def available() -> int:
    """Return how many threads a call made here may use.

    The innermost `limited` block decides, then the environment variable
    ``FASTDLN_NUM_THREADS``, then the processors this process may run on.

    Raises
    ------
    ValueError
        If ``FASTDLN_NUM_THREADS`` is not a positive whole number.
    """
    limit = _limit.get()
    if limit is not None:
        return limit
    text = os.environ.get("FASTDLN_NUM_THREADS")
    if text is None:
        return processors()
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ValueError(f"FASTDLN_NUM_THREADS is {text!r}; it must be a positive whole number")
    return int(text)


def processors() -> int:
    """Return how many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def limited(count: int) -> Iterator[None]:
    """Let calls inside the block, in this thread, use at most `count` threads."""
    token = _limit.set(count)
    try:
        yield
    finally:
        _limit.reset(token)


def spread(function: Callable[..., Any], chunks: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Call ``function(*chunk)`` for every chunk on up to `available()` threads; results in order.

    Functions that hold the GIL gain nothing; kernels here release it. The pool lives for one
    call: starting a thread costs about 50 µs, so a chunk should take milliseconds.
    """
    chunks = list(chunks)
    workers = min(available(), len(chunks))
    if workers <= 1:
        return [function(*chunk) for chunk in chunks]
    with ThreadPoolExecutor(workers) as pool:
        return [f.result() for f in [pool.submit(function, *chunk) for chunk in chunks]]


def run_team(pool: ThreadPoolExecutor, team: int, work: Callable[..., Any]) -> Any:
    """Call ``work(rank, team, barrier)`` for every member of a team; return member 0's result.

    A team of one runs in the calling thread. If a member cannot be started (Ctrl-C, no
    thread left) or fails, the barrier is aborted, and the exception is raised once the others
    have returned.
    """
    # Imported here: `import fastdln` must not import numba.
    from fastdln.kernels.cpu.team import abort, new_barrier

    barrier = new_barrier()
    if team == 1:
        return work(0, 1, barrier)

    def member(rank: int) -> Any:
        try:
            return work(rank, team, barrier)
        except BaseException:
            abort(barrier)
            raise

    members: list[Future[Any]] = []
    try:
        for rank in range(team):
            members.append(pool.submit(member, rank))
    except BaseException:
        abort(barrier)
        raise
    results = [future.result() for future in members]
    return results[0]
