"""The part of a `Trainer` that both backends share: recorded losses and the resulting status."""

import numpy as np

from fastdln.backends.interface import Workload
from fastdln.optim.loop import LossRecord


class RecordedTrainer:
    """The losses of one network in training.

    Parameters
    ----------
    workload : Workload
    """

    def __init__(self, workload: Workload):
        self._record = LossRecord(
            workload.objective,
            workload.steps,
            workload.tolerance,
            workload.schedule,
            workload.checkpoint,
        )

    @property
    def losses(self) -> np.ndarray:
        """Losses, float64, shape (steps + 1,); valid up to `step`."""
        return self._record.losses

    @property
    def step(self) -> int:
        """The last step whose loss is known; -1 before the first `advance`."""
        return self._record.step

    @property
    def status(self) -> str:
        """``"completed"``, ``"converged"`` or ``"diverged"``."""
        return self._record.status

    @property
    def finished(self) -> bool:
        """Whether the loss has converged or diverged."""
        return self._record.finished
