"""Know how long a thread was kept from its work by the compiling and loading of kernels.

Imports no Numba, so that whoever hands work to other threads can count their compiling as his own.
"""

import functools
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Clock(threading.local):
    seconds = 0.0


_clock = _Clock()


def compile_seconds() -> float:
    """Return the seconds that this thread has waited for kernels; it never decreases.

    That is for compiling them, for loading them from Numba's cache, and for other threads' doing
    so, since Numba compiles one kernel at a time. What a call took of them is the difference
    between two readings.
    """
    return _clock.seconds


def charge(seconds: float) -> None:
    """Count seconds that this thread has waited for other threads, because of their compiling."""
    _clock.seconds += seconds


def counted(compile_kernel: Callable[_P, _R]) -> Callable[_P, _R]:
    """Count the time of every call as compiling."""

    @functools.wraps(compile_kernel)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        begun = time.perf_counter()
        try:
            return compile_kernel(*args, **kwargs)
        finally:
            _clock.seconds += time.perf_counter() - begun

    return call


def measured(work: Callable[_P, _R]) -> Callable[_P, tuple[_R, float]]:
    """Return `work` as a function that returns its compile seconds, too.

    For work given to other threads: the thread that waits for them charges itself the largest.
    """

    @functools.wraps(work)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> tuple[_R, float]:
        begun = _clock.seconds
        result = work(*args, **kwargs)
        return result, _clock.seconds - begun

    return call
