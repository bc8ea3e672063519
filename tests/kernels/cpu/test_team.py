"""Barriers of a team, and how it partitions work."""

import numpy as np
import pytest

from fastdln.kernels.cpu import jit, team


@jit.kernel
def wait(barrier, size):
    team.wait(barrier, size)


def test_an_aborted_barrier_is_passed_by_all():
    barrier = team.new_barrier()
    team.abort(barrier)
    for _ in range(5):
        wait(barrier, 2)
    assert barrier[0] > np.int64(team.ABORTED)


@pytest.mark.parametrize("total", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_partition_covers_everything_once(size, total):
    ranges = [team.partition(total, rank, size) for rank in range(size)]
    assert [i for begin, end in ranges for i in range(begin, end)] == list(range(total))
    sizes = [end - begin for begin, end in ranges]
    assert max(sizes) - min(sizes) <= 1
