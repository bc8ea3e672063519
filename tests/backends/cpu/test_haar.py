"""Batches of frames: the same bits for any number of threads and any split of the batch."""

import numpy as np
import pytest

import fastdln
from fastdln.backends.cpu.haar import haar_batch
from fastdln.rng import Stream, seed_key
from fastdln.utils import threads

# Batched, separate, split over blocks and panels, and tall: every way of forming frames.
SHAPES = [((400,), 33, 33), ((40,), 130, 130), ((3,), 600, 600), ((), 700, 650), ((2,), 40_000, 5)]


@pytest.mark.parametrize(("size", "n", "p"), SHAPES)
def test_threads_change_no_bit(size, n, p, dtype):
    draws = []
    for count in (1, 3):
        with threads.limited(count):
            draws.append(fastdln.haar_orthogonal(n, p, size=size, seed=1, dtype=dtype))
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize(("size", "n", "p"), SHAPES)
def test_columns_are_orthonormal(size, n, p, dtype):
    for Q in fastdln.haar_orthogonal(n, p, size=size, seed=2, dtype=dtype).reshape(-1, n, p):
        gram = Q.astype(np.float64).T @ Q
        assert np.abs(gram - np.eye(p)).max() <= 20 * np.finfo(dtype).eps * n**0.5


@pytest.mark.parametrize(("n", "p"), [(5, 5), (40, 7), (150, 120), (600, 600), (20_000, 3)])
def test_a_matrix_depends_on_its_number_alone(n, p, dtype):
    key = seed_key(3)
    batch = haar_batch(key, Stream.HIDDEN_LAYER, 4, 5, n, p, dtype)
    np.testing.assert_array_equal(
        haar_batch(key, Stream.HIDDEN_LAYER, 6, 2, n, p, dtype), batch[2:4]
    )
    assert len({Q.tobytes() for Q in batch}) == 5
