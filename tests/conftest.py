"""Fixtures for all tests, and a compile cache that follows the kernels' sources."""

import hashlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if "NUMBA_CACHE_DIR" not in os.environ:
    # Numba looks only at a kernel's own file: an edit to a tile would leave the kernels built
    # from it stale. A folder per state of all sources cannot be stale.
    sources = b"".join(p.read_bytes() for p in sorted((ROOT / "kernels").rglob("*.py")))
    digest = hashlib.sha256(sources).hexdigest()[:16]
    os.environ["NUMBA_CACHE_DIR"] = str(ROOT / ".numba_cache" / digest)
# What a run measures must not decide what a later test does.
os.environ["FASTDLN_KEEP_CHOICES"] = "0"

import matplotlib as mpl  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# Where the tests of CUDA kernels find the shim that runs them on the CPU.
sys.path.append(str(ROOT / "tests" / "kernels" / "cuda" / "shim"))

mpl.use("agg")

# Relative tolerance of a loss after a few dozen stable steps: some hundred roundings.
RTOL = {"float32": 2e-4, "float64": 1e-11}


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def rtol(dtype):
    return RTOL[dtype]


@pytest.fixture
def rng():
    return np.random.default_rng(20200113)


@pytest.fixture
def shim_gpu(monkeypatch):
    """A GPU where there is none: every kernel for ``device="gpu"`` runs on the CPU."""
    import shim_device

    shim_device.install(monkeypatch.setattr)


@pytest.fixture(params=["shim", "hardware"])
def gpu(request):
    """The name of a GPU: the thread shim, and a real one where there is one."""
    return _gpu(request)


@pytest.fixture(params=["cpu", "shim", "hardware"])
def device(request):
    """The name of a device: the CPU, and as `gpu`."""
    return "cpu" if request.param == "cpu" else _gpu(request)


def _gpu(request):
    from fastdln.backends.gpu.device import available

    if request.param == "shim":
        request.getfixturevalue("shim_gpu")
    elif not available():
        pytest.skip("no GPU that CuPy can use: fastdln.backends.gpu.device.require_gpu()")
    return "gpu"
