"""The optimiser's arrays are those of the layers, input first, whatever the order in memory."""

import numpy as np
import pytest
from packed import random_layers

from fastdln.backends.cpu.optimizer_state import OptimizerState
from fastdln.backends.cpu.packed_chain import PackedChain
from fastdln.optim.optimizers import LayerRates, Optimizer

OPTIMIZERS = [Optimizer(), Optimizer(momentum=0.5), Optimizer("adam")]


@pytest.mark.parametrize("widths", [(7, 19, 3), (3, 19, 7)], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_saved_arrays_come_back(optimizer, widths, dtype, rng):
    layers = random_layers(widths, rng)
    chain = PackedChain(layers, widths, np.dtype(dtype))
    rates = LayerRates.of(optimizer, 0.1, np.array([19.0, widths[-1]]))
    state = OptimizerState(optimizer, rates, chain, 1)
    saved = tuple(
        tuple(rng.standard_normal(w.shape).astype(dtype) for w in layers)
        for _ in range(optimizer.state_arrays)
    )
    state.load(saved)
    found = state.copies()
    assert len(found) == len(state.arrays) == optimizer.state_arrays
    for mine, others in zip(found, saved, strict=True):
        for a, b in zip(mine, others, strict=True):
            np.testing.assert_array_equal(a, b)
            assert not any(np.may_share_memory(a, array) for array in state.arrays)
    step_sizes = state.step.step_sizes[:: -1 if chain.mirrored else 1]
    np.testing.assert_array_equal(step_sizes, rates.step_sizes.astype(dtype))
    plain = optimizer == Optimizer()
    assert state.gradient_factor == (-float(state.step.step_sizes[0]) if plain else 1.0)
