"""Normals and Haar frames of the CUDA kernels, run on the CPU, against their CPU twins."""

import numpy as np
import pytest
import shim

from fastdln import rng as random
from fastdln.backends.cpu import haar
from fastdln.kernels.cuda import haar as frames
from fastdln.kernels.cuda import random as normals

KEY, STREAM = 0x0123456789ABCDEF, (7 << 56) + 5


def shim_launch(dtype, threads_at_most=8):
    def launch(name, function, grid, threads, shared, arguments):
        threads = min(threads, threads_at_most)
        grid = (min(grid[0], 4), 1) if function == "fill_normals" else grid
        shim.run(name, function, dtype, (), grid, threads, shared, arguments)

    return launch


def multiply(C, A, B, add):
    C[...] = A @ B + (C if add else 0)


@pytest.mark.parametrize("first", [0, 1, 2, 2**33 + 1])
@pytest.mark.parametrize("length", [1, 2, 7, 1000])
def test_normals_have_the_bits_of_the_cpu(first, length, dtype):
    out = np.full((1, length), np.nan, dtype)
    normals.fill_normals(shim_launch(dtype), KEY, STREAM, out, first=first)
    expected = random.standard_normal(KEY, STREAM, length, dtype, first=first)
    np.testing.assert_array_equal(out[0], expected)


def test_rows_are_streams_or_follow_each_other(dtype):
    out = np.full((5, 7), np.nan, dtype)
    normals.fill_normals(shim_launch(dtype), KEY, STREAM, out)
    expected = [random.standard_normal(KEY, STREAM + j, 7, dtype) for j in range(5)]
    np.testing.assert_array_equal(out, expected)
    padded = np.zeros((5, 8), dtype)
    rows = padded[:, :7]
    launch = shim_launch(dtype)
    normals.fill_normals(launch, KEY, STREAM, rows, stream_step=0, step=7, scale=0.5)
    expected = random.standard_normal(KEY, STREAM, (5, 7), dtype) * np.dtype(dtype).type(0.5)
    np.testing.assert_array_equal(rows, expected)
    assert not padded[:, 7].any()


def test_normals_need_contiguous_rows(dtype):
    with pytest.raises(ValueError, match="contiguous"):
        normals.fill_normals(shim_launch(dtype), KEY, STREAM, np.zeros((4, 6), dtype)[:, ::2])


@pytest.mark.parametrize(
    ("n", "p", "count"), [(1, 1, 3), (2, 2, 2), (5, 3, 4), (17, 17, 3), (70, 1, 2), (67, 66, 2)]
)
@pytest.mark.parametrize("special", [False, True])
def test_frames_are_those_of_the_cpu(n, p, count, special, dtype):
    special = special and n == p
    out = np.full((count, n, p), np.nan, dtype)
    frames.form_frames(shim_launch(dtype, 5), multiply, np, KEY, STREAM, special, out)
    expected = haar.haar_batch(KEY, 7, 5, count, n, p, dtype, special=special)
    # Both are orthogonal to a few roundings, which differ in order.
    np.testing.assert_allclose(out, expected, rtol=0, atol=40 * np.finfo(dtype).eps * np.sqrt(n))


def test_no_two_threads_race():
    V, sizes, signs = np.zeros((2, 3, 5), "float32"), np.zeros((2, 3)), np.zeros((2, 3), "float32")
    arguments = np.uint64(1), np.uint64(2), np.int64(5), np.int64(3), V, sizes, signs
    shim.run_sanitized("haar", "draw_reflectors", "float32", (), (3, 2), 3, 24, arguments)
    assert sizes.all()
    S, T = np.matmul(V, V.transpose(0, 2, 1)), np.zeros((2, 3, 3), "float32")
    arguments = S, sizes, np.int64(3), np.int64(0), np.int32(3), T
    shim.run_sanitized("haar", "invert_factors", "float32", (), (2, 1), 2, 72, arguments)
    inverse = np.triu(S, 1) + [np.diag(d) for d in sizes]
    np.testing.assert_allclose(-T @ inverse, np.tile(np.eye(3), (2, 1, 1)), atol=1e-5)
