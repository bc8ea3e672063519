"""Steps per call and the team follow from measured times."""

import pytest

from fastdln.backends.cpu.cost_model import ALONE, Team
from fastdln.backends.cpu.pacing import (
    FIRST_HOLD,
    KNOWN_TRIAL,
    LONGEST_HOLD,
    PATIENCE,
    RETRIAL,
    SHORT_RUN,
    TeamPacing,
)

PAIR = Team(2, "segments")


class Machine:
    """A simulated machine on which a step takes known seconds."""

    def __init__(self, **seconds):
        self.now, self.seconds, self.late = 0.0, seconds, False

    def train(self, pacing, steps=10**9, until=float("inf")):
        """Return (team, steps, begin) of every span."""
        taken = []
        while steps and self.now < until:
            team, count, _ = pacing.next_span(steps)
            assert 1 <= count <= steps
            taken.append((team, count, self.now))
            late = self.late and team != ALONE
            duration = count * self.seconds["alone" if team == ALONE else "pair"]
            self.now += min(duration, 0.002) if late else duration
            steps -= 1 if late else count
            pacing.record(team, 1 if late else count, duration, late)
        return taken


def pacing_on(machine, alone=1e-5, pair=6e-6, **options):
    expected = {PAIR: pair, ALONE: alone} if pair < alone else {ALONE: alone, PAIR: pair}
    return TeamPacing(expected, clock=lambda: machine.now, **options)


def share(taken, team, seconds):
    """Return a team's fraction of the time."""
    spent = [count * seconds["alone" if t == ALONE else "pair"] for t, count, _ in taken]
    return sum(s for s, (t, _, _) in zip(spent, taken, strict=True) if t == team) / sum(spent)


@pytest.mark.parametrize("expected", [0.6, 6])
@pytest.mark.parametrize(("alone", "pair"), [(1e-5, 5e-6), (1e-5, 3e-5), (3e-3, 2e-3), (0.04, 0.1)])
def test_the_faster_team_takes_nearly_all_the_time(alone, pair, expected):
    machine = Machine(alone=alone, pair=pair)
    taken = machine.train(pacing_on(machine, alone, expected * alone), until=30)
    slow = ALONE if pair < alone else PAIR
    assert share(taken, slow, machine.seconds) < 0.05
    assert max(count * machine.seconds["alone"] for _, count, _ in taken) < 0.41


def test_a_short_run_takes_the_team_expected_and_no_trial():
    for pair, team in ((6e-6, PAIR), (6e-5, ALONE)):
        machine = Machine(alone=1e-5, pair=pair)
        assert {t for t, _, _ in machine.train(pacing_on(machine, pair=pair), 4000)} == {team}


def test_no_team_is_started_for_a_few_steps():
    machine = Machine(alone=1e-5, pair=6e-6)
    taken = machine.train(pacing_on(machine), int(SHORT_RUN / 1e-5) - 1)
    assert [team for team, _, _ in taken] == [ALONE]


def test_a_trial_takes_the_teams_in_turn_three_times():
    machine = Machine(alone=1e-5, pair=6e-6)
    pacing = pacing_on(machine)
    assert pacing.measured == {}
    taken = [team for team, _, begin in machine.train(pacing, until=1) if 0.05 < begin < 0.14]
    assert taken[:12] == [PAIR, PAIR, ALONE, ALONE] * 3  # once to get warm, once to be measured
    assert pacing.measured == pytest.approx({"1": 1e-5, "2:segments": 6e-6})


def test_kept_times_replace_a_first_trial():
    kept = {"1": 1e-5, "2:segments": 3e-5}
    machine = Machine(alone=1e-5, pair=3e-5)
    taken = machine.train(pacing_on(machine, kept=kept), until=KNOWN_TRIAL - 0.01)
    assert {team for team, _, _ in taken} == {ALONE}


@pytest.mark.parametrize("change", [{"pair": 2e-5}, {"alone": 4e-6}])
def test_a_machine_that_changes_is_noticed_within_seconds(change):
    machine = Machine(alone=1e-5, pair=6e-6)
    pacing = pacing_on(machine)
    assert machine.train(pacing, until=4)[-1][0] == PAIR
    machine.seconds |= change
    moment = RETRIAL + 0.5 if "alone" in change else 1.0
    assert machine.train(pacing, until=4 + moment)[-1][0] == ALONE


def test_a_late_team_rests_longer_and_longer_and_comes_back():
    machine = Machine(alone=1e-5, pair=6e-6)
    pacing = pacing_on(machine)
    assert machine.train(pacing, until=1)[-1][0] == PAIR
    machine.late = True
    taken = machine.train(pacing, until=11)
    tries = [begin for team, _, begin in taken if team == PAIR]
    rests = [b - a for a, b in zip(tries, tries[1:], strict=False)]
    assert rests[0] == pytest.approx(FIRST_HOLD, abs=0.025)
    assert rests[-1] == pytest.approx(LONGEST_HOLD, abs=0.25)
    assert len(tries) < 14
    machine.late = False
    taken = machine.train(pacing, until=11 + LONGEST_HOLD + 1)
    assert taken[-1][0] == PAIR
    # Trusted again, it rests for a moment only.
    machine.late = True
    assert machine.train(pacing, until=machine.now + 0.1)[0][0] == PAIR
    machine.late = False
    assert machine.train(pacing, until=machine.now + 0.5)[-1][0] == PAIR


def test_a_team_may_wait_for_its_members_a_part_of_a_step():
    machine = Machine(alone=0.1, pair=0.05)
    assert pacing_on(machine, 0.1, 0.05).next_span(100).patience == pytest.approx(0.015)
    assert pacing_on(machine).next_span(10**6).patience == PATIENCE


def test_zigzag_takes_pairs_of_steps():
    machine = Machine(alone=0.03, pair=0.02)
    taken = machine.train(pacing_on(machine, 0.03, 0.02, even=True), 1001)
    assert all(count % 2 == 0 for _, count, _ in taken[:-1])


def test_one_thread_needs_no_choice():
    machine = Machine(alone=1e-3)
    pacing = TeamPacing({ALONE: 1e-3}, clock=lambda: machine.now)
    assert {team for team, _, _ in machine.train(pacing, until=20)} == {ALONE}


def test_no_team_is_used_before_it_is_allowed():
    machine, allowed = Machine(alone=1e-5, pair=6e-6), 1
    pacing = pacing_on(machine, most=lambda: allowed)
    assert {team for team, _, _ in machine.train(pacing, until=1)} == {ALONE}
    allowed = 2
    assert machine.train(pacing, until=1.5)[-1][0] == PAIR
    allowed = 1
    assert {team for team, _, _ in machine.train(pacing, until=2)} == {ALONE}
