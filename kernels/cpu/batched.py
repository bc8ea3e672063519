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
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastdln.kernels.cpu.gemm import ACCUMULATE, ONE, OVERWRITE, ZERO, strip_rows
from fastdln.kernels.cpu.groups import Operand, Regression
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
from fastdln.kernels.cpu.vector_code import WIDE, VectorCode, lanes

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
        Sums of squares of one row of the residual.
    """

    weights: np.ndarray
    layers: np.ndarray
    products: np.ndarray
    C: np.ndarray
    D: np.ndarray
    sums: np.ndarray

    def layer(self, index: int) -> np.ndarray:
        """Return layer `index` of all networks as a view, shape (rows, columns, lanes)."""
        n = self.sums.size
        offset, rows, columns = self.layers[index, :3]
        return self.weights[offset * n : (offset + rows * columns) * n].reshape(rows, columns, n)


class BatchedStep(NamedTuple):
    """Plain gradient descent, with weight decay, at each network's own learning rate.

    Attributes
    ----------
    step_sizes : ndarray of the weights' dtype, shape (depth, lanes)
        Step size of every layer.
    decay : ndarray of the weights' dtype, shape (lanes,)
        The factor ``1 − η λ`` by which weight decay scales the weights in a step.
    """

    step_sizes: np.ndarray
    decay: np.ndarray


class _Vectors(VectorCode):
    """Operations of a tile in which every element is a vector with one value per network."""

    def operand(self, value: Any) -> tuple[Any, Any, Any]:
        """Return the address and the strides, in elements, of an `Operand` of vectors."""
        _, start, row, column = (self.builder.extract_value(value, i) for i in range(4))
        first = self.step(self.pointer(self.data(value)), start, self.lanes)
        return first, self.builder.mul(row, self.width), self.builder.mul(column, self.width)

    @property
    def width(self) -> Any:
        return ir.Constant(ir.IntType(64), self.lanes)


def _lane_tile(
    typing_context: Any,
    rows: Any,
    wide: Any,
    X: Any,
    Y: Any,
    out: Any,
    corner: Any,
    count: Any,
    overwrite: Any,
) -> Any:
    """``out[a, c] += Σ_k X[a, k] Y[k, c]`` for `rows` × `wide` vectors and `count` terms k.

    X, Y and out are each an `Operand` of vectors, whose strides and start count vectors; rows of
    out are contiguous. `corner` is the tile's first (a, c). Where `overwrite`, the sums start at
    zero. `rows` and `wide` are constants of the compilation.
    """
    n_rows, n_wide = rows.literal_value, wide.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, _, X, Y, out, corner, count, overwrite = args
        t = _Vectors(context, builder, signature.args[2].types[0])
        first_row, first_column = (builder.extract_value(corner, i) for i in (0, 1))
        (x, x_row, x_step), (y, y_step, y_column), (o, o_row, _) = map(t.operand, (X, Y, out))
        x, y = t.step(x, first_row, x_row), t.step(y, first_column, y_column)
        o = t.step(t.step(o, first_row, o_row), first_column, t.lanes)
        xs = [t.step(x, a, x_row) for a in range(n_rows)]
        ys = [t.step(y, c, y_column) for c in range(n_wide)]
        grid = [(a, c) for a in range(n_rows) for c in range(n_wide)]
        targets = [t.step(t.step(o, a, o_row), c, t.lanes) for a, c in grid]

        def body(k: Any, sums: list[Any]) -> list[Any]:
            y = [t.load(t.step(pointer, k, y_step)) for pointer in ys]
            x = [t.load(t.step(pointer, k, x_step)) for pointer in xs]
            return [t.multiply_add(x[a], y[c], s) for (a, c), s in zip(grid, sums, strict=True)]

        sums = t.loop(count, t.zeros_or_loads(overwrite, targets), body)
        for value, pointer in zip(sums, targets, strict=True):
            t.store(value, pointer)
        return context.get_dummy_value()

    return types.void(rows, wide, X, Y, out, corner, types.intp, types.boolean), codegen


def _plain_lane_tile(
    rows: int,
    wide: int,
    X: Operand,
    Y: Operand,
    out: Operand,
    corner: tuple[int, int],
    count: int,
    overwrite: bool,
) -> None:
    """Equivalent of `_lane_tile` in NumPy, for runs with JIT switched off."""
    n = lanes(out.data.dtype)

    def element(operand: Operand, i: int, j: int) -> np.ndarray:
        return operand.data[(operand.start + i * operand.row + j * operand.column) * n :][:n]

    for a in range(corner[0], corner[0] + rows):
        for c in range(corner[1], corner[1] + wide):
            target = element(out, a, c)
            if overwrite:
                target[:] = 0
            for k in range(count):
                target += element(X, a, k) * element(Y, k, c)


lane_tile: Callable[..., None] = _plain_lane_tile
if not numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    lane_tile = intrinsic(prefer_literal=True)(_lane_tile)


def _panel(wide: int) -> Callable[..., None]:
    """Return the kernel for all rows of `wide` columns from column c on."""

    @part
    def panel(
        X: Operand, Y: Operand, out: Operand, c: int, rows: int, count: int, overwrite: bool
    ) -> None:
        a = ZERO
        while a < rows:
            n = strip_rows(rows - a, False)
            if n == 5:
                lane_tile(5, wide, X, Y, out, (a, c), count, overwrite)
            elif n == 4:
                lane_tile(4, wide, X, Y, out, (a, c), count, overwrite)
            elif n == 2:
                lane_tile(2, wide, X, Y, out, (a, c), count, overwrite)
            else:
                lane_tile(1, wide, X, Y, out, (a, c), count, overwrite)
            a += n

    return panel


_panel1, _panel2, _panel3, _panel_wide = (_panel(n) for n in (1, 2, 3, WIDE))


@kernel
def multiply(
    X: Operand, Y: Operand, out: Operand, rows: int, columns: int, count: int, overwrite: bool
) -> None:
    """``out[a, c] += Σ_k X[a, k] Y[k, c]`` for a < rows, c < columns and k < count.

    X, Y and out are as in `_lane_tile`. Where `overwrite`, the product is written, not added.
    """
    c = ZERO
    while c + WIDE <= columns:
        _panel_wide(X, Y, out, c, rows, count, overwrite)
        c += WIDE
    if c + 3 == columns:
        _panel3(X, Y, out, c, rows, count, overwrite)
    elif c + 2 == columns:
        _panel2(X, Y, out, c, rows, count, overwrite)
    elif c < columns:
        _panel1(X, Y, out, c, rows, count, overwrite)


@part
def _suffix_products(chain: BatchedChain, q: int) -> None:
    """Pass 1: form all suffix products; the last one formed is M."""
    layers, weights, products = chain.layers, chain.weights, chain.products
    last, n_lanes = layers.shape[0] - 1, chain.sums.size
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
def _update_layers(chain: BatchedChain, descent: BatchedStep, decaying: bool, q: int) -> None:
    """Pass 2: update every layer and form the co-states."""
    layers, weights, products, C, D = chain.layers, chain.weights, chain.products, chain.C, chain.D
    last, n_lanes = layers.shape[0] - 1, chain.sums.size
    for layer in range(last):
        height, columns = layers[layer, ROWS], layers[layer, COLUMNS]
        costate = Operand(C, ZERO, columns, ONE)
        row = ZERO
        while row < height:
            rows = min(BLOCK_ROWS, height - row)
            w = layers[layer, OFFSET] + row * columns
            transpose = Operand(weights, w, ONE, columns)
            multiply(costate, transpose, Operand(D, row, height, ONE), q, rows, columns, OVERWRITE)
            if decaying:
                _scale(weights, w, rows * columns, descent.decay)
            B = Operand(products, layers[layer + 1, PRODUCT] + row, ONE, height)
            multiply(B, costate, Operand(weights, w, columns, ONE), rows, columns, q, ACCUMULATE)
            row += rows
        _to_next_step_size(D, q * height, descent.step_sizes, layer)
        C, D = D, C
    w = layers[last, OFFSET] * n_lanes
    for i in range(q * layers[last, COLUMNS]):
        for lane in range(n_lanes):
            j = np.uintp(w + i * n_lanes + lane)
            weights[j] = descent.decay[lane] * weights[j] + C[np.uintp(i * n_lanes + lane)]


@part
def _scale(matrix: np.ndarray, start: int, count: int, factors: np.ndarray) -> None:
    """Multiply `count` vectors by `factors`, which has one factor per lane."""
    n_lanes = factors.size
    for i in range(start, start + count):
        for lane in range(n_lanes):
            matrix[np.uintp(i * n_lanes + lane)] *= factors[lane]


@part
def _to_next_step_size(D: np.ndarray, count: int, step_sizes: np.ndarray, layer: int) -> None:
    """Rescale a co-state of `count` vectors from one layer's step sizes to the next layer's."""
    n_lanes = step_sizes.shape[1]
    for lane in range(n_lanes):
        if step_sizes[layer + 1, lane] != step_sizes[layer, lane]:
            factor = step_sizes[layer + 1, lane] / step_sizes[layer, lane]
            for i in range(count):
                D[np.uintp(i * n_lanes + lane)] *= factor


@part
def _residuals(chain: BatchedChain, step_sizes: np.ndarray, regression: Regression, t: int) -> None:
    """Write ``losses[t]``, and every network's ``−η_1 G`` to C.

    The order of every sum is that of `regression_loop.row_residual`.
    """
    C, sums, n_lanes = chain.C, chain.sums, chain.sums.size
    scale, target, losses = regression.scale, regression.target, regression.losses
    m, n = chain.layers[0, PRODUCT] * n_lanes, scale.shape[1]
    for lane in range(n_lanes):
        losses[t, lane] = 0.0
    for a in range(scale.shape[0]):
        for lane in range(n_lanes):
            sums[lane] = 0.0
        for b in range(n):
            i = (a * n + b) * n_lanes
            for lane in range(n_lanes):
                r = chain.products[np.uintp(m + i + lane)] * scale[a, b] - target[a, b]
                sums[lane] += r * r
                C[np.uintp(i + lane)] = -np.float64(step_sizes[0, lane]) * r * scale[a, b]
        for lane in range(n_lanes):
            losses[t, lane] += sums[lane]
    for lane in range(n_lanes):
        losses[t, lane] = regression.constant + 0.5 * losses[t, lane]


@part
def _all_continue(losses: np.ndarray, floors: np.ndarray, t: int) -> bool:
    """Return whether no network has converged or diverged at step t."""
    for lane in range(floors.size):
        if not math.isfinite(losses[t, lane]) or losses[t, lane] <= floors[lane]:
            return False
    return True


@kernel
def descend_batch(
    chain: BatchedChain, descent: BatchedStep, regression: Regression, floors: np.ndarray
) -> int:
    """Evaluate all networks and take steps until one has ended; return the steps taken.

    Parameters
    ----------
    chain : BatchedChain
    descent : BatchedStep
    regression : groups.Regression
        The same for all networks. Losses have shape (maximum steps + 1, lanes); row 0 receives the
        losses before any step.
    floors : ndarray of float64, shape (lanes,)
        A network ends at a loss that is at most its floor or not finite; −∞ for an idle lane.
    """
    q, losses, decaying = regression.scale.shape[0], regression.losses, False
    for lane in range(floors.size):
        decaying = decaying or descent.decay[lane] != 1
    t = 0
    _suffix_products(chain, q)
    _residuals(chain, descent.step_sizes, regression, t)
    while t + 1 < losses.shape[0] and _all_continue(losses, floors, t):
        _update_layers(chain, descent, decaying, q)
        t += 1
        _suffix_products(chain, q)
        _residuals(chain, descent.step_sizes, regression, t)
    return t


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
