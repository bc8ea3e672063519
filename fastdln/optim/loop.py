"""Bookkeeping of the training loop, common to all backends: spans, losses, status."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastdln.objectives.base import ReducedObjective

from .minibatches import Minibatches

# Seconds of one span, the steps between two returns to Python: Ctrl-C and callbacks wait about
# this long at most.
SPAN_SECONDS = 0.2
# A span has at most this many times the steps of the preceding span.
SPAN_GROWTH = 4

Callback = Callable[[int, float], None]


class Checkpoint(NamedTuple):
    """The start of a run: the steps taken before it, and the state of the optimiser.

    Attributes
    ----------
    steps : int
    optimizer_state : tuple of tuple of ndarray
        For every array of the optimiser state, its part of each layer, input first.
    first_loss : float or None
        The loss before any step, to which the tolerance is relative; None for a new run.
    """

    steps: int = 0
    optimizer_state: tuple[tuple[np.ndarray, ...], ...] = ()
    first_loss: float | None = None


START = Checkpoint()


def relative_floor(tolerance: float | None, dtype: np.dtype) -> float:
    """Return the relative loss at which a run of this dtype has converged."""
    return float((10 * np.finfo(dtype).eps) ** 2) if tolerance is None else tolerance


def status_of(loss: float, floor: float) -> str:
    """Return the status of a run whose last loss is `loss`; at or below `floor` it converged."""
    if not np.isfinite(loss):
        return "diverged"
    return "converged" if loss <= floor else "completed"


def next_span(steps: int, taken: int, seconds: float) -> int:
    """Return the length of the next span, given `taken` of `steps` steps in `seconds`."""
    fitting = int(SPAN_SECONDS * max(taken, 1) / max(seconds, 1e-9))
    return max(1, min(fitting, SPAN_GROWTH * steps))


class LossRecord:
    """The losses of a run so far, and the status that follows from them.

    Parameters
    ----------
    objective : ReducedObjective
    steps : int
        Most steps that may be taken.
    tolerance : float
        Relative loss at or below which the run has converged.
    schedule : Minibatches, optional
        The minibatch of each step; None is full-batch.
    checkpoint : Checkpoint
        Where the run starts.

    Attributes
    ----------
    losses : ndarray of float64, shape (steps + 1,)
    step : int
        The last step whose loss is known; -1 before the first.
    """

    def __init__(
        self,
        objective: ReducedObjective,
        steps: int,
        tolerance: float,
        schedule: Minibatches | None = None,
        checkpoint: Checkpoint = START,
    ):
        self._objective, self._tolerance, self._schedule = objective, tolerance, schedule
        self._checkpoint = checkpoint
        self.losses = np.empty(steps + 1)
        self.step = -1

    @property
    def floor(self) -> float:
        """The loss at or below which the run has converged."""
        if self._checkpoint.first_loss is not None:
            return self._tolerance * self._checkpoint.first_loss
        return float(self._tolerance * self.losses[0]) if self.step >= 0 else -1.0

    @property
    def status(self) -> str:
        """``"completed"``, ``"converged"`` or ``"diverged"``."""
        return "completed" if self.step < 0 else status_of(self.losses[self.step], self.floor)

    @property
    def finished(self) -> bool:
        """Whether the loss has converged or diverged."""
        return self.status != "completed"

    def record(self, M: np.ndarray) -> np.ndarray | None:
        """Enter the loss of the next step, whose end-to-end matrix is M; return its gradient.

        The gradient ``∂ℓ/∂M`` is that of the step's minibatch; None where the run has diverged.
        """
        self.step += 1
        # An overflowed matrix means divergence; the objective is not evaluated at it.
        if not np.isfinite(M).all():
            self.losses[self.step] = np.nan
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            self.losses[self.step], G = self._objective.evaluate(M)
            if self.step == self._checkpoint.steps == 0 and self.losses[0] < 0:
                raise ValueError(f"a loss must be at least 0, but is {self.losses[0]:.6g} at first")
            if self._schedule is not None:
                G = self._objective.batch_gradient(M, self._schedule(self.step))
        return G
