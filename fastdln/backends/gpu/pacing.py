"""How far a batch of networks on a card goes in one launch."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastdln.backends.gpu.cost_model import networks_at_once
from fastdln.kernels.cuda.zigzag import Batch
from fastdln.optim.loop import PIECE_SECONDS, next_piece

log = logging.getLogger("fastdln")

# Indices of minibatches that are sent to the card at a time.
MOST_INDICES = 1 << 22


class Pace:
    """Pieces of training that each take about `PIECE_SECONDS`.

    Attributes
    ----------
    at_once : int
        How many networks an advance may take: those that blocks in groups work on all have to be
        on the card at once.
    """

    def __init__(self, launcher: Any, batch: Batch, schedules: Sequence[Any] = (None,)):
        self._launcher, self._batch, self._schedules = launcher, batch, schedules
        self._grouped = batch.team.group > 1
        room = launcher.zigzag_room(batch.constants, batch.team.block, batch.shared_bytes)
        self._room = max(room // batch.team.group, 1)
        expected = networks_at_once(batch.packing, batch.team, batch.velocity_kept, launcher.card)
        if self._room < expected:
            log.warning(
                "%s works on %d networks at a time where %d were expected; %s may not be the best",
                launcher.card, self._room, expected, batch.team,
            )  # fmt: skip
        self.at_once = self._room if self._grouped else len(batch.depths)
        self._visits = int(batch.depths.max())  # of a layer, by every network in a piece

    def advance(self, active: np.ndarray, goal: int | None = None) -> np.ndarray:
        """Advance the active networks by one piece, to `goal` at most; return all steps."""
        batch, begun = self._batch, time.perf_counter()
        goals = np.full(len(active), batch.limit if goal is None else min(goal, batch.limit))
        before = np.maximum(batch.steps_taken()[active], 0)
        if self._grouped or batch.size:
            # Deep networks take fewer steps, so that none waits for them.
            steps = np.maximum(self._visits // batch.depths[active], 1)
            goals = np.minimum(goals, before + np.minimum(steps, self._most_steps(len(active))))
        # Single blocks watch the clock themselves; in waves, each has a part of the piece.
        waves = -(-len(active) // self._room)
        batches = self._batches(active, before, goals)
        batch.advance(self._launcher.zigzag, active, goals, PIECE_SECONDS / waves, batches)
        self._launcher.synchronize()
        seconds, reached = time.perf_counter() - begun, batch.steps_taken()
        # What was done, not what was asked for: networks end, and goals are cut.
        taken = (reached[active] - before) * batch.depths[active]
        self._visits = next_piece(self._visits, int(taken.max()), seconds)
        return reached

    def _most_steps(self, networks: int) -> int:
        """Return how many steps of each network have room for their indices."""
        if not self._batch.size:
            return self._batch.limit
        return max(MOST_INDICES // (self._batch.size * networks), 1)

    def _batches(self, active: np.ndarray, before: np.ndarray, goals: np.ndarray) -> list[Any]:
        """Return the indices of the samples of all steps to come, for each active network."""
        if not self._batch.size:
            return []
        return [
            np.array([self._schedules[i](t) for t in range(first, goal)], np.int32)
            for i, first, goal in zip(active, before, goals, strict=True)
        ]
