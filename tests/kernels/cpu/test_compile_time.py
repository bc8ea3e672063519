"""A thread knows how long it was kept by compiling."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numba
import pytest

from fastdln.kernels.cpu import jit
from fastdln.kernels.cpu.compile_time import charge, compile_seconds, measured, uncollected


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_a_thread_counts_its_own_compiling_once():
    @jit.kernel
    def triple(x: int) -> int:
        return 3 * x

    with ThreadPoolExecutor(1) as pool:
        result, seconds = pool.submit(measured(triple), 5).result()
        assert result == 15
        assert seconds > 0
        assert pool.submit(measured(triple), 6).result() == (18, 0.0)
    before = compile_seconds()
    assert triple(7) == 21
    assert compile_seconds() == before


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_compiling_that_fails_is_counted():
    @jit.kernel
    def wrong(x: int) -> int:
        return x.nothing  # type: ignore[attr-defined]

    before = compile_seconds()
    with pytest.raises(numba.TypingError):
        wrong(1)
    assert compile_seconds() > before


def test_a_thread_is_charged_for_those_it_waited_for():
    before = compile_seconds()
    charge(0.5)
    assert compile_seconds() == before + 0.5


@pytest.mark.parametrize("on", [True, False])
def test_garbage_collection_pauses_and_is_then_as_before(on):
    if not on:
        gc.disable()
    try:
        nested = uncollected(uncollected(gc.isenabled))
        assert not nested()
        with pytest.raises(ZeroDivisionError):
            uncollected(lambda: 1 / 0)()
        assert gc.isenabled() == on
    finally:
        gc.enable()
