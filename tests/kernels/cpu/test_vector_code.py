"""Vector operations against NumPy, for the vector registers of every processor."""

import numba
import numpy as np
import pytest
from numba import types
from numba.extending import intrinsic

from fastdln.kernels.cpu import vector_code
from fastdln.kernels.cpu.vector_code import VectorCode

pytestmark = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="vector code is compiled code"
)


@pytest.fixture(params=[16, 32, 64])
def lanes(request, dtype, monkeypatch):
    """The elements of a register of 128, 256 or 512 bits, whatever this processor has."""
    monkeypatch.setattr(vector_code, "VECTOR_BYTES", request.param)
    return vector_code.lanes(dtype)


def apply(operation, inputs, outputs, dtype):
    """Return `outputs` vectors: ``operation(code, vectors)`` of the rows of `inputs`."""
    size = vector_code.lanes(dtype)
    count = len(inputs)

    @intrinsic
    def run(typing_context, given, out):
        def codegen(context, builder, signature, args):
            code = VectorCode(context, builder, signature.args[0])
            given, out = (code.pointer(array) for array in args)
            vectors = [code.load(code.step(given, i, size)) for i in range(count)]
            for i, value in enumerate(operation(code, vectors)):
                code.store(value, code.step(out, i, size))
            return context.get_dummy_value()

        return types.void(given, out), codegen

    @numba.njit
    def call(given, out):
        run(given, out)

    out = np.full((outputs, size), np.nan, dtype)
    call(np.ascontiguousarray(inputs, dtype).ravel(), out.reshape(-1))
    return out


def test_registers_hold_whole_elements():
    assert vector_code.VECTOR_BYTES in (16, 32, 64)
    assert vector_code.lanes("float32") == 2 * vector_code.lanes("float64")


def test_transposed(lanes, dtype, rng):
    X = rng.standard_normal((lanes, lanes)).astype(dtype)
    got = apply(lambda code, rows: code.transposed(rows), X, lanes, dtype)
    np.testing.assert_array_equal(got, X.T)


def test_sums_of_four(lanes, dtype, rng):
    X = rng.standard_normal((4, lanes)).astype(dtype)
    got = apply(lambda code, rows: [code.sums_of_four(rows)], X, 4, dtype)
    atol = lanes * np.finfo(dtype).eps * np.abs(X).sum(axis=1).max()
    np.testing.assert_allclose(got.ravel()[:4], X.sum(axis=1), rtol=0, atol=atol)
    assert np.isnan(got.ravel()[4:]).all()


def test_element_by_element(lanes, dtype, rng):
    X = rng.standard_normal((3, lanes)).astype(dtype)

    def operation(code, rows):
        a, b, c = rows
        backwards = list(range(2 * lanes - 1, lanes - 1, -1))
        return [
            code.multiply_add(a, b, c),
            code.add(a, b),
            code.zero(),
            code.shuffle(a, b, backwards),
        ]

    product, total, zero, shuffled = apply(operation, X, 4, dtype)
    atol = 4 * np.finfo(dtype).eps * (1 + np.abs(X).max() ** 2)
    np.testing.assert_allclose(product, X[0] * X[1] + X[2], rtol=0, atol=atol)
    np.testing.assert_array_equal(total, X[0] + X[1])
    assert not zero.any()
    np.testing.assert_array_equal(shuffled, X[1, ::-1])


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_loop_carries_its_values(count, lanes, dtype, rng):
    """The sum and the number of the first rows, and loads that a condition replaces by zeros."""
    X = rng.standard_normal((6, lanes)).astype(dtype)

    @intrinsic
    def run(typing_context, given, count, zeros, out):
        def codegen(context, builder, signature, args):
            given, count, zeros, out = args
            code = VectorCode(context, builder, signature.args[0])
            rows, target = code.pointer(given), code.pointer(out)
            starts = [code.step(rows, 5, code.lanes), rows]
            carried = code.zeros_or_loads(zeros, starts)

            def body(k, sums):
                row = code.load(code.step(rows, k, code.lanes))
                first = code.splat(code.step(rows, k, code.lanes))
                return [code.add(sums[0], row), code.add(sums[1], first)]

            for i, value in enumerate(code.loop(count, carried, body)):
                code.store(value, code.step(target, i, code.lanes))
            return context.get_dummy_value()

        return types.void(given, count, zeros, out), codegen

    @numba.njit
    def call(given, count, zeros, out):
        run(given, count, zeros, out)

    for zeros in (True, False):
        out = np.full((2, lanes), np.nan, dtype)
        call(X.ravel(), count, zeros, out.reshape(-1))
        sums = X[:count].sum(axis=0), np.full(lanes, X[:count, 0].sum())
        starts = (0, 0) if zeros else (X[5], X[0])
        for got, start, added in zip(out, starts, sums, strict=True):
            np.testing.assert_allclose(got, start + added, rtol=0, atol=50 * np.finfo(dtype).eps)
