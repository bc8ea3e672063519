"""Gradient descent of one network on a GPU: the `Trainer` of ``device="gpu"``."""

import functools
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import numpy as np

from fastdln.backends.interface import Workload
from fastdln.backends.recorded import RecordedTrainer
from fastdln.backends.view import TrainingView
from fastdln.kernels.cuda.packing import Packing
from fastdln.kernels.cuda.team import MOST_CARRIED
from fastdln.kernels.cuda.zigzag import to_host
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.loop import SPAN_SECONDS, next_span

from .cost_model import choose_team, is_carried
from .launcher import Launcher
from .loading import allocation_failed, load_layers
from .objectives import objective_on_gpu
from .packed_chain import PackedChain, TwoPassChain, ZigzagChain


class GpuTrainer(RecordedTrainer):
    """A `fastdln.backends.interface.Trainer` on a GPU.

    The training kernels evaluate a regression, CuPy the package's other objectives on the GPU, and
    the host a user's own objective.

    Parameters
    ----------
    workload : Workload
        Its kernel ``"auto"`` selects zigzag if zigzag supports the network, else two-pass.
    launcher : Launcher
        Launcher for the GPU and the workload's dtype.

    Attributes
    ----------
    kernel : {"zigzag", "two-pass"}

    Raises
    ------
    MemoryError
        If the network does not fit on the GPU; the message names the bytes.
    ValueError
        If the workload's kernel is ``"zigzag"`` and zigzag does not support the network.
    """

    def __init__(self, workload: Workload, launcher: Launcher):
        self._workload, self._launcher = workload, launcher
        super().__init__(workload)
        self._context = ExitStack()
        self._span = 1
        with launcher.here():
            kind = ZigzagChain if _uses_zigzag(workload, launcher) else TwoPassChain
            self.kernel = kind.name
            objective = workload.objective
            # The two-pass kernels evaluate only full-batch gradients.
            fused = workload.schedule is None or kind is ZigzagChain
            regression = objective if fused and isinstance(objective, ReducedRegression) else None
            self._fused = regression is not None
            self._evaluator = None if self._fused else objective_on_gpu(launcher.xp, objective)
            try:
                self._chain: PackedChain | None = kind(launcher, workload, regression)
                for number, arrays in enumerate(workload.checkpoint.optimizer_state):
                    destination = functools.partial(self._chain.state_array, number)
                    load_layers(launcher, arrays, destination)
                kept = 0 if self._evaluator is None else workload.steps + 1
                self._device_losses = launcher.xp.full(kept, np.nan)
            except launcher.out_of_memory() as error:
                raise allocation_failed(launcher, workload.widths) from error

    def __enter__(self) -> Self:
        self._context.enter_context(self._launcher.here())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._chain = None
        self._context.close()

    def advance(self, goal: int) -> None:
        """Take steps to number `goal`, or fewer: for about 0.2 s, or until the run is finished.

        ``advance(0)`` evaluates the loss before any step.
        """
        if self._fused:
            record = self._record
            step, losses = self._network.advance(max(record.step, 0), goal)
            record.losses[step + 1 - len(losses) : step + 1] = losses
            record.step = step
        elif self._evaluator is not None:
            self._advance_queued(goal)
        else:
            self._advance_stepwise(goal)

    def optimizer_state(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """Return copies of the optimiser's arrays, as in `fastdln.optim.loop.Checkpoint`."""
        chain = self._network
        return tuple(
            tuple(to_host(chain.state_array(number, i)) for i in range(chain.depth))
            for number in range(self._workload.optimizer.state_arrays)
        )

    def view(self) -> TrainingView:
        """Return a read-only view of the network at this step, valid until the next `advance`.

        Layers are copied to the host at first access.
        """
        chain, step = self._network, self.step
        return TrainingView(
            step, float(self.losses[step]), chain.depth, chain.layer, self._workload.objective
        )

    def trained_layers(self) -> Callable[[int], np.ndarray]:
        """End the training; return a function from an index to that trained layer on the host."""
        chain = self._network
        layers = [chain.layer(i) for i in range(chain.depth)]
        self._chain = None
        return layers.__getitem__

    @property
    def _network(self) -> PackedChain:
        if self._chain is None:
            raise RuntimeError("the training has ended: its network has left the GPU")
        return self._chain

    def _advance_stepwise(self, goal: int) -> None:
        """Advance with the objective evaluated on the host after every step."""
        start = time.perf_counter()
        if self.step < 0:
            self._network.begin()
            self._evaluate()
        while self.step < goal and not self.finished:
            self._network.take_step(self.step)
            self._evaluate()
            if time.perf_counter() - start > SPAN_SECONDS:
                return

    def _evaluate(self) -> None:
        """Record the loss of the next step, and set the gradient for the step after it."""
        G = self._record.record(to_host(self._network.end_to_end()))
        if G is not None:
            self._network.put_gradient(G, self.step)

    def _advance_queued(self, goal: int) -> None:
        """Queue a span of steps, each with its loss and gradient; then read all losses at once."""
        start, count = time.perf_counter(), min(self._span, goal - self.step)
        if self.step < 0:
            self._network.begin()
            self._queue_evaluation(0)
            count = 1
        else:
            for step in range(self.step, self.step + count):
                self._network.take_step(step)
                self._queue_evaluation(step + 1)
        self._launcher.synchronize()
        record = self._record
        losses = to_host(self._device_losses[record.step + 1 : record.step + 1 + count])
        for loss in losses:
            record.step += 1
            record.losses[record.step] = loss
            if self.finished:
                return
        self._span = next_span(self._span, count, time.perf_counter() - start)

    def _queue_evaluation(self, step: int) -> None:
        """Queue the evaluation of a step's loss and of the gradient for the next step.

        If the loss has converged or diverged, the steps queued after it change nothing.
        """
        xp, chain, evaluator = self._launcher.xp, self._network, self._evaluator
        assert evaluator is not None
        schedule, first_loss = self._workload.schedule, self._workload.checkpoint.first_loss
        M = chain.end_to_end()
        with np.errstate(over="ignore", invalid="ignore"):
            loss, G = evaluator.evaluate(M)
            if schedule is not None:
                G = evaluator.batch_gradient(M, xp.asarray(schedule(step)))
            self._device_losses[step] = loss
            first = self._device_losses[0] if first_loss is None else first_loss
            floor = self._workload.tolerance * first
            chain.stop_where(~xp.isfinite(loss) | (loss <= floor))
            chain.put_gradient(G, step)


def _uses_zigzag(workload: Workload, launcher: Launcher) -> bool:
    """Return whether the zigzag kernel trains this network."""
    if workload.kernel == "two-pass":
        return False
    able = workload.optimizer.equivariant and is_carried(workload.widths)
    if able:
        packing = Packing([workload.widths], launcher.dtype)
        able = choose_team(packing, workload.optimizer.momentum > 0, launcher.device) is not None
    if workload.kernel == "zigzag" and not able:
        raise ValueError(
            f"kernel 'zigzag' on a GPU carries at most {MOST_CARRIED} inputs and outputs, fewer"
            f" where layers are wide, and layers that fit the blocks of {launcher.device}; use"
            " 'auto' or 'two-pass'"
        )
    return able
