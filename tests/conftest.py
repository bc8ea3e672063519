"""What all tests share: a compile cache that follows the kernels' sources, and seeded data."""

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if "NUMBA_CACHE_DIR" not in os.environ:
    # Numba looks only at a kernel's own file: an edit to a tile would leave the kernels built
    # from it stale. A folder per state of all sources cannot be stale.
    sources = b"".join(p.read_bytes() for p in sorted((ROOT / "kernels").rglob("*.py")))
    digest = hashlib.sha256(sources).hexdigest()[:16]
    os.environ["NUMBA_CACHE_DIR"] = str(ROOT / ".numba_cache" / digest)

import matplotlib as mpl  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

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
