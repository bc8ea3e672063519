"""Small networks of one shape side by side: one in each lane of the vector registers.

A small network of its own leaves much of every register idle, and calls cost as much as work. Here
every number is a vector that holds this number of `lanes` networks, as in `abreast`: nothing is
padded, no layer is transposed and no lane meets another. A network of 10 × 4 takes a third of the
time that it takes alone, one of 26 × 50 three quarters. The price is memory: what is in work is
`lanes` times as large as one network, so that this is for what stays in cache.

All sums are those of `descent.descend` for layers that it transposes (`chain.is_turned`), in the
same order: a network has the same bits in whatever company it is trained.
"""

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastdln.kernels.cpu.jit import kernel, part
from fastdln.kernels.cpu.layout import VECTORS, Layout, aligned_zeros
from fastdln.kernels.cpu.tiles import WIDE, _Tile, lanes
from fastdln.kernels.cpu.two_pass import (
    FRESH,
    MORE,
    NEAR_TERMS,
    ONE,
    TURNED_VECTORS,
    ZERO,
    strip_rows,
)

# One row per layer of a table: where it begins, in vectors, its rows and columns, and where the
# product that ends at it begins.
OFFSET, ROWS, COLUMNS, PRODUCT = range(4)


class _Vectors(_Tile):
    """A tile whose every number is a vector, one lane a network."""

    def at(self, base: Any, index: Any) -> Any:
        """Return the address of vector number `index` from `base` on."""
        return self.step(base, index, self.lanes)

    def grid(self, base: Any, start: Any, counts: tuple[int, int], strides: tuple[Any, Any]) -> Any:
        """Return the addresses of vectors ``start + i·strides[0] + j·strides[1]``, row by row."""
        first, builder = self.at(base, start), self.builder
        found = []
        for i in range(counts[0]):
            row = self.step(first, i, builder.mul(strides[0], self.width))
            for j in range(counts[1]):
                found.append(self.step(row, j, builder.mul(strides[1], self.width)))
        return found

    @property
    def width(self) -> Any:
        return ir.Constant(ir.IntType(64), self.lanes)


def _lane_tile(
    typing_context, rows, wide, X, x0, x_row, x_k, Y, y0, y_k, y_c, out, o0, o_row, count, fresh
):
    """``out[a, c] += Σ_k X[a, k] Y[k, c]`` for `rows` × `wide` vectors and `count` terms k.

    All indices and strides count vectors; ``out[a, c + 1]`` follows ``out[a, c]``. Where `fresh`,
    the sums start at zero. `rows` and `wide` are constants of the compilation.
    """
    n_rows, n_wide = rows.literal_value, wide.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, _, X, x0, x_row, x_k, Y, y0, y_k, y_c, out, o0, o_row, count, fresh = args
        t = _Vectors(context, builder, signature.args[2])
        one = ir.Constant(ir.IntType(64), 1)
        xs = t.grid(t.pointer(X), x0, (n_rows, 1), (x_row, one))
        ys = t.grid(t.pointer(Y), y0, (1, n_wide), (one, y_c))
        targets = t.grid(t.pointer(out), o0, (n_rows, n_wide), (o_row, one))
        x_step, y_step = (builder.mul(s, t.width) for s in (x_k, y_k))

        def body(k: Any, sums: list[Any]) -> list[Any]:
            y = [t.load(t.step(pointer, k, y_step)) for pointer in ys]
            x = [t.load(t.step(pointer, k, x_step)) for pointer in xs]
            return [
                t.multiply_add(x[a], y[c], sums[a * n_wide + c])
                for a in range(n_rows)
                for c in range(n_wide)
            ]

        for value, pointer in zip(
            t.loop(count, t.zeros_or_loads(fresh, targets), body), targets, strict=True
        ):
            t.store(value, pointer)
        return context.get_dummy_value()

    index = types.intp
    return (
        types.void(
            rows, wide, X, index, index, index, Y, index, index, index, out, index, index, index,
            types.boolean,
        ),
        codegen,
    )  # fmt: skip


def _plain_lane_tile(rows, wide, X, x0, x_row, x_k, Y, y0, y_k, y_c, out, o0, o_row, count, fresh):
    """Do what `_lane_tile` does, in NumPy, for runs with JIT switched off."""
    n = lanes(out.dtype)
    for a in range(rows):
        for c in range(wide):
            target = out[(o0 + a * o_row + c) * n :][:n]
            if fresh:
                target[:] = 0
            for k in range(count):
                x = X[(x0 + a * x_row + k * x_k) * n :][:n]
                target += x * Y[(y0 + k * y_k + c * y_c) * n :][:n]


if numba.config.DISABLE_JIT:
    lane_tile = _plain_lane_tile
else:
    lane_tile = intrinsic(prefer_literal=True)(_lane_tile)


