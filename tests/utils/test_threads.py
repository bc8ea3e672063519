"""Teams of threads end even if a member cannot be started or fails."""

from concurrent.futures import ThreadPoolExecutor

import packed
import pytest

from fastdln.kernels.cpu import two_pass
from fastdln.kernels.cpu.groups import Member
from fastdln.utils import threads


class LastThreads(ThreadPoolExecutor):
    """A pool that can start one thread only."""

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
    return lambda *member: two_pass.suffix_products(network.network, Member(*member))


@pytest.mark.parametrize("size", [2, 3])
def test_nobody_waits_for_a_member_that_was_never_started(size, work):
    with LastThreads(size) as pool, pytest.raises(KeyboardInterrupt):
        threads.run_team(pool, size, work)


@pytest.mark.parametrize("size", [2, 3])
def test_nobody_waits_for_a_member_that_failed(size, work):
    def failing(rank, size, barrier):
        if rank == size - 1:
            raise MemoryError("no memory")
        return work(rank, size, barrier)

    with ThreadPoolExecutor(size) as pool, pytest.raises(MemoryError, match="no memory"):
        threads.run_team(pool, size, failing)
