"""What a training run will do and cost, decided from shapes before anything is drawn."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdln.kernels.cpu.layout import Layout, make_layout

from . import check
from .initialization import INITS, full_widths
from .network import Network

METHODS = ("auto", "reduced", "dense")
# Initialisations whose hidden layers are orthogonal, so that training them reduces exactly.
REDUCIBLE = ("orthogonal", "identity")


@dataclass(frozen=True)
class Plan:
    """How a network will be trained.

    Attributes
    ----------
    method : {"reduced", "dense"}
    reason : str
        Why this method.
    widths : tuple of int
        ``(d, m_1, …, m_{L-1}, d_y)`` of the network that is really trained; d is the rank of
        the inputs.
    full_widths : tuple of int
        ``(d_x, m_1, …, m_{L-1}, d_y)`` of the network that was asked for.
    dtype : numpy.dtype
    flops_per_step : float
        Floating-point operations of one step.
    bytes : int
        Most memory the run holds at a time, in bytes.
    """

    method: str
    reason: str
    widths: tuple[int, ...]
    full_widths: tuple[int, ...]
    dtype: np.dtype
    flops_per_step: float
    bytes: int

    @property
    def mirrored(self) -> bool:
        """Whether the chain is trained transposed, because it has fewer inputs than outputs."""
        return self.widths[0] < self.widths[-1]


def plan(
    problem: Any,
    *,
    width: Any = None,
    depth: int | None = None,
    init: str = "orthogonal",
    dtype: Any = "float64",
    method: str = "auto",
) -> Plan:
    """Return how `fastdln.train` would train this network.

    Raises
    ------
    TypeError, ValueError
        As `fastdln.train` does, among them ``method="reduced"`` where the reduction is not exact.
    """
    check.one_of("method", method, METHODS)
    check.one_of("init", init, INITS)
    dtype = check.float_dtype(dtype)
    full = full_widths(problem.d_x, problem.d_y, width, depth)
    obstacle = _obstacle(full, init)
    if method == "reduced" and obstacle:
        raise ValueError(f"method='reduced' is not exact here: {obstacle}; use 'dense' or 'auto'")
    if method == "dense":
        return _dense_plan(problem, full, dtype, "method='dense' was asked for")
    if obstacle:
        return _dense_plan(problem, full, dtype, f"not reducible: {obstacle}")
    return _reduced_plan(problem, full, dtype)


def plan_network(
    problem: Any, network: Network, *, dtype: Any = None, method: str = "auto"
) -> Plan:
    """Return how `fastdln.train` would train this given network."""
    check.one_of("method", method, METHODS)
    dtype = network.dtype if dtype is None else check.float_dtype(dtype)
    if (network.d_x, network.d_y) != (problem.d_x, problem.d_y):
        raise ValueError(
            f"network maps {network.d_x} inputs to {network.d_y} outputs, but the problem has"
            f" d_x={problem.d_x} and d_y={problem.d_y}"
        )
    if method == "reduced":
        raise ValueError("method='reduced' needs a network drawn by train; use 'dense' or 'auto'")
    full = (network.d_x, *network.widths, network.d_y)
    return _dense_plan(problem, full, dtype, "a given network is trained as it is")


def _obstacle(full: tuple[int, ...], init: str) -> str:
    """Return the condition of the exact reduction that fails, or an empty string."""
    if init not in REDUCIBLE:
        return f"init {init!r} has hidden layers that are not orthogonal"
    if len(full) == 2:
        return "a network of depth 1 has no hidden layer"
    if len(set(full[1:-1])) > 1:
        return f"hidden widths differ ({min(full[1:-1])} to {max(full[1:-1])})"
    return ""


def _dense_plan(problem: Any, full: tuple[int, ...], dtype: np.dtype, reason: str) -> Plan:
    widths = (problem.reduced.rank, *full[1:])
    layout = chain_layout(widths, dtype)
    first = (full[0] + widths[0]) * full[1] * dtype.itemsize
    largest = max(a * b for a, b in zip(full, full[1:], strict=False)) * dtype.itemsize
    return Plan(
        "dense", reason, widths, full, dtype, flops(layout), chain_bytes(layout) + first + largest
    )


def _reduced_plan(problem: Any, full: tuple[int, ...], dtype: np.dtype) -> Plan:
    rank, m, d_y = problem.reduced.rank, full[1], full[-1]
    k = min(m, rank + d_y)
    widths = (rank, *(k,) * (len(full) - 2), d_y)
    layout = chain_layout(widths, dtype)
    # Drawing in float64: two frames, a copy for their QR, and a block of 32 reflectors.
    frames = 8 * (2 * max(m, full[0]) * (rank + d_y) + 3 * 32 * max(m, full[0]))
    reason = (
        f"orthogonal hidden layers: width {m} is trained exactly as width {k}"
        f" = min(width, rank of inputs {rank} + d_y {d_y})"
    )
    return Plan("reduced", reason, widths, full, dtype, flops(layout), chain_bytes(layout) + frames)


def chain_layout(widths: tuple[int, ...], dtype: np.dtype) -> Layout:
    """Return the layout the chain of these `widths` is trained in, mirrored where d < d_y."""
    return make_layout(widths[::-1] if widths[0] < widths[-1] else widths, dtype)


def chain_bytes(layout: Layout) -> int:
    """Return the bytes of weights and products while a chain is trained."""
    states = layout.size + layout.product_size + 2 * layout.q_padded * layout.widest
    return states * layout.dtype.itemsize


def flops(layout: Layout) -> float:
    """Return the floating-point operations of one two-pass step: three products a layer."""
    return 6.0 * layout.q_padded * layout.size
