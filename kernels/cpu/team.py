"""A team of threads inside one kernel: they meet at spin barriers instead of forking per layer.

Every member calls the same kernel with its own rank, and all share one `meeting` array. A fork
per layer (a parallel loop) costs 2-3 µs each time, a meeting of two threads about 0.2 µs.
"""

import sys
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastdln.kernels.cpu.jit import part

# A waiting thread spins this often (some tens of µs) before it offers its processor to others:
# on a shared machine the member it waits for may be the one that needs it.
SPINS = 2000
# What a meeting counts to from when it is abandoned: above all numbers of real arrivals.
ABANDONED = 1 << 62


def new_meeting() -> np.ndarray:
    """Return the shared state of a team that has not met yet."""
    return np.zeros(16, dtype=np.int64)  # a cache line of its own, and its neighbour


def abandon(meeting: np.ndarray) -> None:
    """Let all who wait at a meeting go, and those who come later pass: somebody never will come.

    What the team was working on is of no use afterwards.
    """
    meeting[0] = ABANDONED


def _arrive(typing_context, meeting):
    """Add one to ``meeting[0]`` atomically and return its new value."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        one = ir.Constant(ir.IntType(64), 1)
        return builder.add(builder.atomic_rmw("add", data, one, "seq_cst"), one)

    return types.int64(meeting), codegen


def _arrived(typing_context, meeting):
    """Return ``meeting[0]``, read atomically."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(data, "acquire", 8)

    return types.int64(meeting), codegen


def _plain_arrive(meeting):
    meeting[0] += 1
    return meeting[0]


def _plain_arrived(meeting):
    return meeting[0]


if numba.config.DISABLE_JIT:
    # Plain Python runs one member only: `meet` returns at once.
    arrive, arrived, give_way = _plain_arrive, _plain_arrived, int
else:
    arrive, arrived = intrinsic(_arrive), intrinsic(_arrived)
    give_way = types.ExternalFunction(
        "SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32()
    )


@part
def meet(meeting, team):
    """Wait until all `team` members have called this equally often, or the meeting is abandoned."""
    if team == 1:
        return
    ticket = arrive(meeting)
    if ticket >= ABANDONED:
        return
    goal = (ticket + team - 1) // team * team
    spins = 0
    while arrived(meeting) < goal:
        spins += 1
        if spins > SPINS:
            give_way()


@part
def share(total, rank, team):
    """Return the half-open range of `total` pieces that member `rank` does."""
    if team == 1:  # two divisions less, which narrow layers would feel
        return np.intp(0), np.intp(total)
    return total * rank // team, total * (rank + 1) // team
