"""Wall time without the time in which kernels are compiled."""

import time

from fastdln.kernels.cpu.compile_time import compile_seconds


class Stopwatch:
    """Measures from when it is made; read in the same thread.

    Parameters
    ----------
    seconds, compile_seconds : float
        A reading to continue from.
    """

    def __init__(self, seconds: float = 0.0, compile_seconds: float = 0.0):
        self._earlier = seconds, compile_seconds
        self._begun = _now()

    def read(self) -> tuple[float, float]:
        """Return the seconds without compiling, and those of compiling and loading kernels."""
        elapsed, compiling = (now - begun for now, begun in zip(_now(), self._begun, strict=True))
        seconds, compiled = self._earlier
        # Waits for other threads' compiling are the longest of them: never more than the whole.
        compiling = min(compiling, elapsed)
        return seconds + elapsed - compiling, compiled + compiling


def _now() -> tuple[float, float]:
    return time.perf_counter(), compile_seconds()
