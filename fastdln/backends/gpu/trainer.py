"""Gradient descent of one network on a card, with the face of `fastdln.backends.cpu.trainer.Descent`."""

import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fastdln.backends.gpu.batch import (
    Job,
    motion,
    no_room,
    put_layers,
    regression_problem,
    require_room,
    samples_of,
)
from fastdln.backends.gpu.cost_model import choose_team, is_carried
from fastdln.backends.gpu.objectives import objective_on_card
from fastdln.backends.gpu.pacing import Pace
from fastdln.kernels.cuda.packing import Packing
from fastdln.kernels.cuda.two_pass import ADAM, PLAIN, VELOCITY, Steps, TwoPass, two_pass_bytes
from fastdln.kernels.cuda.zigzag import MOST_CARRIED, Batch, batch_bytes, to_host
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.loop import FRESH, PIECE_SECONDS, Callback, Past, Run, Schedule, next_piece
from fastdln.optim.optimizers import Rates, Rule

# Layers up to which the kernels of a step are recorded once and queued together.
MOST_RECORDED = 4096


class Descent(Run):
    """A chain of layers under gradient descent on an objective, on a card.

    Parameters
    ----------
    layers, widths, dtype, rows, learning_rate, rule, objective, steps, tolerance, schedule
        As for `fastdln.backends.cpu.trainer.Descent`.
    kernel : {"auto", "zigzag", "two-pass"}
        Zigzag sweeps in one launch, two passes of one launch a layer, or zigzag wherever it can.
    past : Past
        What the run goes on from.
    launcher : Launcher
        Of the card and the dtype.

    Attributes
    ----------
    kernel : {"zigzag", "two-pass"}

    Raises
    ------
    MemoryError
        If the network does not fit on the card; the message names the bytes.
    ValueError
        If `kernel` is ``"zigzag"`` where that cannot do it.
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
        kernel: str = "auto",
        past: Past = FRESH,
        *,
        launcher: Any,
    ):
        super().__init__(objective, steps, tolerance, schedule, past)
        self._launcher = launcher
        job = Job(
            tuple(widths), np.asarray(rows, np.float64), learning_rate, lambda: layers, schedule
        )  # fmt: skip
        with launcher.here():
            kind = _Zigzag if _goes_zigzag(job, rule, launcher, kernel) else _TwoPass
            self.kernel = kind.name
            alone = schedule is None or kind is _Zigzag
            self._inside = isinstance(objective, ReducedRegression) and alone
            self._counterpart: Any = (
                None if self._inside else objective_on_card(launcher.xp, objective)
            )
            problem = objective if self._inside else None
            try:
                self._chain: Any = kind(launcher, job, rule, problem, steps, tolerance, past)
                for k, moment in enumerate(past.moments):
                    put_layers(launcher, moment, functools.partial(self._chain.moment, k))
                kept = 0 if self._counterpart is None else steps + 1
                self._card_losses = launcher.xp.full(kept, np.nan)
            except launcher.out_of_memory() as error:
                raise no_room(launcher, job.widths) from error
            self._moments = rule.states
            self._piece = 1

    def run(self, callback: Callback | None = None) -> None:
        """Take all steps, or fewer where the loss converges or is no longer finite."""
        last = self.losses.size - 1
        with self._launcher.here():
            self._advance(0)
            while self.step < last and not self.finished:
                self._advance(last)
                if callback is not None:
                    callback(self.step, float(self.losses[self.step]))

    def trained(self) -> Callable[[int], np.ndarray]:
        """Return what gives the layers, input first, by their index; the card is left."""
        with self._launcher.here():
            layers = [self._chain.layer(i) for i in range(self._chain.depth)]
        self._chain = None
        return layers.__getitem__

    def moments(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """Return copies of what the optimiser remembers, as in `Past`; before the card is left."""
        with self._launcher.here():
            return tuple(
                tuple(to_host(self._chain.moment(k, i)) for i in range(self._chain.depth))
                for k in range(self._moments)
            )

    def _advance(self, goal: int) -> None:
        """Go on to `goal`, but for no longer than a piece of training."""
        if self._inside:
            step, losses = self._chain.advance(max(self.step, 0), goal)
            self.losses[step + 1 - len(losses) : step + 1] = losses
            self.step = step
            return
        if self._counterpart is not None:
            self._advance_on_card(goal)
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

    def _advance_on_card(self, goal: int) -> None:
        """Queue some steps, each with its loss and gradient, and look only then what they did."""
        begun, count = time.perf_counter(), min(self._piece, goal - self.step)
        if self.step < 0:
            self._chain.begin()
            self._queue_evaluation(0)
            count = 1
        else:
            for step in range(self.step, self.step + count):
                self._chain.take_step(step)
                self._queue_evaluation(step + 1)
        self._launcher.synchronize()
        losses = to_host(self._card_losses[self.step + 1 : self.step + 1 + count])
        for loss in losses:
            self.step += 1
            self.losses[self.step] = loss
            if self.finished:
                return
        self._piece = next_piece(self._piece, count, time.perf_counter() - begun)

    def _queue_evaluation(self, step: int) -> None:
        """Queue the loss of a step, the gradient for the next, and that there is none once it ends.

        Steps queued after the end leave everything as it is.
        """
        xp, M = self._launcher.xp, self._chain.end_to_end()
        with np.errstate(over="ignore", invalid="ignore"):
            loss, G = self._counterpart.evaluate(M)
            if self._schedule is not None:
                samples = xp.asarray(self._schedule(step))
                G = self._counterpart.batch_gradient(M, samples)
            self._card_losses[step] = loss
            first = self._past.first_loss
            floor = self._tolerance * (self._card_losses[0] if first is None else first)
            self._chain.stop_where(~xp.isfinite(loss) | (loss <= floor))
            self._chain.put_gradient(G, step)

    def _evaluate(self) -> None:
        """Move on to the next step: its loss, and the gradient for the step after it."""
        G = self.note(to_host(self._chain.end_to_end()))
        if G is not None:
            self._chain.put_gradient(G, self.step)


def _goes_zigzag(job: Job, rule: Rule, launcher: Any, kernel: str) -> bool:
    """Return whether the zigzag kernel trains this network."""
    if kernel == "two-pass":
        return False
    able = rule.equivariant and is_carried(job.widths)
    if able:
        packing = Packing([job.widths], launcher.dtype)
        able = choose_team(packing, rule.momentum > 0, launcher.card) is not None
    if kernel == "zigzag" and not able:
        raise ValueError(
            f"kernel 'zigzag' on a card carries at most {MOST_CARRIED} inputs and outputs, fewer"
            f" where layers are wide, and layers that fit the blocks of {launcher.card}; use 'auto'"
            " or 'two-pass'"
        )
    return able


class _Zigzag:
    """The network as a batch of one."""

    name = "zigzag"

    def __init__(
        self, launcher: Any, job: Job, rule: Rule, objective: Any, steps: int, tolerance: float,
        past: Past,
    ):  # fmt: skip
        packing = Packing([job.widths], launcher.dtype)
        velocity = rule.momentum > 0
        team = choose_team(packing, velocity, launcher.card)
        assert team is not None  # `_goes_zigzag` has asked
        some = None if objective is None else samples_of(objective, [job])
        extra = 0 if some is None else some.rows.nbytes
        needed = batch_bytes(packing, team, velocity, steps) + extra
        require_room(launcher, job.widths, needed)
        self._batch = Batch(
            launcher.xp, packing, [motion(job, rule)], steps=steps, tolerance=tolerance,
            problems=[regression_problem(objective)] if objective is not None else [], team=team,
            nesterov=rule.nesterov, samples=some, first_loss=past.first_loss,
        )  # fmt: skip
        put_layers(launcher, job.draw(), functools.partial(self._batch.layer, 0))
        self.depth = packing.depth(0)
        self._launcher, self._one = launcher, np.arange(1)
        self._pace = Pace(launcher, self._batch, [job.schedule])

    def advance(self, step: int, goal: int) -> tuple[int, np.ndarray]:
        """Return the step reached and the losses from `step` on."""
        reached = int(self._pace.advance(self._one, goal)[0])
        return reached, self._batch.recorded(0, reached)[step:]

    def begin(self) -> None:
        self._batch.advance(self._launcher.zigzag, self._one, 0)

    def take_step(self, step: int) -> None:
        self._batch.advance(self._launcher.zigzag, self._one, step + 1)

    def end_to_end(self) -> Any:
        return self._batch.end_to_end(0)

    def put_gradient(self, G: Any, step: int) -> None:
        self._batch.put_gradient(0, G)

    def stop_where(self, stop: Any) -> None:
        self._batch.stop_where(stop)

    def layer(self, index: int) -> np.ndarray:
        return to_host(self._batch.layer(0, index))

    def moment(self, number: int, index: int) -> Any:
        return self._batch.velocity_of(0, index)


class _TwoPass:
    """The network by one kernel a layer, transposed and back to front where d < q."""

    name = "two-pass"

    def __init__(
        self, launcher: Any, job: Job, rule: Rule, objective: Any, steps: int, tolerance: float,
        past: Past,
    ):  # fmt: skip
        widths, rows = job.widths, job.rows
        self._mirrored = widths[0] < widths[-1]
        if self._mirrored:
            widths, rows = widths[::-1], rows[::-1]
        moving = _steps(rule, rows, job.learning_rate)
        needed = two_pass_bytes(widths, launcher.dtype, moving.kind, steps)
        require_room(launcher, job.widths, needed)
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
        self._net = TwoPass(
            launcher, launcher.xp, widths, launcher.dtype, moving, steps, tolerance, constant,
            taken=past.steps, first_loss=past.first_loss,
        )  # fmt: skip
        put_layers(launcher, job.draw(), self._place)
        self.depth = self._net.depth
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
            self._steps = next_piece(self._steps, count, time.perf_counter() - begun)
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

    def end_to_end(self) -> Any:
        return self._turn(self._net.end_to_end()).astype(np.float64)

    def put_gradient(self, G: Any, step: int) -> None:
        self._net.put_gradient(self._turn(G), step)

    def stop_where(self, stop: Any) -> None:
        self._net.stop_where(stop)

    def layer(self, index: int) -> np.ndarray:
        return to_host(self._place(index))

    def moment(self, number: int, index: int) -> Any:
        if self._mirrored:
            return self._net.moment(number, self._net.depth - 1 - index).T
        return self._net.moment(number, index)

    def _place(self, index: int) -> Any:
        if self._mirrored:
            return self._net.layer(self._net.depth - 1 - index).T
        return self._net.layer(index)

    def _turn(self, matrix: Any) -> Any:
        return matrix.T if self._mirrored else matrix


def _steps(rule: Rule, rows: np.ndarray, learning_rate: float) -> Steps:
    """Return how layers move."""
    kind = ADAM if rule.adam else VELOCITY if rule.momentum else PLAIN
    rates = Rates.of(rule, learning_rate, rows)
    return Steps(
        kind, rule.nesterov, rates.steps, rates.pulls, rates.scales, rates.decay, rule.momentum
    )
