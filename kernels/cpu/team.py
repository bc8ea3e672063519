"""A team of threads inside one kernel: barriers instead of one fork per layer.

Every member calls the same kernel with its own rank, and all members share one `barrier` array. A
parallel loop per layer costs 2-3 µs per fork; a barrier of two threads costs about 0.2 µs.
"""

from typing import Any

import numpy as np

from fastdln.kernels.cpu.jit import inlined
from fastdln.kernels.cpu.waiting import (
    ENDED,
    HEADER,
    LATE,
    LINE,
    SLEEPERS,
    STOPPED,
    USUAL_PATIENCE,
    add,
    await_word,
    fail,
    new_words,
    read,
    wake,
    write,
)

# The words of a barrier: how often members have arrived, then those of the kernel, if any.
ARRIVALS, OTHERS = HEADER, HEADER + LINE


def new_barrier(others: int = 0, patience: int = USUAL_PATIENCE) -> np.ndarray:
    """Return the barrier of a team, int64, with `others` words more, each in a line of its own.

    A team is late once a member has waited longer than `patience` nanoseconds for another; kernels
    that take many steps then return after the step, for one thread may be faster.
    """
    return new_words(LINE * (1 + others), patience)


def abort(barrier: np.ndarray) -> None:
    """Release all waiters, now and later: one thread failed and will not reach the barrier.

    The arrays that the team was working on are invalid afterwards.
    """
    fail(barrier)


@inlined
def wait(barrier: np.ndarray, team: int) -> None:
    """Wait until all `team` members have reached the barrier, or it is aborted."""
    if team == 1:
        return
    ticket = add(barrier, ARRIVALS, 1)
    if ticket >= ENDED:
        return
    goal = (ticket + team - 1) // team * team
    if ticket < goal:
        await_word(barrier, ARRIVALS, goal)
    elif read(barrier, SLEEPERS) > 0:
        wake(barrier, ARRIVALS)


@inlined
def stop_if_late(barrier: np.ndarray) -> None:
    """Let the team stop if it is late; called by one member, before a barrier of every step."""
    if read(barrier, LATE) != 0:
        write(barrier, STOPPED, 1)


@inlined
def goes_on(barrier: np.ndarray) -> bool:
    """Return whether the team does not stop; the same for all members after the same barrier."""
    return read(barrier, STOPPED) == 0


def was_late(barrier: np.ndarray) -> bool:
    """Return whether a member waited longer than the patience."""
    return bool(barrier[LATE])


@inlined
def partition(total: int, rank: int, team: int) -> tuple[Any, Any]:
    """Return the half-open range of `total` items that member `rank` processes."""
    if team == 1:  # avoid two divisions, whose time is measurable for narrow layers
        return np.intp(0), np.intp(total)
    return total * rank // team, total * (rank + 1) // team
