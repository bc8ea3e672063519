"""Losses for recovering a matrix from some of its entries or from linear measurements."""

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from fastdln.objectives.base import end_to_end_matrix, span
from fastdln.utils import arrays, validation


class MatrixCompletion:
    """The squared error ``½ Σ_{(i,j) observed} (M_ij − value_ij)²``.

    Deep linear networks with this loss are studied by Arora, Cohen, Hu & Luo, *Implicit
    Regularization in Deep Matrix Factorization*, NeurIPS 2019.

    Parameters
    ----------
    shape : (int, int)
        Shape (d_y, d_x) of the matrix.
    rows, columns : array_like of int, shape (n,)
        Positions of the observed entries; each position once.
    values : array_like, shape (n,)
        The observed entries.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, positions are out of range or repeated, or values are not finite.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        rows: ArrayLike,
        columns: ArrayLike,
        values: ArrayLike,
    ):
        if np.shape(shape) != (2,):
            raise ValueError(f"shape must be the pair (d_y, d_x), not {shape!r}")
        self.d_y = validation.positive_integer("shape[0]", shape[0])
        self.d_x = validation.positive_integer("shape[1]", shape[1])
        self.values = arrays.data_matrix("values", np.atleast_2d(values))[0]
        self.rows = _positions("rows", rows, self.d_y, self.n)
        self.columns = _positions("columns", columns, self.d_x, self.n)
        if len(np.unique(self.rows * self.d_x + self.columns)) < self.n:
            raise ValueError("every entry may be observed once, but some positions are repeated")

    smoothness = 1.0

    def __repr__(self) -> str:
        return f"MatrixCompletion(d_x={self.d_x}, d_y={self.d_y}, n={self.n})"

    @property
    def n(self) -> int:
        """Number of observed entries."""
        return self.values.size

    @cached_property
    def input_basis(self) -> np.ndarray:
        """The unit vectors of the columns with an observation, shape (d_x, r)."""
        return np.eye(self.d_x)[:, np.unique(self.columns)]

    def loss(self, M: np.ndarray) -> float:
        """Return half the squared error over the observed entries."""
        M = end_to_end_matrix(self, M)
        return 0.5 * float(np.sum((M[self.rows, self.columns] - self.values) ** 2))

    def gradient(self, M: np.ndarray) -> np.ndarray:
        """Return the error at observed entries and zero elsewhere, shape (d_y, d_x)."""
        return self._gradient(M, np.arange(self.n))

    def batch_gradient(self, M: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Return the gradient's unbiased estimate from the observations of these indices."""
        return self._gradient(M, samples) * (self.n / len(samples))

    def _gradient(self, M: np.ndarray, samples: np.ndarray) -> np.ndarray:
        M, at = end_to_end_matrix(self, M), (self.rows[samples], self.columns[samples])
        G = np.zeros((self.d_y, self.d_x))
        G[at] = M[at] - self.values[samples]
        return G


class MatrixSensing:
    """The squared error ``½ Σ_k (⟨A_k, M⟩ − b_k)²`` of linear measurements.

    Parameters
    ----------
    A : array_like, shape (n, d_y, d_x)
        Measurement matrices; ``⟨A, M⟩ = Σ_ij A_ij M_ij``.
    b : array_like, shape (n,)
        Measured values.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, data are not finite, or all measurements are zero.
    """

    def __init__(self, A: ArrayLike, b: ArrayLike):
        given = np.asanyarray(A)  # a mask is refused below
        if given.ndim != 3 or given.size == 0:
            raise ValueError(f"A must have shape (n, d_y, d_x), none of them 0, not {given.shape}")
        self._A = arrays.data_matrix("A", given.reshape(len(given), -1))
        self.A: np.ndarray = self._A.reshape(given.shape)
        self.b = arrays.data_matrix("b", np.atleast_2d(b))[0]
        if self.b.size != self.n:
            raise ValueError(f"b must have one value per matrix of A, {self.n}, not {self.b.size}")
        if not self._A.any():
            raise ValueError("A must have a nonzero entry: all measurements are zero")

    def __repr__(self) -> str:
        return f"MatrixSensing(d_x={self.d_x}, d_y={self.d_y}, n={self.n})"

    @property
    def n(self) -> int:
        """Number of measurements."""
        return len(self.A)

    @property
    def d_y(self) -> int:
        """Rows of the matrix sought."""
        return self.A.shape[1]

    @property
    def d_x(self) -> int:
        """Columns of the matrix sought."""
        return self.A.shape[2]

    @cached_property
    def input_basis(self) -> np.ndarray:
        """An orthonormal basis of the span of all rows of all A_k, shape (d_x, r)."""
        return span(self.A.reshape(-1, self.d_x))

    @cached_property
    def smoothness(self) -> float:
        """Squared norm of the measurement operator."""
        return float(np.linalg.norm(self._A, 2)) ** 2

    def loss(self, M: np.ndarray) -> float:
        """Return half the squared error over all measurements."""
        return 0.5 * float(np.sum((self._A @ end_to_end_matrix(self, M).ravel() - self.b) ** 2))

    def gradient(self, M: np.ndarray) -> np.ndarray:
        """Return ``Σ_k (⟨A_k, M⟩ − b_k) A_k``, shape (d_y, d_x)."""
        return ((self._A @ end_to_end_matrix(self, M).ravel() - self.b) @ self._A).reshape(
            self.d_y, self.d_x
        )

    def batch_gradient(self, M: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Return the gradient's unbiased estimate from the measurements of these indices."""
        A = self._A[samples]
        G = (A @ end_to_end_matrix(self, M).ravel() - self.b[samples]) @ A
        return G.reshape(self.d_y, self.d_x) * (self.n / len(samples))


def _positions(name: str, value: ArrayLike, count: int, n: int) -> np.ndarray:
    """Return n indices from 0 to count − 1, checked."""
    positions = np.asarray(value)
    if positions.dtype.kind not in "iu":
        raise TypeError(f"{name} must be whole numbers, not {positions.dtype}")
    if positions.shape != (n,):
        raise ValueError(
            f"{name} must have one entry per value, shape {(n,)}, not {positions.shape}"
        )
    if positions.min() < 0 or positions.max() >= count:
        raise ValueError(
            f"{name} must be from 0 to {count - 1}, but they are from {positions.min()} to"
            f" {positions.max()}"
        )
    return positions.astype(np.int64)
