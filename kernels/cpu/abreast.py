"""Small Haar frames side by side: one matrix in each lane of the vector registers.

At n = 32 a matrix of its own leaves registers idle: packing, T and odd columns took half of the
time. Here every number is a vector that holds this number of `lanes` matrices, and only the last
operation, the transposition into place, tells them apart. Reflectors go in blocks of four,
T⁻¹ = diag(d) + the strict upper part of VᵀV is solved with and never inverted, and columns go in
panels of COLUMNS, through all blocks one after the other. A lane never meets another: a matrix
has the same bits in whatever company it is formed.

Storage, in vectors. A block has four numbers a row from its own first row down, the four heads
and zeros above them included. A panel has COLUMNS numbers a row, all rows.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import kernel, part
from .random import fill_across
from .reflectors import clear, first_normal, lanes_of
from .tiles import WIDE, _Tile, lanes

# Reflectors of a block, and vectors that `solved` needs for it: 4 on and 6 above the diagonal.
BLOCK = 4
SOLVER = 10
# Columns of a panel: 4 × COLUMNS sums stay in registers.
COLUMNS = WIDE
_ABOVE = {pair: BLOCK + i for i, pair in enumerate((a, b) for b in range(4) for a in range(b))}


class _Abreast(_Tile):
    """The operations on whole vectors that these kernels need besides those of tiles."""

    def at(self, pointer: Any, vectors: int) -> Any:
        """Return the vector that lies `vectors` vectors after `pointer`."""
        return self.load(self.step(pointer, vectors, self.lanes))

    def put(self, value: Any, pointer: Any, vectors: int) -> None:
        self.store(value, self.step(pointer, vectors, self.lanes))

    def everywhere(self, x: float) -> Any:
        return ir.Constant(self.vector, [x] * self.lanes)

    def unary(self, name: str, x: Any) -> Any:
        """Call the LLVM intrinsic `name`, such as sqrt, on a vector."""
        kind = ir.FunctionType(self.vector, [self.vector])
        name = f"llvm.{name}.v{self.lanes}f{self.align * 8}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [x])


def _finish_block(typing_context, V, v0, rows, solver, s0, signs, d0):
    """Turn the heads x₀ of a block into x₀ + σ|x|, write its solver and the signs −σ.

    A reflector of nothing but zeros reflects nothing.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        V, v0, rows, solver, s0, signs, d0 = args
        t = _Abreast(context, builder, signature.args[0])
        v, solver, signs = t.pointer(V, v0), t.pointer(solver, s0), t.pointer(signs, d0)
        pairs = [(a, a) for a in range(BLOCK)] + list(_ABOVE)

        def body(k: Any, sums: list[Any]) -> list[Any]:
            row = t.step(v, k, BLOCK * t.lanes)
            x = [t.at(row, a) for a in range(BLOCK)]
            return [t.multiply_add(x[a], x[b], s) for (a, b), s in zip(pairs, sums, strict=True)]

        products = dict(zip(pairs, t.loop(rows, [t.zero()] * SOLVER, body), strict=True))
        zero, inverses, moves = t.zero(), [], []
        for a in range(BLOCK):
            x, square = t.at(v, BLOCK * a + a), products[a, a]
            length = t.unary("sqrt", square)
            negative = builder.fcmp_ordered("<", x, zero)
            move = builder.select(negative, builder.fsub(zero, length), length)
            size = t.multiply_add(length, t.unary("fabs", x), square)
            inverse = builder.fdiv(t.everywhere(-1.0), size)
            inverses.append(builder.select(builder.fcmp_ordered("==", size, zero), zero, inverse))
            moves.append(move)
            sign = builder.select(negative, t.everywhere(1.0), t.everywhere(-1.0))
            t.put(builder.fadd(x, move), v, BLOCK * a + a)
            t.put(sign, signs, a)
            t.put(inverses[a], solver, a)
        for (a, b), place in _ABOVE.items():  # the products were those of the old heads
            product = t.multiply_add(t.at(v, BLOCK * b + a), moves[b], products[a, b])
            t.put(builder.fmul(inverses[a], product), solver, place)
        return context.get_dummy_value()

    index = types.intp
    return types.void(V, index, index, solver, index, signs, index), codegen


