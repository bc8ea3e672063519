"""The regression problem: its loss, gradient, exact reduction, and refused data."""

import numpy as np
import pytest

import fastdln


def test_gradient_is_the_finite_difference_of_the_loss(rng):
    p = fastdln.Regression(rng.standard_normal((5, 7)), rng.standard_normal((3, 7)))
    M = rng.standard_normal((3, 5))
    G, h = p.gradient(M), 1e-6
    for index in np.ndindex(M.shape):
        step = np.zeros_like(M)
        step[index] = h
        difference = (p.loss(M + step) - p.loss(M - step)) / (2 * h)
        # The loss is quadratic: central differences are exact but for rounding, eps·ℓ/h.
        assert G[index] == pytest.approx(difference, abs=1e-7)


@pytest.mark.parametrize(("n", "rank"), [(3, None), (20, None), (9, 2), (1, None)])
def test_the_reduction_is_exact(n, rank, rng):
    X = rng.standard_normal((6, n))
    if rank:
        X = rng.standard_normal((6, rank)) @ rng.standard_normal((rank, n))
    p = fastdln.Regression(X, rng.standard_normal((4, n)))
    reduced = p.reduced
    assert reduced.rank == np.linalg.matrix_rank(X)
    M = rng.standard_normal((4, 6))
    small = 0.5 * np.sum((M @ reduced.basis * reduced.scale - reduced.target) ** 2)
    assert small + reduced.constant == pytest.approx(p.loss(M), rel=1e-13)


def test_the_reduction_survives_extreme_scales(rng):
    X, Y = rng.standard_normal((4, 6)), rng.standard_normal((2, 6))
    for scale in (1e-200, 1e200):
        assert fastdln.Regression(scale * X, Y).reduced.rank == 4


def test_paper_regression():
    p = fastdln.paper_regression(seed=0)
    assert (p.X.shape, p.Y.shape) == ((1024, 16), (10, 16))
    assert p.X.dtype == p.Y.dtype == np.float64
    # X has 16,384 entries of variance 1, Y 160 of variance 1024: bounds at 5 sigma.
    assert abs(p.X.var() - 1) < 5 * np.sqrt(2 / p.X.size)
    assert abs(p.Y.var() / 1024 - 1) < 5 * np.sqrt(2 / p.Y.size)
    np.testing.assert_array_equal(p.X, fastdln.paper_regression(seed=0).X)
    assert (p.X != fastdln.paper_regression(seed=1).X).all()


def test_integers_are_converted_and_data_kept_as_given():
    p = fastdln.Regression([[1, 2], [3, 4]], np.array([[1, 0]], dtype=np.int8))
    assert p.X.dtype == np.float64
    assert repr(p) == "Regression(d_x=2, d_y=1, n=2)"


BAD = [
    ([[1.0, np.nan]], [[1, 2]], ValueError, "X must be finite, but 1 of its 2 entries are not"),
    ([[1.0, 2.0]], [[np.inf, 2]], ValueError, "Y must be finite"),
    ([[1.0, 2.0]], [[1.0]], ValueError, "X has 2 columns and Y has 1"),
    ([1.0, 2.0], [[1.0, 2.0]], ValueError, r"X must be a non-empty matrix, .* shape \(2,\)"),
    (np.ones((0, 3)), np.ones((1, 3)), ValueError, "X must be a non-empty matrix"),
    (np.ones((2, 0)), np.ones((1, 0)), ValueError, "X must be a non-empty matrix"),
    ([["a"]], [[1.0]], TypeError, "X must hold real numbers"),
    ([[1j]], [[1.0]], TypeError, "X must hold real numbers, not complex128"),
    ([[0.0]], [[1.0]], ValueError, "all inputs are zero"),
]


@pytest.mark.parametrize(("X", "Y", "error", "message"), BAD)
def test_bad_data(X, Y, error, message):
    with pytest.raises(error, match=message):
        fastdln.Regression(X, Y)


def test_the_end_to_end_matrix_must_fit():
    with pytest.raises(ValueError, match=r"M must have shape \(10, 1024\), not \(2, 2\)"):
        fastdln.paper_regression().loss(np.ones((2, 2)))
