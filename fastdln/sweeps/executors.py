"""Where the cells of a sweep are computed: threads of this process, or a cluster's workers."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from fastdln.sweeps.grid import Cell
from fastdln.utils import threads

# Told a few times a second which step a cell has reached; raises where training should stop.
Report = Callable[[Cell, int], None]
# Cells that are trained together by one thread; mostly a single one.
Bundle = tuple[Cell, ...]
# A job takes a bundle and yields every cell's values as soon as it has them.
Job = Callable[[Bundle, Report | None], Iterator[tuple[Cell, dict[str, Any]]]]

Results = Generator[tuple[Cell, Any] | None, None, None]

# How often the caller hears from a pool in which nothing happened: often enough for a progress
# bar to be live and for Ctrl-C to be prompt.
TICK = 0.2


class Threads:
    """Cells on `count` threads of this process, each bundle on one thread.

    The threads are daemons: a cell that cannot be told to stop (it is being initialised, say)
    does not keep an interrupted program alive.

    Attributes
    ----------
    running : dict
        The cells in work and the step each has reached.
    most : None
        Bundles may be of any size: every cell is reported as it ends.
    """

    most: int | None = None

    def __init__(self, count: int):
        self.count = count
        self.running: dict[Cell, int] = {}
        self._stop = threading.Event()

    def results(self, job: Job, bundles: Sequence[Bundle]) -> Results:
        """Yield (cell, values) as cells finish, and None at least every `TICK` seconds.

        A cell's exception is raised here. When the caller stops listening, for whatever
        reason, cells in work stop at their next callback, and are waited for for a second.
        """
        tasks: queue.SimpleQueue[Bundle] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Cell, Any]] = queue.SimpleQueue()
        for bundle in bundles:
            tasks.put(bundle)
        threads = [
            threading.Thread(
                target=self._work, args=(job, tasks, done), name=f"fastdln-{i}", daemon=True
            )
            for i in range(min(self.count, len(bundles)))
        ]
        for thread in threads:
            thread.start()
        try:
            yield from _collect(done, sum(map(len, bundles)))
        finally:
            self._stop.set()
            deadline = time.monotonic() + 1
            for thread in threads:
                thread.join(max(deadline - time.monotonic(), 0))

    def _work(self, job: Job, tasks: "queue.SimpleQueue[Bundle]", done: Any) -> None:
        with threads.limited(1):
            while not self._stop.is_set():
                try:
                    bundle = tasks.get_nowait()
                except queue.Empty:
                    return
                self.running[bundle[0]] = 0
                try:
                    for cell, values in job(bundle, self._report):
                        self.running.pop(cell, None)
                        done.put((cell, values))
                except BaseException as error:  # handed to the caller, who raises it
                    done.put((bundle[0], error))

    def _report(self, cell: Cell, step: int) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt
        self.running[cell] = step


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
    most : int
        Cells of a bundle at most, for a bundle is reported as a whole.
    """

    most: int | None = 16

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

    def results(self, job: Job, bundles: Sequence[Bundle]) -> Results:
        """Yield (cell, values) as cells finish, and None at least every `TICK` seconds."""
        done: queue.SimpleQueue[tuple[Cell, Any]] = queue.SimpleQueue()
        # The job carries the data: it travels to each worker once, not with every cell.
        # pure=False: timings must not be answered from an earlier sweep's results;
        # priority: the first cells are the most expensive.
        carried = self._client.scatter(job, broadcast=True)
        futures = [
            self._client.submit(_alone, carried, bundle, pure=False, priority=-i)
            for i, bundle in enumerate(bundles)
        ]
        for future, bundle in zip(futures, bundles, strict=True):
            future.add_done_callback(_deliver(done, bundle))
        try:
            yield from _collect(done, sum(map(len, bundles)))
        finally:
            for future in futures:
                future.cancel()


def _alone(job: Job, bundle: Bundle) -> list[tuple[Cell, dict[str, Any]]]:
    """Run one bundle on one thread: a cluster's worker counts its threads itself."""
    with threads.limited(1):
        return list(job(bundle, None))


def _deliver(done: Any, bundle: Bundle) -> Callable[[Any], None]:
    def deliver(future: Any) -> None:
        try:
            for found in future.result():
                done.put(found)
        except BaseException as error:  # handed to the caller, who raises it
            done.put((bundle[0], error))

    return deliver
