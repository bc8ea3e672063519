"""The choice of kernel and team, at sizes where the answer is known, and its override."""

import numpy as np
import pytest

from fastdln.backends.cpu.cost_model import (
    ALONE,
    COSTS,
    Team,
    check_kernel,
    choose,
    expected_step_seconds,
    extra_memory,
    flops_per_step,
    network_bytes,
    segment_count,
    step_seconds,
)
from fastdln.kernels.cpu.layout import make_layout
from fastdln.kernels.cpu.zigzag_workspace import zigzag_size
from fastdln.optim.optimizers import Optimizer


def chain(width, depth, dtype="float32", d=16, q=10):
    return make_layout((d, *(width,) * (depth - 1), q), dtype)


@pytest.mark.parametrize(
    ("width", "depth", "kernel", "team", "sharing"),
    [
        (1000, 50, "zigzag", 2, "layers"),  # 200 MB: traffic counts
        (300, 30, "two-pass", 2, "layers"),  # 11 MB: in cache, arithmetic counts
        (26, 700, "two-pass", 2, "segments"),  # a barrier costs more than half a layer
        (10, 3, "two-pass", 1, "layers"),  # too small for a team
    ],
)
def test_known_sizes(width, depth, kernel, team, sharing):
    choice = choose(chain(width, depth), 2)
    assert (choice.kernel, choice.team) == (kernel, Team(team, sharing))
    assert ALONE in choice.teams
    assert choice.seconds == choice.teams[choice.team]
    assert kernel in choice.reason
    assert "ms a step expected" in choice.reason


def test_every_member_has_as_many_segments():
    assert [segment_count(depth, 2) for depth in (1, 2, 3, 7, 8, 700)] == [0, 2, 2, 6, 8, 8]
    assert segment_count(700, 3) == 12
    # No more members than rows of the products, or than half the layers.
    assert all(t.sharing == "layers" for t in choose(chain(300, 30, q=1), 8).teams)
    assert max(t.size for t in choose(chain(26, 700), 64).teams if t.sharing == "segments") <= 10


def test_override_and_its_limits():
    assert choose(chain(100, 4), 2, kernel="zigzag").kernel == "zigzag"
    assert choose(chain(1000, 50), 2, kernel="two-pass").kernel == "two-pass"
    assert choose(chain(1000, 50), 2, plain=False).kernel == "two-pass"
    assert choose(chain(1000, 50), 1).team == ALONE
    with pytest.raises(ValueError, match="plain full-batch"):
        choose(chain(1000, 50), 2, kernel="zigzag", plain=False)
    with pytest.raises(ValueError, match="must be one of 'auto', 'two-pass', 'zigzag'"):
        choose(chain(9, 2), 1, kernel="fast")


def test_zigzag_is_not_chosen_where_it_would_take_much_memory():
    wide_input = chain(1000, 50, d=1000)
    assert extra_memory(wide_input) > 0.5
    assert choose(wide_input, 2).kernel == "two-pass"


def test_extra_memory_covers_the_buffers():
    layout = chain(1000, 50)
    assert zigzag_size(layout) + layout.product_size == pytest.approx(
        extra_memory(layout) * layout.size, rel=0.02
    )


def test_costs_grow_with_work_and_shrink_with_threads(dtype):
    small, large = chain(300, 10, dtype), chain(300, 20, dtype)
    for kernel in ("two-pass", "zigzag"):
        assert step_seconds(small, kernel, 1) < step_seconds(large, kernel, 1)
        assert step_seconds(large, kernel, 2) < step_seconds(large, kernel, 1)
    assert step_seconds(large, "two-pass", 2, "segments") < step_seconds(large, "two-pass", 1)
    assert set(COSTS.flops_per_second) == {"float32", "float64"}


def test_zigzag_is_refused_in_a_run_that_is_not_plain():
    check_kernel("zigzag", plain=True)
    check_kernel("two-pass", plain=False, adam=True)
    for plain, adam in ((False, False), (False, True)):
        with pytest.raises(ValueError, match="plain full-batch gradient descent on a regression"):
            check_kernel("zigzag", plain, adam)


def test_expected_seconds_are_those_of_the_choice(dtype):
    widths, kind = (16, 26, 26, 10), np.dtype(dtype)
    choice = choose(make_layout(widths, dtype), 1)
    expected = expected_step_seconds(widths, kind, "auto", True, 1)
    assert expected == choice.seconds == step_seconds(make_layout(widths, dtype), "two-pass", 1)
    # A network with more outputs than inputs is trained mirrored.
    assert expected_step_seconds(widths[::-1], kind, "auto", True, 1) == expected


def test_bytes_count_the_optimiser_state(dtype):
    widths, kind = (16, 300, 300, 10), np.dtype(dtype)
    layout = make_layout(widths, dtype)
    plain, momentum, adam = (
        network_bytes(widths, kind, optimizer)
        for optimizer in (Optimizer(), Optimizer(momentum=0.5), Optimizer("adam"))
    )
    assert adam - momentum == layout.size * kind.itemsize
    # Zigzag's buffers are counted only for plain descent, and only if they are small.
    assert extra_memory(layout) > 0.1
    assert momentum - plain == layout.size * kind.itemsize
    deep = (16, *[1000] * 9, 10)
    layout = make_layout(deep, dtype)
    difference = network_bytes(deep, kind, Optimizer(momentum=0.5)) - network_bytes(
        deep, kind, Optimizer()
    )
    assert difference == (layout.size - zigzag_size(layout)) * kind.itemsize


def test_flops_are_three_products_a_layer():
    # Unpadded sizes are whole vectors here: 2·q·rows·columns flops a product.
    assert flops_per_step((16, 32, 16), np.dtype("float32")) == 6 * 16 * (32 * 16 + 16 * 32)
