"""A team of threads inside one kernel: spin barriers instead of one fork per layer.

Every member calls the same kernel with its own rank, and all members share one `barrier` array. A
parallel loop per layer costs 2-3 µs per fork; a barrier of two threads costs about 0.2 µs.
"""

import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastdln.kernels.cpu.jit import inlined

# Polls of the barrier (some tens of µs) before a waiting thread yields its processor: on a shared
# machine the missing team member may need that processor.
SPINS = 2000
# Count of an aborted barrier, larger than any number of arrivals.
ABORTED = 1 << 62


def new_barrier() -> np.ndarray:
    """Return the barrier of a team, int64; element 0 counts the arrivals."""
    return np.zeros(16, dtype=np.int64)  # two cache lines, which hold no other data


def abort(barrier: np.ndarray) -> None:
    """Release all waiters, now and later: one thread failed and will not reach the barrier.

    The arrays that the team was working on are invalid afterwards.
    """
    barrier[0] = ABORTED


def _arrive(typing_context: Any, barrier: Any) -> tuple[Any, Callable[..., Any]]:
    """Add one to ``barrier[0]`` atomically and return its new value."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        one = ir.Constant(ir.IntType(64), 1)
        return builder.add(builder.atomic_rmw("add", data, one, "seq_cst"), one)

    return types.int64(barrier), codegen


def _arrived(typing_context: Any, barrier: Any) -> tuple[Any, Callable[..., Any]]:
    """Return ``barrier[0]``, read atomically."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(data, "acquire", 8)

    return types.int64(barrier), codegen


def _plain_arrive(barrier: np.ndarray) -> Any:
    barrier[0] += 1
    return barrier[0]


def _plain_arrived(barrier: np.ndarray) -> Any:
    return barrier[0]


arrive: Callable[..., Any]
arrived: Callable[..., Any]
yield_processor: Callable[..., Any]
if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # set when Numba is imported
    # Plain Python runs teams of one member only: `wait` returns at once.
    arrive, arrived, yield_processor = _plain_arrive, _plain_arrived, int
else:
    arrive, arrived = intrinsic(_arrive), intrinsic(_arrived)
    yield_processor = types.ExternalFunction(
        "SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32()
    )


@inlined
def wait(barrier: np.ndarray, team: int) -> None:
    """Wait until all `team` members have reached the barrier, or it is aborted."""
    if team == 1:
        return
    ticket = arrive(barrier)
    if ticket >= ABORTED:
        return
    goal = (ticket + team - 1) // team * team
    spins = 0
    while arrived(barrier) < goal:
        spins += 1
        if spins > SPINS:
            yield_processor()


@inlined
def partition(total: int, rank: int, team: int) -> tuple[Any, Any]:
    """Return the half-open range of `total` items that member `rank` processes."""
    if team == 1:  # avoid two divisions, whose time is measurable for narrow layers
        return np.intp(0), np.intp(total)
    return total * rank // team, total * (rank + 1) // team
