"""Losses of this package as functions of an end-to-end matrix on a card: nothing comes back.

The formulas are those of `fastdln.objectives.regression`, `fastdln.objectives.logistic` and `fastdln.objectives.sensing`, for arrays
of CuPy (or, in tests, of NumPy). A loss of the user's own is Python, and is asked on the host.
"""

from typing import Any

import numpy as np

from fastdln.objectives.base import RestrictedObjective
from fastdln.objectives.logistic import Logistic
from fastdln.objectives.regression import ReducedRegression, Regression
from fastdln.objectives.sensing import MatrixCompletion, MatrixSensing


class _LeastSquares:
    """``½‖M X − Y‖²``, with the part that no M reaches."""

    def __init__(self, xp: Any, X: np.ndarray, Y: np.ndarray, constant: float = 0.0):
        self._X, self._Y, self._constant = xp.asarray(X), xp.asarray(Y), constant

    def evaluate(self, M: Any) -> tuple[Any, Any]:
        residual = M @ self._X - self._Y
        return self._constant + 0.5 * (residual**2).sum(), residual @ self._X.T

    def batch_gradient(self, M: Any, samples: Any) -> Any:
        X, Y = self._X[:, samples], self._Y[:, samples]
        return (M @ X - Y) @ X.T * (self._X.shape[1] / len(samples))


class _CrossEntropy:
    """The loss of `Logistic`."""

    def __init__(self, xp: Any, problem: Logistic):
        self._xp, self._X = xp, xp.asarray(problem.X)
        self._chosen = xp.zeros((problem.d_y, problem.n))
        self._chosen[xp.asarray(problem.labels), xp.arange(problem.n)] = 1

    def evaluate(self, M: Any) -> tuple[Any, Any]:
        scores = M @ self._X
        shifted = scores - scores.max(axis=0)
        normaliser = self._xp.log(self._xp.exp(shifted).sum(axis=0))
        loss = (normaliser - (shifted * self._chosen).sum(axis=0)).sum()
        return loss, self._gradient(M, self._X, self._chosen)

    def batch_gradient(self, M: Any, samples: Any) -> Any:
        part = self._gradient(M, self._X[:, samples], self._chosen[:, samples])
        return part * (self._X.shape[1] / len(samples))

    def _gradient(self, M: Any, X: Any, chosen: Any) -> Any:
        scores = M @ X
        likely = self._xp.exp(scores - scores.max(axis=0))
        return (likely / likely.sum(axis=0) - chosen) @ X.T


class _Completion:
    """The loss of `MatrixCompletion`."""

    def __init__(self, xp: Any, problem: MatrixCompletion):
        self._xp, self._shape = xp, (problem.d_y, problem.d_x)
        self._at = xp.asarray(problem.rows), xp.asarray(problem.columns)
        self._values = xp.asarray(problem.values)

    def evaluate(self, M: Any) -> tuple[Any, Any]:
        residual = M[self._at] - self._values
        return 0.5 * (residual**2).sum(), self._placed(self._at, residual)

    def batch_gradient(self, M: Any, samples: Any) -> Any:
        rows, columns = (places[samples] for places in self._at)
        residual = M[rows, columns] - self._values[samples]
        return self._placed((rows, columns), residual) * (len(self._values) / len(samples))

    def _placed(self, at: tuple[Any, Any], residual: Any) -> Any:
        G = self._xp.zeros(self._shape)
        G[at] = residual
        return G


class _Sensing:
    """The loss of `MatrixSensing`."""

    def __init__(self, xp: Any, problem: MatrixSensing):
        self._A, self._b = xp.asarray(problem.A.reshape(problem.n, -1)), xp.asarray(problem.b)

    def evaluate(self, M: Any) -> tuple[Any, Any]:
        residual = self._A @ M.ravel() - self._b
        return 0.5 * (residual**2).sum(), (residual @ self._A).reshape(M.shape)

    def batch_gradient(self, M: Any, samples: Any) -> Any:
        A = self._A[samples]
        part = (A @ M.ravel() - self._b[samples]) @ A
        return part.reshape(M.shape) * (len(self._b) / len(samples))


class _Restricted:
    """A loss as a function of ``M' = M U``, as `fastdln.objectives.base.RestrictedObjective` on the host."""

    def __init__(self, xp: Any, whole: Any, basis: np.ndarray):
        self._whole, self._basis = whole, xp.asarray(basis)

    def evaluate(self, M: Any) -> tuple[Any, Any]:
        loss, G = self._whole.evaluate(M @ self._basis.T)
        return loss, G @ self._basis

    def batch_gradient(self, M: Any, samples: Any) -> Any:
        return self._whole.batch_gradient(M @ self._basis.T, samples) @ self._basis


_KINDS: dict[type, Any] = {
    Regression: lambda xp, problem: _LeastSquares(xp, problem.X, problem.Y),
    Logistic: _CrossEntropy,
    MatrixCompletion: _Completion,
    MatrixSensing: _Sensing,
}


def objective_on_card(xp: Any, objective: Any) -> Any | None:
    """Return an objective's counterpart for arrays on a card; None where it has none.

    ``evaluate(M)`` and ``batch_gradient(M, samples)`` are those of `fastdln.objectives.base.RestrictedObjective`, but
    that the loss stays on the card. A class derived from one of ours may be another loss, and has
    no counterpart.
    """
    if type(objective) is ReducedRegression:
        return _LeastSquares(xp, *objective.samples)
    kind = (
        _KINDS.get(type(objective.problem)) if isinstance(objective, RestrictedObjective) else None
    )
    if kind is None:
        return None
    whole = kind(xp, objective.problem)
    return whole if objective.whole else _Restricted(xp, whole, objective.basis)
