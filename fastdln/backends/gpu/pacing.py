"""Choose the number of steps per launch of the zigzag kernel from measured times."""

import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastdln.kernels.cuda.zigzag import Batch
from fastdln.optim.loop import SPAN_SECONDS, next_span
from fastdln.optim.minibatches import Minibatches

from .cost_model import networks_at_once
from .launcher import Launcher

log = logging.getLogger("fastdln")

# Maximum number of minibatch indices copied to the GPU per launch.
MAX_INDICES = 1 << 22


class Launch(NamedTuple):
    """A launch's arguments for `Batch.advance`: goals, seconds, and minibatch indices."""

    goals: np.ndarray
    seconds: float
    indices: list[np.ndarray]


class LaunchPacer:
    """Plan the launches of a batch so that each takes about `SPAN_SECONDS`.

    Parameters
    ----------
    launcher : Launcher
    batch : Batch
    schedules : sequence of Minibatches or None
        The minibatches of each network; None is full-batch.
    max_indices : int
        Maximum number of minibatch indices per launch.

    Attributes
    ----------
    at_once : int
        Maximum number of networks per launch: groups of blocks synchronise, so all blocks of a
        launch must be resident on the GPU at the same time.
    """

    def __init__(
        self,
        launcher: Launcher,
        batch: Batch,
        schedules: Sequence[Minibatches | None] = (None,),
        max_indices: int = MAX_INDICES,
    ):
        self._launcher, self._batch, self._schedules = launcher, batch, schedules
        self._max_indices, self._grouped = max_indices, batch.team.group > 1
        blocks = launcher.zigzag_capacity(batch.constants, batch.team.block, batch.shared_bytes)
        self._capacity = max(blocks // batch.team.group, 1)
        expected = networks_at_once(batch.packing, batch.team, batch.velocity_kept, launcher.device)
        if self._capacity < expected:
            log.warning(
                "%s holds %d networks at a time where %d were expected; %s may not be the best",
                *(launcher.device, self._capacity, expected, batch.team),
            )
        self.at_once = self._capacity if self._grouped else len(batch.depths)
        self._updates = int(batch.depths.max())  # layer updates of every network in a span
        self._start, self._before = 0.0, np.zeros(0, np.int64)  # of the launch in progress

    def plan(self, active: np.ndarray, goal: int | None = None) -> Launch:
        """Return the launch that advances the active networks by one span, to `goal` at most."""
        batch, self._start = self._batch, time.perf_counter()
        goals = np.full(len(active), batch.limit if goal is None else min(goal, batch.limit))
        before = self._before = np.maximum(batch.steps_taken()[active], 0)
        if self._grouped or batch.size:
            # Deeper networks take fewer steps, so that all finish the launch at the same time.
            steps = np.maximum(self._updates // batch.depths[active], 1)
            goals = np.minimum(goals, before + np.minimum(steps, self._most_steps(len(active))))
        # Networks of one block stop by the GPU's clock; waves of blocks divide the span's time.
        waves = -(-len(active) // self._capacity)
        return Launch(goals, SPAN_SECONDS / waves, self._indices(active, before, goals))

    def finish(self, active: np.ndarray) -> np.ndarray:
        """Wait for the planned launch and record its time; return every network's step."""
        self._launcher.synchronize()
        seconds, reached = time.perf_counter() - self._start, self._batch.steps_taken()
        # Count the steps taken, not the planned ones: networks end early, and goals are clipped.
        taken = (reached[active] - self._before) * self._batch.depths[active]
        self._updates = next_span(self._updates, int(taken.max()), seconds)
        return reached

    def _most_steps(self, networks: int) -> int:
        """Return the steps per network for which all minibatch indices fit in one launch."""
        if not self._batch.size:
            return self._batch.limit
        return max(self._max_indices // (self._batch.size * networks), 1)

    def _indices(
        self, active: np.ndarray, before: np.ndarray, goals: np.ndarray
    ) -> list[np.ndarray]:
        """Return, for each active network, the sample indices of its steps up to its goal."""
        if not self._batch.size:
            return []
        found = []
        for network, first, goal in zip(active, before, goals, strict=True):
            schedule = self._schedules[network]
            assert schedule is not None  # all networks of a batch have minibatches, or none
            found.append(np.array([schedule(t) for t in range(first, goal)], np.int32))
        return found
