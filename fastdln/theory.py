"""Results of Hu, Xiao & Pennington: step size, rate of convergence, and sufficient width.

Theorem numbers are those of *Provable Benefit of Orthogonal Initialization in Optimizing Deep
Linear Networks*, ICLR 2020, arXiv 2001.05992. Throughout ``ℓ*`` is the least loss of any
linear map, ``r`` the rank of X, and ``λ_max ≥ … ≥ λ_r > 0`` the nonzero eigenvalues of XᵀX.
"""

import math

import numpy as np

from fastdln.objectives.base import Objective, check_objective
from fastdln.objectives.regression import ReducedRegression, Regression
from fastdln.utils import validation


def _reduced(problem: Regression) -> ReducedRegression:
    """Return a problem's regression on the span of its inputs, or raise TypeError."""
    if not isinstance(problem, Regression):
        raise TypeError(
            f"the theorems are about least squares: problem must be a Regression, not a"
            f" {type(problem).__name__}"
        )
    return problem.reduced


def optimal_loss(problem: Regression) -> float:
    """Return ``ℓ* = min_M ½‖M X − Y‖_F²``, the least loss that any network can reach.

    Zero whenever Y is a linear function of X, as in the paper's data.
    """
    return _reduced(problem).constant


def condition_number(problem: Regression) -> float:
    """Return ``κ = λ_max(XᵀX) / λ_r(XᵀX)`` (Theorem 4.1)."""
    scale = _reduced(problem).scale
    return float((scale[0] / scale[-1]) ** 2)


def stable_rank(problem: Regression) -> float:
    """Return ``r̃ = ‖X‖_F² / ‖X‖₂²`` (Theorem 4.1); at least 1 and at most the rank."""
    scale = _reduced(problem).scale
    return float(np.sum((scale / scale[0]) ** 2))


def learning_rate(problem: Objective, depth: int) -> float:
    """Return the largest step size of Theorem 4.1, ``η = d_y / (2 L ‖X‖₂²)``.

    Parameters
    ----------
    problem : Regression or other objective
        Another objective's `smoothness`, the Lipschitz constant of its gradient, replaces
        ``‖X‖₂²``.
    depth : int
        Number of layers L ≥ 1.

    Returns
    -------
    float
        The step size for the paper's weights ``W_i`` (entries of variance 1).

    Raises
    ------
    TypeError, ValueError
        If `depth` is not a positive whole number, or the objective states no `smoothness`.
    """
    check_objective(problem)
    depth = validation.positive_integer("depth", depth)
    smoothness = getattr(problem, "smoothness", None)
    if smoothness is None:
        raise ValueError(
            f"a {type(problem).__name__} states no smoothness, so learning_rate must be given"
        )
    return problem.d_y / (2 * depth * validation.positive_number("smoothness", smoothness))


def contraction(problem: Regression, depth: int, learning_rate: float | None = None) -> float:
    """Return the factor ``1 − ½ η L λ_r(XᵀX) / d_y`` of Theorem 4.1, the excess loss per step.

    Parameters
    ----------
    problem : Regression
        The data.
    depth : int
        Number of layers L ≥ 1.
    learning_rate : float, optional
        The step size η; None means the theorem's largest, which gives ``1 − 1/(4κ)`` whatever
        the depth.

    Raises
    ------
    ValueError
        If `learning_rate` is above the theorem's largest.
    """
    largest = _largest_step(problem, depth)
    eta = (
        largest
        if learning_rate is None
        else validation.positive_number("learning_rate", learning_rate)
    )
    if eta > largest * (1 + 1e-12):  # allow for the rounding of a caller's own formula
        raise ValueError(
            f"learning_rate must be at most {largest:.6g} for Theorem 4.1 to hold at depth"
            f" {depth}, not {eta:.6g}"
        )
    return 1 - eta / largest / (4 * condition_number(problem))


# The argument `learning_rate` hides the function of that name.
_largest_step = learning_rate


def loss_bound(
    problem: Regression,
    depth: int,
    learning_rate: float | None = None,
    steps: int = 1000,
    initial_loss: float | None = None,
) -> np.ndarray:
    """Return the envelope of Theorem 4.1 for orthogonal initialisation, at every step.

    With probability at least 1 − δ over the initialisation, a network at least
    `required_width` wide satisfies, for every t,
    ``ℓ(t) − ℓ* ≤ (1 − ½ η L λ_r(XᵀX)/d_y)^t (ℓ(0) − ℓ*)``.

    Parameters
    ----------
    problem : Regression
        The data.
    depth : int
        Number of layers L ≥ 1.
    learning_rate : float, optional
        The step size η; None means the theorem's largest.
    steps : int
        Last step of the envelope.
    initial_loss : float, optional
        ℓ(0) of a network, such as ``result.loss[0]``.

    Returns
    -------
    ndarray of float64, shape (steps + 1,)
        Without `initial_loss`, the bound on ``(ℓ(t) − ℓ*) / (ℓ(0) − ℓ*)``, which is the bound
        on the relative loss where ``ℓ* = 0``; with it, the bound on ``ℓ(t)`` itself.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, `learning_rate` is above the theorem's largest, or
        `initial_loss` is below the optimal loss.
    """
    steps = validation.non_negative_integer("steps", steps)
    envelope = contraction(problem, depth, learning_rate) ** np.arange(steps + 1.0)
    if initial_loss is None:
        return envelope
    start = validation.non_negative_number("initial_loss", initial_loss)
    least = optimal_loss(problem)
    if start < least:
        raise ValueError(f"initial_loss must be at least the optimal loss {least:.6g}, not {start}")
    return least + envelope * (start - least)


def required_width(
    problem: Regression, failure_probability: float = 0.01, constant: float = 1.0
) -> float:
    """Return the width that Theorem 4.1 requires, ``max(C r̃ κ² (d_y(1+‖W*‖₂²) + log(r/δ)), d_x)``.

    It does not depend on the depth, which is the theorem's contribution. The theorem leaves C
    unspecified: the value shows how the width scales, not which width suffices in practice.

    Parameters
    ----------
    problem : Regression
        The data; ``W*`` is its solution of least norm.
    failure_probability : float
        δ, with 0 < δ < 1.
    constant : float
        C > 0.

    Raises
    ------
    TypeError, ValueError
        If `failure_probability` or `constant` is out of range.
    """
    delta = validation.positive_number("failure_probability", failure_probability)
    if delta >= 1:
        raise ValueError(f"failure_probability must be between 0 and 1, not {delta}")
    constant = validation.positive_number("constant", constant)
    reduced = _reduced(problem)
    solution = np.linalg.norm(reduced.target / reduced.scale, 2)
    inner = problem.d_y * (1 + solution**2) + math.log(reduced.rank / delta)
    width = constant * stable_rank(problem) * condition_number(problem) ** 2 * inner
    return max(float(width), float(problem.d_x))
