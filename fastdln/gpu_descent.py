"""Gradient descent of one network on a card, with the face of `fastdln.engine.Descent`."""

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import numpy as np

from fastdln.kernels.cuda.batch import MOST_CARRIED, Batch, batch_bytes
from fastdln.kernels.cuda.packing import Packing
from fastdln.kernels.cuda.plain import ADAM, PLAIN, VELOCITY, Plain, Steps, plain_bytes

from . import memory
from .gpu import Card, on_card
from .gpu_batch import PIECE_SECONDS, Job, Pace, motion, regression_problem, to_host
from .gpu_launch import Launcher
from .gpu_teams import choose_team, is_able
from .regression import ReducedRegression
from .rules import Rule
from .run import Callback, Run, Schedule
from .start import whole

# Layers up to which the kernels of a step are recorded once and queued together.
MOST_RECORDED = 4096


class Descent(Run):
    """A chain of layers under gradient descent on an objective, on a card.

    Parameters
    ----------
    layers, widths, dtype, rows, learning_rate, rule, objective, steps, tolerance, schedule
        As for `fastdln.engine.Descent`.
    card : Card
    engine : {"auto", "sweep", "plain"}
        Zigzag sweeps, one kernel a layer, or sweeps wherever they can.
    launcher : Launcher, optional
        Of this card; made where it is left out.

    Attributes
    ----------
    engine : {"sweep", "plain"}

    Raises
    ------
    MemoryError
        If the network does not fit on the card; the message names the bytes.
    ValueError
        If `engine` is ``"sweep"`` where the kernel cannot do it.
    """

    def __init__(
        self,
        layers: Iterable[Any],
        widths: tuple[int, ...],
        dtype: np.dtype,
        rows: np.ndarray,
        learning_rate: float,
        rule: Rule,
        objective: Any,
        steps: int,
        tolerance: float,
        schedule: Schedule | None = None,
        *,
        card: Card,
        engine: str = "auto",
        launcher: Any = None,
    ):
        super().__init__(objective, steps, tolerance, schedule)
        self._here: Callable[[], Any] = (
            (lambda: on_card(card)) if launcher is None else (lambda: nullcontext())
        )
        self._inside = isinstance(objective, ReducedRegression) and schedule is None
        job = Job(tuple(widths), np.asarray(rows, np.float64), learning_rate, lambda: layers)
        with self._here():
            launcher = launcher or Launcher(card, dtype)
            kind = _Sweeps if _sweeps(job, rule, launcher, engine) else _Layers
            self.engine = kind.name
            problem = objective if self._inside else None
            self._chain: Any = kind(launcher, job, rule, problem, steps, tolerance)

    @property
    def chain(self) -> "Descent":
        """What has the layers: this object."""
        return self

    def layer(self, index: int) -> np.ndarray:
        """Return layer `index`, input first, as a NumPy array."""
        with self._here():
            return self._chain.layer(index)

    def run(self, callback: Callback | None = None) -> None:
        """Take all steps, or fewer where the loss converges or is no longer finite."""
        last = self.losses.size - 1
        with self._here():
            self._advance(0)
            while self.step < last and not self.finished:
                self._advance(last)
                if callback is not None:
                    callback(self.step, float(self.losses[self.step]))

    def _advance(self, goal: int) -> None:
        """Go on to `goal`, but for no longer than a piece of training."""
        if self._inside:
            step, losses = self._chain.advance(max(self.step, 0), goal)
            self.losses[step + 1 - len(losses) : step + 1] = losses
            self.step = step
            return
        begun = time.perf_counter()
        if self.step < 0:
            self._chain.begin()
            self._evaluate()
        while self.step < goal and not self.finished:
            self._chain.take_step(self.step)
            self._evaluate()
            if time.perf_counter() - begun > PIECE_SECONDS:
                return

    def _evaluate(self) -> None:
        """Move on to the next step: its loss, and the gradient for the step after it."""
        G = self.note(self._chain.end_to_end())
        if G is not None:
            self._chain.put_gradient(G, self.step)


def _sweeps(job: Job, rule: Rule, launcher: Any, engine: str) -> bool:
    """Return whether the zigzag kernel trains this network."""
    if engine == "plain":
        return False
    able = rule.equivariant and max(job.widths[0], job.widths[-1]) <= MOST_CARRIED
    if able:
        packing = Packing([job.widths], launcher.dtype)
        able = is_able(packing, rule.momentum > 0, launcher.card)
    if engine == "sweep" and not able:
        raise ValueError(
            f"engine 'sweep' carries at most {MOST_CARRIED} inputs and outputs, no Adam, and layers"
            f" that fit a block of {launcher.card}; use 'auto' or 'plain'"
        )
    return able


