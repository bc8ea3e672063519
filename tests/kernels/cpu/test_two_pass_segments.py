"""Teams that share segments of the chain: naive training, and the bits of one thread."""

import time
from concurrent.futures import ThreadPoolExecutor

import naive
import numpy as np
import packed
import pytest
from packed import PackedRegression, naive_step, regression_case

from fastdln.kernels.cpu.groups import Member, Span
from fastdln.kernels.cpu.regression_loop import descend
from fastdln.kernels.cpu.two_pass_segments import descend_by_segments, segment_workspace, words
from fastdln.kernels.cpu.waiting import ENDED, LATE, LINE
from fastdln.utils import threads

# Width 1, fewer rows than members, layers to be transposed and not, more than KEPT_ROWS rows of a
# narrow layer, q around a strip, rectangular hidden layers.
SHAPES = [
    (1, 1, 1, 1), (9, 13, 7, 1), (5, 17, 3, 3), (16, 33, 20, 10), (20, 31, 67, 5, 16),
    (17, 65, 64, 2), (12, 7, 7, 7, 7, 7), (70, 150, 90, 9), (16, 26, 26, 26, 26, 26, 10),
]  # fmt: skip
# Some steps of rounding on top of each other, relative to the first loss.
RTOL = {"float32": 1e-5, "float64": 1e-13}
STEPS = 5


class Run(PackedRegression):
    """A packed regression, trained in spans by teams of any size."""

    def __init__(self, weights, target, rates, decay, dtype, segments=3):
        super().__init__(weights, target, rates, decay, dtype, STEPS)
        self.shared, self.alone = segment_workspace(self.layout, self.workspace, 4, segments)
        self.count = segments
        for buffer in (self.shared.C, self.shared.transposed):
            buffer[:] = np.nan

    def by_segments(self, team, start, goal, floor=-1.0):
        number = words(team, self.count)
        return self.run(descend_by_segments, self.shared, team, start, goal, floor, number)

    def by_layers(self, team, start, goal):
        return self.run(descend, self.alone, team, start, goal)


@pytest.mark.parametrize("decay", [1, 0.75])
@pytest.mark.parametrize(("team", "segments"), [(1, 1), (2, 2), (2, 3), (3, 3)])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_every_step_is_gradient_descent_with_the_bits_of_one_thread(
    widths, team, segments, decay, dtype, rng
):
    weights, target, rates = regression_case(widths, dtype, rng)
    alone, shared = (Run(weights, target, rates, decay, dtype, segments) for _ in range(2))
    alone.by_layers(1, -1, STEPS)
    shared.by_layers(1, -1, 0)
    assert shared.by_segments(team, 0, STEPS) == STEPS
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


@pytest.mark.parametrize("depth", [4, 5, 9, 40])
@pytest.mark.parametrize("segments", [1, 2, 3, 4])
def test_segments_cover_the_chain(depth, segments, rng):
    weights, target, rates = regression_case((16, *[26] * (depth - 1), 10), "float32", rng)
    borders = Run(weights, target, rates, 1, "float32", segments).shared.borders
    assert borders[0] == 0
    assert borders[-1] == depth
    assert borders.size == segments + 1
    assert np.diff(borders).min() >= 1
    if depth == 40 and segments > 1:
        lengths = np.diff(borders)[1:]
        assert lengths.max() - lengths.min() <= 2
        assert borders[1] <= lengths.max() * 0.6


def test_more_segments_than_layers_are_refused(rng):
    weights, target, rates = regression_case((5, 4, 3), "float32", rng)
    with pytest.raises(ValueError, match="3 segments of a chain of 2 layers"):
        Run(weights, target, rates, 1, "float32")


def test_either_kernel_continues_a_run_of_the_other(dtype, rng):
    weights, target, rates = regression_case((16, 26, 60, 26, 10), dtype, rng)
    whole, spans = (Run(weights, target, rates, 1, dtype) for _ in range(2))
    whole.by_layers(1, -1, STEPS)
    spans.by_layers(1, -1, 0)
    spans.by_segments(2, 0, 2)
    spans.by_layers(2, 2, 3)
    spans.by_segments(3, 3, 4)
    spans.by_layers(1, 4, STEPS)
    np.testing.assert_array_equal(spans.losses, whole.losses)
    np.testing.assert_array_equal(spans.weights, whole.weights)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # with JIT off
def test_steps_end_at_the_floor_and_where_the_loss_is_not_finite(rng):
    weights, target, rates = regression_case((5, 17, 3, 4), "float64", rng)
    whole = Run(weights, target, rates, 1, "float64")
    whole.by_layers(1, -1, 0)
    whole.by_segments(2, 0, STEPS)
    short = Run(weights, target, rates, 1, "float64")
    short.by_layers(1, -1, 0)
    assert short.by_segments(2, 0, STEPS, floor=whole.losses[2]) == 2
    np.testing.assert_array_equal(short.losses[:3], whole.losses[:3])
    assert np.isnan(short.losses[3:]).all()
    broken = Run([w * 1e200 for w in weights], target, rates, 1, "float64")
    broken.by_layers(1, -1, 0)
    assert broken.by_segments(2, 0, STEPS) == 0
    assert not np.isfinite(broken.losses[0])
    assert np.isnan(broken.losses[1:]).all()


@pytest.mark.parametrize("size", [2, 3])
def test_nobody_waits_for_a_member_that_failed(size, rng):
    weights, target, rates = regression_case((16, 26, 60, 26, 10), "float64", rng)
    run = Run(weights, target, rates, 1, "float64")
    run.by_layers(1, -1, 0)
    barrier = packed.team.new_barrier(words(size, run.count), 60 * 10**9)
    span = Span(0, STEPS, STEPS, -1.0)

    def work(rank, size, barrier):
        if rank == size - 1:
            raise MemoryError("no memory")
        while barrier[-LINE] < ENDED:  # work begins after the failure
            time.sleep(0.001)
        arguments = run.network, run.shared, run.step, run.problem, span
        return descend_by_segments(*arguments, Member(rank, size, barrier))

    with ThreadPoolExecutor(size) as pool, pytest.raises(MemoryError, match="no memory"):
        threads.run_team(pool, size, work, barrier)


@pytest.mark.parametrize("sharing", ["by_segments", "by_layers"])
def test_a_late_team_stops_after_a_step_and_one_thread_continues(sharing, dtype, rng, monkeypatch):
    weights, target, rates = regression_case((16, 26, 60, 26, 10), dtype, rng)
    whole, late = (Run(weights, target, rates, 1, dtype) for _ in range(2))
    whole.by_layers(1, -1, STEPS)
    late.by_layers(1, -1, 0)
    new_barrier = packed.team.new_barrier

    def late_barrier(*arguments):
        barrier = new_barrier(*arguments)
        barrier[LATE] = 1
        return barrier

    monkeypatch.setattr(packed.team, "new_barrier", late_barrier)
    reached = getattr(late, sharing)(2, 0, STEPS)
    assert 0 <= reached <= 1
    monkeypatch.undo()
    late.by_layers(1, reached, STEPS)
    np.testing.assert_array_equal(late.losses, whole.losses)
    np.testing.assert_array_equal(late.weights, whole.weights)
