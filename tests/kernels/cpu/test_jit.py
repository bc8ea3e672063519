"""Where compiled kernels cannot be kept on disk, they are compiled all the same."""

import pickle

import numba
import numpy as np
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


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_processes_that_compile_for_two_dtypes_at_once_write_two_files(tmp_path, monkeypatch):
    """One of the two entries in the index may be lost; that means compiling again, no more."""
    index = regression_loop.descend._cache._cache_file
    monkeypatch.setattr(index, "_cache_path", str(tmp_path))
    monkeypatch.setattr(index, "_index_path", str(tmp_path / "index"))
    monkeypatch.setattr(index, "_load_index", dict)  # as if neither process saw the other's
    index.save(("float32", "processor", "code"), b"1")
    index.save(("float64", "processor", "code"), b"2")
    index.save(("float32", "processor", "other code"), b"3")
    saved = {index._load_data(path.name) for path in tmp_path.glob("*.nbc")}
    assert saved == {b"2", b"3"}


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_it_is_known_for_which_dtypes_a_kernel_is_compiled(tmp_path, monkeypatch):
    @jit.kernel
    def first(x: np.ndarray) -> float:
        return x[0]

    index = first._cache._cache_file
    monkeypatch.setattr(index, "_cache_path", str(tmp_path))
    monkeypatch.setattr(index, "_index_path", str(tmp_path / "index"))
    assert not jit.is_compiled(first, "float32")
    first(np.ones(2, np.float32))
    assert jit.is_compiled(first, "float32")
    assert not jit.is_compiled(first, "float64")
    assert not jit.is_compiled(lambda x: x, "float64")
