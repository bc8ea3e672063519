"""Form batches of small Haar frames, SIMD-interleaved: one matrix per lane of a vector register.

At n = 32 the kernels for a single matrix leave registers idle: packing, T and odd columns took half
of the time. Here every element is a vector of the same element of `lanes` matrices, and only the
last operation, the transposition into place, separates the matrices. Reflectors are applied in
blocks of four: systems with T⁻¹ = diag(d) + the strict upper part of VᵀV are solved, and T is never
formed. Columns are formed in panels of COLUMNS, to each of which all blocks are applied in
succession. Lanes do not interact: the bits of a matrix do not depend on the rest of its batch.

Storage, in vectors: a block has four elements per row from its own first row down, including the
four heads and the zeros above them; a panel has COLUMNS elements in each of its n rows.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import DTypeLike

from .jit import inlined, kernel, part
from .random import Source, fill_interleaved
from .reflectors import first_normal
from .tile_products import clear, lanes_of
from .vector_code import WIDE, VectorCode, lanes

# Reflectors of a block, and vectors of its solver for T: 4 on and 6 above the diagonal of T⁻¹.
BLOCK = 4
SOLVER = 10
# Columns of a panel: 4 × COLUMNS sums stay in registers.
COLUMNS = WIDE
_ABOVE = {pair: BLOCK + i for i, pair in enumerate((a, b) for b in range(4) for a in range(b))}


class _Interleaved(VectorCode):
    """Operations on whole vectors in addition to those of tiles."""

    def load_at(self, pointer: Any, vectors: int) -> Any:
        """Return the vector at an offset of `vectors` vectors from `pointer`."""
        return self.load(self.step(pointer, vectors, self.lanes))

    def store_at(self, value: Any, pointer: Any, vectors: int) -> None:
        self.store(value, self.step(pointer, vectors, self.lanes))

    def splat(self, x: float) -> Any:
        return ir.Constant(self.vector, [x] * self.lanes)

    def unary(self, name: str, x: Any) -> Any:
        """Call the LLVM intrinsic `name`, such as sqrt, on a vector."""
        kind = ir.FunctionType(self.vector, [self.vector])
        name = f"llvm.{name}.v{self.lanes}f{self.align * 8}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [x])


def _finish_block(typing_context, work, v0, rows, s0, d0):
    """Replace the heads x₀ of a block by x₀ + σ|x|, write its solver and the signs −σ.

    A reflector whose vector is zero reflects nothing.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        work, v0, rows, s0, d0 = args
        t = _Interleaved(context, builder, signature.args[0])
        v, solver, signs = t.pointer(work, v0), t.pointer(work, s0), t.pointer(work, d0)
        pairs = [(a, a) for a in range(BLOCK)] + list(_ABOVE)

        def body(k: Any, sums: list[Any]) -> list[Any]:
            row = t.step(v, k, BLOCK * t.lanes)
            x = [t.load_at(row, a) for a in range(BLOCK)]
            return [t.multiply_add(x[a], x[b], s) for (a, b), s in zip(pairs, sums, strict=True)]

        products = dict(zip(pairs, t.loop(rows, [t.zero()] * SOLVER, body), strict=True))
        zero, inverses, shifts = t.zero(), [], []
        for a in range(BLOCK):
            x, square = t.load_at(v, BLOCK * a + a), products[a, a]
            length = t.unary("sqrt", square)
            negative = builder.fcmp_ordered("<", x, zero)
            shift = builder.select(negative, builder.fsub(zero, length), length)
            size = t.multiply_add(length, t.unary("fabs", x), square)
            inverse = builder.fdiv(t.splat(-1.0), size)
            inverses.append(builder.select(builder.fcmp_ordered("==", size, zero), zero, inverse))
            shifts.append(shift)
            sign = builder.select(negative, t.splat(1.0), t.splat(-1.0))
            t.store_at(builder.fadd(x, shift), v, BLOCK * a + a)
            t.store_at(sign, signs, a)
            t.store_at(inverses[a], solver, a)
        for (a, b), place in _ABOVE.items():  # correct the products, formed with the old heads
            product = t.multiply_add(t.load_at(v, BLOCK * b + a), shifts[b], products[a, b])
            t.store_at(builder.fmul(inverses[a], product), solver, place)
        return context.get_dummy_value()

    index = types.intp
    return types.void(work, index, index, index, index), codegen


