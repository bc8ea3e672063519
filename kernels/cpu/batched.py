"""Batched gradient descent: one small network in every SIMD lane, interleaved in memory.

A single small network leaves most of each vector register idle, and calls cost as much as the
arithmetic. Here every element is a vector that holds the same element of `lanes` networks of one
shape. Nothing is padded, no layer is transposed and no arithmetic crosses lanes. In a batch a
network of 10 × 4 takes a third of the time that it takes alone, one of 26 × 50 three quarters. The
working set is `lanes` times that of one network, so batching pays only for networks that stay in
cache.

Every sum has the terms and the order of `regression_loop.descend` for layers that it transposes
(`two_pass.TRANSPOSED_VECTORS`): a network has the same bits alone and in any batch.
"""

import math
from typing import NamedTuple

import numpy as np

from fastdln.kernels.cpu.batched_tiles import decay_and_add, multiply, residual_row, scale
from fastdln.kernels.cpu.gemm import ACCUMULATE, ONE, OVERWRITE, ZERO
from fastdln.kernels.cpu.groups import Operand
from fastdln.kernels.cpu.jit import kernel, part
from fastdln.kernels.cpu.layout import (
    COLUMNS,
    OFFSET,
    PRODUCT,
    ROWS,
    VECTORS,
    Layout,
    aligned_zeros,
)
from fastdln.kernels.cpu.two_pass import NEAR_TERMS, TRANSPOSED_VECTORS
from fastdln.kernels.cpu.vector_code import lanes

# Rows of a layer in one row block of pass 2: whole strips of both products.
BLOCK_ROWS = 20


class BatchedChain(NamedTuple):
    """The layers of a batch of networks and the buffers of the two-pass step.

    Attributes
    ----------
    weights, products, C, D : ndarray, flat, of the weights' dtype
        Layers, suffix products and two co-states; every element is a vector of `lanes` networks.
    layers : ndarray of int64, shape (depth, 6)
        The columns of `layout`; OFFSET, STRIDE and PRODUCT count vectors.
    sums : ndarray of float64, shape (lanes,)
        Sums of squares of the residuals.
    """

    weights: np.ndarray
    layers: np.ndarray
    products: np.ndarray
    C: np.ndarray
    D: np.ndarray
    sums: np.ndarray

    @property
    def lanes(self) -> int:
        """Networks of the batch."""
        return self.sums.size

    def layer(self, index: int) -> np.ndarray:
        """Return layer `index` of all networks as a view, shape (rows, columns, lanes)."""
        offset, rows, columns = self.layers[index, :3].tolist()
        n = self.sums.size
        return self.weights[offset * n : (offset + rows * columns) * n].reshape(rows, columns, n)

    def end_to_end(self) -> np.ndarray:
        """Return M of all networks as a view of the products, shape (q, d, lanes)."""
        q, d = self.layers[-1, ROWS], self.layers[0, COLUMNS]
        return self.products[: q * d * self.lanes].reshape(q, d, self.lanes)

    def gradient(self) -> np.ndarray:
        """Return the gradient of M, which pass 2 starts from, as a view, shape (q, d, lanes)."""
        q, d = self.layers[-1, ROWS], self.layers[0, COLUMNS]
        return self.C[: q * d * self.lanes].reshape(q, d, self.lanes)


class BatchedStep(NamedTuple):
    """Plain gradient descent, with weight decay, at each network's own learning rate.

    Attributes
    ----------
    gradient_factors : ndarray of float64, shape (lanes,)
        ``−η_1``, the factor of G in the first co-state; 0 in an idle lane.
    ratios : ndarray of the weights' dtype, shape (depth, lanes)
        Step size of every layer over that of the layer before, by which co-states are rescaled.
    decay : ndarray of the weights' dtype, shape (lanes,)
        The factor ``1 − η λ`` by which weight decay scales the weights in a step.
    """

    gradient_factors: np.ndarray
    ratios: np.ndarray
    decay: np.ndarray

    def set_lane(self, lane: int, step_sizes: np.ndarray, decay: float) -> None:
        """Set one network's step sizes, shape (depth,), and decay."""
        sizes = np.asarray(step_sizes, self.ratios.dtype)
        self.gradient_factors[lane], self.decay[lane] = -np.float64(sizes[0]), decay
        self.ratios[1:, lane] = sizes[1:] / sizes[:-1]

    def clear_lane(self, lane: int) -> None:
        """Make a lane idle: with zero weights, too, it stays as it is."""
        self.gradient_factors[lane], self.ratios[:, lane], self.decay[lane] = 0, 1, 1


