"""Executors of a sweep's cells: threads of this process, or the workers of a Dask cluster."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol

from fastdln.sweeps.grid import Cell
from fastdln.utils import threads

# Called a few times a second with the step that a cell has reached; raises to stop training.
CellCallback = Callable[[Cell, int], None]
# Cells that one thread trains in a batch; mostly a single one.
CellBatch = tuple[Cell, ...]
# Trains a batch and yields every cell's values as it ends.
TrainCells = Callable[[CellBatch, CellCallback | None], Iterator[tuple[Cell, dict[str, Any]]]]

Results = Generator[tuple[Cell, Any] | None, None, None]

# Seconds after which an executor yields although no cell has ended: short enough for a live
# progress bar and a prompt Ctrl-C.
TICK = 0.2


class Executor(Protocol):
    """Computes the cells of a sweep."""

    @property
    def count(self) -> int:
        """Cells that are trained at a time."""
        ...

    @property
    def most(self) -> int | None:
        """Most cells of a batch; None for no limit."""
        ...

    @property
    def running(self) -> dict[Cell, int]:
        """The cells in training and the step each has reached."""
        ...

    def results(self, train: TrainCells, batches: Sequence[CellBatch]) -> Results:
        """Yield (cell, values) as cells finish, and None at least every `TICK` seconds."""
        ...


class Threads:
    """Train cells on `count` threads of this process, each batch on one thread, the last on more.

    The threads are daemons: a cell that cannot be stopped (it is being initialised, say)
    does not keep an interrupted program alive.

    Attributes
    ----------
    running : dict
        The cells in training and the step each has reached.
    most : None
        Batches may be of any size: every cell is reported as it ends.
    """

    most: int | None = None

    def __init__(self, count: int):
        self.count = count
        self.running: dict[Cell, int] = {}
        self._stop = threading.Event()
        self._at_work = 0

    def results(self, train: TrainCells, batches: Sequence[CellBatch]) -> Results:
        """Yield (cell, values) as cells finish, and None at least every `TICK` seconds.

        A cell's exception is raised here. When the caller closes the generator, cells in training
        stop at their next callback; this waits at most a second for them.
        """
        tasks: queue.SimpleQueue[CellBatch] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Cell, Any]] = queue.SimpleQueue()
        for batch in batches:
            tasks.put(batch)
        threads = [
            threading.Thread(
                target=self._work, args=(train, tasks, done), name=f"fastdln-{i}", daemon=True
            )
            for i in range(min(self.count, len(batches)))
        ]
        self._at_work = len(threads)
        for thread in threads:
            thread.start()
        try:
            yield from _collect(done, sum(map(len, batches)))
        finally:
            self._stop.set()
            deadline = time.monotonic() + 1
            for thread in threads:
                thread.join(max(deadline - time.monotonic(), 0))

    def _work(self, train: TrainCells, tasks: "queue.SimpleQueue[CellBatch]", done: Any) -> None:
        try:
            self._train_all(train, tasks, done)
        finally:
            self._at_work -= 1

    def _train_all(
        self, train: TrainCells, tasks: "queue.SimpleQueue[CellBatch]", done: Any
    ) -> None:
        # The last cells take the threads of those that have found no more work.
        growth = self.count, lambda: self.count // max(self._at_work, 1)
        with threads.limited(1, growth):
            while not self._stop.is_set():
                try:
                    batch = tasks.get_nowait()
                except queue.Empty:
                    return
                self.running[batch[0]] = 0
                try:
                    for cell, values in train(batch, self._report):
                        self.running.pop(cell, None)
                        done.put((cell, values))
                except BaseException as error:  # raised again in the caller's thread
                    done.put((batch[0], error))

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
    """Train cells on the workers of a Dask cluster, through the user's ``distributed.Client``.

    Attributes
    ----------
    count : int
        Threads of all workers when the executor was made.
    running : dict
        Empty: the workers of a cluster do not report their progress.
    most : int
        Most cells of a batch: a batch is reported as a whole.
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

    def results(self, train: TrainCells, batches: Sequence[CellBatch]) -> Results:
        """Yield (cell, values) as cells finish, and None at least every `TICK` seconds."""
        done: queue.SimpleQueue[tuple[Cell, Any]] = queue.SimpleQueue()
        # `train` holds the data: it is sent to each worker once, not with every cell.
        # pure=False: Dask must not reuse an earlier sweep's results, whose times differ;
        # priority: the first cells are the most expensive.
        carried = self._client.scatter(train, broadcast=True)
        futures = [
            self._client.submit(_train_on_one_thread, carried, batch, pure=False, priority=-i)
            for i, batch in enumerate(batches)
        ]
        for future, batch in zip(futures, batches, strict=True):
            future.add_done_callback(_put_results(done, batch))
        try:
            yield from _collect(done, sum(map(len, batches)))
        finally:
            for future in futures:
                future.cancel()


def _train_on_one_thread(train: TrainCells, batch: CellBatch) -> list[tuple[Cell, dict[str, Any]]]:
    """Train one batch on one thread: a Dask worker already runs one task on each of its threads."""
    with threads.limited(1):
        return list(train(batch, None))


def _put_results(done: Any, batch: CellBatch) -> Callable[[Any], None]:
    def put_results(future: Any) -> None:
        try:
            for found in future.result():
                done.put(found)
        except BaseException as error:  # raised again in the caller's thread
            done.put((batch[0], error))

    return put_results
