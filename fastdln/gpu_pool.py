"""The cells of a sweep on one card, many at once, with the face of `fastdln.workers.Threads`."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdln.kernels.cuda.batch import MOST_CARRIED
from fastdln.kernels.cuda.packing import Packing

from .cells import Cell, recorded
from .gpu import Card, on_card
from .gpu_batch import Job, Outcome, train_many
from .gpu_launch import Launcher
from .gpu_start import drawn_layers
from .gpu_teams import is_able
from .objective import on_inputs
from .random import seed_key
from .regression import ReducedRegression
from .start import Draw
from .task import learning_rate_or_default, relative_floor
from .workers import Bundle, Results
from .workers import Job as CellJob

if TYPE_CHECKING:
    from .sweeps import Setting


class OneCard:
    """Cells on one card: those that the zigzag kernel takes together, others one by one.

    Parameters
    ----------
    card : Card
    setting : Setting
        What all cells have in common.
    launcher : Launcher, optional
        Of this card; made where it is left out.

    Attributes
    ----------
    count : int
        Cells that hold memory of this process at a time: one, while it is drawn.
    running : dict
        The cells in work and the step each has reached.
    """

    count = 1
    most: int | None = None

    def __init__(self, card: Card, setting: "Setting", launcher: Any = None):
        self.running: dict[Cell, int] = {}
        self._card, self._setting, self._given = card, setting, launcher

    def results(self, job: CellJob, bundles: Sequence[Bundle]) -> Results:
        """Yield (cell, values) as cells finish, and None in between.

        `job` trains the cells that are not trained together. Training ends where the caller
        stops listening.
        """
        cells = [cell for bundle in bundles for cell in bundle]
        with nullcontext() if self._given is not None else on_card(self._card):
            launcher = self._given or Launcher(self._card, np.dtype(self._setting.dtype))
            together = [cell for cell in cells if self._batched(launcher, cell)]
            if together:
                yield from self._batch(launcher, together)
        for cell in cells:
            if cell not in set(together):
                yield from job((cell,), None)

    def _batched(self, launcher: Any, cell: Cell) -> bool:
        """Return whether a cell is trained together with others."""
        setting, plan = self._setting, self._setting.plan(cell)
        inside = isinstance(self._objective, ReducedRegression)
        if not inside or setting.options.get("batch_size") or not setting.rule.equivariant:
            return False
        if max(plan.widths[0], plan.widths[-1]) > MOST_CARRIED:
            return False
        packing = Packing([plan.widths], plan.dtype)
        return is_able(packing, setting.rule.momentum > 0, launcher.card)

    @property
    def _objective(self) -> Any:
        return on_inputs(self._setting.problem, whole=not self._setting.rule.equivariant)

    def _batch(self, launcher: Any, cells: Sequence[Cell]) -> Results:
        setting, objective = self._setting, self._objective
        jobs = [self._job(launcher, cell) for cell in cells]
        floor = relative_floor(None, np.dtype(setting.dtype))
        begun: dict[int, float] = {}
        found = train_many(launcher, jobs, setting.rule, objective, setting.steps, floor)
        before = time.perf_counter()
        for outcome in found:
            if isinstance(outcome, Outcome):
                i = outcome.index
                self.running.pop(cells[i], None)
                yield cells[i], self._values(cells[i], jobs[i], outcome, begun[i])
            else:
                for i, step in outcome.items():
                    # Drawing counts, and happened since the last time we were here.
                    begun.setdefault(i, before)
                    self.running[cells[i]] = step
                yield None
            before = time.perf_counter()

    def _job(self, launcher: Any, cell: Cell) -> Job:
        setting, plan = self._setting, self._setting.plan(cell)
        rate = learning_rate_or_default(setting.problem, setting.learning_rate, cell.depth)
        gain = setting.options.get("gain", 1.0)
        draw = Draw(plan.full_widths, cell.init, seed_key(cell.seed), plan.dtype, gain)
        basis = self._objective.basis
        rows = np.array(plan.full_widths[1:], dtype=np.float64)
        return Job(plan.widths, rows, rate, lambda: drawn_layers(launcher, draw, plan, basis))

    def _values(self, cell: Cell, job: Job, outcome: Outcome, begun: float) -> dict[str, Any]:
        setting = self._setting
        return {
            "loss": recorded(outcome.loss, outcome.status, np.array(setting.record_steps)),
            "initial_loss": outcome.loss[0],
            "learning_rate": job.learning_rate,
            "steps_taken": outcome.loss.size - 1,
            # Of the batch that the cell was in, up to its end: cells overlap.
            "seconds": time.perf_counter() - begun,
            "method": setting.plan(cell).method,
            "status": outcome.status,
        }