class BatchedRegression(NamedTuple):
    """The reduced regression of every network, transposed where chains are mirrored; the losses.

    Attributes
    ----------
    scale, target : ndarray of float64, flat
        S and T of the losses ``½‖M∘S − T‖²``: q·d vectors.
    constants : ndarray of float64, shape (lanes,)
        The part of each loss outside the span of the inputs.
    losses : ndarray of float64, shape (maximum steps + 1, lanes)
        Output: the losses of every step taken; row 0 receives those before any step.
    floors : ndarray of float64, shape (lanes,)
        A network ends at a loss that is at most its floor or not finite; −∞ for an idle lane.
    """

    scale: np.ndarray
    target: np.ndarray
    constants: np.ndarray
    losses: np.ndarray
    floors: np.ndarray


@part
def form_suffix_products(chain: BatchedChain) -> None:
    """Pass 1: form all suffix products; the last one formed is M."""
    layers, weights, products = chain.layers, chain.weights, chain.products
    last, n_lanes = layers.shape[0] - 1, chain.sums.size
    q = layers[last, ROWS]
    w, b = layers[last, OFFSET] * n_lanes, layers[last, PRODUCT] * n_lanes
    for i in range(q * layers[last, COLUMNS] * n_lanes):
        products[np.uintp(b + i)] = weights[np.uintp(w + i)]
    for layer in range(last - 1, -1, -1):
        rows, columns = layers[layer, ROWS], layers[layer, COLUMNS]
        out = Operand(products, layers[layer, PRODUCT], columns, ONE)
        k = ZERO
        while k < rows:
            X = Operand(products, layers[layer + 1, PRODUCT] + k, rows, ONE)
            W = Operand(weights, layers[layer, OFFSET] + k * columns, columns, ONE)
            multiply(X, W, out, q, columns, min(NEAR_TERMS, rows - k), k == 0)
            k += NEAR_TERMS


@part
def costate_rows(
    chain: BatchedChain, C: np.ndarray, D: np.ndarray, layer: int, row: int, rows: int
) -> None:
    """Form columns row, …, row + rows of the next co-state, ``D = C Wᵀ``."""
    layers, q = chain.layers, chain.layers[chain.layers.shape[0] - 1, ROWS]
    height, columns = layers[layer, ROWS], layers[layer, COLUMNS]
    transpose = Operand(chain.weights, layers[layer, OFFSET] + row * columns, ONE, columns)
    out = Operand(D, row, height, ONE)
    multiply(Operand(C, ZERO, columns, ONE), transpose, out, q, rows, columns, OVERWRITE)


@part
def add_gradient_rows(
    chain: BatchedChain, C: np.ndarray, out: np.ndarray, layer: int, row: int, rows: int
) -> None:
    """Add ``Bᵀ C``, for `rows` rows of a layer, to `out`, which is laid out as the weights."""
    layers, q = chain.layers, chain.layers[chain.layers.shape[0] - 1, ROWS]
    height, columns = layers[layer, ROWS], layers[layer, COLUMNS]
    B = Operand(chain.products, layers[layer + 1, PRODUCT] + row, ONE, height)
    W = Operand(out, layers[layer, OFFSET] + row * columns, columns, ONE)
    multiply(B, Operand(C, ZERO, columns, ONE), W, rows, columns, q, ACCUMULATE)


