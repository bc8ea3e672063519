"""Spans follow the steps that networks took, not those that were asked for."""

import time

import numpy as np
import pytest

from fastdln.backends.gpu.device import Device
from fastdln.backends.gpu.pacing import LaunchPacer
from fastdln.kernels.cuda.packing import Packing
from fastdln.kernels.cuda.team import Team


class Networks:
    """A hundred networks of depth 100, on each of which a group of blocks works, one at a time."""

    team, constants, packing, size = Team(132, 64), (), Packing([(16, 1000, 1000, 10)], "f4"), 0
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
    device = Device(0, "", 132, 232_448, 233_472, 2200.0)

    def zigzag_capacity(self, *variant):
        return 132

    def zigzag(self, *arguments):
        pass

    def synchronize(self):
        time.sleep(1e-3)


@pytest.mark.parametrize("last", [20, 1])
def test_spans_do_not_grow_because_networks_end(last):
    """At their last step, or by diverging at the first."""
    batch = Networks(last)
    batch.limit = 20 if last == 20 else 10**6
    launcher = Launcher()
    pacer = LaunchPacer(launcher, batch)
    waiting = np.arange(100)
    while waiting.size:
        active = waiting[: pacer.at_once]
        assert active.size == 1
        batch.advance(launcher.zigzag, active, *pacer.plan(active))
        steps = pacer.finish(active)[active]
        waiting = np.setdiff1d(waiting, active[steps >= last])
    # A span of 0.2 s holds two hundred steps of a millisecond.
    assert max(batch.asked) <= 220 * last