def _reflect_panel(typing_context, work, v0, s0, q0, begin, end, rows):
    """Apply a block to `rows` rows of a panel, from the block's first row on.

    The panel is zero outside rows begin, …, end. Row 0 of the block is ``work[v0:]``, its solver
    ``work[s0:]``, row 0 of the panel ``work[q0:]``.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        work, v0, s0, q0, begin, end, rows = args
        t = _Interleaved(context, builder, signature.args[0])
        v, q, solver = t.pointer(work, v0), t.pointer(work, q0), t.pointer(work, s0)
        tile = [(a, c) for a in range(BLOCK) for c in range(COLUMNS)]

        def row(k: Any) -> tuple[list[Any], list[Any], Any]:
            target = t.step(q, k, COLUMNS * t.lanes)
            x = t.step(v, k, BLOCK * t.lanes)
            xs = [t.load_at(x, a) for a in range(BLOCK)]
            return xs, [t.load_at(target, c) for c in range(COLUMNS)], target

        def gather(k: Any, sums: list[Any]) -> list[Any]:
            xs, ys, _ = row(builder.add(k, begin))
            return [t.multiply_add(xs[a], ys[c], s) for (a, c), s in zip(tile, sums, strict=True)]

        sums = t.loop(builder.sub(end, begin), [t.zero()] * len(tile), gather)
        w: dict[tuple[int, int], Any] = {}
        for (a, c), z in reversed(list(zip(tile, sums, strict=True))):
            w[a, c] = builder.fmul(t.load_at(solver, a), z)
            for b in range(BLOCK - 1, a, -1):
                w[a, c] = t.multiply_add(t.load_at(solver, _ABOVE[a, b]), w[b, c], w[a, c])

        def scatter(k: Any, _: list[Any]) -> list[Any]:
            xs, ys, target = row(k)
            for a, c in tile:
                ys[c] = t.multiply_add(xs[a], w[a, c], ys[c])
            for c, y in enumerate(ys):
                t.store_at(y, target, c)
            return []

        t.loop(rows, [], scatter)
        return context.get_dummy_value()

    index = types.intp
    return types.void(work, index, index, index, index, index, index), codegen


def _copy_vector(typing_context, work, source, target):
    """Copy one vector from ``work[source]`` to ``work[target]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        work, source, target = args
        t = _Interleaved(context, builder, signature.args[0])
        t.store(t.load(t.pointer(work, source)), t.pointer(work, target))
        return context.get_dummy_value()

    return types.void(work, types.intp, types.intp), codegen


