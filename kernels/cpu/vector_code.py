"""LLVM vector operations from which the register tiles are built."""

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils


def _vector_bytes() -> int:
    """Return the bytes of this processor's widest vector registers."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") else 16


VECTOR_BYTES = _vector_bytes()
# Vectors per row of one tile: 5×4 accumulators fill the 32 registers of AVX-512 (and of
# NEON); AVX2 and SSE have 16 registers, so 5×2.
WIDE = 2 if VECTOR_BYTES == 32 or (VECTOR_BYTES == 16 and "x86" in llvm.get_process_triple()) else 4


def lanes(dtype: Any) -> int:
    """Return the elements of `dtype` that one vector register holds."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


class VectorCode:
    """Emit the vector operations of a tile, for one element type."""

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
        """Return the vector at `pointer`."""
        cast = self.builder.bitcast(pointer, self.vector.as_pointer())
        return self.builder.load(cast, align=self.align)

    def store(self, value: Any, pointer: Any) -> None:
        """Write the vector `value` to `pointer`."""
        cast = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, cast, align=self.align)

    def splat(self, pointer: Any) -> Any:
        """Return the element at `pointer` in every lane."""
        start = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(
            start, self.builder.load(pointer), ir.Constant(ir.IntType(32), 0)
        )
        return self.builder.shuffle_vector(one, start, self.mask([0] * self.lanes))

    def mask(self, positions: list[int]) -> Any:
        """Return a shuffle's constant mask for these positions."""
        return ir.Constant(ir.VectorType(ir.IntType(32), len(positions)), positions)

    def shuffle(self, a: Any, b: Any, positions: list[int]) -> Any:
        """Return the elements at these positions of the concatenation of a and b."""
        return self.builder.shuffle_vector(a, b, self.mask(positions))

    def add(self, a: Any, b: Any) -> Any:
        """Return ``a + b``."""
        return self.builder.fadd(a, b)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """Return ``a·b + c``, fused if the processor supports it."""
        name = f"llvm.fmuladd.v{self.lanes}f{self.align * 8}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [a, b, c])

    def fetch(self, pointer: Any) -> None:
        """Prefetch the cache line at `pointer`."""
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        # LLVM's prefetch hints: for reading (0), keep in all caches (3), data (1).
        hints = [ir.Constant(word, n) for n in (0, 3, 1)]
        self.builder.call(function, [self.builder.bitcast(pointer, byte), *hints])

    def zero(self) -> Any:
        """Return the zero vector."""
        return ir.Constant(self.vector, [0.0] * self.lanes)

    def zeros_or_loads(self, zeros: Any, pointers: list[Any]) -> list[Any]:
        """Return zeros, or the vectors at `pointers` where the boolean `zeros` is false."""
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
        a, b = pairs
        total = self.add(self.shuffle(a, b, low), self.shuffle(a, b, [p + 2 for p in low]))
        while n > 4:
            n //= 2
            total = self.add(
                self.shuffle(total, total, list(range(n))),
                self.shuffle(total, total, list(range(n, 2 * n))),
            )
        return total

    def transposed(self, rows: list[Any]) -> list[Any]:
        """Return the columns of `lanes` rows.

        Transpose first within chunks of 128 bits, then chunk by chunk: this needs only shuffles
        that are single instructions without a mask in memory.
        """
        n, chunk = self.lanes, 16 // self.align
        chunks = n // chunk
        inside: list[Any] = []  # entry b·chunk + j, chunk g: column g·chunk + j of rows b·chunk …
        for b in range(0, n, chunk):
            inside += self._chunks_transposed(rows[b : b + chunk], chunk)
        columns: list[Any] = [None] * n
        for j in range(chunk):
            blocks = [inside[b * chunk + j] for b in range(chunks)]
            for g, column in enumerate(self._blocks_transposed(blocks, chunk)):
                columns[g * chunk + j] = column
        return columns

    def _chunks_transposed(self, rows: list[Any], chunk: int) -> list[Any]:
        n = self.lanes
        if chunk == 2:
            a, b = rows
            return [
                self.shuffle(a, b, [p for g in range(0, n, 2) for p in (g + i, n + g + i)])
                for i in (0, 1)
            ]
        low = [p for g in range(0, n, 4) for p in (g, n + g, g + 1, n + g + 1)]
        high = [p + 2 for p in low]
        pairs = [self.shuffle(a, b, m) for m in (low, high) for a, b in (rows[:2], rows[2:])]
        left = [p for g in range(0, n, 4) for p in (g, g + 1, n + g, n + g + 1)]
        right = [p + 2 for p in left]
        return [self.shuffle(a, b, m) for a, b in (pairs[:2], pairs[2:]) for m in (left, right)]

    def _blocks_transposed(self, blocks: list[Any], chunk: int) -> list[Any]:
        """Transpose 1, 2 or 4 blocks whose entries are chunks."""
        count = len(blocks)
        if count == 1:
            return blocks

        def pick(a: Any, b: Any, first: int) -> Any:
            """Return every second chunk of a, then of b, from chunk `first` on."""
            chosen = range(first, 2 * count, 2)
            return self.shuffle(a, b, [g * chunk + i for g in chosen for i in range(chunk)])

        if count == 2:
            return [pick(blocks[0], blocks[1], i) for i in (0, 1)]
        halves = [[pick(blocks[k], blocks[k + 1], i) for k in (0, 2)] for i in (0, 1)]
        return [pick(halves[i][0], halves[i][1], j) for j in (0, 1) for i in (0, 1)]
