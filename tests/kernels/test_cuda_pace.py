"""Pieces follow what networks did, not what was asked of them."""

import time

import numpy as np
import pytest

from fastdln.backends.gpu import pacing as pace
from fastdln.kernels.cuda.zigzag import Team


class Networks:
    """A hundred networks of depth 100 that blocks in groups work on, one at a time."""

    team, constants, packing, size = Team(132, 64), (), None, 0
    shared_bytes, velocity_kept, limit = 0, False, 20
    depths = np.full(100, 100, np.int64)

    def __init__(self, last):
        self.last, self.steps, self.asked = last, np.full(100, -1), []

    def steps_taken(self):
        return self.steps.copy()

    def advance(self, launch, active, goals, *rest):
        self.asked.append(int((goals - np.maximum(self.steps[active], 0)).max()))
        self.steps[active] = np.minimum(goals, self.last)


class Launcher:
    card = "gpu:0"

    def zigzag_room(self, *variant):
        return 132

    def zigzag(self, *arguments):
        pass

    def synchronize(self):
        time.sleep(1e-3)


@pytest.mark.parametrize("last", [20, 1])
def test_pieces_do_not_grow_because_networks_end(last, monkeypatch):
    """At their last step, or by diverging at the first."""
    monkeypatch.setattr(pace, "networks_at_once", lambda *given: 1)
    batch = Networks(last)
    batch.limit = 20 if last == 20 else 10**6
    moving = pace.Pace(Launcher(), batch)
    waiting = np.arange(100)
    while waiting.size:
        active = waiting[: moving.at_once]
        assert active.size == 1
        steps = moving.advance(active)[active]
        waiting = np.setdiff1d(waiting, active[steps >= last])
    # A piece of 0.2 s has room for two hundred of what took a millisecond.
    assert max(batch.asked) <= 220 * last