@part
def _update_layers(chain: BatchedChain, step: BatchedStep, decaying: bool) -> None:
    """Pass 2: update every layer and form the co-states."""
    layers, weights, C, D = chain.layers, chain.weights, chain.C, chain.D
    last = layers.shape[0] - 1
    q = layers[last, ROWS]
    for layer in range(last):
        height, columns, row = layers[layer, ROWS], layers[layer, COLUMNS], ZERO
        while row < height:
            rows = min(BLOCK_ROWS, height - row)
            costate_rows(chain, C, D, layer, row, rows)
            if decaying:
                w = layers[layer, OFFSET] + row * columns
                scale((weights,), (w,), (step.decay,), rows * columns)
            add_gradient_rows(chain, C, weights, layer, row, rows)
            row += rows
        if not _all_one(step.ratios[layer + 1]):
            scale((D,), (ZERO,), (step.ratios[layer + 1],), q * height)
        C, D = D, C
    w, count = layers[last, OFFSET], q * layers[last, COLUMNS]
    decay_and_add((weights, C), (w, ZERO), (step.decay,), count)


@part
def _all_one(factors: np.ndarray) -> bool:
    """Return whether all factors are 1."""
    ones = 0
    for factor in factors:
        ones += factor == 1
    return ones == factors.size


@part
def evaluate(chain: BatchedChain, problem: BatchedRegression, factors: np.ndarray, t: int) -> bool:
    """Form M and write ``losses[t]``, and every network's `factors` times G to C.

    The order of every sum is that of `regression_loop.row_residual`. Return whether no network has
    converged or diverged.
    """
    form_suffix_products(chain)
    sums, losses, layers = chain.sums, problem.losses, chain.layers
    q, n = layers[layers.shape[0] - 1, ROWS], layers[0, COLUMNS]
    for lane in range(sums.size):
        sums[lane] = 0.0
    data = problem.scale, problem.target, factors
    for a in range(q):
        place = layers[0, PRODUCT] + a * n, a * n
        residual_row(chain.products, chain.C, data, sums, place, n)
    continuing = True
    for lane in range(sums.size):
        loss = problem.constants[lane] + 0.5 * sums[lane]
        losses[t, lane] = loss
        continuing = continuing and math.isfinite(loss) and loss > problem.floors[lane]
    return continuing


@kernel
def descend_batch(chain: BatchedChain, step: BatchedStep, problem: BatchedRegression) -> int:
    """Evaluate all networks and take steps until one has ended; return the steps taken."""
    t, decaying = ZERO, not _all_one(step.decay)
    while evaluate(chain, problem, step.gradient_factors, t) and t + 1 < problem.losses.shape[0]:
        _update_layers(chain, step, decaying)
        t += 1
    return t


@kernel
def advance_batch(chain: BatchedChain, step: BatchedStep, updating: bool) -> None:
    """Take one step, where `updating`, from `gradient_factors` times G in C, and form M."""
    if updating:
        _update_layers(chain, step, not _all_one(step.decay))
    form_suffix_products(chain)


def new_batched_chain(layout: Layout) -> BatchedChain:
    """Return a batch of zero networks, one per SIMD lane; `layout` is that of a single network.

    Raises
    ------
    ValueError
        If a layer is too wide: the kernel of a single network would sum in another order.
    """
    if layout.layers[:, VECTORS].max() > TRANSPOSED_VECTORS:
        raise ValueError(f"layers of width {max(layout.widths)} are too wide for SIMD lanes")
    n, q, count = np.asarray(layout.widths, dtype=np.int64), layout.q, lanes(layout.dtype)
    sizes, products = n[1:] * n[:-1], q * n[:-1]
    offsets, places = np.cumsum(sizes) - sizes, np.cumsum(products) - products
    # Rows are not padded, and every element is a vector: stride and vectors are the columns.
    layers = np.stack([offsets, n[1:], n[:-1], n[:-1], places, n[:-1]], axis=1)
    weights, products, C, D = (
        aligned_zeros(int(size) * count, layout.dtype)
        for size in (sizes.sum(), products.sum(), q * n.max(), q * n.max())
    )
    return BatchedChain(weights, np.ascontiguousarray(layers), products, C, D, np.zeros(count))


def new_batched_step(layout: Layout) -> BatchedStep:
    """Return a batch's step with all lanes idle."""
    count, dtype = lanes(layout.dtype), layout.dtype
    return BatchedStep(
        np.zeros(count), np.ones((layout.depth, count), dtype), np.ones(count, dtype)
    )
