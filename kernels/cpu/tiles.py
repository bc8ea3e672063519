"""Register tiles: two small matrix products and a transposition, used by all chain kernels.

Numba's vectoriser keeps at most a few accumulators in registers and handles remaining columns
one by one. These tiles are written as LLVM vector code instead: 20 accumulators stay in
registers for a whole inner loop, operands are loaded once per tile, and there are no remainders
because every buffer is padded to whole vectors (see `layout`). With JIT switched off, the NumPy
twins at the end of this file replace them.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastdln.kernels.cpu.groups import Operand
from fastdln.kernels.cpu.vector_code import WIDE, VectorCode, lanes


def _product_tile(
    typing_context: Any,
    rows: Any,
    wide: Any,
    X: Any,
    Y: Any,
    out: Any,
    terms: Any,
    overwrite: Any,
    fetched: Any,
) -> tuple[Any, Callable[..., Any]]:
    """``out[a, v] += Σ_k X[a, k] Y[k, v]`` for `rows` rows a, `wide` vectors v, `terms` terms k.

    Where `overwrite`, the sums start at zero and replace the contents of `out`. A tile of WIDE
    vectors also prefetches ``Y.data[fetched + k·Y.row]``, which may be outside the array.

    X, Y and out are each an `Operand`; Y and out are contiguous along v. `rows` and `wide` are
    compile-time constants.
    """
    n_rows, n_wide = rows.literal_value, wide.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, _, X, Y, out, terms, overwrite, fetched = args
        t = VectorCode(context, builder, signature.args[2][0])
        ahead = t.pointer(t.data(Y), fetched)
        x = [t.step(t.start(X), a, t.row(X)) for a in range(n_rows)]
        y, x_k, y_k = t.start(Y), t.column(X), t.row(Y)
        targets = [
            t.step(t.step(t.start(out), a, t.row(out)), v, t.lanes)
            for a in range(n_rows)
            for v in range(n_wide)
        ]

        def body(k: Any, sums: list[Any]) -> list[Any]:
            row = t.step(y, k, y_k)
            ys = [t.load(t.step(row, v, t.lanes)) for v in range(n_wide)]
            xs = [t.splat(t.step(pointer, k, x_k)) for pointer in x]
            if n_wide == WIDE:
                t.fetch(t.step(ahead, k, y_k))
            return [
                t.multiply_add(xs[a], ys[v], sums[a * n_wide + v])
                for a in range(n_rows)
                for v in range(n_wide)
            ]

        sums = t.loop(terms, t.zeros_or_loads(overwrite, targets), body)
        for value, pointer in zip(sums, targets, strict=True):
            t.store(value, pointer)
        return context.get_dummy_value()

    index = types.intp
    return types.void(rows, wide, X, Y, out, index, types.boolean, index), codegen


def _dot_tile(
    typing_context: Any, rows: Any, X: Any, Y: Any, out: Any, vectors: Any, fetched: Any
) -> tuple[Any, Callable[..., Any]]:
    """``out[a, r] = Σ_v X[a, v]·Y[r, v]`` for `rows` rows a and four rows r, over `vectors`.

    X, Y and out are each an `Operand` with contiguous rows. The tile also prefetches the vectors
    from ``Y.data[fetched]`` on, which may be outside the array. `rows` is a compile-time constant.
    """
    n_rows = rows.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, X, Y, out, vectors, fetched = args
        t = VectorCode(context, builder, signature.args[1][0])
        ahead = t.pointer(t.data(Y), fetched)
        x = [t.step(t.start(X), a, t.row(X)) for a in range(n_rows)]
        y = [t.step(t.start(Y), r, t.row(Y)) for r in range(4)]

        def body(k: Any, sums: list[Any]) -> list[Any]:
            xs = [t.load(t.step(pointer, k, t.lanes)) for pointer in x]
            ys = [t.load(t.step(pointer, k, t.lanes)) for pointer in y]
            t.fetch(t.step(ahead, k, t.lanes))
            return [
                t.multiply_add(xs[a], ys[r], sums[a * 4 + r])
                for a in range(n_rows)
                for r in range(4)
            ]

        sums = t.loop(vectors, [t.zero()] * (n_rows * 4), body)
        for a in range(n_rows):
            four = t.sums_of_four(sums[4 * a : 4 * a + 4])
            t.store(four, t.step(t.start(out), a, t.row(out)))
        return context.get_dummy_value()

    return types.void(rows, X, Y, out, types.intp, types.intp), codegen


def _transpose_tile(
    typing_context: Any, X: Any, rows: Any, out: Any
) -> tuple[Any, Callable[..., Any]]:
    """Write the transpose of a square block of whole vectors; rows of X from `rows` on are zero.

    X and out are each an `Operand` with contiguous rows. Every row of the transpose is written as
    a whole vector.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        X, rows, out = args
        t = VectorCode(context, builder, signature.args[0][0])
        source, target = t.start(X), t.start(out)
        vectors = []
        for r in range(t.lanes):
            there = builder.icmp_signed("<", ir.Constant(rows.type, r), rows)
            row = builder.select(there, t.step(source, r, t.row(X)), source)
            vectors.append(builder.select(there, t.load(row), t.zero()))
        for c, column in enumerate(t.transposed(vectors)):
            t.store(column, t.step(target, c, t.row(out)))
        return context.get_dummy_value()

    return types.void(X, types.intp, out), codegen