class _Sweeps:
    """The network as a batch of one."""

    name = "sweep"

    def __init__(
        self, launcher: Any, job: Job, rule: Rule, objective: Any, steps: int, tolerance: float
    ):
        packing = Packing([job.widths], launcher.dtype)
        velocity = rule.momentum > 0
        team = choose_team(packing, velocity, launcher.card)
        assert team is not None  # `_sweeps` has asked
        _require(launcher, job, batch_bytes(packing, team, velocity, steps))
        self._batch = Batch(
            launcher.xp, packing, [motion(job, rule)], steps=steps, tolerance=tolerance,
            problems=[regression_problem(objective)] if objective is not None else [], team=team,
            nesterov=rule.nesterov,
        )  # fmt: skip
        for i, layer in enumerate(job.draw()):
            self._batch.layer(0, i)[...] = launcher.xp.asarray(whole(layer), dtype=launcher.dtype)
        self._launcher, self._pace, self._one = launcher, Pace(launcher, self._batch), np.arange(1)

    def advance(self, step: int, goal: int) -> tuple[int, np.ndarray]:
        """Return the step reached and the losses from `step` on."""
        reached = int(self._pace.advance(self._one, goal)[0])
        return reached, self._batch.recorded(0, reached)[step:]

    def begin(self) -> None:
        self._batch.advance(self._launcher.sweep, self._one, 0)

    def take_step(self, step: int) -> None:
        self._batch.advance(self._launcher.sweep, self._one, step + 1)

    def end_to_end(self) -> np.ndarray:
        return self._batch.end_to_end(0)

    def put_gradient(self, G: np.ndarray, step: int) -> None:
        self._batch.put_gradient(0, G)

    def layer(self, index: int) -> np.ndarray:
        return to_host(self._batch.layer(0, index))


class _Layers:
    """The network by one kernel a layer, transposed and back to front where d < q."""

    name = "plain"

    def __init__(
        self, launcher: Any, job: Job, rule: Rule, objective: Any, steps: int, tolerance: float
    ):
        widths, rows = job.widths, job.rows
        self._mirrored = widths[0] < widths[-1]
        if self._mirrored:
            widths, rows = widths[::-1], rows[::-1]
        moving = _moving(rule, rows, job.learning_rate)
        _require(launcher, job, plain_bytes(widths, launcher.dtype, moving.kind, steps))
        self._launcher, self._limit, self._steps = launcher, steps, 1
        self._work: Callable[[], None] | None = None
        constant = 0.0
        if objective is not None:
            problem = regression_problem(objective)
            turned = (self._turn(problem.scale), self._turn(problem.target))
            self._scale, self._target = (
                launcher.xp.asarray(np.ascontiguousarray(a)) for a in turned
            )
            constant = problem.constant
        self._net = Plain(
            launcher, launcher.xp, widths, launcher.dtype, moving, steps, tolerance, constant
        )
        for i, layer in enumerate(job.draw()):
            self._place(i)[...] = launcher.xp.asarray(whole(layer), dtype=launcher.dtype)
        self._begun = False

    def advance(self, step: int, goal: int) -> tuple[int, np.ndarray]:
        """Return the step reached and the losses from `step` on."""
        net, begun = self._net, time.perf_counter()
        if not self._begun:
            net.form_products()
            net.evaluate(self._scale, self._target)
            self._begun = True
            count = 0
        else:
            count = min(self._steps, goal - step)
        for _ in range(count):
            self._queue(self._move_and_evaluate)
        self._launcher.synchronize()
        if count:
            seconds = time.perf_counter() - begun
            scaled = int(count * PIECE_SECONDS / max(seconds, 1e-9))
            self._steps = max(1, min(scaled, 4 * self._steps))
        reached = int(to_host(net.state)[0])
        return reached, to_host(net.losses[step : reached + 1])

    def _move(self) -> None:
        self._net.update()
        self._net.form_products()

    def _move_and_evaluate(self) -> None:
        self._move()
        self._net.evaluate(self._scale, self._target)

    def _queue(self, work: Callable[[], None]) -> None:
        """Do some work, always the same for one network: recorded once, and then one launch."""
        if self._work is not None:
            self._work()
            return
        work()  # compiles and loads what it needs
        if self._net.depth <= MOST_RECORDED:
            self._work = self._launcher.recorded(work)

    def begin(self) -> None:
        self._net.form_products()

    def take_step(self, step: int) -> None:
        self._queue(self._move)

    def end_to_end(self) -> np.ndarray:
        return self._turn(to_host(self._net.end_to_end()).astype(np.float64))

    def put_gradient(self, G: np.ndarray, step: int) -> None:
        self._net.put_gradient(self._turn(G), step)

    def layer(self, index: int) -> np.ndarray:
        return to_host(self._place(index))

    def _place(self, index: int) -> Any:
        if self._mirrored:
            return self._net.layer(self._net.depth - 1 - index).T
        return self._net.layer(index)

    def _turn(self, matrix: np.ndarray) -> np.ndarray:
        return matrix.T if self._mirrored else matrix


def _moving(rule: Rule, rows: np.ndarray, learning_rate: float) -> Steps:
    """Return how layers move, as `fastdln.rules.Moving` does on the CPU."""
    adam = rule.optimizer == "adam"
    kind = ADAM if adam else VELOCITY if rule.momentum else PLAIN
    pulls = np.full(rows.shape, rule.weight_decay) if adam else rule.weight_decay * rows
    rates = learning_rate / rows ** (0.5 if adam else 1.0)
    decay = 1 - learning_rate * rule.weight_decay
    return Steps(kind, rule.nesterov, rates, pulls, np.sqrt(rows), decay, rule.momentum)


def _require(launcher: Any, job: Job, needed: int) -> None:
    hidden = job.widths[1:-1]
    memory.require(
        needed,
        launcher.free_bytes(),
        f"training a network of depth {len(job.rows)} and width {max(hidden, default=0)}"
        f" on {launcher.card}",
        "use a smaller width, depth or dtype",
    )