def _panel(wide):
    """Return the kernel for all rows of `wide` columns."""

    @part
    def panel(X, x0, x_row, x_k, Y, y0, y_k, y_c, out, o0, o_row, rows, count, fresh):
        a = ZERO
        while a < rows:
            n = strip_rows(rows - a, False)
            x, o = x0 + a * x_row, o0 + a * o_row
            if n == 5:
                lane_tile(5, wide, X, x, x_row, x_k, Y, y0, y_k, y_c, out, o, o_row, count, fresh)
            elif n == 4:
                lane_tile(4, wide, X, x, x_row, x_k, Y, y0, y_k, y_c, out, o, o_row, count, fresh)
            elif n == 2:
                lane_tile(2, wide, X, x, x_row, x_k, Y, y0, y_k, y_c, out, o, o_row, count, fresh)
            else:
                lane_tile(1, wide, X, x, x_row, x_k, Y, y0, y_k, y_c, out, o, o_row, count, fresh)
            a += n

    return panel


_panel1, _panel2, _panel3, _panel_wide = (_panel(n) for n in (1, 2, 3, WIDE))


@kernel
def multiply(X, x0, x_row, x_k, Y, y0, y_k, y_c, out, o0, o_row, rows, columns, count, fresh):
    """``out[a, c] += Σ_k X[a, k] Y[k, c]``, everything counted in vectors; see `_lane_tile`."""
    c = ZERO
    while c + WIDE <= columns:
        _panel_wide(
            X, x0, x_row, x_k, Y, y0 + c * y_c, y_k, y_c, out, o0 + c, o_row, rows, count, fresh
        )
        c += WIDE
    y, o = y0 + c * y_c, o0 + c
    if c + 3 == columns:
        _panel3(X, x0, x_row, x_k, Y, y, y_k, y_c, out, o, o_row, rows, count, fresh)
    elif c + 2 == columns:
        _panel2(X, x0, x_row, x_k, Y, y, y_k, y_c, out, o, o_row, rows, count, fresh)
    elif c < columns:
        _panel1(X, x0, x_row, x_k, Y, y, y_k, y_c, out, o, o_row, rows, count, fresh)


# Rows of a layer that pass 2 visits at a time: whole strips of both products.
VISIT_ROWS = 20


@part
def _suffix_products(weights, layers, products, q, lane):
    """Pass 1: all suffix products, the last of them M."""
    last = layers.shape[0] - 1
    w, b = layers[last, OFFSET] * lane, layers[last, PRODUCT] * lane
    for i in range(q * layers[last, COLUMNS] * lane):
        products[np.uintp(b + i)] = weights[np.uintp(w + i)]
    for layer in range(last - 1, -1, -1):
        rows, columns = layers[layer, ROWS], layers[layer, COLUMNS]
        k = ZERO
        while k < rows:
            multiply(
                products, layers[layer + 1, PRODUCT] + k, rows, ONE,
                weights, layers[layer, OFFSET] + k * columns, columns, ONE,
                products, layers[layer, PRODUCT], columns, q, columns, min(NEAR_TERMS, rows - k),
                k == 0,
            )  # fmt: skip
            k += NEAR_TERMS


@part
def _update(weights, layers, products, C, D, rates, decay, decaying, q, lane):
    """Pass 2: every layer's step, and the co-states on the way."""
    last = layers.shape[0] - 1
    for layer in range(last):
        height, columns = layers[layer, ROWS], layers[layer, COLUMNS]
        row = ZERO
        while row < height:
            rows = min(VISIT_ROWS, height - row)
            w = layers[layer, OFFSET] + row * columns
            multiply(
                C, ZERO, columns, ONE, weights, w, ONE, columns, D, row, height, q, rows, columns,
                FRESH,
            )  # fmt: skip
            if decaying:
                _scale(weights, w, rows * columns, decay, lane)
            multiply(
                products, layers[layer + 1, PRODUCT] + row, ONE, height, C, ZERO, columns, ONE,
                weights, w, columns, rows, columns, q, MORE,
            )  # fmt: skip
            row += rows
        _next_rate(D, q * height, rates, layer, lane)
        C, D = D, C
    w = layers[last, OFFSET] * lane
    for i in range(q * layers[last, COLUMNS]):
        for l in range(lane):
            j = np.uintp(w + i * lane + l)
            weights[j] = decay[l] * weights[j] + C[np.uintp(i * lane + l)]


@part
def _scale(matrix, start, count, factors, lane):
    """Multiply `count` vectors by `factors`, one for each lane."""
    for i in range(start, start + count):
        for l in range(lane):
            matrix[np.uintp(i * lane + l)] *= factors[l]


