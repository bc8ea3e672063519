"""Where compiled kernels cannot be kept on disk, they are compiled all the same."""

import pickle

import numba
import pytest

from fastdln.kernels.cpu import jit, regression_loop


def test_without_a_place_for_a_cache_kernels_are_compiled_and_it_is_said_once(monkeypatch, recwarn):
    njit, cached = numba.njit, []

    def nowhere(*functions, **options):
        if functions:  # Numba itself, which imports some of its modules only now
            return njit(*functions, **options)
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


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_a_cache_of_another_version_is_compiled_anew(tmp_path, monkeypatch):
    """Its index may name a class that is gone: unpickling it raises AttributeError."""
    index = regression_loop.descend._cache._cache_file
    path = tmp_path / "descend.nbi"
    path.write_bytes(pickle.dumps(numba.__version__) + b"cfastdln.kernels.cpu.groups\nGone\n.")
    monkeypatch.setattr(index, "_index_path", str(path))
    assert index._load_index() == {}
