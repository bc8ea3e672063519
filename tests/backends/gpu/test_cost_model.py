"""Teams fit the GPU that they are chosen for; expected times are near the measured ones."""

import numpy as np
import pytest

from fastdln.backends.gpu.cost_model import (
    MEASURED_FACTOR,
    check_kernel,
    choose_team,
    class_of,
    expected_batch_step_seconds,
    expected_step_seconds,
    step_cycles,
)
from fastdln.backends.gpu.device import Device
from fastdln.kernels.cuda.packing import Packing
from fastdln.kernels.cuda.team import fits, shared_bytes

# Copies of an H100 SXM reach 2.95 TB/s by this model (2.85 measured).
H100 = Device(0, "H100", 132, 232_448, 233_472, 1490.0, 1.98e9)


def device(shared=232_448, whole=None):
    return Device(0, "", 132, shared, whole or shared, 2200.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shared", [101_376, 166_912, 232_448])
@pytest.mark.parametrize("width", [1, 26, 32, 100, 256, 512, 1000, 2048])
@pytest.mark.parametrize("count", [1, 4, 400])
def test_teams_hold_their_networks(width, count, shared, dtype):
    """Shared memory of the smallest and largest GPUs; wide networks only where they fit."""
    packing = Packing([(16, width, width, 10)] * count, dtype)
    team = choose_team(packing, True, device(shared))
    if team is None:
        assert width * np.dtype(dtype).itemsize > 2000 * shared / 101_376
        return
    assert fits(packing, team)
    assert shared_bytes(packing, team, True) <= shared
    assert team.group <= 132
    if width <= 32:
        assert team.group == 1


@pytest.mark.parametrize(
    ("count", "width", "team"),
    [
        (132, 100, (2, 128, 1, 1)),
        (400, 26, (1, 49, 1, 1)),
        (4, 1000, (66, 126, 11, 1)),
        (1, 1000, (132, 128, 11, 2)),
    ],
)
def test_teams_keep_all_schedulers_busy(count, width, team):
    """On an H200: two blocks share a multiprocessor, so that one works while the other waits.

    Networks have two blocks each, or half of the GPU, and all 400 are resident; one network that
    has the GPU for itself is given two warp groups.
    """
    packing = Packing([(16, width, width, 10)] * count, "float32")
    assert choose_team(packing, False, device(whole=233_472)) == team


def test_a_class_has_one_limit():
    assert [class_of(w) for w in (1, 32, 33, 4096, 4097)] == [32, 32, 64, 4096, 0]


MEASURED = [(1, 1000, 700, 5.62), (4, 1000, 700, 17.9), (132, 100, 200, 1.39), (400, 26, 700, 2.74)]


@pytest.mark.parametrize(("count", "width", "depth", "milliseconds"), MEASURED)
def test_the_factor_of_the_model_is_that_of_an_h100(count, width, depth, milliseconds):
    """Within the errors that are written beside the factor."""
    packing = Packing([(16, *[width] * (depth - 1), 10)] * count, "float32")
    team = choose_team(packing, False, H100)
    cycles = MEASURED_FACTOR * depth * step_cycles(packing, team, False, H100)
    assert 0.85 < 1e3 * cycles / H100.clock_hz / milliseconds < 1.25


def test_expected_times_are_near_those_of_an_h100():
    wide, narrow = (16, *[1000] * 699, 10), (16, *[26] * 699, 10)
    seconds = expected_step_seconds(wide, "float32", False, H100)
    assert seconds == pytest.approx(5.62e-3, rel=0.15)
    together = expected_batch_step_seconds([narrow] * 400, "float32", False, H100)
    assert together == pytest.approx(2.74e-3, rel=0.15)
    # Few networks take as long as one, and classes of widths follow each other.
    assert expected_step_seconds(narrow, "float32", False, H100) < together
    assert expected_batch_step_seconds([wide], "float32", False, H100) == seconds
    both = expected_batch_step_seconds([narrow] * 400 + [wide], "float32", False, H100)
    assert both > together + seconds


def test_networks_that_zigzag_cannot_train_take_two_passes():
    wide = (50, *[400] * 9, 40)
    seconds = expected_step_seconds(wide, "float32", False, H100)
    assert 1e-5 < seconds < 1e-3
    batch = expected_batch_step_seconds([wide] * 3, "float32", False, H100)
    assert batch == pytest.approx(3 * seconds)
    assert expected_step_seconds(wide, "float32", True, H100) > seconds


@pytest.mark.parametrize("options", [{"zigzag": False}, {"regression": False}], ids=str)
def test_networks_that_are_not_batched_follow_each_other(options):
    narrow = (16, *[26] * 9, 10)
    seconds = expected_step_seconds(narrow, "float32", False, H100, **options)
    batch = expected_batch_step_seconds([narrow] * 3, "float32", False, H100, **options)
    assert batch == pytest.approx(3 * seconds)
    assert batch > 2 * expected_batch_step_seconds([narrow] * 3, "float32", False, H100)


def test_zigzag_is_not_for_adam():
    check_kernel("zigzag", adam=False)
    check_kernel("two-pass", adam=True)
    with pytest.raises(ValueError, match="kernel='zigzag' does gradient descent, not Adam"):
        check_kernel("zigzag", adam=True)
