"""Frames kept as their reflectors: the matrix that they stand for, operands, refusals."""

import numpy as np
import pytest

import fastdln
from fastdln.backends.cpu.haar import haar_batch
from fastdln.rng import Stream, stream_id
from fastdln.utils import memory, threads

REFLECTED = [(1, 1), (2, 1), (33, 33), (70, 65), (300, 300), (2051, 40), (16_400, 35), (40_000, 3)]


@pytest.mark.parametrize(("n", "p"), REFLECTED)
def test_reflectors_are_the_matrix(n, p, dtype, rng):
    Q = fastdln.haar_orthogonal(n, p, seed=5, dtype=dtype)
    implicit = fastdln.HaarReflectors(n, p, seed=5, dtype=dtype)
    assert implicit.shape == Q.shape
    tolerance = 20 * np.finfo(dtype).eps * n**0.5
    np.testing.assert_allclose(implicit.apply(np.eye(p)), Q, atol=tolerance, rtol=0)
    X = rng.standard_normal((n, 5)) / n**0.5
    expected = Q.T.astype(float) @ X
    np.testing.assert_allclose(implicit.apply_transposed(X), expected, atol=tolerance, rtol=0)
    x = implicit @ expected[:, 2]
    assert x.shape == (n,)
    assert x.dtype == dtype
    np.testing.assert_allclose(x, Q.astype(float) @ expected[:, 2], atol=tolerance, rtol=0)


def test_reflectors_of_a_stream_are_its_matrix(dtype):
    Q = haar_batch(11, Stream.HIDDEN_LAYER, 3, 1, 50, 20, dtype)[0]
    stream = stream_id(Stream.HIDDEN_LAYER, 3)
    implicit = fastdln.HaarReflectors.from_stream(50, 20, 11, stream, dtype)
    np.testing.assert_allclose(implicit.apply(np.eye(20)), Q, atol=20 * np.finfo(dtype).eps)


def test_threads_change_no_bit_of_an_implicit_product(dtype, rng):
    X = rng.standard_normal((40, 3))
    implicit = fastdln.HaarReflectors(40_000, 40, seed=5, dtype=dtype)
    results = []
    for count in (1, 3):
        with threads.limited(count):
            Y = implicit.apply(X)
            results.append((Y, implicit.apply_transposed(Y)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_allclose(results[0][1], X, atol=2000 * np.finfo(dtype).eps)


def test_operands_of_any_layout_are_left_unchanged():
    implicit = fastdln.HaarReflectors(6, 4, seed=1)
    X = np.ones((4, 2), np.int64)
    X.flags.writeable = False
    assert implicit.apply(X).shape == (6, 2)
    assert implicit.apply(X.T[:, :4].T).shape == (6, 2)
    assert implicit.apply(np.empty((4, 0))).shape == (6, 0)
    assert implicit.apply_transposed(np.empty((6, 0))).shape == (4, 0)
    assert "n=6, p=4" in repr(implicit)
    assert np.isnan(implicit.apply(np.array([1, np.nan, 0, 0]))).all()


@pytest.mark.parametrize(
    ("X", "error"),
    [
        (np.ones((3, 2)), ValueError),
        (np.ones((4, 2, 2)), ValueError),
        (1.0, ValueError),
        (np.ones((4, 2), complex), TypeError),
        (["a"] * 4, TypeError),
    ],
)
def test_unfit_operands_are_refused(X, error):
    with pytest.raises(error, match="X must"):
        fastdln.HaarReflectors(6, 4, seed=1).apply(X)


@pytest.mark.parametrize(("n", "p"), [(0, None), (3, 4), (3, 0), (2.5, None)])
def test_unfit_frames_are_refused(n, p):
    with pytest.raises((TypeError, ValueError), match="must be"):
        fastdln.HaarReflectors(n, p)


def test_products_that_do_not_fit_are_refused_with_their_bytes(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10**6)
    with pytest.raises(MemoryError, match="bytes"):
        fastdln.HaarReflectors(10**6, 2, seed=0).apply(np.ones(2))
