"""Normals of the CUDA kernel, run on the CPU, have the bits of the CPU's."""

import numpy as np
import pytest
from cuda_cases import few_threads

from fastdln import rng
from fastdln.kernels.cuda import random as normals

KEY, STREAM = 0x0123456789ABCDEF, (7 << 56) + 5


@pytest.mark.parametrize("first", [0, 1, 2, 2**33 + 1])
@pytest.mark.parametrize("length", [1, 2, 7, 1000])
def test_normals_have_the_bits_of_the_cpu(first, length, dtype):
    out = np.full((1, length), np.nan, dtype)
    normals.fill_normals(few_threads(dtype), KEY, STREAM, out, first=first)
    expected = rng.standard_normal(KEY, STREAM, length, dtype, first=first)
    np.testing.assert_array_equal(out[0], expected)


def test_rows_are_streams_or_follow_each_other(dtype):
    out = np.full((5, 7), np.nan, dtype)
    normals.fill_normals(few_threads(dtype), KEY, STREAM, out)
    expected = [rng.standard_normal(KEY, STREAM + j, 7, dtype) for j in range(5)]
    np.testing.assert_array_equal(out, expected)
    padded = np.zeros((5, 8), dtype)
    rows = padded[:, :7]
    launch = few_threads(dtype)
    normals.fill_normals(launch, KEY, STREAM, rows, stream_step=0, step=7, scale=0.5)
    expected = rng.standard_normal(KEY, STREAM, (5, 7), dtype) * np.dtype(dtype).type(0.5)
    np.testing.assert_array_equal(rows, expected)
    assert not padded[:, 7].any()


def test_normals_need_contiguous_rows(dtype):
    with pytest.raises(ValueError, match="contiguous"):
        normals.fill_normals(few_threads(dtype), KEY, STREAM, np.zeros((4, 6), dtype)[:, ::2])