@part
def _next_rate(D, count, rates, layer, lane):
    """Rescale a co-state from one layer's rates to the next one's."""
    for l in range(lane):
        if rates[layer + 1, l] != rates[layer, l]:
            factor = rates[layer + 1, l] / rates[layer, l]
            for i in range(count):
                D[np.uintp(i * lane + l)] *= factor


@part
def _residuals(products, layers, scale, target, constant, C, rates, sums, losses, t, lane):
    """Fill ``losses[t]`` and leave every network's ``−η_1 G`` in C: `descent.row_residual`."""
    m, n = layers[0, PRODUCT] * lane, scale.shape[1]
    for l in range(lane):
        losses[t, l] = 0.0
    for a in range(scale.shape[0]):
        for l in range(lane):
            sums[l] = 0.0
        for b in range(n):
            i = (a * n + b) * lane
            for l in range(lane):
                r = products[np.uintp(m + i + l)] * scale[a, b] - target[a, b]
                sums[l] += r * r
                C[np.uintp(i + l)] = -np.float64(rates[0, l]) * r * scale[a, b]
        for l in range(lane):
            losses[t, l] += sums[l]
    for l in range(lane):
        losses[t, l] = constant + 0.5 * losses[t, l]


@part
def _all_go_on(losses, floors, t, lane):
    for l in range(lane):
        if not math.isfinite(losses[t, l]) or losses[t, l] <= floors[l]:
            return False
    return True


@kernel
def descend_side_by_side(
    weights, layers, products, C, D, sums, rates, decay, scale, target, constant, losses,
    floors, q, lane,
):  # fmt: skip
    """Evaluate all networks and take steps until one has ended; return how many were taken.

    Parameters
    ----------
    weights, products, C, D : ndarray
        As laid out by `Table`: every number is a vector, one lane a network.
    sums : ndarray of float64, shape (lane,)
    rates, decay : ndarray of the weights' dtype, shapes (depth, lane) and (lane,)
        Step size of every layer, and what weight decay leaves of the weights.
    scale, target : ndarray of float64, shape (q, n)
        The regression, the same for all networks.
    losses : ndarray of float64, shape (most steps + 1, lane)
        Row 0 gets the losses before any step.
    floors : ndarray of float64, shape (lane,)
        Steps end at a loss at most this, or that is not finite; −inf lets a lane idle.
    """
    decaying = False
    for l in range(lane):
        decaying = decaying or decay[l] != 1
    t = 0
    _suffix_products(weights, layers, products, q, lane)
    _residuals(products, layers, scale, target, constant, C, rates, sums, losses, t, lane)
    while t + 1 < losses.shape[0] and _all_go_on(losses, floors, t, lane):
        _update(weights, layers, products, C, D, rates, decay, decaying, q, lane)
        t += 1
        _suffix_products(weights, layers, products, q, lane)
        _residuals(products, layers, scale, target, constant, C, rates, sums, losses, t, lane)
    return t


class Table(NamedTuple):
    """Where layers and products of networks side by side lie, counted in vectors.

    Attributes
    ----------
    layers : ndarray of int64, shape (depth, 4)
    size, product_size, edge : int
        Vectors in the weights, in all products, and in the widest co-state.
    """

    layers: np.ndarray
    size: int
    product_size: int
    edge: int


def make_table(layout: Layout) -> Table:
    """Return the table of networks that alone would be laid out by `layout`.

    Raises
    ------
    ValueError
        If a layer is too wide: alone it would be summed in another order.
    """
    if layout.layers[:, VECTORS].max() > TURNED_VECTORS:
        raise ValueError(f"layers of width {max(layout.widths)} are too wide to go side by side")
    n, q = np.asarray(layout.widths, dtype=np.int64), layout.q
    sizes, products = n[1:] * n[:-1], q * n[:-1]
    offsets, places = np.cumsum(sizes) - sizes, np.cumsum(products) - products
    layers = np.ascontiguousarray(np.stack([offsets, n[1:], n[:-1], places], axis=1))
    return Table(layers, int(sizes.sum()), int(products.sum()), int(q * n.max()))


class Buffers(NamedTuple):
    """What `descend_side_by_side` works on; see there."""

    weights: np.ndarray
    products: np.ndarray
    C: np.ndarray
    D: np.ndarray
    sums: np.ndarray

    def layer(self, table: Table, index: int) -> np.ndarray:
        """Return a layer of all networks as a view, shape (rows, columns, lanes)."""
        n, (offset, rows, columns, _) = self.sums.size, table.layers[index]
        return self.weights[offset * n : (offset + rows * columns) * n].reshape(rows, columns, n)


def buffers(table: Table, dtype: Any) -> Buffers:
    """Return buffers of zeros for as many networks as a vector has lanes."""
    n = lanes(dtype)
    sizes = table.size, table.product_size, table.edge, table.edge
    return Buffers(*(aligned_zeros(size * n, dtype) for size in sizes), np.zeros(n))
