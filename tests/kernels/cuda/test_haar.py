"""Haar frames of the CUDA kernels, run on the CPU, against those of the CPU."""

import numpy as np
import pytest
import shim
from cuda_cases import few_threads

from fastdln.backends.cpu import haar
from fastdln.kernels.cuda import haar as frames
from fastdln.kernels.cuda.declarations import DrawReflectors, InvertFactors

KEY, STREAM = 0x0123456789ABCDEF, (7 << 56) + 5


def multiply(C, A, B, add):
    C[...] = A @ B + (C if add else 0)


@pytest.mark.parametrize(
    ("n", "p", "count"), [(1, 1, 3), (2, 2, 2), (5, 3, 4), (17, 17, 3), (70, 1, 2), (67, 66, 2)]
)
@pytest.mark.parametrize("special", [False, True])
def test_frames_are_those_of_the_cpu(n, p, count, special, dtype):
    special = special and n == p
    out = np.full((count, n, p), np.nan, dtype)
    frames.form_frames(few_threads(dtype, 5), multiply, np, KEY, STREAM, special, out)
    expected = haar.haar_batch(KEY, 7, 5, count, n, p, dtype, special=special)
    # Both are orthogonal to a few roundings, which differ in order.
    np.testing.assert_allclose(out, expected, rtol=0, atol=40 * np.finfo(dtype).eps * np.sqrt(n))


def test_no_two_threads_race():
    V, sizes, signs = np.zeros((2, 3, 5), "float32"), np.zeros((2, 3)), np.zeros((2, 3), "float32")
    drawn = DrawReflectors(V, sizes, signs, key=1, stream=2, n=5, p=3)
    shim.run_sanitized("haar", "draw_reflectors", "float32", (), (3, 2), 3, 24, drawn)
    assert sizes.all()
    S, T = np.matmul(V, V.transpose(0, 2, 1)), np.zeros((2, 3, 3), "float32")
    factors = InvertFactors(S, sizes, T, p=3, first=0, count=3)
    shim.run_sanitized("haar", "invert_factors", "float32", (), (2, 1), 2, 72, factors)
    inverse = np.triu(S, 1) + [np.diag(d) for d in sizes]
    np.testing.assert_allclose(-T @ inverse, np.tile(np.eye(3), (2, 1, 1)), atol=1e-5)
