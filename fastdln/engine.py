"""Gradient descent on one packed chain of layers, advanced in pieces by a team of threads."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fastdln.kernels.cpu.descent import descend
from fastdln.kernels.cpu.layout import Layout, aligned_zeros
from fastdln.kernels.cpu.team import new_meeting
from fastdln.kernels.cpu.tiles import lanes

from . import parallel
from .plan import chain_layout
from .regression import ReducedRegression

# Seconds between returns to Python: Ctrl-C and callbacks wait at most about this long.
PIECE_SECONDS = 0.2
# Multiply-adds per layer and thread below which a meeting of threads costs more than it saves:
# measured on two cores, width 26 (9,000) lost a tenth, width 100 (112,000) gained a third.
TEAM_WORK = 32_768

Callback = Callable[[int, float], None]


class Descent:
    """A chain of layers under full-batch gradient descent on a reduced regression.

    Parameters
    ----------
    layers : iterable of ndarray
        Normalised layers, input first; taken one by one and copied.
    widths : tuple of int
        Columns of the first layer, then rows of every layer.
    rates : sequence of float
        Step size of every normalised layer.
    objective : ReducedRegression
    steps : int
        Most steps that may be taken.
    tolerance : float
        Relative loss at or below which the run has converged.
    """

    def __init__(
        self,
        layers: Iterable[np.ndarray],
        widths: tuple[int, ...],
        dtype: np.dtype,
        rates: np.ndarray,
        objective: ReducedRegression,
        steps: int,
        tolerance: float,
    ):
        self.mirrored = widths[0] < widths[-1]
        self.layout: Layout = chain_layout(widths, dtype)
        self.weights = aligned_zeros(self.layout.size, dtype)
        for i, layer in enumerate(layers):
            self.layer(i)[:] = layer
        self.products = aligned_zeros(self.layout.product_size, dtype)
        edge = self.layout.q_padded * self.layout.widest
        self._costates = aligned_zeros(edge, dtype), aligned_zeros(edge, dtype)
        order = slice(None, None, -1) if self.mirrored else slice(None)
        self._rates = np.ascontiguousarray(np.asarray(rates)[order], dtype=dtype)
        scale = np.broadcast_to(objective.scale, objective.target.shape)
        self._scale, self._target = (
            np.ascontiguousarray(a.T if self.mirrored else a) for a in (scale, objective.target)
        )
        self._constant = objective.constant
        self._tolerance = tolerance
        self.losses = np.empty(steps + 1)
        self.step = -1

    def layer(self, index: int) -> np.ndarray:
        """Return layer `index`, input first, as a view of the packed weights."""
        if self.mirrored:
            return self.layout.view(self.weights, self.layout.depth - 1 - index).T
        return self.layout.view(self.weights, index)

    def run(self, callback: Callback | None = None) -> None:
        """Take all steps, or fewer where the loss converges or is no longer finite."""
        team = team_size(self.layout)
        with ThreadPoolExecutor(team) as pool:
            self._advance(pool, team, 0)
            piece = 1
            while self.step < self.losses.size - 1:
                goal = min(self.step + piece, self.losses.size - 1)
                begun = time.perf_counter()
                self._advance(pool, team, goal)
                seconds = time.perf_counter() - begun
                if callback is not None:
                    callback(self.step, float(self.losses[self.step]))
                if self.step < goal or self.finished:
                    break
                piece = max(1, min(int(piece * PIECE_SECONDS / max(seconds, 1e-9)), 4 * piece))

    @property
    def floor(self) -> float:
        """The loss at or below which the run has converged."""
        return self._tolerance * self.losses[0] if self.step >= 0 else -1.0

    @property
    def finished(self) -> bool:
        """Whether the loss has converged or diverged."""
        loss = self.losses[self.step]
        return not np.isfinite(loss) or loss <= self.floor

    @property
    def status(self) -> str:
        """``"completed"``, ``"converged"`` or ``"diverged"``."""
        loss = self.losses[self.step]
        if not np.isfinite(loss):
            return "diverged"
        return "converged" if loss <= self.floor else "completed"

    def _advance(self, pool: ThreadPoolExecutor, team: int, goal: int) -> None:
        meeting = new_meeting()
        start, floor = self.step, self.floor

        def member(rank: int) -> int:
            return descend(
                self.weights, self.layout.layers, self.products, *self._costates, self._rates,
                self._scale, self._target, self._constant, self.losses, start, goal, floor,
                self.layout.q, self.layout.q_padded, lanes(self.layout.dtype), rank, team, meeting,
            )  # fmt: skip

        if team == 1:
            self.step = member(0)
        else:
            self.step = [f.result() for f in [pool.submit(member, r) for r in range(team)]][0]


def team_size(layout: Layout) -> int:
    """Return how many threads share one network of this layout; the bits do not depend on it."""
    work = layout.q_padded * layout.size / layout.depth
    return max(1, min(parallel.threads(), int(work // TEAM_WORK)))