def _fetch_line(typing_context: Any, array: Any, index: Any) -> tuple[Any, Callable[..., Any]]:
    """Prefetch the cache line of ``array[index]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        t = VectorCode(context, builder, signature.args[0])
        t.fetch(t.pointer(args[0], args[1]))
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


def _plain_product_tile(
    rows: int,
    wide: int,
    X: Operand,
    Y: Operand,
    out: Operand,
    terms: int,
    overwrite: bool,
    fetched: int,
) -> None:
    """Equivalent of `_product_tile` in NumPy, for runs with JIT switched off."""
    width = wide * lanes(out.data.dtype)
    for a in range(rows):
        target = out.data[out.start + a * out.row :][:width]
        if overwrite:
            target[:] = 0
        for k in range(terms):
            x = X.data[X.start + a * X.row + k * X.column]
            target += x * Y.data[Y.start + k * Y.row :][:width]


def _plain_transpose_tile(X: Operand, rows: int, out: Operand) -> None:
    """Equivalent of `_transpose_tile` in NumPy, for runs with JIT switched off."""
    width = lanes(out.data.dtype)
    for r in range(width):
        for c in range(width):
            x = X.data[X.start + r * X.row + c] if r < rows else 0
            out.data[out.start + c * out.row + r] = x


def _plain_dot_tile(
    rows: int, X: Operand, Y: Operand, out: Operand, vectors: int, fetched: int
) -> None:
    """Equivalent of `_dot_tile` in NumPy, for runs with JIT switched off."""
    width = vectors * lanes(out.data.dtype)
    for a in range(rows):
        for r in range(4):
            x = X.data[X.start + a * X.row :][:width]
            out.data[out.start + a * out.row + r] = x @ Y.data[Y.start + r * Y.row :][:width]


def _plain_fetch_line(array: np.ndarray, index: int) -> None:
    """Do nothing, for runs with JIT switched off."""


product_tile: Callable[..., None] = _plain_product_tile
dot_tile: Callable[..., None] = _plain_dot_tile
transpose_tile: Callable[..., None] = _plain_transpose_tile
fetch_line: Callable[..., None] = _plain_fetch_line
if not numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # set when Numba is imported
    product_tile = intrinsic(prefer_literal=True)(_product_tile)
    dot_tile = intrinsic(prefer_literal=True)(_dot_tile)
    transpose_tile = intrinsic(_transpose_tile)
    fetch_line = intrinsic(_fetch_line)
