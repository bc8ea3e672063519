"""Teams of threads end, whatever becomes of their members."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import packed
import pytest

from fastdln.kernels.cpu import team
from fastdln.kernels.cpu import two_pass as chain
from fastdln.utils import threads as parallel


class LastThreads(ThreadPoolExecutor):
    """A pool that has threads for so many members only."""

    left = 1

    def submit(self, *arguments):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().submit(*arguments)


@pytest.fixture
def work(rng):
    """Return pass 1 of a network of many layers, for a member of a team."""
    widths = (5, *[40] * 30, 3)
    network = packed.Packed(packed.random_layers(widths, rng), "float64")
    arguments = network.weights, network.layout.layers, network.products, *network.geometry()
    return lambda *member: chain.suffix_products(*arguments, *member)


@pytest.mark.parametrize("size", [2, 3])
def test_nobody_waits_for_a_member_that_was_never_started(size, work):
    with LastThreads(size) as pool, pytest.raises(KeyboardInterrupt):
        parallel.together(pool, size, work)


@pytest.mark.parametrize("size", [2, 3])
def test_nobody_waits_for_a_member_that_failed(size, work):
    def failing(rank, size, meeting):
        if rank == size - 1:
            raise MemoryError("no room")
        return work(rank, size, meeting)

    with ThreadPoolExecutor(size) as pool, pytest.raises(MemoryError, match="no room"):
        parallel.together(pool, size, failing)


def test_an_abandoned_meeting_is_passed_by_all(work):
    meeting = team.new_meeting()
    team.abandon(meeting)
    for rank in (1, 0, 1):
        work(rank, 2, meeting)
    assert meeting[0] > np.int64(team.ABANDONED)
