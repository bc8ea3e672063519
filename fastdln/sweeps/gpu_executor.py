"""The cells of a sweep on one card, many at once, with the face of `fastdln.sweeps.sweep.executors.Threads`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastdln.rng import seed_key
from fastdln.sweeps.executors import Bundle, Job, Results, Threads
from fastdln.sweeps.grid import Cell
from fastdln.training.many_gpu import Order, goes_together, train_orders

if TYPE_CHECKING:
    from fastdln.sweeps.setting import Setting


class OneCard:
    """Cells on one card: those that go together at the same time, then the others one by one.

    Parameters
    ----------
    setting : Setting
        What all cells have in common.

    Attributes
    ----------
    count : int
        Cells that hold memory of this process at a time: one, while it is drawn.
    running : dict
        The cells in work and the step each has reached.
    """

    count = 1
    most: int | None = None

    def __init__(self, setting: "Setting"):
        self.running: dict[Cell, int] = {}
        self._setting = setting

    def results(self, job: Job, bundles: Sequence[Bundle]) -> Results:
        """Yield (cell, values) as cells finish, and None in between.

        `job` trains the cells that are not trained together. Training ends where the caller
        stops listening.
        """
        together: dict[Cell, Order] = {}
        alone: list[Bundle] = []
        for cell in (cell for bundle in bundles for cell in bundle):
            preparation = self._setting.preparation(cell)
            if goes_together(preparation):
                rate = self._setting.learning_rate
                together[cell] = Order(preparation, seed_key(cell.seed), rate)
            else:
                alone.append((cell,))
        if together:
            yield from self._train_together(list(together), list(together.values()))
        rest = Threads(1)
        self.running = rest.running
        yield from rest.results(job, alone)

    def _train_together(self, cells: Sequence[Cell], orders: Sequence[Order]) -> Results:
        launcher = orders[0].preparation.launcher
        with launcher.here():
            for found in train_orders(launcher, orders, hold=False):
                if isinstance(found, tuple):
                    index, result = found
                    self.running.pop(cells[index], None)
                    yield cells[index], self._setting.values(result)
                else:
                    self.running |= {cells[i]: step for i, (step, _) in found.items()}
                    yield None
