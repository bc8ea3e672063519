"""Steps per call and the thread count follow from measured times."""

import pytest

from fastdln.backends.cpu.pacing import TeamPacing


def simulated(pacing, seconds_per_step, spans):
    """Return the team and steps of every span on a machine with these speeds."""
    taken = []
    for _ in range(spans):
        team, steps = pacing.next_span()
        pacing.record(team, steps, 1e-4 + steps * seconds_per_step[team])
        taken.append((team, steps))
    return taken


@pytest.mark.parametrize("fast", [1, 2])
def test_the_faster_team_takes_nearly_all_steps(fast):
    slow = 3 - fast
    taken = simulated(TeamPacing(2), {fast: 1e-5, slow: 5e-5}, 200)
    steps = {team: sum(n for t, n in taken if t == team) for team in (1, 2)}
    assert steps[fast] > 50 * steps[slow]
    assert max(n for _, n in taken) * 1e-5 < 0.25


def test_a_team_that_becomes_faster_is_found():
    pacing = TeamPacing(2)
    assert simulated(pacing, {1: 1e-5, 2: 5e-5}, 40)[-1][0] == 1
    assert simulated(pacing, {1: 1e-5, 2: 5e-6}, 45)[-1][0] == 2


def test_one_thread_begins_where_steps_are_short_and_a_team_where_they_are_long():
    """Starting a team takes as long as tens of steps of a small network."""
    short = simulated(TeamPacing(2, 1e-5), {1: 1e-5, 2: 5e-6}, 8)
    assert {team for team, _ in short[:7]} == {1}
    assert sum(n for _, n in short[:7]) * 1e-5 > 0.01
    assert short[7][0] == 2
    assert simulated(TeamPacing(2, 1e-2), {1: 1e-2, 2: 5e-3}, 1) == [(2, 1)]


def test_one_thread_needs_no_choice():
    assert {team for team, _ in simulated(TeamPacing(1), {1: 1e-3}, 50)} == {1}
