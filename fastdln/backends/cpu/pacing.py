"""Choose the steps of every kernel call and the team that takes them, from measured times."""

import collections
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fastdln.backends.cpu.cost_model import ALONE, Team
from fastdln.optim.loop import SPAN_SECONDS

# Seconds of a span that measures a team's speed: starting its threads takes some 0.1 ms.
TRIAL_SECONDS = 0.01
# Spans of each team in a trial, taken in turn: the median is not misled by one interruption.
TRIAL_ROUNDS = 3
# Seconds of training before the first trial, and between two trials: on a shared or virtual machine
# the speed of a team changes within minutes, with where its cores are and what else they do.
FIRST_TRIAL, RETRIAL = 0.05, 2.0
# A trial is held only where at least this many times its duration remains to be trained.
TRIAL_SHARE = 10
# A span slower than the team's median by this factor calls for a trial, but not before
# `SOONEST_RETRIAL` seconds after the last.
DRIFT, SOONEST_RETRIAL = 1.25, 0.3
# Least gain for which a larger team is taken.
GAIN = 1.03
# Expected seconds of a whole run below which no team is started.
SHORT_RUN = 2e-3
# A member may wait this many seconds for another, or this fraction of a step if that is longer. The
# system takes a processor away for 1 to 4 ms, when another thread wants it.
PATIENCE, PATIENT_FRACTION = 1e-3, 0.3
# Seconds for which a late team is not used: doubled each time, from the first to the last.
FIRST_HOLD, LONGEST_HOLD = 0.02, 2.56
# Seconds after which a team that was not late again is trusted again.
TRUSTED_AFTER = 0.5
# Measured times of each team that are remembered.
MEMORY = 5


class SpanPlan(NamedTuple):
    """The next kernel call.

    Attributes
    ----------
    team : Team
    steps : int
    patience : float
        Seconds after which the team is late; see `fastdln.kernels.cpu.team.new_barrier`.
    """

    team: Team
    steps: int
    patience: float


class TeamPacing:
    """Choose the steps of every kernel call and the team that takes them, from measured times.

    The run begins with the team that is expected to be fastest. Where it lasts, all teams are
    measured in short spans, in turn, and the fastest by the median continues; they are measured
    again every few seconds, and when the team becomes slower. A team one of whose members waited
    for another whose processor was taken away stops at once (`Team` is late), and one thread
    continues until the team has been given a rest. The bits do not depend on the team.

    Parameters
    ----------
    teams : mapping of Team to float
        The teams to choose from, one thread among them, with their expected seconds a step.
    kept : mapping of str to float
        Seconds a step of teams by name, as measured in an earlier run; they take the place of the
        expected ones.
    even : bool
        Whether spans have an even number of steps: zigzag's up and down passes differ in length.
    clock : callable
        Returns seconds.
    """

    def __init__(
        self,
        teams: Mapping[Team, float],
        kept: Mapping[str, float] | None = None,
        *,
        even: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ):
        kept, self._even, self._clock = kept or {}, even, clock
        self._expected = {team: kept.get(team.name, expected) for team, expected in teams.items()}
        self._samples: dict[Team, collections.deque[float]] = {
            team: collections.deque(maxlen=MEMORY) for team in teams
        }
        self._current = self._fastest()
        self._trial: list[Team] = []
        known = all(team.name in kept for team in teams)
        self._trial_due = clock() + (RETRIAL if known else FIRST_TRIAL)
        if len(teams) == 1:
            self._trial_due = math.inf
        self._last_trial = -math.inf
        self._hold = dict.fromkeys(teams, FIRST_HOLD)
        self._punctual = dict.fromkeys(teams, 0.0)  # seconds trained since the team was late

    def next_span(self, left: int) -> SpanPlan:
        """Return the next kernel call of a run with `left` steps left."""
        until_trial = self._trial_due - self._clock()
        if not self._trial and until_trial <= 0:
            if self._is_worth_a_trial(left):
                self._trial = list(self._samples) * self._rounds
            else:
                self._trial_due = until_trial = math.inf
        if self._trial:
            team, seconds = self._trial[0], TRIAL_SECONDS
        else:
            team = self._current
            seconds = SPAN_SECONDS if self._samples[team] else TRIAL_SECONDS
            seconds = min(seconds, max(until_trial, TRIAL_SECONDS))
        if left * self._seconds(ALONE) < SHORT_RUN:
            team = ALONE
        step = self._seconds(team)
        steps = max(1, int(seconds / step))
        if self._even:
            steps = (steps + 1) // 2 * 2
        return SpanPlan(team, min(steps, left), max(PATIENCE, PATIENT_FRACTION * step))

    def record(self, team: Team, steps: int, seconds: float, late: bool) -> None:
        """Record the measured time of a span."""
        if late:
            self._rest(team)
            return
        sample, samples = max(seconds, 1e-9) / max(steps, 1), self._samples[team]
        self._punctual[team] += seconds
        if self._punctual[team] > TRUSTED_AFTER:
            self._hold[team] = FIRST_HOLD
        now = self._clock()
        slower = len(samples) >= TRIAL_ROUNDS and sample > DRIFT * statistics.median(samples)
        samples.append(sample)
        if self._trial:
            self._end_of_trial_span(team, now)
        elif slower and now - self._last_trial > SOONEST_RETRIAL and len(self._samples) > 1:
            self._trial_due = now

    @property
    def measured(self) -> dict[str, float]:
        """Seconds a step of every team by name, once a trial has compared them; else empty."""
        if self._last_trial == -math.inf or not all(self._samples.values()):
            return {}
        return {team.name: self._seconds(team) for team in self._samples}

    @property
    def _rounds(self) -> int:
        return TRIAL_ROUNDS if self._seconds(ALONE) < TRIAL_SECONDS else 1

    def _is_worth_a_trial(self, left: int) -> bool:
        unit = 2 if self._even else 1
        others = (team for team in self._samples if team != self._current)
        duration = sum(max(TRIAL_SECONDS, unit * self._seconds(team)) for team in others)
        remaining = left * self._seconds(self._current)
        return remaining >= TRIAL_SHARE * self._rounds * duration

    def _end_of_trial_span(self, team: Team, now: float) -> None:
        if team == self._trial[0]:
            self._trial.pop(0)
        if not self._trial:
            # Forget what was measured before the trial: the machine may have been another.
            for samples in self._samples.values():
                while len(samples) > self._rounds:
                    samples.popleft()
            self._current = self._fastest()
            self._last_trial, self._trial_due = now, now + RETRIAL

    def _rest(self, team: Team) -> None:
        """Let one thread continue for a while, and try the team again after that."""
        self._trial, self._current, self._punctual[team] = [], ALONE, 0.0
        self._trial_due = self._clock() + self._hold[team]
        self._hold[team] = min(2 * self._hold[team], LONGEST_HOLD)

    def _seconds(self, team: Team) -> float:
        """Return the seconds a step of a team, measured or else expected."""
        samples = self._samples[team]
        return statistics.median(samples) if samples else self._expected[team]

    def _fastest(self) -> Team:
        def cost(team: Team) -> float:
            return self._seconds(team) * (1 if team == ALONE else GAIN)

        return min(self._samples, key=cost)
