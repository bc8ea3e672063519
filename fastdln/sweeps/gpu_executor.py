"""Executor of a sweep's cells on one GPU, many at the same time."""

from collections.abc import Sequence

from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.executors import CellBatch, Results, Threads, TrainCells
from fastdln.sweeps.grid import Cell
from fastdln.training.batched import can_batch_on_gpu, train_on_gpu
from fastdln.training.run import Run


class OneGpu:
    """Train cells on one GPU: batchable ones at the same time, then the others one by one.

    A `fastdln.sweeps.executors.Executor`.

    Parameters
    ----------
    runs : CellRuns

    Attributes
    ----------
    count : int
        Cells that use host memory at a time: one, while it is drawn.
    running : dict
        The cells in training and the step each has reached.
    """

    count = 1
    most: int | None = None

    def __init__(self, runs: CellRuns):
        self.running: dict[Cell, int] = {}
        self._runs = runs

    def results(self, train: TrainCells, batches: Sequence[CellBatch]) -> Results:
        """Yield (cell, values) as cells finish, and None in between.

        `train` trains the cells that cannot be batched. Training ends when the caller closes the
        generator.
        """
        batched: dict[Cell, Run] = {}
        alone: list[CellBatch] = []
        for cell in (cell for batch in batches for cell in batch):
            run = self._runs.run(cell)
            if can_batch_on_gpu(run.prepared):
                batched[cell] = run
            else:
                alone.append((cell,))
        if batched:
            yield from self._train_batch(list(batched), list(batched.values()))
        rest = Threads(1)
        self.running = rest.running
        yield from rest.results(train, alone)

    def _train_batch(self, cells: Sequence[Cell], runs: Sequence[Run]) -> Results:
        for found in train_on_gpu(runs, keep_layers=False):
            if isinstance(found, tuple):
                index, result = found
                self.running.pop(cells[index], None)
                yield cells[index], self._runs.values(result)
            else:
                self.running |= {cells[i]: step for i, (step, _) in found.items()}
                yield None
