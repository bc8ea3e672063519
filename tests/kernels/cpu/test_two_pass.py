"""The two-pass step against backpropagation in float64, on shapes around every block size."""

import naive
import numba
import numpy as np
import pytest
from packed import Packed, naive_step, on_team, random_layers

from fastdln.kernels.cpu import jit, layout, team, two_pass
from fastdln.kernels.cpu.groups import Block, GradientStep, Member

# Depth 1 and 2, width 1, primes, just over a vector and over a block of 16 terms, q of 1, 2, 3, 5,
# 10, 11, 16, 17, 100 and above the width, rectangular hidden layers.
SHAPES = [
    (1, 1), (7, 4), (1, 1, 1), (5, 17, 3), (16, 33, 10), (9, 13, 1), (3, 2, 11),
    (20, 31, 67, 5, 16), (17, 65, 64, 2), (4, 3, 17), (40, 129, 10), (12, 7, 7, 7, 7, 7),
    (70, 300, 150, 9), (120, 50, 130, 100),
]  # fmt: skip
# One rounding per term of sums up to 300 long, and a few layers on top of each other.
ATOL = {"float32": 2e-5, "float64": 5e-14}


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_suffix_products(widths, size, dtype, rng):
    weights = [w.astype(dtype) for w in random_layers(widths, rng)]
    packed = Packed(weights, dtype)
    on_team(size, two_pass.suffix_products, packed.network)
    for layer in range(len(weights)):
        np.testing.assert_allclose(
            packed.product(layer), naive.end_to_end(weights[layer:]), rtol=0, atol=ATOL[dtype]
        )


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
@pytest.mark.parametrize("decay", [1, 0.75])
def test_update_is_backpropagation_with_a_rate_per_layer(widths, decay, size, dtype, rng):
    decay = np.dtype(dtype).type(decay)
    weights = [w.astype(dtype) for w in random_layers(widths, rng)]
    G = rng.standard_normal((widths[-1], widths[0]))
    rates = rng.uniform(0.1, 1, len(weights)).astype(dtype)
    packed = Packed(weights, dtype)
    on_team(size, two_pass.suffix_products, packed.network)
    stride = packed.layout.layers[0, layout.STRIDE]
    C = packed.workspace.C[: packed.layout.q_padded * stride].reshape(-1, stride)
    C[: widths[-1], : widths[0]] = -rates[0] * G
    step = GradientStep(rates, decay)
    on_team(size, two_pass.update_layers, packed.network, packed.workspace, step)
    gradients = naive.backpropagation(weights, G)
    expected = naive_step(weights, rates, decay, gradients)
    for got, w, g in zip(packed.layers(), expected, gradients, strict=True):
        np.testing.assert_allclose(got, w, rtol=0, atol=ATOL[dtype] * (1 + np.abs(g).max()))
    assert packed.padding() == pytest.approx(0, abs=1e-9 * packed.layout.size)


@pytest.mark.parametrize("widths", [(3, 2), (3, 4, 2), (2, 3, 1, 4, 2)], ids=str)
def test_the_oracle_is_the_finite_difference(widths, rng):
    """Backpropagation itself, against central differences of ``⟨G, M⟩``."""
    weights, h = random_layers(widths, rng), 1e-6
    G = rng.standard_normal((widths[-1], widths[0]))
    for w, g in zip(weights, naive.backpropagation(weights, G), strict=True):
        for index in np.ndindex(w.shape):
            values = []
            for sign in (1, -1):
                w[index] += sign * h
                values.append(np.sum(G * naive.end_to_end(weights)))
                w[index] -= sign * h
            # Multilinear: exact but for rounding, eps/h.
            assert g[index] == pytest.approx((values[0] - values[1]) / (2 * h), abs=1e-8)


def test_products_fetched_from_memory_are_those_from_cache(dtype, rng):
    """The kernel for large weights takes other blocks in the same order: the same bits."""
    layers = [w.astype(dtype) for w in random_layers((37, 83, 50, 10), rng)]
    packed = Packed(layers, dtype)
    network, table = packed.network, packed.layout.layers
    two_pass.suffix_products(network, Member(0, 1, team.new_barrier()))
    near = packed.products.copy()
    for layer in (1, 0):
        block = Block(0, network.q_padded, 0, table[layer, layout.VECTORS])
        for row in range(0, table[layer, layout.ROWS], 16):
            count = min(16, table[layer, layout.ROWS] - row)
            two_pass.add_layer_rows(network, layer, row, count, block, True, row == 0, 0)
    np.testing.assert_array_equal(packed.products, near)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled with JIT switched off")
def test_kernels_count_no_references(dtype, rng):
    """Numba's counting took a quarter of the time of narrow layers; see `jit.OPTIONS`."""

    def twice(network, C):
        for _ in range(2):
            two_pass.update_last_layer(network, C, 0, 1, Block(0, 1, 0, 4))
            C = network.weights

    packed = Packed([w.astype(dtype) for w in random_layers((5, 3), rng)], dtype)
    compiled = numba.njit(**jit.OPTIONS | {"cache": False})(twice)  # a cache cannot be looked into
    compiled(packed.network, packed.workspace.C)
    (code,) = compiled.inspect_llvm().values()
    assert "NRT_incref" not in code
