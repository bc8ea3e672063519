"""Where compiled kernels cannot be kept on disk, they are compiled all the same."""

import numba
import pytest

from fastdln.kernels.cpu import jit


def test_without_a_place_for_a_cache_kernels_are_compiled_and_it_is_said_once(monkeypatch, recwarn):
    njit, cached = numba.njit, []

    def nowhere(**options):
        cached.append(options["cache"])
        if options["cache"]:
            raise RuntimeError("cannot cache function 'double': no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", nowhere)
    monkeypatch.setattr(jit, "CACHED", True)
    with pytest.warns(RuntimeWarning, match="set NUMBA_CACHE_DIR"):
        double = jit.kernel(lambda x: 2 * x)
    assert double(3) == 6
    assert jit.part(lambda x: x)(3) == 3
    assert cached == [True, False, False]
    assert not recwarn.list