def _reflect_panel(typing_context, V, v0, solver, s0, Q, q0, begin, end, rows):
    """Apply a block to the `rows` rows from its first one of a panel, zero outside begin, ..., end.

    Row 0 of the block is ``V[v0:]``, that of the panel ``Q[q0:]``.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        V, v0, solver, s0, Q, q0, begin, end, rows = args
        t = _Abreast(context, builder, signature.args[0])
        v, q, solver = t.pointer(V, v0), t.pointer(Q, q0), t.pointer(solver, s0)
        tile = [(a, c) for a in range(BLOCK) for c in range(COLUMNS)]

        def row(k: Any) -> tuple[list[Any], list[Any], Any]:
            target = t.step(q, k, COLUMNS * t.lanes)
            x = t.step(v, k, BLOCK * t.lanes)
            xs = [t.at(x, a) for a in range(BLOCK)]
            return xs, [t.at(target, c) for c in range(COLUMNS)], target

        def gather(k: Any, sums: list[Any]) -> list[Any]:
            xs, ys, _ = row(builder.add(k, begin))
            return [t.multiply_add(xs[a], ys[c], s) for (a, c), s in zip(tile, sums, strict=True)]

        sums = t.loop(builder.sub(end, begin), [t.zero()] * len(tile), gather)
        w: dict[tuple[int, int], Any] = {}
        for (a, c), z in reversed(list(zip(tile, sums, strict=True))):
            w[a, c] = builder.fmul(t.at(solver, a), z)
            for b in range(BLOCK - 1, a, -1):
                w[a, c] = t.multiply_add(t.at(solver, _ABOVE[a, b]), w[b, c], w[a, c])

        def scatter(k: Any, _: list[Any]) -> list[Any]:
            xs, ys, target = row(k)
            for a, c in tile:
                ys[c] = t.multiply_add(xs[a], w[a, c], ys[c])
            for c, y in enumerate(ys):
                t.put(y, target, c)
            return []

        t.loop(rows, [], scatter)
        return context.get_dummy_value()

    index = types.intp
    return types.void(V, index, solver, index, Q, index, index, index, index), codegen


def _move(typing_context, source, s0, target, t0):
    """Copy one vector from ``source[s0]`` to ``target[t0]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        t = _Abreast(context, builder, signature.args[0])
        t.store(t.load(t.pointer(*args[:2])), t.pointer(*args[2:]))
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), codegen


