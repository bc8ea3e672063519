"""Know how long compiling and loading of kernels keep a thread from its work, and shorten that.

Imports no Numba, so that whoever hands work to other threads can count their compiling as his own.
"""

import functools
import gc
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


class _Collection:
    """Python's garbage collection, which threads may pause at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pauses, self._was_on = 0, False

    def __enter__(self) -> None:
        with self._lock:
            if not self._pauses:
                self._was_on = gc.isenabled()
                gc.disable()
            self._pauses += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._pauses -= 1
            if not self._pauses and self._was_on:
                gc.enable()


_collection = _Collection()


def uncollected(compile_kernel: Callable[_P, _R]) -> Callable[_P, _R]:
    """Pause garbage collection during every call.

    Compiling makes a million objects that live until it ends. Looking for garbage among them 950
    times, 7 times among all objects of the process, took a tenth of the time; left uncollected it
    is 60 MB.
    """

    @functools.wraps(compile_kernel)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _collection:
            return compile_kernel(*args, **kwargs)

    return call
