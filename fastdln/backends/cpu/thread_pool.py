"""Threads that wait for short work: a pool for calls that take a fraction of a millisecond."""

import collections
import contextlib
import functools
import os
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")

_MOST_HELPERS = 256


def spread_items(
    function: Callable[[Iterable[_Item]], None], items: list[_Item], workers: int
) -> None:
    """Call ``function(some of the items)`` on `workers` threads, one of them the caller's own.

    Each thread takes the next item when it has finished one, and the caller waits for items, not
    for threads: a thread that starts late, on a busy machine, finds no item left and delays
    nothing. The first exception is raised; the items left are then skipped.
    """
    todo = collections.deque(items)
    outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def take() -> Iterator[_Item]:
        while True:
            try:
                item = todo.popleft()
            except IndexError:
                return
            yield item
            outcomes.put(None)

    def run() -> None:
        try:
            if todo:
                function(take())
        except BaseException as error:
            outcomes.put(error)
            for _ in take():  # skip the items left
                pass

    with contextlib.suppress(RuntimeError):  # the interpreter is shutting down: no more helpers
        for _ in range(min(workers, len(items)) - 1):
            _helpers().submit(run)
    run()
    for _ in items:
        error = outcomes.get()
        if error is not None:
            raise error


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    """Return threads that wait for work, started when first needed and kept for good.

    Linux starts a new thread on the processor of the thread that created it, and moves it only
    after it has waited there: it began work after 0.7 ms, the time of a whole batch, and a
    waiting thread after 0.1 ms.
    """
    return ThreadPoolExecutor(_MOST_HELPERS, thread_name_prefix="fastdln-haar")


if hasattr(os, "register_at_fork"):  # a forked child has no threads of its parent
    os.register_at_fork(after_in_child=_helpers.cache_clear)
