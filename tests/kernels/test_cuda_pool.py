"""Sweeps on a card, its kernels run on the CPU: the values of sweeps on threads."""

import dataclasses

import numpy as np
import pytest
from cuda_cases import ShimLauncher

import fastdln
from fastdln.backends.gpu.layers import start_on_card
from fastdln.initializers.layers import draw_layers
from fastdln.reduction.initial_layers import Draw
from fastdln.reduction.plan import plan
from fastdln.sweeps.gpu_executor import OneCard
from fastdln.sweeps.grid import Cell
from fastdln.sweeps.setting import Setting


def cells(inits, widths, depths, seeds=(0,)):
    return [
        Cell((a, b, c, d), init, width, depth, seed)
        for a, init in enumerate(inits)
        for b, width in enumerate(widths)
        for c, depth in enumerate(depths)
        for d, seed in enumerate(seeds)
    ]


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}, {"optimizer": "adam"}])
@pytest.mark.usefixtures("shim_card")
def test_cells_have_the_values_of_the_cpu(options, rng):
    problem = fastdln.Regression(rng.standard_normal((8, 5)), rng.standard_normal((3, 5)))
    setting = Setting.of(problem, 6, learning_rate=0.01, options=options)
    work = cells(["gaussian", "orthogonal", "balanced"], [4, 9], [1, 3, 4])
    pool = OneCard(dataclasses.replace(setting, device="gpu"))
    found = {}
    for result in pool.results(setting.train, [(cell,) for cell in work]):
        if result is not None:
            found[result[0]] = result[1]
    assert found.keys() == set(work)
    assert not pool.running
    for cell, values in found.items():
        ((_, expected),) = setting.train((cell,))
        assert values.keys() == expected.keys()
        np.testing.assert_allclose(values["loss"], expected["loss"], rtol=1e-9)
        for name in ("learning_rate", "steps_taken", "method", "status"):
            assert values[name] == expected[name]


@pytest.mark.parametrize("gain", [1.0, 0.7])
@pytest.mark.parametrize("init", ["gaussian", "orthogonal", "identity"])
def test_layers_drawn_on_the_card_are_those_of_the_cpu(init, gain, dtype, rng):
    problem = fastdln.Regression(rng.standard_normal((8, 5)), rng.standard_normal((3, 5)))
    chosen = plan(problem, width=9, depth=5, init=init, dtype=dtype, method="dense")
    draw = Draw(chosen.full_widths, init, 123, np.dtype(dtype), gain)
    basis = problem.reduced.basis
    ours = list(start_on_card(ShimLauncher(dtype), draw, chosen, basis).layers)
    expected = list(draw_layers(*draw))
    expected[0] = expected[0] @ basis
    for got, w in zip(ours, expected, strict=True):
        np.testing.assert_allclose(got, w, rtol=0, atol=100 * np.finfo(dtype).eps)
    if init == "gaussian":
        np.testing.assert_array_equal(ours[2], expected[2])
