"""One training run: its workload for a backend, its result, and the state to resume from."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from fastdln import theory
from fastdln.backends import selection
from fastdln.backends.interface import Layer, Outcome, Workload
from fastdln.network import Network
from fastdln.optim.loop import START, Callback, Checkpoint
from fastdln.optim.minibatches import Minibatches, minibatches
from fastdln.reduction.initial_layers import InitialLayers
from fastdln.reduction.lifting import Lift
from fastdln.reduction.origins import NoOrigins, Origins
from fastdln.result import TrainResult
from fastdln.training import compile_aside
from fastdln.training.prepared import PreparedRun
from fastdln.utils import threads, validation
from fastdln.utils.stopwatch import Stopwatch


class Run:
    """One training run: its workload for a backend, and its result.

    Parameters
    ----------
    prepared : PreparedRun
    learning_rate : float
    schedule : Minibatches or None
        The minibatch of each step, counted from the start of the first run.
    initial_layers : callable
        Draws the layers to train.
    watch : Stopwatch
        Measures the run's time.
    checkpoint : Checkpoint
        Point from which the run starts.
    earlier_losses : ndarray
        All losses up to the checkpoint; the last is evaluated again.
    """

    def __init__(
        self,
        prepared: PreparedRun,
        learning_rate: float,
        schedule: Minibatches | None,
        initial_layers: Callable[[], InitialLayers],
        watch: Stopwatch,
        checkpoint: Checkpoint = START,
        earlier_losses: np.ndarray | None = None,
    ):
        self.prepared, self.learning_rate, self.schedule = prepared, learning_rate, schedule
        self.checkpoint, self.watch = checkpoint, watch
        self.keeps_origins = True
        self._initial_layers = initial_layers
        self._earlier = np.empty(0) if earlier_losses is None else earlier_losses
        self._origins: Origins = NoOrigins()

    @classmethod
    def of(
        cls,
        prepared: PreparedRun,
        key: int,
        learning_rate: float | None = None,
        watch: Stopwatch | None = None,
    ) -> "Run":
        """Return the run of a seed (its `seed_key`) and a learning rate; nothing is drawn yet.

        None means the theorem's largest learning rate. The run's time counts on `watch`, or from
        now.

        Raises
        ------
        TypeError, ValueError
            For a learning rate out of range.
        """
        if learning_rate is None:
            rate = theory.learning_rate(prepared.problem, len(prepared.rows))
        else:
            rate = validation.positive_number("learning_rate", learning_rate)
        return cls(
            prepared,
            rate,
            minibatches(prepared.problem, prepared.config.batch_size, key),
            functools.partial(prepared.initial_layers, key),
            Stopwatch() if watch is None else watch,
        )

    @property
    def workload(self) -> Workload:
        """The run as a backend trains it."""
        prepared, schedule = self.prepared, self.schedule
        return Workload(
            widths=prepared.plan.widths,
            rows=prepared.rows,
            dtype=prepared.plan.dtype,
            optimizer=prepared.optimizer,
            learning_rate=self.learning_rate,
            objective=prepared.objective,
            steps=prepared.config.steps,
            tolerance=prepared.tolerance,
            draw=self._draw,
            schedule=None if schedule is None else schedule.after(self.checkpoint.steps),
            kernel=prepared.config.kernel,
            checkpoint=self.checkpoint,
        )

    def _draw(self) -> Iterable[Layer]:
        """Return the layers to train, and keep the origins of full-width weights."""
        self.prepared.require_memory()
        initial = self._initial_layers()
        if self.keeps_origins:
            self._origins = initial.origins
        return initial.layers

    def train(self, callback: Callback | None = None) -> TrainResult:
        """Train this run alone, not in a batch, by at most as many threads as its options allow."""
        config, earlier = self.prepared.config, self.checkpoint.steps
        with (
            threads.limited(config.threads),
            compile_aside.training_kernels(self.prepared) as wait_for_kernels,
            selection.make_trainer(self.workload, self.prepared.launcher) as trainer,
        ):
            wait_for_kernels()
            trainer.advance(0)
            while trainer.step < config.steps and not trainer.finished:
                trainer.advance(config.steps)
                if callback is not None:
                    callback(earlier + trainer.step, float(trainer.losses[trainer.step]))
            # Copy: a view would keep the losses of all allowed steps in memory.
            losses = trainer.losses[: trainer.step + 1].copy()
            state = trainer.optimizer_state() if config.resumable else ()
            layers = trainer.trained_layers()
            return self.result(Outcome(0, losses, trainer.status, layers, lambda: state))

    def result(self, outcome: Outcome) -> TrainResult:
        """Return the result of the run that ended with this outcome."""
        prepared, losses = self.prepared, np.concatenate([self._earlier[:-1], outcome.losses])
        steps = losses.size - 1
        seconds, compile_seconds = self.watch.read()
        return TrainResult(
            loss=losses,
            status=outcome.status,
            steps_taken=steps,
            seconds=seconds,
            compile_seconds=compile_seconds,
            method=prepared.plan.method,
            reason=prepared.reason,
            device=prepared.config.device,
            learning_rate=self.learning_rate,
            network=self._lifted(outcome.layer, steps),
            state=self._state(outcome) if prepared.config.resumable else None,
        )

    def _lifted(self, layer: Callable[[int], np.ndarray], steps: int) -> Network:
        """Return the trained network at full width, holding only the data its weights need."""
        chosen, optimizer = self.prepared.plan, self.prepared.optimizer
        factor = functools.partial(optimizer.complement_factor, self.learning_rate, steps)
        lift = Lift(self._origins, layer, factor)
        return Network.trusted(lift.weights(chosen.full_widths, chosen.dtype))

    def _state(self, outcome: Outcome) -> "ResumeState":
        """Return the state to resume from, without data needed only at the start of the run."""
        prepared = dataclasses.replace(self.prepared, network=None, bases=())
        return ResumeState(
            prepared,
            self.learning_rate,
            self.schedule,
            self._origins,
            outcome.layer,
            outcome.optimizer_state(),
        )


class ResumeState(NamedTuple):
    """The state from which `fastdln.resume` continues.

    Attributes
    ----------
    prepared : PreparedRun
    learning_rate : float
    schedule : Minibatches or None
    origins : Origins
        Full-width origins of the layers.
    layer : callable
        Maps an index to that trained layer.
    optimizer_state : tuple of tuple of ndarray
        As in `Checkpoint`.
    """

    prepared: PreparedRun
    learning_rate: float
    schedule: Minibatches | None
    origins: Origins
    layer: Callable[[int], np.ndarray]
    optimizer_state: tuple[tuple[np.ndarray, ...], ...]

    def run(
        self, losses: np.ndarray, watch: Stopwatch, steps: int, threads: int | None = None
    ) -> Run:
        """Return the run of `steps` more steps by `threads`, after these losses."""
        config = dataclasses.replace(self.prepared.config, steps=steps, threads=threads)
        prepared = dataclasses.replace(self.prepared, config=config)
        return Run(
            prepared,
            self.learning_rate,
            self.schedule,
            self._initial_layers,
            watch,
            Checkpoint(losses.size - 1, self.optimizer_state, float(losses[0])),
            losses,
        )

    def _initial_layers(self) -> InitialLayers:
        depth = len(self.prepared.plan.full_widths) - 1
        return InitialLayers((self.layer(i) for i in range(depth)), self.origins)
