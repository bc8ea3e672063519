"""Least-squares regression, and its exact reduction to the row space of the data."""

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from fastdln.objectives.base import end_to_end_matrix
from fastdln.rng import Seed, Stream, seed_key, standard_normal, stream_id
from fastdln.utils import arrays
from fastdln.utils.suggestions import suggests_names


class Regression:
    """The squared loss ``½‖M X − Y‖_F²`` as a function of the end-to-end matrix ``M``.

    Parameters
    ----------
    X : array_like, shape (d_x, n)
        Inputs, one sample a column.
    Y : array_like, shape (d_y, n)
        Targets.

    Attributes
    ----------
    X, Y : ndarray of float64
        The data as given; read-only copies.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If an array is empty, not a matrix or not finite, if the sample counts differ, or if
        every input is zero.
    """

    def __init__(self, X: ArrayLike, Y: ArrayLike):
        self.X = arrays.data_matrix("X", X)
        self.Y = arrays.data_matrix("Y", Y)
        if self.X.shape[1] != self.Y.shape[1]:
            raise ValueError(
                f"X and Y must have one column per sample, but X has {self.X.shape[1]} columns"
                f" and Y has {self.Y.shape[1]}"
            )
        if not self.X.any():
            raise ValueError("X must have a nonzero entry: all inputs are zero")

    def __repr__(self) -> str:
        return f"Regression(d_x={self.d_x}, d_y={self.d_y}, n={self.n})"

    @property
    def d_x(self) -> int:
        """Input dimension."""
        return self.X.shape[0]

    @property
    def d_y(self) -> int:
        """Output dimension."""
        return self.Y.shape[0]

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.X.shape[1]

    @cached_property
    def reduced(self) -> "ReducedRegression":
        """The same loss on the row space of the data, where all of training happens."""
        return reduce_regression(self.X, self.Y)

    def loss(self, M: ArrayLike) -> float:
        """Return ``½‖M X − Y‖_F²`` for an end-to-end matrix of shape (d_y, d_x)."""
        return 0.5 * float(np.sum((end_to_end_matrix(self, M) @ self.X - self.Y) ** 2))

    def gradient(self, M: ArrayLike) -> np.ndarray:
        """Return ``∂ℓ/∂M = (M X − Y) Xᵀ``, shape (d_y, d_x), float64."""
        return (end_to_end_matrix(self, M) @ self.X - self.Y) @ self.X.T

    def batch_gradient(self, M: ArrayLike, samples: np.ndarray) -> np.ndarray:
        """Return the gradient's unbiased estimate from the samples of these indices."""
        X, Y = self.X[:, samples], self.Y[:, samples]
        return (end_to_end_matrix(self, M) @ X - Y) @ X.T * (self.n / len(samples))

    @property
    def smoothness(self) -> float:
        """Lipschitz constant of the gradient, ``‖X‖₂²``."""
        largest = float(self.reduced.scale[0])
        return largest * largest


class ReducedRegression:
    """``½‖M' diag(s) − T‖_F² + constant`` with ``M' = M U``: exact, and of size rank(X).

    With ``X = U diag(s) Vᵀ`` of rank r, ``‖MX − Y‖² = ‖M U diag(s) − Y V‖² + ‖Y − Y V Vᵀ‖²``,
    and the first layer moves only inside the span of U.

    Attributes
    ----------
    basis : ndarray, shape (d_x, r)
        U: an orthonormal basis of the inputs.
    scale : ndarray, shape (r,)
        s: the nonzero singular values of X, largest first.
    target : ndarray, shape (d_y, r)
        T = Y V.
    constant : float
        The loss outside the span of the inputs, ``½‖Y − Y V Vᵀ‖²``: no network reduces it.
    samples : (ndarray, ndarray), shapes (r, n) and (d_y, n)
        ``Uᵀ X`` and Y, sample by sample, for minibatches.
    """

    def __init__(
        self,
        basis: np.ndarray,
        scale: np.ndarray,
        target: np.ndarray,
        constant: float,
        samples: tuple[np.ndarray, np.ndarray],
    ):
        self.basis = basis
        self.scale = scale
        self.target = target
        self.constant = constant
        self.samples = samples

    @property
    def rank(self) -> int:
        """Rank of the inputs."""
        return self.scale.size

    def evaluate(self, M: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient for M' of shape (d_y, r)."""
        residual = M * self.scale - self.target
        return self.constant + 0.5 * float(np.sum(residual**2)), residual * self.scale

    def batch_gradient(self, M: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Return the gradient's unbiased estimate from the samples of these indices."""
        X, Y = (data[:, samples] for data in self.samples)
        return (M @ X - Y) @ X.T * (self.samples[0].shape[1] / len(samples))


def reduce_regression(X: np.ndarray, Y: np.ndarray) -> ReducedRegression:
    """Return the regression of Y on X, as a function on the span of the inputs.

    Singular values below ``max(d_x, n)·eps·s_max`` are rounding noise and count as zero, as in
    `numpy.linalg.matrix_rank`.
    """
    # Scaling by the largest entry first keeps the squares inside the SVD from overflowing.
    unit = np.abs(X).max()
    U, s, Vt = np.linalg.svd(X / unit, full_matrices=False)
    rank = int(np.sum(s > max(X.shape) * np.finfo(np.float64).eps * s[0]))
    V = Vt[:rank].T
    target = Y @ V
    outside = Y - target @ V.T
    scale = s[:rank] * unit
    return ReducedRegression(
        basis=np.ascontiguousarray(U[:, :rank]),
        scale=scale,
        target=target,
        constant=0.5 * float(np.sum(outside**2)),
        samples=(scale[:, None] * Vt[:rank], Y),
    )


@suggests_names
def paper_regression(seed: Seed = 0) -> Regression:
    """Return the paper's data: ``X ∈ R^{1024×16}``, ``W* ∈ R^{10×1024}``, ``Y = W* X``.

    Parameters
    ----------
    seed : int, or as for `numpy.random.default_rng`

    References
    ----------
    Hu, Xiao & Pennington, ICLR 2020, section 6: entries of X and W* are independent N(0, 1).
    """
    key = seed_key(seed)
    X = standard_normal(key, stream_id(Stream.DATA_INPUT), (1024, 16))
    W = standard_normal(key, stream_id(Stream.DATA_TARGET), (10, 1024))
    return Regression(X, W @ X)
