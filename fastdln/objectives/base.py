"""Objectives: the loss as a function of the end-to-end matrix, and its form on the inputs' span."""

from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from fastdln.utils import arrays


@runtime_checkable
class Objective(Protocol):
    """A differentiable loss ``M ↦ ℓ(M) ≥ 0`` of the end-to-end matrix, shape (d_y, d_x), float64.

    Any object with these four members can be trained. Optional members:

    ``input_basis`` : ndarray, shape (d_x, r)
        Orthonormal columns with ``ℓ(M) = ℓ(M U Uᵀ)`` for all M: training happens in their span
        only, at the cost of r inputs. Without it, training uses all of R^{d_x}.
    ``smoothness`` : float
        Lipschitz constant of the gradient; ``d_y / (2 L smoothness)`` is then the default
        learning rate, which for regression is Theorem 4.1's of Hu, Xiao & Pennington 2020.
    ``n`` : int and ``batch_gradient(M, samples)``
        Number of samples, and an unbiased estimate of the gradient from the samples of the given
        indices (for a sum over samples: their sum times n over their number), for minibatches.
    """

    @property
    def d_x(self) -> int:
        """Input dimension."""
        ...

    @property
    def d_y(self) -> int:
        """Output dimension."""
        ...

    def loss(self, M: np.ndarray) -> float:
        """Return the loss of an end-to-end matrix, at least 0: runs stop by ``ℓ(t)/ℓ(0)``."""
        ...

    def gradient(self, M: np.ndarray) -> np.ndarray:
        """Return ``∂ℓ/∂M``, shape (d_y, d_x)."""
        ...


class SampledObjective(Objective, Protocol):
    """An objective over samples, for minibatches."""

    @property
    def n(self) -> int:
        """Number of samples."""
        ...

    def batch_gradient(self, M: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Return the gradient's unbiased estimate from the samples of these indices."""
        ...


class ReducedObjective(Protocol):
    """An objective as a function of ``M' = M U``, shape (d_y, rank), as backends train it."""

    @property
    def basis(self) -> np.ndarray:
        """U, orthonormal columns, shape (d_x, rank)."""
        ...

    @property
    def rank(self) -> int:
        """Number of inputs that remain."""
        ...

    def evaluate(self, M: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient at M'."""
        ...

    def batch_gradient(self, M: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Return the gradient's unbiased estimate from the samples of these indices."""
        ...


class RestrictedObjective:
    """Any objective as a function of ``M' = M U``, U a basis of the inputs that it depends on.

    Attributes
    ----------
    problem : Objective
    basis : ndarray, shape (d_x, rank)
    whole : bool
        Whether the basis is that of all of R^{d_x}.
    """

    def __init__(self, objective: Objective, basis: np.ndarray | None):
        self.problem = objective
        self.whole = basis is None
        self.basis = np.eye(objective.d_x) if basis is None else basis

    @property
    def rank(self) -> int:
        """Number of inputs that remain."""
        return self.basis.shape[1]

    def evaluate(self, M: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient for M' of shape (d_y, rank)."""
        full = self._full(M)
        loss, G = self.problem.loss(full), self.problem.gradient(full)
        return _number(loss), self._on_basis("gradient", G)

    def batch_gradient(self, M: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Return the gradient's estimate from the samples of these indices."""
        sampled = cast(SampledObjective, self.problem)  # minibatches are refused for others
        G = sampled.batch_gradient(self._full(M), samples)
        return self._on_basis("batch_gradient", G)

    def _full(self, M: np.ndarray) -> np.ndarray:
        return M if self.whole else M @ self.basis.T

    def _on_basis(self, name: str, G: np.ndarray) -> np.ndarray:
        shape = self.problem.d_y, self.problem.d_x
        if np.shape(G) != shape:
            kind = type(self.problem).__name__
            raise ValueError(
                f"{name} of {kind} must return an array of shape {shape}, not of {np.shape(G)}"
            )
        return np.asarray(G) if self.whole else G @ self.basis


def _number(loss: float) -> float:
    try:
        if np.ndim(loss) == 0:
            return float(loss)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"loss must return one number, not a {type(loss).__name__}")


def reduced_objective(problem: Objective, whole: bool = False) -> ReducedObjective:
    """Return `problem` on the span of its inputs, or on all of R^{d_x} where `whole` is set."""
    if whole:
        return RestrictedObjective(problem, None)
    reduced: ReducedObjective | None = getattr(problem, "reduced", None)
    if reduced is not None:
        return reduced
    return RestrictedObjective(problem, _checked_basis(problem))


def _checked_basis(problem: Objective) -> np.ndarray | None:
    basis = getattr(problem, "input_basis", None)
    if basis is None:
        return None
    basis = arrays.finite_matrix("input_basis", basis)
    if basis.shape[0] != problem.d_x or basis.shape[1] > problem.d_x:
        raise ValueError(
            f"input_basis must have {problem.d_x} rows (d_x) and no more columns,"
            f" not shape {basis.shape}"
        )
    defect = np.abs(basis.T @ basis - np.eye(basis.shape[1])).max()
    if defect > 1e-10:
        raise ValueError(f"input_basis must have orthonormal columns, but UᵀU − I is {defect:.1e}")
    return basis


def check_objective(problem: object) -> None:
    """Raise TypeError unless `problem` can be trained."""
    if isinstance(problem, type) or not isinstance(problem, Objective):
        raise TypeError(
            "problem must have d_x, d_y, loss(M) and gradient(M), as fastdln.Regression has;"
            f" a {type(problem).__name__} does not"
        )


def end_to_end_matrix(problem: Objective, M: ArrayLike) -> np.ndarray:
    """Return M in float64; raises ValueError unless it is of shape (d_y, d_x)."""
    M = np.asarray(M, dtype=np.float64)
    if M.shape != (problem.d_y, problem.d_x):
        raise ValueError(f"M must have shape {(problem.d_y, problem.d_x)}, not {M.shape}")
    return M


def span(rows: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis, shape (columns, rank), of the span of the `rows`.

    Directions below ``max(shape)·eps`` of the largest are rounding noise and left out, as in
    `numpy.linalg.matrix_rank`.
    """
    _, s, Vt = np.linalg.svd(rows, full_matrices=False)
    rank = int(np.sum(s > max(rows.shape) * np.finfo(np.float64).eps * s[0]))
    return np.ascontiguousarray(Vt[:rank].T)
