"""Choose steps per kernel call and thread count of a run from measured times."""

from fastdln.optim.loop import SPAN_SECONDS

# Spans per retrial of the slower team; the retrial's span is shorter by the same factor.
RETRIAL_INTERVAL = 16
# Least length of a span that measures a team's speed: starting its threads takes some 0.1 ms.
TRIAL_SECONDS = 0.01
# Least length of a step at which the larger team is tried first.
LONG_STEP = 1e-3


class TeamPacing:
    """Choose steps per kernel call and thread count from measured times.

    On a machine with other work a team waits for its slowest member and can be many times slower
    than one thread; and starting its threads takes as long as tens of steps of a small network.
    So one thread is tried first, unless a step is long: a run that ends within milliseconds never
    starts a team. Then the team is tried, and the faster of the two continues; the slower is
    retried at intervals for a short span. The bits do not depend on the team.

    Parameters
    ----------
    team : int
        The larger team.
    step_seconds : float
        Expected seconds of a step of one thread.
    """

    def __init__(self, team: int, step_seconds: float = 0.0):
        teams = (team, 1) if step_seconds > LONG_STEP else (1, team)
        self._teams = teams if team > 1 else (1,)
        self._seconds: dict[int, float] = {}  # per step, by team
        self._untried = [n for team in self._teams for n in (team, team)]
        self._trial = 1  # steps of a span while teams are tried
        self._spans = 0

    def next_span(self) -> tuple[int, int]:
        """Return the team size and the number of steps of the next span."""
        self._spans += 1
        if self._untried:
            # The first span of a team compiles the kernel and starts the threads.
            first = self._untried.count(self._untried[0]) == 2
            return self._untried[0], 1 if first else self._trial
        again = self._spans % RETRIAL_INTERVAL == 0
        team = (max if again else min)(self._teams, key=lambda team: self._seconds[team])
        length = SPAN_SECONDS / RETRIAL_INTERVAL if again else SPAN_SECONDS
        return team, max(1, int(length / self._seconds[team]))

    def record(self, team: int, steps: int, seconds: float) -> None:
        """Record the measured time of a span."""
        self._seconds[team] = max(seconds, 1e-9) / max(steps, 1)
        if not self._untried:
            return
        if self._untried.count(team) == 2 or seconds > TRIAL_SECONDS:
            self._untried.remove(team)
        else:
            self._trial *= 4
