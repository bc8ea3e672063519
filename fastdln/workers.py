"""Where the cells of a sweep are computed: threads of this process, or a cluster's workers."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from . import parallel
from .cells import Cell

# A job takes a cell and a callback and returns the cell's values; the callback, called a few
# times a second with (step, loss), is how it learns that it should stop.
Callback = Callable[[int, float], None]
Job = Callable[[Cell, Callback | None], dict[str, Any]]

Results = Generator[tuple[Cell, Any] | None, None, None]

# How often the caller hears from a pool in which nothing happened: often enough for a progress
# bar to be live and for Ctrl-C to be prompt.
TICK = 0.2


class Threads:
    """Cells on `count` threads of this process, each cell on one thread.

    The threads are daemons: a cell that cannot be told to stop (it is being initialised, say)
    does not keep an interrupted program alive.

    Attributes
    ----------
    running : dict
        The cells in work and the step each has reached.
    """

    def __init__(self, count: int):
        self.count = count
        self.running: dict[Cell, int] = {}
        self._stop = threading.Event()

    def results(self, job: Job, cells: Sequence[Cell]) -> Results:
        """Yield (cell, values) as cells finish, and None at least every `TICK` seconds.

        A cell's exception is raised here. When the caller stops listening, for whatever
        reason, cells in work stop at their next callback, and are waited for for a second.
        """
        tasks: queue.SimpleQueue[Cell] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Cell, Any]] = queue.SimpleQueue()
        for cell in cells:
            tasks.put(cell)
        threads = [
            threading.Thread(
                target=self._work, args=(job, tasks, done), name=f"fastdln-{i}", daemon=True
            )
            for i in range(min(self.count, len(cells)))
        ]
        for thread in threads:
            thread.start()
        try:
            yield from _collect(done, len(cells))
        finally:
            self._stop.set()
            deadline = time.monotonic() + 1
            for thread in threads:
                thread.join(max(deadline - time.monotonic(), 0))

    def _work(self, job: Job, tasks: "queue.SimpleQueue[Cell]", done: Any) -> None:
        with parallel.limited(1):
            while not self._stop.is_set():
                try:
                    cell = tasks.get_nowait()
                except queue.Empty:
                    return
                self.running[cell] = 0
                try:
                    outcome: Any = job(cell, self._callback(cell))
                except BaseException as error:  # handed to the caller, who raises it
                    outcome = error
                del self.running[cell]
                done.put((cell, outcome))

    def _callback(self, cell: Cell) -> Callback:
        def report(step: int, loss: float) -> None:
            if self._stop.is_set():
                raise KeyboardInterrupt
            self.running[cell] = step

        return report


def _collect(done: Any, count: int) -> Results:
    while count:
        try:
            cell, outcome = done.get(timeout=TICK)
        except queue.Empty:
            yield None
            continue
        if isinstance(outcome, BaseException):
            raise outcome
        count -= 1
        yield cell, outcome


class Cluster:
    """Cells on the workers of a Dask cluster, through the user's ``distributed.Client``.

    Attributes
    ----------
    count : int
        Threads of all workers when the pool was made.
    running : dict
        Empty: a cluster's workers do not report which cell they are at.
    """

    def __init__(self, client: Any):
        for name in ("submit", "ncores", "scheduler_info"):
            if not callable(getattr(client, name, None)):
                raise TypeError(
                    f"client must be a dask.distributed Client, not {type(client).__name__}"
                )
        self._client = client
        self.running: dict[Cell, int] = {}
        self.count = sum(client.ncores().values())
        if not self.count:
            raise ValueError("client has no workers; start some before the sweep")

    def memory(self) -> list[tuple[int, int]]:
        """Return (threads, memory limit in bytes) of every worker; limit 0 means none."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return [(w["nthreads"], w["memory_limit"] or 0) for w in workers]

    def results(self, job: Job, cells: Sequence[Cell]) -> Results:
        """Yield (cell, values) as cells finish, and None at least every `TICK` seconds."""
        done: queue.SimpleQueue[tuple[Cell, Any]] = queue.SimpleQueue()
        # The job carries the data: it travels to each worker once, not with every cell.
        # pure=False: timings must not be answered from an earlier sweep's results;
        # priority: the first cells are the most expensive.
        carried = self._client.scatter(job, broadcast=True)
        futures = [
            self._client.submit(_alone, carried, cell, pure=False, priority=-i)
            for i, cell in enumerate(cells)
        ]
        for future, cell in zip(futures, cells, strict=True):
            future.add_done_callback(_deliver(done, cell))
        try:
            yield from _collect(done, len(cells))
        finally:
            for future in futures:
                future.cancel()


def _alone(job: Job, cell: Cell) -> dict[str, Any]:
    """Run one cell on one thread: a cluster's worker counts its threads itself."""
    with parallel.limited(1):
        return job(cell, None)


def _deliver(done: Any, cell: Cell) -> Callable[[Any], None]:
    def deliver(future: Any) -> None:
        try:
            done.put((cell, future.result()))
        except BaseException as error:  # handed to the caller, who raises it
            done.put((cell, error))

    return deliver
