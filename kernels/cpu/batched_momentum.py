"""Batched momentum, Polyak's and Nesterov's: one small network in every SIMD lane.

The arithmetic of every element is that of `momentum`, in which a network is trained alone. Each
network has its own momentum, weight decay and step sizes, and its own choice of Nesterov's form.
"""

from typing import Any, NamedTuple

import numpy as np

from fastdln.kernels.cpu.batched import (
    BLOCK_ROWS,
    BatchedChain,
    BatchedRegression,
    add_gradient_rows,
    costate_rows,
    evaluate,
    form_suffix_products,
)
from fastdln.kernels.cpu.batched_tiles import lanewise
from fastdln.kernels.cpu.gemm import ZERO
from fastdln.kernels.cpu.jit import kernel, part
from fastdln.kernels.cpu.layout import COLUMNS, OFFSET, ROWS, Layout, aligned_zeros
from fastdln.kernels.cpu.vector_code import lanes


class BatchedMomentum(NamedTuple):
    """Momentum, with weight decay in the gradient, at each network's own constants.

    Attributes
    ----------
    velocity : ndarray, laid out as the weights
    gradient_factors : ndarray of float64, shape (lanes,)
        Factor of G in the first co-state: 1, or 0 in an idle lane.
    momentum, nesterov : ndarray of the weights' dtype, shape (lanes,)
        μ, and 1 for Nesterov's form or 0 for Polyak's.
    weight_decays, ahead, moves : ndarray of the weights' dtype, shape (depth, lanes)
        Weight decay; ``η μ``, by which Nesterov's form adds the old velocity; and the factor of the
        new velocity, ``η`` or ``η (1 + μ)``.
    """

    velocity: np.ndarray
    gradient_factors: np.ndarray
    momentum: np.ndarray
    nesterov: np.ndarray
    weight_decays: np.ndarray
    ahead: np.ndarray
    moves: np.ndarray

    def set_lane(
        self,
        lane: int,
        step_sizes: np.ndarray,
        weight_decays: np.ndarray,
        momentum: float,
        nesterov: bool,
    ) -> None:
        """Set one network's constants; step sizes and weight decays have shape (depth,)."""
        # All in the weights' dtype: the kernel of a single network rounds after each operation.
        kind = self.moves.dtype.type
        mu, rates = kind(momentum), np.asarray(step_sizes, kind)
        self.gradient_factors[lane], self.momentum[lane], self.nesterov[lane] = 1, mu, nesterov
        self.weight_decays[:, lane], self.ahead[:, lane] = weight_decays, rates * mu
        self.moves[:, lane] = rates * (kind(1) + mu) if nesterov else rates

    def clear_lane(self, lane: int) -> None:
        """Make a lane idle: with zero weights, too, it stays as it is."""
        self.velocity.reshape(-1, self.momentum.size)[:, lane] = 0
        for factors in self[1:]:
            factors[..., lane] = 0


def _emit_decay(t: Any, values: list[Any], factors: list[Any]) -> list[Any]:
    b, (w, v), (momentum, nesterov, weight_decay, ahead) = t.builder, values, factors
    velocity = b.fadd(b.fmul(momentum, v), b.fmul(weight_decay, w))
    # Selected, not multiplied by zero: an infinite velocity must not make Polyak's weights nan.
    moved = b.fadd(w, b.fmul(ahead, v))
    return [b.select(b.fcmp_ordered("!=", nesterov, t.zero()), moved, w), velocity]


def _emit_move(t: Any, values: list[Any], factors: list[Any]) -> list[Any]:
    return [t.builder.fsub(values[0], t.builder.fmul(factors[0], values[1])), None]


def _emit_add(t: Any, values: list[Any], factors: list[Any]) -> list[Any]:
    return [t.add(values[0], values[1]), None]


# On (weights, velocity): ``v := μ v + λ w`` and, for Nesterov, first ``w += η μ v``; ``w −= η v``.
_decay = lanewise(
    _emit_decay,
    lambda a, f: [np.where(f[1] != 0, a[0] + f[3] * a[1], a[0]), f[0] * a[1] + f[2] * a[0]],
)
_move = lanewise(_emit_move, lambda a, f: [a[0] - f[0] * a[1], None])
_add = lanewise(_emit_add, lambda a, f: [a[0] + a[1], None])


@part
def _update_layers(chain: BatchedChain, step: BatchedMomentum) -> None:
    """Pass 2: update every layer by momentum and form the co-states."""
    layers, C, D = chain.layers, chain.C, chain.D
    pair, last = (chain.weights, step.velocity), layers.shape[0] - 1
    for layer in range(last):
        height, columns, row = layers[layer, ROWS], layers[layer, COLUMNS], ZERO
        rates = step.momentum, step.nesterov, step.weight_decays[layer], step.ahead[layer]
        while row < height:
            rows, w = min(BLOCK_ROWS, height - row), layers[layer, OFFSET] + row * columns
            costate_rows(chain, C, D, layer, row, rows)
            _decay(pair, (w, w), rates, rows * columns)
            add_gradient_rows(chain, C, step.velocity, layer, row, rows)
            _move(pair, (w, w), (step.moves[layer],), rows * columns)
            row += rows
        C, D = D, C
    w, count = layers[last, OFFSET], layers[last, ROWS] * layers[last, COLUMNS]
    rates = step.momentum, step.nesterov, step.weight_decays[last], step.ahead[last]
    _decay(pair, (w, w), rates, count)
    _add((step.velocity, C), (w, ZERO), (step.momentum,), count)
    _move(pair, (w, w), (step.moves[last],), count)


@kernel
def descend_batch_with_momentum(
    chain: BatchedChain, step: BatchedMomentum, problem: BatchedRegression
) -> int:
    """Evaluate all networks and take steps until one has ended; return the steps taken."""
    t = ZERO
    while evaluate(chain, problem, step.gradient_factors, t) and t + 1 < problem.losses.shape[0]:
        _update_layers(chain, step)
        t += 1
    return t


@kernel
def advance_batch_with_momentum(chain: BatchedChain, step: BatchedMomentum, updating: bool) -> None:
    """Take one step, where `updating`, from G in C, and form M."""
    if updating:
        _update_layers(chain, step)
    form_suffix_products(chain)


def new_batched_momentum(layout: Layout, chain: BatchedChain) -> BatchedMomentum:
    """Return a batch's momentum with all lanes idle."""
    count, dtype = lanes(layout.dtype), layout.dtype
    velocity = aligned_zeros(chain.weights.size, dtype)
    one = [np.zeros(count, dtype) for _ in range(2)]
    each = [np.zeros((layout.depth, count), dtype) for _ in range(3)]
    return BatchedMomentum(velocity, np.zeros(count), *one, *each)