def _deinterleave(typing_context, Q, q0, panel, out, o0, step):
    """Write one row of `lanes` columns: lane m from ``out[o0 + m·step]`` on.

    Columns are consecutive within a panel, and panels are `panel` elements apart.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        Q, q0, panel, out, o0, step = args
        t = _Interleaved(context, builder, signature.args[0])
        q, target = t.pointer(Q, q0), t.pointer(out, o0)
        rows = [t.load_at(t.step(q, c // COLUMNS, panel), c % COLUMNS) for c in range(t.lanes)]
        half = 1
        while half < t.lanes:  # swap the off-diagonal halves of all 2·half × 2·half squares
            starts = [(g, s) for g in range(0, t.lanes, 2 * half) for s in (0, t.lanes)]
            low = [p + s for g, s in starts for p in range(g, g + half)]
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


def _plain_finish_block(work: np.ndarray, v0: int, rows: int, s0: int, d0: int) -> None:
    """Equivalent of `_finish_block` in NumPy, for runs with JIT switched off."""
    width = lanes(work.dtype)
    x = work[v0:][: rows * BLOCK * width].reshape(rows, BLOCK, width)
    out, inverses = work[s0:][: SOLVER * width].reshape(SOLVER, width), []
    for a in range(BLOCK):
        size = np.zeros(width, work.dtype)
        sign = np.full(width, -1.0, work.dtype)
        if x[:, a].any():
            length = np.sqrt((x[:, a] ** 2).sum(axis=0))
            size = length * (length + np.abs(x[a, a]))
            sign = np.where(x[a, a] < 0, work.dtype.type(1), work.dtype.type(-1))
            x[a, a] -= sign * length
        inverses.append(np.divide(-1, size, where=size > 0, out=np.zeros_like(size)))
        out[a] = inverses[a]
        work[d0 + a * width :][:width] = sign
    for (a, b), place in _ABOVE.items():
        out[place] = inverses[a] * (x[:, a] * x[:, b]).sum(axis=0)


def _plain_reflect_panel(
    work: np.ndarray, v0: int, s0: int, q0: int, begin: int, end: int, rows: int
) -> None:
    """Equivalent of `_reflect_panel` in NumPy, for runs with JIT switched off."""
    width = lanes(work.dtype)
    x = work[v0:][: rows * BLOCK * width].reshape(rows, BLOCK, width)
    y = work[q0:][: rows * COLUMNS * width].reshape(rows, COLUMNS, width)
    t = work[s0:][: SOLVER * width].reshape(SOLVER, width)
    w = np.einsum("ial,icl->acl", x[begin:end], y[begin:end])
    for a in range(BLOCK - 1, -1, -1):
        w[a] *= t[a]
        for b in range(a + 1, BLOCK):
            w[a] += t[_ABOVE[a, b]] * w[b]
    y += np.einsum("ial,acl->icl", x, w)


def _plain_copy_vector(work: np.ndarray, source: int, target: int) -> None:
    """Equivalent of `_copy_vector` in NumPy, for runs with JIT switched off."""
    width = lanes(work.dtype)
    work[target : target + width] = work[source : source + width]


def _plain_deinterleave(
    Q: np.ndarray, q0: int, panel: int, out: np.ndarray, o0: int, step: int
) -> None:
    """Equivalent of `_deinterleave` in NumPy, for runs with JIT switched off."""
    width = lanes(Q.dtype)
    for c in range(width):
        column = Q[q0 + c // COLUMNS * panel + c % COLUMNS * width :][:width]
        for m in range(width):
            out[o0 + m * step + c] = column[m]


finish_block: Callable[..., None]
reflect_panel: Callable[..., None]
copy_vector: Callable[..., None]
deinterleave: Callable[..., None]
if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # set when Numba is imported
    finish_block, reflect_panel = _plain_finish_block, _plain_reflect_panel
    copy_vector, deinterleave = _plain_copy_vector, _plain_deinterleave
else:
    finish_block, reflect_panel = intrinsic(_finish_block), intrinsic(_reflect_panel)
    copy_vector, deinterleave = intrinsic(_copy_vector), intrinsic(_deinterleave)


class BatchLayout(NamedTuple):
    """Sizes of one batch of n × p frames, and the offsets of its parts in the scratch vector.

    `width` is the number of lanes, `group` the columns written at a time, `pairs` the pairs of
    normals per frame. The scratch vector holds, in this order up to `end`: V, the solvers and the
    signs of all blocks, the normals, the panels of a group, and the corner for matrices and columns
    that do not fill all lanes.
    """

    n: int
    p: int
    width: int
    group: int
    pairs: int
    V: int
    solvers: int
    signs: int
    normals: int
    panels: int
    corner: int
    end: int


@inlined
def make_layout(n: int, p: int, width: int) -> BatchLayout:
    """Return the layout of a batch with `width` lanes."""
    blocks = (p + BLOCK - 1) // BLOCK
    group = max(width, COLUMNS)
    pairs = (first_normal(n, p) + 1) // 2
    V = 0
    solvers = V + blocks * BLOCK * (n + BLOCK) * width
    signs = solvers + blocks * SOLVER * width
    normals = signs + blocks * BLOCK * width
    panels = normals + 2 * pairs * width
    corner = panels + n * group * width
    end = corner + width * width
    return BatchLayout(n, p, width, group, pairs, V, solvers, signs, normals, panels, corner, end)


@functools.lru_cache(maxsize=64)  # uncached, a call took 1.2 µs, 3% of the smallest batch
def work_size(n: int, p: int, dtype: DTypeLike) -> int:
    """Return the elements of scratch that `form_batch` needs."""
    return int(make_layout(n, p, lanes(dtype)).end)


@kernel
def form_batch(
    source: Source, special: bool, work: np.ndarray, words: np.ndarray, out: np.ndarray
) -> None:
    """Fill out[k], n × p, with the Haar frame of stream + k, for all k.

    Scratch: `work`, `work_size` elements of the dtype of `out`; `words`, 2·WORDS uint64.
    """
    count, n, p = out.shape
    flat = out.reshape(count * n * p)
    at = make_layout(n, p, lanes_of(out))
    for k in range(0, count, at.width):
        first = Source(source.key, source.stream + np.uint64(k))
        fill_interleaved(first, at.width, at.pairs, work, at.normals, words)
        for block in range((p + BLOCK - 1) // BLOCK):
            _place_normals(at, block, work)
            v = at.V + block * BLOCK * (n + BLOCK) * at.width
            rows = max(n - block * BLOCK, BLOCK)
            solver = at.solvers + block * SOLVER * at.width
            finish_block(work, v, rows, solver, at.signs + block * BLOCK * at.width)
        if special:
            _set_determinants(at, work)
        for c in range(0, p, at.group):
            _form_group(at, c, work)
            _write_group(at, c, work, flat, k, min(at.width, count - k))


@part
def _place_normals(at: BatchLayout, block: int, work: np.ndarray) -> None:
    """Copy the normals of a block to their places in V, and write zeros above them."""
    j = block * BLOCK
    v = at.V + block * BLOCK * (at.n + BLOCK) * at.width
    clear(work, v, BLOCK * BLOCK * at.width)
    for a in range(BLOCK):
        if j + a < at.p:
            number = first_normal(at.n, j + a)
            for i in range(a, at.n - j):
                place = (number >> 1) + (number & 1) * at.pairs
                copy_vector(work, at.normals + place * at.width, v + (i * BLOCK + a) * at.width)
                number += 1
        else:
            for i in range(a, at.n - j):
                clear(work, v + (i * BLOCK + a) * at.width, at.width)


@part
def _set_determinants(at: BatchLayout, work: np.ndarray) -> None:
    """Choose the last signs so that all determinants are one; see `haar._set_determinant`."""
    for l in range(at.width):
        product = 1.0
        for j in range(at.n):
            product *= -work[at.signs + j * at.width + l]
        work[at.signs + (at.n - 1) * at.width + l] *= product


@part
def _form_group(at: BatchLayout, first: int, work: np.ndarray) -> None:
    """Form columns first ≤ c < first + group of Q, panel by panel."""
    n, width = at.n, at.width
    size = n * COLUMNS * width
    for c in range(first, min(first + at.group, at.p), COLUMNS):
        q = at.panels + (c - first) // COLUMNS * size
        clear(work, q, size)
        stop = min(c + COLUMNS, at.p)
        for i in range(c, stop):
            copy_vector(work, at.signs + i * width, q + (i * COLUMNS + i - c) * width)
        last = c // BLOCK
        for block in range(last, -1, -1):
            # Nonzero rows: the diagonal of D at first, then all rows reached so far.
            j = block * BLOCK
            begin = c - j if block == last else BLOCK
            end = stop - j if block == last else n - j
            v, solver = at.V + j * (n + BLOCK) * width, at.solvers + block * SOLVER * width
            reflect_panel(work, v, solver, q + j * COLUMNS * width, begin, end, n - j)


@part
def _write_group(
    at: BatchLayout, first: int, work: np.ndarray, out: np.ndarray, k: int, members: int
) -> None:
    """Write the columns of a group to `members` matrices of `out`, flat, from number k on."""
    n, p, width = at.n, at.p, at.width
    size = n * COLUMNS * width
    for c in range(first, min(first + at.group, p), width):
        column = c - first  # inside a panel, if there are fewer lanes than COLUMNS
        q = at.panels + column // COLUMNS * size + column % COLUMNS * width
        wide = min(width, p - c)
        for i in range(n):
            row = q + i * COLUMNS * width
            target = (k * n + i) * p + c
            if wide == width and members == width:
                deinterleave(work, row, size, out, target, n * p)
            else:
                deinterleave(work, row, size, work, at.corner, width)
                for m in range(members):
                    for a in range(wide):
                        out[target + m * n * p + a] = work[at.corner + m * width + a]
