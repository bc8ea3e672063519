"""Choose the steps of every kernel call and the team that takes them, from measured times."""

import collections
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fastdln.backends.cpu.cost_model import ALONE, Team
from fastdln.optim.loop import SPAN_SECONDS

# Seconds of a span that measures a team's speed, and of one before it that does not count: in its
# first millisecond a team starts its threads and fetches the weights into its caches. At 26 × 700,
# teams measured without it seemed a third to two thirds slower than they were.
TRIAL_SECONDS, WARM_SECONDS = 0.01, 0.003
# Spans of each team in a trial, taken in turn: the median is not misled by one interruption.
TRIAL_ROUNDS = 3
# Seconds of training before the first trial, and between two trials: on a shared or virtual machine
# the speed of a team changes within minutes, with where its cores are and what else they do.
FIRST_TRIAL, RETRIAL = 0.05, 2.0
# Seconds before the first trial where times are kept of an earlier run, on maybe a busier machine.
KNOWN_TRIAL = 0.5
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
# system takes a processor away for some 3 ms, when another thread wants it; a quiet virtual machine
# took it away for 1 ms once or twice a second.
PATIENCE, PATIENT_FRACTION = 2e-3, 0.3
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
    most : callable, optional
        Returns the size of the largest team that may be used by now; None is no limit.
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
        most: Callable[[], int] | None = None,
        even: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ):
        kept, self._most, self._even, self._clock = kept or {}, most, even, clock
        self._expected = {team: kept.get(team.name, expected) for team, expected in teams.items()}
        self._samples: dict[Team, collections.deque[float]] = {
            team: collections.deque(maxlen=MEMORY) for team in teams
        }
        self._current = self._fastest()
        self._trial: list[tuple[Team, bool]] = []  # what comes next, and whether it counts
        known = all(team.name in kept for team in teams)
        self._trial_due = clock() + (KNOWN_TRIAL if known else FIRST_TRIAL)
        if len(teams) == 1:
            self._trial_due = math.inf
        self._last_trial = -math.inf
        self._resting: tuple[Team, float] | None = None  # a late team, and until when it rests
        self._hold = dict.fromkeys(teams, FIRST_HOLD)
        self._punctual = dict.fromkeys(teams, 0.0)  # seconds trained since the team was late

    def next_span(self, left: int) -> SpanPlan:
        """Return the next kernel call of a run with `left` steps left."""
        now = self._clock()
        cautious = not self._samples[self._current]
        if self._most is not None and self._most() < max(team.size for team in self._samples):
            return self._by_one_thread(left)
        if self._resting is not None and now >= self._resting[1]:
            self._current, self._resting, cautious = self._resting[0], None, True
        until_trial = self._trial_due - now
        if self._resting is not None:
            until_trial = self._resting[1] - now
        elif not self._trial and until_trial <= 0:
            if self._is_worth_a_trial(left):
                self._trial = self._round() * self._rounds
            else:
                self._trial_due = until_trial = math.inf
        if self._trial:
            team, counts = self._trial[0]
            seconds = TRIAL_SECONDS if counts else WARM_SECONDS
        else:
            team = self._current
            seconds = TRIAL_SECONDS if cautious else SPAN_SECONDS
            seconds = min(seconds, max(until_trial, TRIAL_SECONDS))
        if left * self._seconds(ALONE) < SHORT_RUN:
            team = ALONE
        return self._span(team, seconds, left)

    def _by_one_thread(self, left: int) -> SpanPlan:
        """Return a span while no team is allowed; a trial waits until one is."""
        self._trial, self._trial_due = [], self._clock() + FIRST_TRIAL
        seconds = SPAN_SECONDS if self._samples[ALONE] else TRIAL_SECONDS
        return self._span(ALONE, seconds, left)

    def _span(self, team: Team, seconds: float, left: int) -> SpanPlan:
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
        self._punctual[team] += seconds
        if self._punctual[team] > TRUSTED_AFTER:
            self._hold[team] = FIRST_HOLD
        if self._trial and self._trial[0] == (team, False):
            self._trial.pop(0)
            return
        now = self._clock()
        sample, samples = max(seconds, 1e-9) / max(steps, 1), self._samples[team]
        slower = len(samples) >= TRIAL_ROUNDS and sample > DRIFT * statistics.median(samples)
        slower |= team != ALONE and bool(self._samples[ALONE]) and sample > self._seconds(ALONE)
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

    def _round(self) -> list[tuple[Team, bool]]:
        """Return the spans of one round of a trial; a team of long steps needs no other to warm."""
        return [
            (team, counts)
            for team in self._samples
            for counts in (False, True)
            if counts or self._seconds(team) < WARM_SECONDS
        ]

    def _is_worth_a_trial(self, left: int) -> bool:
        unit = 2 if self._even else 1
        duration = sum(
            max(TRIAL_SECONDS if counts else WARM_SECONDS, unit * self._seconds(team))
            for team, counts in self._round()
            if team != self._current
        )
        remaining = left * self._seconds(self._current)
        return remaining >= TRIAL_SHARE * self._rounds * duration

    def _end_of_trial_span(self, team: Team, now: float) -> None:
        if team == self._trial[0][0]:
            self._trial.pop(0)
        if not self._trial:
            # Forget what was measured before the trial: the machine may have been another.
            for samples in self._samples.values():
                while len(samples) > self._rounds:
                    samples.popleft()
            self._current = self._fastest()
            self._last_trial, self._trial_due = now, now + RETRIAL

    def _rest(self, team: Team) -> None:
        """Let one thread continue for a while, and the team after that."""
        self._trial, self._punctual[team] = [], 0.0
        until = self._clock() + self._hold[team]
        if self._current == team:
            self._current, self._resting = ALONE, (team, until)
        else:
            self._trial_due = until
        self._hold[team] = min(2 * self._hold[team], LONGEST_HOLD)

    def _seconds(self, team: Team) -> float:
        """Return the seconds a step of a team, measured or else expected."""
        samples = self._samples[team]
        return statistics.median(samples) if samples else self._expected[team]

    def _fastest(self) -> Team:
        def cost(team: Team) -> float:
            return self._seconds(team) * (1 if team == ALONE else GAIN)

        return min(self._samples, key=cost)
