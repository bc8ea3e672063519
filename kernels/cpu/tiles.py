"""Register tiles: two small matrix products and a transposition, which make up all chain kernels.

Numba's vectoriser keeps at most a few accumulators in registers and treats every leftover
column apart. These tiles are written as LLVM vector code instead: 20 accumulators stay in
registers for a whole inner loop, operands are loaded once per tile, and there are no leftovers
because every buffer is padded to whole vectors (see `layout`). With JIT switched off the plain
NumPy twins at the end of this file stand in.
"""

from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _vector_bytes() -> int:
    """Return the bytes of this processor's widest vector registers."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") else 16


VECTOR_BYTES = _vector_bytes()
# Vectors side by side in one tile: 5×4 accumulators fill the 32 registers of AVX-512 (and of
# NEON); AVX2 and SSE have 16 registers, so 5×2.
WIDE = 2 if VECTOR_BYTES == 32 or (VECTOR_BYTES == 16 and "x86" in llvm.get_process_triple()) else 4


def lanes(dtype: Any) -> int:
    """Return how many numbers of `dtype` one vector register holds."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


class _Tile:
    """The vector operations that one tile needs, for one element type."""

    def __init__(self, context: Any, builder: Any, array_type: Any):
        self.context, self.builder, self.array_type = context, builder, array_type
        self.element = context.get_value_type(array_type.dtype)
        self.lanes = VECTOR_BYTES // (array_type.dtype.bitwidth // 8)
        self.vector = ir.VectorType(self.element, self.lanes)
        self.align = array_type.dtype.bitwidth // 8

    def pointer(self, array: Any, *offsets: Any) -> Any:
        """Return the address of ``array[sum(offsets)]``."""
        data = self.context.make_array(self.array_type)(self.context, self.builder, array).data
        for offset in offsets:
            data = self.builder.gep(data, [offset])
        return data

    def data(self, operand: Any) -> Any:
        """Return the array of an operand."""
        return self.builder.extract_value(operand, 0)

    def start(self, operand: Any) -> Any:
        """Return the address of an operand's first element."""
        return self.pointer(self.data(operand), self.builder.extract_value(operand, 1))

    def row(self, operand: Any) -> Any:
        """Return the stride of an operand's rows."""
        return self.builder.extract_value(operand, 2)

    def column(self, operand: Any) -> Any:
        """Return the stride of an operand's columns."""
        return self.builder.extract_value(operand, 3)

    def step(self, pointer: Any, index: Any, stride: Any) -> Any:
        """Return ``pointer + index·stride``; `index` is a Python int or an LLVM value."""
        if isinstance(index, int):
            index = ir.Constant(ir.IntType(64), index)
        if isinstance(stride, int):
            stride = ir.Constant(ir.IntType(64), stride)
        return self.builder.gep(pointer, [self.builder.mul(index, stride)])

    def load(self, pointer: Any) -> Any:
        cast = self.builder.bitcast(pointer, self.vector.as_pointer())
        return self.builder.load(cast, align=self.align)

    def store(self, value: Any, pointer: Any) -> None:
        cast = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, cast, align=self.align)

    def splat(self, pointer: Any) -> Any:
        """Return the number at `pointer` in every lane."""
        start = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(
            start, self.builder.load(pointer), ir.Constant(ir.IntType(32), 0)
        )
        return self.builder.shuffle_vector(one, start, self.mask([0] * self.lanes))

    def mask(self, positions: list[int]) -> Any:
        return ir.Constant(ir.VectorType(ir.IntType(32), len(positions)), positions)

    def shuffle(self, a: Any, b: Any, positions: list[int]) -> Any:
        return self.builder.shuffle_vector(a, b, self.mask(positions))

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """Return ``a·b + c``, fused where the processor can."""
        name = f"llvm.fmuladd.v{self.lanes}f{self.align * 8}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [a, b, c])

    def fetch(self, pointer: Any) -> None:
        """Ask for the cache line at `pointer`."""
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        # For reading (0), to be kept in all caches (3), data (1).
        hints = [ir.Constant(word, n) for n in (0, 3, 1)]
        self.builder.call(function, [self.builder.bitcast(pointer, byte), *hints])

    def zero(self) -> Any:
        return ir.Constant(self.vector, [0.0] * self.lanes)

    def zeros_or_loads(self, zeros: Any, pointers: list[Any]) -> list[Any]:
        """Return zeros, or what lies at `pointers` where the boolean `zeros` is false."""
        builder = self.builder
        loading, after = builder.append_basic_block("loading"), builder.append_basic_block("after")
        before = builder.basic_block
        builder.cbranch(builder.trunc(zeros, ir.IntType(1)), after, loading)
        builder.position_at_end(loading)
        values = [self.load(pointer) for pointer in pointers]
        builder.branch(after)
        builder.position_at_end(after)
        phis = [builder.phi(self.vector) for _ in pointers]
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(self.zero(), before)
            phi.add_incoming(value, loading)
        return phis

    def loop(self, count: Any, carried: list[Any], body: Any) -> list[Any]:
        """Run ``carried = body(k, carried)`` for k < count, keeping `carried` in registers."""
        builder = self.builder
        before = builder.basic_block
        head, inside, after = (builder.append_basic_block(n) for n in ("head", "inside", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        k = builder.phi(count.type)
        phis = [builder.phi(value.type) for value in carried]
        builder.cbranch(builder.icmp_signed("<", k, count), inside, after)
        builder.position_at_end(inside)
        results = body(k, phis)
        following = builder.add(k, ir.Constant(count.type, 1))
        last = builder.basic_block
        builder.branch(head)
        for phi, first, result in zip(
            [k, *phis], [ir.Constant(count.type, 0), *carried], [following, *results], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(result, last)
        builder.position_at_end(after)
        return phis

    def sums_of_four(self, vectors: list[Any]) -> Any:
        """Return ``[Σ v₀, Σ v₁, Σ v₂, Σ v₃]`` as a vector of four, by a tree of shuffles."""
        n = self.lanes
        group = 16 // self.align
        half = group // 2
        low = [p + s for g in range(0, n, group) for p in range(g, g + half) for s in (0, n)]
        high = [p + half for p in low]
        pairs = [
            self.add(self.shuffle(a, b, low), self.shuffle(a, b, high))
            for a, b in (vectors[:2], vectors[2:])
        ]
        if n == 2:  # one 128-bit register of float64: the pairs are the sums
            return self.shuffle(pairs[0], pairs[1], [0, 1, 2, 3])
        low = [p for g in range(0, n, 4) for p in (g, g + 1, n + g, n + g + 1)]
        total = self.add(self.shuffle(*pairs, low), self.shuffle(*pairs, [p + 2 for p in low]))
        while n > 4:
            n //= 2
            total = self.add(
                self.shuffle(total, total, list(range(n))),
                self.shuffle(total, total, list(range(n, 2 * n))),
            )
        return total

    def transposed(self, rows: list[Any]) -> list[Any]:
        """Return the columns of `lanes` rows.

        First within pieces of 128 bits, then piece by piece: only shuffles that processors do in
        one step without loading a pattern.
        """
        n, piece = self.lanes, 16 // self.align
        pieces = n // piece
        inside: list[Any] = []  # entry b·piece + j, piece g: column g·piece + j of rows b·piece …
        for b in range(0, n, piece):
            inside += self._pieces_transposed(rows[b : b + piece], piece)
        columns: list[Any] = [None] * n
        for j in range(piece):
            blocks = [inside[b * piece + j] for b in range(pieces)]
            for g, column in enumerate(self._blocks_transposed(blocks, piece)):
                columns[g * piece + j] = column
        return columns

    def _pieces_transposed(self, rows: list[Any], piece: int) -> list[Any]:
        n = self.lanes
        if piece == 2:
            return [
                self.shuffle(*rows, [p for g in range(0, n, 2) for p in (g + i, n + g + i)])
                for i in (0, 1)
            ]
        low = [p for g in range(0, n, 4) for p in (g, n + g, g + 1, n + g + 1)]
        high = [p + 2 for p in low]
        pairs = [self.shuffle(a, b, m) for m in (low, high) for a, b in (rows[:2], rows[2:])]
        left = [p for g in range(0, n, 4) for p in (g, g + 1, n + g, n + g + 1)]
        right = [p + 2 for p in left]
        return [self.shuffle(a, b, m) for a, b in (pairs[:2], pairs[2:]) for m in (left, right)]

    def _blocks_transposed(self, blocks: list[Any], piece: int) -> list[Any]:
        """Transpose 1, 2 or 4 blocks whose entries are pieces."""
        count = len(blocks)
        if count == 1:
            return blocks

        def pick(a: Any, b: Any, first: int) -> Any:
            """Every second piece of a, then of b."""
            chosen = range(first, 2 * count, 2)
            return self.shuffle(a, b, [g * piece + i for g in chosen for i in range(piece)])

        if count == 2:
            return [pick(*blocks, 0), pick(*blocks, 1)]
        halves = [[pick(*blocks[:2], i), pick(*blocks[2:], i)] for i in (0, 1)]
        return [pick(*halves[i], j) for j in (0, 1) for i in (0, 1)]


def _product_tile(typing_context, rows, wide, X, Y, out, terms, fresh, fetched):
    """``out[a, v] += Σ_k X[a, k] Y[k, v]`` for `rows` rows a, `wide` vectors v, `terms` terms k.

    Where `fresh`, the sums start at zero, whatever `out` holds. A tile of all WIDE vectors
    prefetches ``Y.data[fetched + k·Y.row]`` meanwhile, which may lie outside the array.

    X, Y and out are like `groups.Operand`; those of Y and out must be contiguous along v. `rows`
    and `wide` are constants of the compilation.
    """
    n_rows, n_wide = rows.literal_value, wide.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, _, X, Y, out, terms, fresh, fetched = args
        t = _Tile(context, builder, signature.args[2][0])
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

        sums = t.loop(terms, t.zeros_or_loads(fresh, targets), body)
        for value, pointer in zip(sums, targets, strict=True):
            t.store(value, pointer)
        return context.get_dummy_value()

    index = types.intp
    return types.void(rows, wide, X, Y, out, index, types.boolean, index), codegen


def _dot_tile(typing_context, rows, X, Y, out, vectors, fetched):
    """``out[a, r] = Σ_v X[a, v]·Y[r, v]`` for `rows` rows a and four rows r, over `vectors`.

    X, Y and out are like `groups.Operand`, with contiguous rows. The vectors from
    ``Y.data[fetched]`` on, which may lie outside the array, are prefetched meanwhile. `rows` is a
    constant of the compilation.
    """
    n_rows = rows.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, X, Y, out, vectors, fetched = args
        t = _Tile(context, builder, signature.args[1][0])
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


def _transpose_tile(typing_context, X, rows, out):
    """Write the transpose of a square block of whole vectors; its rows from `rows` on are zero.

    X and out are like `groups.Operand`, with contiguous rows. Every row of the transpose is
    written as a whole vector.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        X, rows, out = args
        t = _Tile(context, builder, signature.args[0][0])
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


def _plain_product_tile(rows, wide, X, Y, out, terms, fresh, fetched):
    """Do what `_product_tile` does, in NumPy, for runs with JIT switched off."""
    width = wide * lanes(out.data.dtype)
    for a in range(rows):
        target = out.data[out.start + a * out.row :][:width]
        if fresh:
            target[:] = 0
        for k in range(terms):
            x = X.data[X.start + a * X.row + k * X.column]
            target += x * Y.data[Y.start + k * Y.row :][:width]


def _plain_transpose_tile(X, rows, out):
    """Do what `_transpose_tile` does, in NumPy, for runs with JIT switched off."""
    width = lanes(out.data.dtype)
    for r in range(width):
        for c in range(width):
            x = X.data[X.start + r * X.row + c] if r < rows else 0
            out.data[out.start + c * out.row + r] = x


def _plain_dot_tile(rows, X, Y, out, vectors, fetched):
    """Do what `_dot_tile` does, in NumPy, for runs with JIT switched off."""
    width = vectors * lanes(out.data.dtype)
    for a in range(rows):
        for r in range(4):
            x = X.data[X.start + a * X.row :][:width]
            out.data[out.start + a * out.row + r] = x @ Y.data[Y.start + r * Y.row :][:width]


if numba.config.DISABLE_JIT:
    product_tile, dot_tile = _plain_product_tile, _plain_dot_tile
    transpose_tile = _plain_transpose_tile
else:
    product_tile = intrinsic(prefer_literal=True)(_product_tile)
    dot_tile = intrinsic(prefer_literal=True)(_dot_tile)
    transpose_tile = intrinsic(_transpose_tile)
