"""Barriers of a team, and how it partitions work."""

import threading

import numpy as np
import pytest

from fastdln.kernels.cpu import jit, team
from fastdln.kernels.cpu.waiting import ENDED, LATE


@jit.kernel
def wait(barrier, size):
    team.wait(barrier, size)


@jit.kernel
def stop_if_late(barrier):
    team.stop_if_late(barrier)


@jit.kernel
def goes_on(barrier):
    return team.goes_on(barrier)


@jit.kernel
def add_in_turn(barrier, size, rank, rounds, total):
    """Let member ``i % size`` add to an unprotected total in round i."""
    for i in range(rounds):
        if i % size == rank:
            total[0] += i
        team.wait(barrier, size)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_barrier_orders_what_members_write(size):
    """Also with more members than processors."""
    barrier, total, rounds = team.new_barrier(), np.zeros(1, np.int64), 300
    members = [
        threading.Thread(target=add_in_turn, args=(barrier, size, rank, rounds, total))
        for rank in range(size)
    ]
    for member in members:
        member.start()
    for member in members:
        member.join()
    assert total[0] == sum(range(rounds))


def test_an_aborted_barrier_is_passed_by_all():
    barrier = team.new_barrier(3)
    team.abort(barrier)
    for _ in range(5):
        wait(barrier, 2)
    words = range(team.ARRIVALS, barrier.size, team.OTHERS - team.ARRIVALS)
    assert len(words) == 4
    assert all(barrier[word] >= ENDED for word in words)


def test_a_team_stops_only_where_it_was_late():
    barrier = team.new_barrier()
    stop_if_late(barrier)
    assert goes_on(barrier)
    assert not team.was_late(barrier)
    barrier[LATE] = 1
    assert goes_on(barrier)
    stop_if_late(barrier)
    assert not goes_on(barrier)
    assert team.was_late(barrier)


@pytest.mark.parametrize("total", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_partition_covers_everything_once(size, total):
    ranges = [team.partition(total, rank, size) for rank in range(size)]
    assert [i for begin, end in ranges for i in range(begin, end)] == list(range(total))
    sizes = [end - begin for begin, end in ranges]
    assert max(sizes) - min(sizes) <= 1
