"""What every kernel that forms Haar frames must do, against reflectors one at a time in float64.

A `form` takes a stream, a shape (count, n, p), a dtype and whether the determinants are one.
"""

import os
import subprocess
import sys

import numpy as np

from fastdln.kernels.cpu.random import Source
from fastdln.rng import standard_normal

KEY = 123456789
SQUARE = [(n, n) for n in (1, 2, 7, 31, 32, 33, 64, 65, 101)]
TALL = [(2, 1), (3, 2), (33, 32), (35, 34), (66, 1), (97, 61), (129, 128), (200, 37), (257, 250)]
SHAPES = SQUARE + TALL


def naive_normals(stream, n, p):
    """Return the p Gaussian vectors of a frame, of lengths n, n − 1, ..., consecutive."""
    x = standard_normal(KEY, stream, n * p - p * (p - 1) // 2)
    return np.split(x, np.cumsum([n - j for j in range(p - 1)]))


def naive_frame(stream, n, p):
    """Return the product of explicit reflections, last to first, and of the signs."""
    Q = np.eye(n, p)
    for j, x in reversed(list(enumerate(naive_normals(stream, n, p)))):
        sign = -1.0 if x[0] < 0 else 1.0
        v = x.copy()
        v[0] += sign * np.linalg.norm(x)
        H = np.eye(n - j) - 2 * np.outer(v, v) / (v @ v)
        Q[j:] = H @ Q[j:]
        Q[:, j] *= -sign
    return Q


def source(stream):
    return Source(np.uint64(KEY), np.uint64(stream))


def check_reflections(form, n, p, dtype):
    """Compare two frames with the products of their reflections."""
    frames = form(7, (2, n, p), dtype)
    # Both are within a few roundings per reflector of the exact product.
    for frame, stream in zip(frames, (7, 8), strict=True):
        np.testing.assert_allclose(
            frame, naive_frame(stream, n, p), rtol=0, atol=8 * np.finfo(dtype).eps * n**0.5
        )


def check_orthonormal(form, n, p, dtype):
    """Check that the columns of a frame are orthonormal."""
    frame = form(3, (1, n, p), dtype)[0].astype(np.float64)
    bound = 20 * np.finfo(dtype).eps * n**0.5
    assert np.abs(frame.T @ frame - np.eye(p)).max() <= bound


def check_first_columns(form, dtype):
    """Check that the first columns need the first reflectors only."""
    whole = form(1, (1, 90, 90), dtype)[0]
    for p in (1, 31, 32, 33, 64, 89):
        np.testing.assert_array_equal(form(1, (1, 90, p), dtype)[0], whole[:, :p])


def check_special(form, n, dtype):
    """Check that determinants of one cost the sign of the last column only."""
    special = form(2, (20, n, n), dtype, special=True)
    free = form(2, (20, n, n), dtype)
    np.testing.assert_array_equal(special[:, :, :-1], free[:, :, :-1])
    np.testing.assert_array_equal(np.abs(special), np.abs(free))
    np.testing.assert_allclose(np.linalg.det(special.astype(float)), 1, atol=1e-4)
    assert {1, -1} == set(np.round(np.linalg.det(free.astype(float))))


def check_without_jit(name, form):
    """Compare `fastdln.backends.cpu.haar.<name>`, run with JIT switched off, with `form`."""
    code = f"""
import numpy as np
from fastdln.backends.cpu import haar
for dtype in ("float64", "float32"):
    for n, p in ((1, 1), (5, 3), (6, 6)):
        out = np.empty((1, n, p), dtype)
        haar.{name}({KEY}, 9, False, out)
        print(*out.astype(float).ravel().tolist())
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = iter(result.stdout.splitlines())
    for dtype in ("float64", "float32"):
        for n, p in ((1, 1), (5, 3), (6, 6)):
            frame = np.array(next(lines).split(), float).reshape(n, p)
            expected = form(9, (1, n, p), dtype)[0]
            np.testing.assert_allclose(frame, expected, atol=10 * np.finfo(dtype).eps)
