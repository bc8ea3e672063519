"""Evaluate the package's objectives on the GPU, without copies to the host.

The formulas are those of `fastdln.objectives.regression`, `fastdln.objectives.logistic` and
`fastdln.objectives.sensing`, for arrays of CuPy (in tests of NumPy). A user's own objective is
Python code and is evaluated on the host.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from fastdln.objectives.base import ReducedObjective, RestrictedObjective
from fastdln.objectives.logistic import Logistic
from fastdln.objectives.regression import ReducedRegression, Regression
from fastdln.objectives.sensing import MatrixCompletion, MatrixSensing

from .device import ArrayModule, DeviceArray


class DeviceObjective(Protocol):
    """A `fastdln.objectives.base.ReducedObjective` for arrays on the GPU."""

    def evaluate(self, M: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
        """Return the loss, which stays on the GPU, and its gradient at M."""
        ...

    def batch_gradient(self, M: DeviceArray, samples: DeviceArray) -> DeviceArray:
        """Return an unbiased estimate of the gradient from the samples with these indices."""
        ...


class _LeastSquares:
    """``½‖M X − Y‖² + constant``."""

    def __init__(self, xp: ArrayModule, X: np.ndarray, Y: np.ndarray, constant: float = 0.0):
        self._X, self._Y, self._constant = xp.asarray(X), xp.asarray(Y), constant

    def evaluate(self, M: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
        residual = M @ self._X - self._Y
        return self._constant + 0.5 * (residual**2).sum(), residual @ self._X.T

    def batch_gradient(self, M: DeviceArray, samples: DeviceArray) -> DeviceArray:
        X, Y = self._X[:, samples], self._Y[:, samples]
        return (M @ X - Y) @ X.T * (self._X.shape[1] / len(samples))


class _CrossEntropy:
    """The loss of `Logistic`."""

    def __init__(self, xp: ArrayModule, problem: Logistic):
        self._xp, self._X = xp, xp.asarray(problem.X)
        self._one_hot = xp.zeros((problem.d_y, problem.n))
        self._one_hot[xp.asarray(problem.labels), xp.arange(problem.n)] = 1

    def evaluate(self, M: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
        scores = M @ self._X
        shifted = scores - scores.max(axis=0)
        normaliser = self._xp.log(self._xp.exp(shifted).sum(axis=0))
        loss = (normaliser - (shifted * self._one_hot).sum(axis=0)).sum()
        return loss, self._gradient(M, self._X, self._one_hot)

    def batch_gradient(self, M: DeviceArray, samples: DeviceArray) -> DeviceArray:
        part = self._gradient(M, self._X[:, samples], self._one_hot[:, samples])
        return part * (self._X.shape[1] / len(samples))

    def _gradient(self, M: DeviceArray, X: DeviceArray, one_hot: DeviceArray) -> DeviceArray:
        scores = M @ X
        unnormalised = self._xp.exp(scores - scores.max(axis=0))
        return (unnormalised / unnormalised.sum(axis=0) - one_hot) @ X.T


class _Completion:
    """The loss of `MatrixCompletion`."""

    def __init__(self, xp: ArrayModule, problem: MatrixCompletion):
        self._xp, self._shape = xp, (problem.d_y, problem.d_x)
        self._at = xp.asarray(problem.rows), xp.asarray(problem.columns)
        self._values = xp.asarray(problem.values)

    def evaluate(self, M: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
        residual = M[self._at] - self._values
        return 0.5 * (residual**2).sum(), self._scattered(self._at, residual)

    def batch_gradient(self, M: DeviceArray, samples: DeviceArray) -> DeviceArray:
        rows, columns = (indices[samples] for indices in self._at)
        residual = M[rows, columns] - self._values[samples]
        return self._scattered((rows, columns), residual) * (len(self._values) / len(samples))

    def _scattered(self, at: tuple[DeviceArray, DeviceArray], residual: DeviceArray) -> DeviceArray:
        G = self._xp.zeros(self._shape)
        G[at] = residual
        return G


class _Sensing:
    """The loss of `MatrixSensing`."""

    def __init__(self, xp: ArrayModule, problem: MatrixSensing):
        self._A, self._b = xp.asarray(problem.A.reshape(problem.n, -1)), xp.asarray(problem.b)

    def evaluate(self, M: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
        residual = self._A @ M.ravel() - self._b
        return 0.5 * (residual**2).sum(), (residual @ self._A).reshape(M.shape)

    def batch_gradient(self, M: DeviceArray, samples: DeviceArray) -> DeviceArray:
        A = self._A[samples]
        part = (A @ M.ravel() - self._b[samples]) @ A
        return part.reshape(M.shape) * (len(self._b) / len(samples))


class _Restricted:
    """An objective as a function of ``M' = M U``, as `RestrictedObjective` on the host."""

    def __init__(self, xp: ArrayModule, whole: DeviceObjective, basis: np.ndarray):
        self._whole, self._basis = whole, xp.asarray(basis)

    def evaluate(self, M: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
        loss, G = self._whole.evaluate(M @ self._basis.T)
        return loss, G @ self._basis

    def batch_gradient(self, M: DeviceArray, samples: DeviceArray) -> DeviceArray:
        return self._whole.batch_gradient(M @ self._basis.T, samples) @ self._basis


# Looked up by exact type: a subclass may define another loss. `Any` because the problem's type
# depends on the entry.
_KINDS: dict[type, Callable[[ArrayModule, Any], DeviceObjective]] = {
    Regression: lambda xp, problem: _LeastSquares(xp, problem.X, problem.Y),
    Logistic: _CrossEntropy,
    MatrixCompletion: _Completion,
    MatrixSensing: _Sensing,
}


def objective_on_gpu(xp: ArrayModule, objective: ReducedObjective) -> DeviceObjective | None:
    """Return an objective's counterpart for arrays on the GPU, or None if there is none."""
    if type(objective) is ReducedRegression:
        return _LeastSquares(xp, *objective.samples)
    if not isinstance(objective, RestrictedObjective):
        return None
    kind = _KINDS.get(type(objective.problem))
    if kind is None:
        return None
    whole = kind(xp, objective.problem)
    return whole if objective.whole else _Restricted(xp, whole, objective.basis)