def _separate(typing_context, Q, q0, panel, out, o0, step):
    """Write one row of as many columns as there are lanes: lane m to ``out[o0 + m·step]`` and on.

    Columns lie side by side within a panel, panels `panel` numbers apart.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        Q, q0, panel, out, o0, step = args
        t = _Abreast(context, builder, signature.args[0])
        q, target = t.pointer(Q, q0), t.pointer(out, o0)
        rows = [t.at(t.step(q, c // COLUMNS, panel), c % COLUMNS) for c in range(t.lanes)]
        half = 1
        while half < t.lanes:  # swap the off-diagonal halves of all 2·half × 2·half squares
            low = [p + s for g in range(0, t.lanes, 2 * half)
                   for s in (0, t.lanes) for p in range(g, g + half)]  # fmt: skip
            high = [p + half for p in low]
            for i in range(t.lanes):
                if not i & half:
                    a, b = rows[i], rows[i + half]
                    rows[i], rows[i + half] = t.shuffle(a, b, low), t.shuffle(a, b, high)
            half *= 2
        for m, value in enumerate(rows):
            t.store(value, t.step(target, m, step))
        return context.get_dummy_value()

    index = types.intp
    return types.void(Q, index, index, out, index, index), codegen


def _plain_finish_block(V, v0, rows, solver, s0, signs, d0):
    """Do what `_finish_block` does, in NumPy, for runs with JIT switched off."""
    width = lanes(V.dtype)
    x = V[v0:][: rows * BLOCK * width].reshape(rows, BLOCK, width)
    out, inverses = solver[s0:][: SOLVER * width].reshape(SOLVER, width), []
    for a in range(BLOCK):
        size = np.zeros(width, V.dtype)
        sign = np.full(width, -1.0, V.dtype)
        if x[:, a].any():
            length = np.sqrt((x[:, a] ** 2).sum(axis=0))
            size = length * (length + np.abs(x[a, a]))
            sign = np.where(x[a, a] < 0, V.dtype.type(1), V.dtype.type(-1))
            x[a, a] -= sign * length
        inverses.append(np.divide(-1, size, where=size > 0, out=np.zeros_like(size)))
        out[a] = inverses[a]
        signs[d0 + a * width :][:width] = sign
    for (a, b), place in _ABOVE.items():
        out[place] = inverses[a] * (x[:, a] * x[:, b]).sum(axis=0)


def _plain_reflect_panel(V, v0, solver, s0, Q, q0, begin, end, rows):
    """Do what `_reflect_panel` does, in NumPy, for runs with JIT switched off."""
    width = lanes(V.dtype)
    x = V[v0:][: rows * BLOCK * width].reshape(rows, BLOCK, width)
    y = Q[q0:][: rows * COLUMNS * width].reshape(rows, COLUMNS, width)
    t = solver[s0:][: SOLVER * width].reshape(SOLVER, width)
    w = np.einsum("ial,icl->acl", x[begin:end], y[begin:end])
    for a in range(BLOCK - 1, -1, -1):
        w[a] *= t[a]
        for b in range(a + 1, BLOCK):
            w[a] += t[_ABOVE[a, b]] * w[b]
    y += np.einsum("ial,acl->icl", x, w)


def _plain_move(source, s0, target, t0):
    """Do what `_move` does, in NumPy, for runs with JIT switched off."""
    width = lanes(source.dtype)
    target[t0 : t0 + width] = source[s0 : s0 + width]


def _plain_separate(Q, q0, panel, out, o0, step):
    """Do what `_separate` does, in NumPy, for runs with JIT switched off."""
    width = lanes(Q.dtype)
    for c in range(width):
        column = Q[q0 + c // COLUMNS * panel + c % COLUMNS * width :][:width]
        for m in range(width):
            out[o0 + m * step + c] = column[m]


if numba.config.DISABLE_JIT:
    finish_block, reflect_panel = _plain_finish_block, _plain_reflect_panel
    move, separate = _plain_move, _plain_separate
else:
    finish_block, reflect_panel = intrinsic(_finish_block), intrinsic(_reflect_panel)
    move, separate = intrinsic(_move), intrinsic(_separate)


def work_size(n: int, p: int, dtype: Any) -> int:
    """Return how many numbers of scratch `form_abreast` takes."""
    width = lanes(dtype)
    return int(_places(n, p, -(-p // BLOCK), width, max(width, COLUMNS))[-1])


@part
def _pairs(n, p):
    """Return how many pairs of normals a frame takes."""
    return (first_normal(n, p) + 1) // 2


@part
def _places(n, p, blocks, width, group):
    """Return where V, solvers, signs, normals, panels and a corner begin, and the end of all."""
    V = 0
    solvers = V + blocks * BLOCK * (n + BLOCK) * width
    signs = solvers + blocks * SOLVER * width
    normals = signs + blocks * BLOCK * width
    panels = normals + 2 * _pairs(n, p) * width
    corner = panels + n * group * width
    return V, solvers, signs, normals, panels, corner, corner + width * width


@kernel
def form_abreast(key, stream, n, p, count, special, work, words, out):
    """Fill `out`, flat, with the n × p Haar frames of `count` streams from `stream` on.

    `work`, of the kind of `out`, has `work_size` numbers of scratch, `words` 2·ACROSS, uint64.
    """
    width = lanes_of(out)
    blocks = (p + BLOCK - 1) // BLOCK
    group = max(width, COLUMNS)
    V, solvers, signs, normals, panels, corner, _ = _places(n, p, blocks, width, group)
    for k in range(0, count, width):
        pairs = _pairs(n, p)
        fill_across(key, stream + np.uint64(k), width, pairs, work, normals, words)
        for block in range(blocks):
            _lay_out(n, p, block, width, work, V, normals, pairs)
            v = V + block * BLOCK * (n + BLOCK) * width
            rows = max(n - block * BLOCK, BLOCK)
            finish_block(
                work, v, rows, work, solvers + block * SOLVER * width,
                work, signs + block * BLOCK * width,
            )  # fmt: skip
        if special:
            _set_determinants(work, signs, n, width)
        members = min(width, count - k)
        for c in range(0, p, group):
            _form_group(n, p, c, group, width, work, V, solvers, signs, panels)
            _write_group(n, p, c, group, width, work, panels, corner, out, k, members)


@part
def _lay_out(n, p, block, width, work, V, normals, pairs):
    """Copy the normals of a block to their places in V, zeros above them."""
    j = block * BLOCK
    v = V + block * BLOCK * (n + BLOCK) * width
    clear(work, v, BLOCK * BLOCK * width)
    for a in range(BLOCK):
        if j + a < p:
            number = first_normal(n, j + a)
            for i in range(a, n - j):
                where = (number >> 1) + (number & 1) * pairs
                move(work, normals + where * width, work, v + (i * BLOCK + a) * width)
                number += 1
        else:
            for i in range(a, n - j):
                clear(work, v + (i * BLOCK + a) * width, width)


@part
def _set_determinants(work, signs, n, width):
    """Choose the last signs so that all determinants are one, as `set_determinant` does."""
    for l in range(width):
        product = 1.0
        for j in range(n):
            product *= -work[signs + j * width + l]
        work[signs + (n - 1) * width + l] *= product


@part
def _form_group(n, p, first, group, width, work, V, solvers, signs, panels):
    """Form columns first ≤ c < first + group of Q, panel by panel."""
    size = n * COLUMNS * width
    for c in range(first, min(first + group, p), COLUMNS):
        q = panels + (c - first) // COLUMNS * size
        clear(work, q, size)
        stop = min(c + COLUMNS, p)
        for i in range(c, stop):
            move(work, signs + i * width, work, q + (i * COLUMNS + i - c) * width)
        last = c // BLOCK
        for block in range(last, -1, -1):
            # Rows that are not zero: those of D at first, then all reached so far.
            j = block * BLOCK
            begin = c - j if block == last else BLOCK
            end = stop - j if block == last else n - j
            reflect_panel(
                work, V + j * (n + BLOCK) * width, work, solvers + block * SOLVER * width,
                work, q + j * COLUMNS * width, begin, end, n - j,
            )  # fmt: skip


@part
def _write_group(n, p, first, group, width, work, panels, corner, out, k, members):
    """Write the columns of a group to their matrices, number k and on, `members` of them."""
    size = n * COLUMNS * width
    for c in range(first, min(first + group, p), width):
        column = c - first  # with fewer lanes than COLUMNS it may lie inside a panel
        q = panels + column // COLUMNS * size + column % COLUMNS * width
        wide = min(width, p - c)
        for i in range(n):
            row = q + i * COLUMNS * width
            target = (k * n + i) * p + c
            if wide == width and members == width:
                separate(work, row, size, out, target, n * p)
            else:
                separate(work, row, size, work, corner, width)
                for m in range(members):
                    for a in range(wide):
                        out[target + m * n * p + a] = work[corner + m * width + a]
