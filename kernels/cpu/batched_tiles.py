"""Register tiles and lane-wise loops of the batched kernels: a vector holds one value per network.

In a batch every element is a vector that holds the same element of `lanes` networks. No arithmetic
crosses lanes, and a product needs no splats: both of its factors are loaded.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastdln.kernels.cpu.gemm import ZERO, strip_rows
from fastdln.kernels.cpu.groups import Operand
from fastdln.kernels.cpu.jit import kernel, part
from fastdln.kernels.cpu.vector_code import WIDE, VectorCode, lanes


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


# The vectors of one element, one from each array, and the factors of every lane, to the vectors
# that replace them; None leaves an array as it is.
Emit = Callable[[_Vectors, list[Any], list[Any]], list[Any]]
Plain = Callable[[list[np.ndarray], list[np.ndarray]], list[np.ndarray | None]]


def lanewise(emit: Emit, plain: Plain) -> Callable[..., None]:
    """Return the loop ``loop(arrays, starts, factors, count)`` over `count` vectors of each array.

    `arrays` is a tuple of flat arrays and `starts` one of their first vectors; `factors` is a tuple
    of arrays with one value a lane, held in registers. A loop over the lanes in Numba checks for
    aliasing at every vector, which took longer than the arithmetic.

    Parameters
    ----------
    emit : callable
        Emits the arithmetic of one vector of each array.
    plain : callable
        Does the same to whole NumPy arrays, shape (count, lanes), for runs with JIT switched off.
    """

    def plain_loop(arrays: Any, starts: Any, factors: Any, count: int) -> None:
        n = factors[0].size
        views = [
            a[start * n : (start + count) * n].reshape(count, n)
            for a, start in zip(arrays, starts, strict=True)
        ]
        for view, value in zip(views, plain(views, list(factors)), strict=True):
            if value is not None:
                view[:] = value

    def typed(typing_context: Any, arrays: Any, starts: Any, factors: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arrays, starts, factors, count = args
            t = _Vectors(context, builder, signature.args[0].types[0])
            pick = builder.extract_value
            pointers = [
                t.step(t.pointer(pick(arrays, i)), pick(starts, i), t.lanes)
                for i in range(len(signature.args[0]))
            ]
            held = [t.load(t.pointer(pick(factors, i))) for i in range(len(signature.args[2]))]

            def body(k: Any, carried: list[Any]) -> list[Any]:
                here = [t.step(pointer, k, t.lanes) for pointer in pointers]
                values = emit(t, [t.load(p) for p in here], held)
                for value, pointer in zip(values, here, strict=True):
                    if value is not None:
                        t.store(value, pointer)
                return []

            t.loop(count, [], body)
            return context.get_dummy_value()

        return types.void(arrays, starts, factors, types.intp), codegen

    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return plain_loop
    compiled: Callable[..., None] = intrinsic(typed)
    return compiled


def _emit_scale(t: _Vectors, values: list[Any], factors: list[Any]) -> list[Any]:
    return [t.builder.fmul(values[0], factors[0])]


def _emit_decay_and_add(t: _Vectors, values: list[Any], factors: list[Any]) -> list[Any]:
    return [t.add(t.builder.fmul(factors[0], values[0]), values[1]), None]


# ``A := f·A``, and ``A := f·A + B``: two roundings, as in the kernels of one network.
scale = lanewise(_emit_scale, lambda v, f: [v[0] * f[0]])
decay_and_add = lanewise(_emit_decay_and_add, lambda v, f: [f[0] * v[0] + v[1], None])


class _Doubles(VectorCode):
    """Operations on one float64 for every lane: as many as the weights' vectors have."""

    def __init__(self, context: Any, builder: Any, array_type: Any, lanes: int):
        super().__init__(context, builder, array_type)
        self.lanes = lanes
        self.vector = ir.VectorType(self.element, lanes)


def _residual_row(
    typing_context: Any, M: Any, C: Any, problem: Any, sums: Any, place: Any, count: Any
) -> Any:
    """``r = M∘S − T``, ``C = f r∘S`` and ``sums += Σ r²`` in float64, for `count` vectors.

    M and C are arrays of vectors, `problem` is (S, T, f): flat arrays of float64 with one value a
    lane, f with one vector in all. `place` holds the first vector of M, and of C, S and T. The sum
    of these vectors starts at zero, and is added to `sums` at the end. That lanes share S and T is
    not made use of: loading one value for all lanes was no faster.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        M, C, problem, sums, place, count = args
        pick = builder.extract_value
        t = _Vectors(context, builder, signature.args[0])
        wide = _Doubles(context, builder, signature.args[3], t.lanes)
        first, own = (pick(place, i) for i in (0, 1))
        m, c = t.step(t.pointer(M), first, t.lanes), t.step(t.pointer(C), own, t.lanes)
        s, goal = (wide.step(wide.pointer(pick(problem, i)), own, t.lanes) for i in (0, 1))
        factor, narrow = wide.load(wide.pointer(pick(problem, 2))), t.align == 4

        def body(k: Any, carried: list[Any]) -> list[Any]:
            x = t.load(t.step(m, k, t.lanes))
            x = builder.fpext(x, wide.vector) if narrow else x
            scale = wide.load(wide.step(s, k, t.lanes))
            r = builder.fsub(builder.fmul(x, scale), wide.load(wide.step(goal, k, t.lanes)))
            slope = builder.fmul(builder.fmul(factor, r), scale)
            slope = builder.fptrunc(slope, t.vector) if narrow else slope
            t.store(slope, t.step(c, k, t.lanes))
            return [builder.fadd(carried[0], builder.fmul(r, r))]

        (row,) = t.loop(count, [wide.zero()], body)
        total = wide.pointer(sums)
        wide.store(builder.fadd(wide.load(total), row), total)
        return context.get_dummy_value()

    return types.void(M, C, problem, sums, place, types.intp), codegen


def _plain_residual_row(
    M: np.ndarray,
    C: np.ndarray,
    problem: tuple[np.ndarray, np.ndarray, np.ndarray],
    sums: np.ndarray,
    place: tuple[int, int],
    count: int,
) -> None:
    """Equivalent of `_residual_row` in NumPy, for runs with JIT switched off."""
    (S, T, factors), n, row = problem, sums.size, np.zeros(sums.size)
    for k in range(count):
        own = slice((place[1] + k) * n, (place[1] + k + 1) * n)
        r = M[(place[0] + k) * n :][:n].astype(np.float64) * S[own] - T[own]
        C[own] = factors * r * S[own]
        row += r * r
    sums += row


residual_row: Callable[..., None] = _plain_residual_row
if not numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    residual_row = intrinsic(_residual_row)
