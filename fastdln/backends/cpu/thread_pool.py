"""A pool of idle threads for teams and for parallel calls of a fraction of a millisecond."""

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
    """Call ``function(some of the items)`` on `workers` threads, the caller's included.

    Threads take items one by one, and the caller waits for the items, not for the threads: on a
    busy machine a thread that starts late finds no item left and delays nothing. After an
    exception the remaining items are skipped, and the first exception is raised.
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
            for _ in take():  # skip the remaining items
                pass

    with contextlib.suppress(RuntimeError):  # the interpreter is shutting down: no more helpers
        for _ in range(min(workers, len(items)) - 1):
            helpers().submit(run)
    run()
    for _ in items:
        error = outcomes.get()
        if error is not None:
            raise error


@functools.cache
def helpers() -> ThreadPoolExecutor:
    """Return the pool of helper threads, started at first use and kept until the process ends.

    Linux starts a new thread on the processor of the thread that created it, and migrates it only
    after it has waited there: a new thread began work after 0.7 ms, the time of a whole batch, a
    pooled thread after 0.1 ms.
    """
    return ThreadPoolExecutor(_MOST_HELPERS, thread_name_prefix="fastdln-helper")


if hasattr(os, "register_at_fork"):  # a forked child does not inherit its parent's threads
    os.register_at_fork(after_in_child=helpers.cache_clear)
