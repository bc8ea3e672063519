"""The plan of a training run: method, shape and cost, decided before anything is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from fastdln.backends.cpu.cost_model import flops_per_step, network_bytes
from fastdln.config import METHODS
from fastdln.initializers.layers import check_init, full_widths
from fastdln.network import Network
from fastdln.objectives.base import Objective, check_objective, reduced_objective
from fastdln.optim.optimizers import Optimizer
from fastdln.reduction.invariant_subspaces import Irreducible, invariant_subspaces, rank_tolerance
from fastdln.utils import arrays, validation

GRADIENT_DESCENT = Optimizer()
# Initialisations that are reduced exactly without forming a full-width layer.
REDUCIBLE = ("orthogonal", "identity", "zero_asymmetric", "balanced")
# Largest fraction of a given network's hidden dimensions that its invariant subspaces may keep.
MOST_KEPT = 0.9


@dataclass(frozen=True)
class Plan:
    """The method by which a network will be trained, and its cost.

    Attributes
    ----------
    method : {"reduced", "dense"}
    reason : str
        Reason for the method.
    widths : tuple of int
        ``(d, m_1, …, m_{L-1}, d_y)`` of the network that is trained; d is the rank of the
        inputs.
    full_widths : tuple of int
        ``(d_x, m_1, …, m_{L-1}, d_y)`` of the requested network.
    dtype : numpy.dtype
    flops_per_step : float
        Floating-point operations of one step.
    bytes : int
        Peak memory of the run, in bytes.
    """

    method: str
    reason: str
    widths: tuple[int, ...]
    full_widths: tuple[int, ...]
    dtype: np.dtype
    flops_per_step: float
    bytes: int


def plan(
    problem: Objective,
    *,
    width: int | Sequence[int] | None = None,
    depth: int | None = None,
    init: str = "orthogonal",
    dtype: DTypeLike = "float64",
    method: str = "auto",
    optimizer: Optimizer = GRADIENT_DESCENT,
) -> Plan:
    """Return how `fastdln.train` would train this network.

    Raises
    ------
    TypeError, ValueError
        As `fastdln.train` does, among them ``method="reduced"`` where the reduction is not exact.
    """
    check_objective(problem)
    validation.one_of("method", method, METHODS)
    dtype = arrays.float_dtype(dtype)
    full = full_widths(problem.d_x, problem.d_y, width, depth)
    check_init(init, full)
    reduced = _drawn_widths(full, init, _rank(problem, optimizer))
    obstacle = _optimizer_obstacle(optimizer) or _drawn_obstacle(full, init)
    if _stays_dense(method, obstacle):
        return _dense_plan(problem, full, dtype, optimizer, _dense_reason(method, obstacle))
    reason = (
        f"init {init!r} keeps to width {reduced[1]} of {full[1]}: trained exactly at that width"
    )
    return _reduced_plan(full, reduced, dtype, optimizer, reason)


def plan_network(
    problem: Objective,
    network: Network,
    *,
    dtype: DTypeLike | None = None,
    method: str = "auto",
    optimizer: Optimizer = GRADIENT_DESCENT,
    tolerance: float | None = None,
) -> tuple[Plan, list[np.ndarray]]:
    """Return how `fastdln.train` would train a given network, and its invariant subspaces.

    The list of bases is empty where the network is trained at full width.
    """
    check_objective(problem)
    validation.one_of("method", method, METHODS)
    if not isinstance(network, Network):
        raise TypeError(f"network must be a fastdln.Network, not {type(network).__name__}")
    if (network.d_x, network.d_y) != (problem.d_x, problem.d_y):
        raise ValueError(
            f"network maps {network.d_x} inputs to {network.d_y} outputs, but the problem has"
            f" d_x={problem.d_x} and d_y={problem.d_y}"
        )
    tolerance = rank_tolerance(tolerance, network.dtype, network.widths or (1,))
    dtype = network.dtype if dtype is None else arrays.float_dtype(dtype)
    full = (network.d_x, *network.widths, network.d_y)
    obstacle, bases = _optimizer_obstacle(optimizer) or _depth_obstacle(full), []
    if method != "dense" and not obstacle:
        try:
            basis = reduced_objective(problem).basis
            bases = invariant_subspaces(network.weights, basis, tolerance, MOST_KEPT)
        except Irreducible as found:
            obstacle = str(found)
    if _stays_dense(method, obstacle):
        return _dense_plan(problem, full, dtype, optimizer, _dense_reason(method, obstacle)), []
    kept = [Q.shape[1] for Q in bases]
    reason = (
        f"invariant subspaces keep {sum(kept)} of {sum(network.widths)} hidden dimensions"
        f" at rank tolerance {tolerance:.1e}: trained exactly inside them"
    )
    widths = (reduced_objective(problem).rank, *kept, problem.d_y)
    return _reduced_plan(full, widths, dtype, optimizer, reason), bases


def _stays_dense(method: str, obstacle: str) -> bool:
    if method == "reduced" and obstacle:
        raise ValueError(f"method='reduced' is not exact here: {obstacle}; use 'dense' or 'auto'")
    return method == "dense" or bool(obstacle)


def _dense_reason(method: str, obstacle: str) -> str:
    return "method='dense' was asked for" if method == "dense" else f"not reducible: {obstacle}"


def _optimizer_obstacle(optimizer: Optimizer) -> str:
    if optimizer.equivariant:
        return ""
    return "Adam's steps are taken entry by entry and do not rotate with the weights"


def _depth_obstacle(full: tuple[int, ...]) -> str:
    return "a network of depth 1 has no hidden layer" if len(full) == 2 else ""


def _drawn_obstacle(full: tuple[int, ...], init: str) -> str:
    """Return the condition of the exact reduction that fails, or an empty string."""
    if init not in REDUCIBLE:
        return f"hidden layers of init {init!r} mix all directions"
    if init != "balanced" and len(set(full[1:-1])) > 1:
        return f"hidden widths differ ({min(full[1:-1])} to {max(full[1:-1])})"
    return _depth_obstacle(full)


def _drawn_widths(full: tuple[int, ...], init: str, rank: int) -> tuple[int, ...]:
    d_y = full[-1]
    most = min(full[0], d_y) if init == "balanced" else rank + d_y
    return (rank, *(min(m, most) for m in full[1:-1]), d_y)


def _rank(problem: Objective, optimizer: Optimizer) -> int:
    return reduced_objective(problem, whole=not optimizer.equivariant).rank


def _dense_plan(
    problem: Objective, full: tuple[int, ...], dtype: np.dtype, optimizer: Optimizer, reason: str
) -> Plan:
    widths = (_rank(problem, optimizer), *full[1:])
    first = (full[0] + widths[0]) * full[1] * dtype.itemsize
    largest = max(a * b for a, b in zip(full, full[1:], strict=False)) * dtype.itemsize
    size = network_bytes(widths, dtype, optimizer) + first + largest
    return Plan("dense", reason, widths, full, dtype, flops_per_step(widths, dtype), size)


def _reduced_plan(
    full: tuple[int, ...],
    widths: tuple[int, ...],
    dtype: np.dtype,
    optimizer: Optimizer,
    reason: str,
) -> Plan:
    # Drawing in float64: two frames, a copy for their QR, and a block of 32 reflectors.
    longest = max(full)
    frames = 8 * longest * (2 * (widths[0] + widths[-1]) + 3 * 32)
    size = network_bytes(widths, dtype, optimizer) + frames
    return Plan("reduced", reason, widths, full, dtype, flops_per_step(widths, dtype), size)
