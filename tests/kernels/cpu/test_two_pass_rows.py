"""Teams that share the rows of the products: naive training, and the bits of one thread."""

import naive
import numpy as np
import pytest
from packed import PackedRegression, naive_step, regression_case

from fastdln.kernels.cpu.regression_loop import descend
from fastdln.kernels.cpu.two_pass_rows import descend_by_rows, row_workspace

# Depth 1 and 2, width 1, fewer rows than members, layers to be transposed and not, q around a
# strip, rectangular hidden layers.
SHAPES = [
    (1, 1), (7, 4), (1, 1, 1), (9, 13, 1), (5, 17, 3), (16, 33, 10), (20, 31, 67, 5, 16),
    (17, 65, 64, 2), (12, 7, 7, 7, 7, 7), (70, 150, 90, 9), (16, 26, 26, 26, 10),
]  # fmt: skip
# Some steps of rounding on top of each other, relative to the first loss.
RTOL = {"float32": 1e-5, "float64": 1e-13}
STEPS = 5


class Run(PackedRegression):
    """A packed regression, trained in spans by teams of any size."""

    def __init__(self, weights, target, rates, decay, dtype):
        super().__init__(weights, target, rates, decay, dtype, STEPS)
        self.shared, self.alone = row_workspace(self.layout, self.workspace)
        self.shared.C[:] = np.nan
        self.shared.sums[:] = np.nan

    def by_rows(self, team, start, goal, floor=-1.0):
        self.run(descend_by_rows, self.shared, team, start, goal, floor)

    def by_layers(self, team, start, goal):
        self.run(descend, self.alone, team, start, goal)


@pytest.mark.parametrize("decay", [1, 0.75])
@pytest.mark.parametrize("team", [1, 2, 3])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_every_step_is_gradient_descent_with_the_bits_of_one_thread(
    widths, team, decay, dtype, rng
):
    weights, target, rates = regression_case(widths, dtype, rng)
    alone, shared = (Run(weights, target, rates, decay, dtype) for _ in range(2))
    alone.by_layers(1, -1, STEPS)
    shared.by_rows(team, -1, STEPS)
    np.testing.assert_array_equal(shared.losses, alone.losses)
    np.testing.assert_array_equal(shared.weights, alone.weights)

    exact = [w.astype(np.float64) for w in weights]
    for step in range(STEPS + 1):
        G = naive.end_to_end(exact) - target
        expected = 0.5 * np.sum(G**2)
        assert shared.losses[step] == pytest.approx(
            expected, rel=0, abs=RTOL[dtype] * alone.losses[0]
        )
        gradients = naive.backpropagation(exact, G)
        exact = naive_step(exact, rates, decay, gradients)


def test_either_kernel_continues_a_run_of_the_other(dtype, rng):
    weights, target, rates = regression_case((16, 26, 60, 26, 10), dtype, rng)
    whole, spans = (Run(weights, target, rates, 1, dtype) for _ in range(2))
    whole.by_layers(1, -1, STEPS)
    spans.by_layers(1, -1, 0)
    spans.by_rows(2, 0, 2)
    spans.by_layers(2, 2, 3)
    spans.by_rows(3, 3, 4)
    spans.by_layers(1, 4, STEPS)
    np.testing.assert_array_equal(spans.losses, whole.losses)
    np.testing.assert_array_equal(spans.weights, whole.weights)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # with JIT off
def test_steps_end_at_the_floor_and_where_the_loss_is_not_finite(rng):
    weights, target, rates = regression_case((5, 17, 3), "float64", rng)
    whole = Run(weights, target, rates, 1, "float64")
    whole.by_rows(2, -1, STEPS)
    short = Run(weights, target, rates, 1, "float64")
    short.by_rows(2, -1, STEPS, floor=whole.losses[2])
    np.testing.assert_array_equal(short.losses[:3], whole.losses[:3])
    assert np.isnan(short.losses[3:]).all()
    broken = Run([w * 1e200 for w in weights], target, rates, 1, "float64")
    broken.by_rows(2, -1, STEPS)
    assert not np.isfinite(broken.losses[0])
    assert np.isnan(broken.losses[1:]).all()
