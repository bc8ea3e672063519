"""Softmax cross-entropy: logistic regression with several classes."""

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from fastdln.objectives.base import end_to_end_matrix, span
from fastdln.utils import arrays, validation


class Logistic:
    """The cross-entropy ``Σ_j [log Σ_c exp(M x_j)_c − (M x_j)_{y_j}]``.

    Parameters
    ----------
    X : array_like, shape (d_x, n)
        Inputs, one sample a column.
    labels : array_like of int, shape (n,)
        Class of every sample, from 0 to d_y − 1.
    classes : int, optional
        Number of classes d_y; None means the largest label plus one.

    Raises
    ------
    TypeError
        If `X` does not hold real numbers, or `labels` does not hold integers.
    ValueError
        If shapes do not fit, data are not finite, or a label is out of range.
    """

    def __init__(self, X: ArrayLike, labels: ArrayLike, classes: int | None = None):
        self.X = arrays.data_matrix("X", X)
        self.labels = np.array(labels)
        if self.labels.dtype.kind not in "iu":
            raise TypeError(f"labels must be whole numbers, not {self.labels.dtype}")
        if self.labels.shape != (self.n,):
            raise ValueError(f"labels must have shape {(self.n,)}, not {self.labels.shape}")
        self.d_y = validation.positive_integer(
            "classes", int(self.labels.max()) + 1 if classes is None else classes
        )
        if self.labels.min() < 0 or self.labels.max() >= self.d_y:
            raise ValueError(
                f"labels must be from 0 to {self.d_y - 1}, but they are from"
                f" {self.labels.min()} to {self.labels.max()}"
            )
        if not self.X.any():
            raise ValueError("X must have a nonzero entry: all inputs are zero")

    def __repr__(self) -> str:
        return f"Logistic(d_x={self.d_x}, classes={self.d_y}, n={self.n})"

    @property
    def d_x(self) -> int:
        """Input dimension."""
        return self.X.shape[0]

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.X.shape[1]

    @cached_property
    def input_basis(self) -> np.ndarray:
        """An orthonormal basis of the span of the inputs, shape (d_x, r)."""
        return span(self.X.T)

    @cached_property
    def smoothness(self) -> float:
        """``½ ‖X‖₂²``: the softmax's Jacobian has norm at most ½."""
        return 0.5 * float(np.linalg.norm(self.X, 2)) ** 2

    def loss(self, M: np.ndarray) -> float:
        """Return the cross-entropy, summed over samples."""
        scores = end_to_end_matrix(self, M) @ self.X
        return float(np.sum(logsumexp(scores, axis=0) - scores[self.labels, np.arange(self.n)]))

    def gradient(self, M: np.ndarray) -> np.ndarray:
        """Return ``(softmax(M X) − onehot) Xᵀ``, shape (d_y, d_x)."""
        return self._gradient(end_to_end_matrix(self, M), self.X, self.labels)

    def batch_gradient(self, M: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Return the gradient's unbiased estimate from the samples of these indices."""
        M = end_to_end_matrix(self, M)
        G = self._gradient(M, self.X[:, samples], self.labels[samples])
        return G * (self.n / len(samples))

    @staticmethod
    def _gradient(M: np.ndarray, X: np.ndarray, labels: np.ndarray) -> np.ndarray:
        scores = M @ X
        excess = np.exp(scores - logsumexp(scores, axis=0))
        excess[labels, np.arange(len(labels))] -= 1
        return excess @ X.T
