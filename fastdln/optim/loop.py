"""What every run of gradient descent knows of itself, whichever kernels take its steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Seconds between returns to Python: Ctrl-C and callbacks wait at most about this long.
PIECE_SECONDS = 0.2
# A piece takes at most so many times the steps of the one before.
MOST_GROWTH = 4

Callback = Callable[[int, float], None]
Schedule = Callable[[int], np.ndarray]


class Past(NamedTuple):
    """What a run goes on from: steps taken before it, and what the optimiser remembers.

    Attributes
    ----------
    steps : int
    moments : tuple of tuple of ndarray
        For every array that the optimiser keeps, its part of each layer, input first.
    first_loss : float or None
        The loss before any step, to which the tolerance is relative; None where this is the start.
    """

    steps: int = 0
    moments: tuple[tuple[np.ndarray, ...], ...] = ()
    first_loss: float | None = None


FRESH = Past()


def status_of(loss: float, floor: float) -> str:
    """Return how a run whose last loss is `loss` ended; at or below `floor` it has converged."""
    if not np.isfinite(loss):
        return "diverged"
    return "converged" if loss <= floor else "completed"


def next_piece(steps: int, taken: int, seconds: float) -> int:
    """Return how many steps the next piece has after one of `steps`, of which some were taken."""
    fitting = int(PIECE_SECONDS * max(taken, 1) / max(seconds, 1e-9))
    return max(1, min(fitting, MOST_GROWTH * steps))


class Run:
    """The losses of a run so far, and what they say of it.

    Parameters
    ----------
    objective : ReducedRegression or other objective on its inputs' span
    steps : int
        Most steps that may be taken.
    tolerance : float
        Relative loss at or below which the run has converged.
    schedule : callable, optional
        From a step to the indices of its minibatch; None is full-batch.
    past : Past
        What the run goes on from.

    Attributes
    ----------
    losses : ndarray of float64, shape (steps + 1,)
    step : int
        The last step whose loss is known; -1 before the first.
    """

    def __init__(
        self,
        objective: Any,
        steps: int,
        tolerance: float,
        schedule: Schedule | None = None,
        past: Past = FRESH,
    ):
        self._objective, self._tolerance, self._schedule = objective, tolerance, schedule
        self._past = past
        self.losses = np.empty(steps + 1)
        self.step = -1

    @property
    def floor(self) -> float:
        """The loss at or below which the run has converged."""
        if self._past.first_loss is not None:
            return self._tolerance * self._past.first_loss
        return self._tolerance * self.losses[0] if self.step >= 0 else -1.0

    @property
    def status(self) -> str:
        """``"completed"``, ``"converged"`` or ``"diverged"``."""
        return status_of(self.losses[self.step], self.floor)

    @property
    def finished(self) -> bool:
        """Whether the loss has converged or diverged."""
        return self.status != "completed"

    def note(self, M: np.ndarray) -> np.ndarray | None:
        """Move on to the next step, which led to M: keep its loss, return the gradient at M.

        The gradient is that of the step's minibatch, ``∂ℓ/∂M``; None where the run has diverged.
        """
        self.step += 1
        # A matrix that has overflowed is a diverged run, not an objective's business.
        if not np.isfinite(M).all():
            self.losses[self.step] = np.nan
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            self.losses[self.step], G = self._objective.evaluate(M)
            if self.step == self._past.steps == 0 and self.losses[0] < 0:
                raise ValueError(f"a loss must be at least 0, but is {self.losses[0]:.6g} at first")
            if self._schedule is not None:
                G = self._objective.batch_gradient(M, self._schedule(self.step))
        return G
