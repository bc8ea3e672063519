"""One network on a GPU, packed for the zigzag kernel or for the two-pass kernels."""

import functools
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from fastdln.backends.interface import Workload
from fastdln.kernels.cuda.packing import Packing
from fastdln.kernels.cuda.two_pass import ADAM, MOMENTUM, PLAIN, Steps, TwoPass, two_pass_bytes
from fastdln.kernels.cuda.zigzag import Batch, batch_bytes, to_host
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.loop import next_span

from .cost_model import choose_team
from .device import DeviceArray
from .launcher import Launcher
from .loading import (
    load_layers,
    minibatch_samples,
    motion_of,
    regression_problem,
    require_memory,
)
from .pacing import LaunchPacer

# Maximum depth at which the kernels of a step are recorded in one CUDA graph.
MAX_RECORDED = 4096


class PackedChain(Protocol):
    """A network on the GPU and the kernels that train it.

    If the kernels evaluate the loss, `advance` takes many steps. If the caller evaluates it,
    `begin`, `put_gradient` and `take_step` queue single steps.
    """

    name: str
    depth: int

    def advance(self, step: int, goal: int) -> tuple[int, np.ndarray]:
        """Take one span of steps, at most to `goal`; return the step and the losses from `step`."""
        ...

    def begin(self) -> None:
        """Queue the formation of M before the first step."""
        ...

    def take_step(self, step: int) -> None:
        """Queue step number `step`, counted from 0, and the formation of M after it."""
        ...

    def end_to_end(self) -> DeviceArray:
        """Return M, shape (d_y, d), float64."""
        ...

    def put_gradient(self, G: DeviceArray | np.ndarray, step: int) -> None:
        """Set ``∂ℓ/∂M`` for step number `step`, counted from 0."""
        ...

    def stop_where(self, stop: DeviceArray) -> None:
        """Make all steps queued from now on change nothing if the boolean `stop` is true."""
        ...

    def layer(self, index: int) -> np.ndarray:
        """Return a copy of a layer on the host."""
        ...

    def state_array(self, number: int, index: int) -> DeviceArray:
        """Return a view of a layer in the optimiser's array `number`."""
        ...


class ZigzagChain:
    """A network as a batch of one, trained by the zigzag kernel.

    Parameters
    ----------
    launcher : Launcher
    workload : Workload
    objective : ReducedRegression or None
        Objective that the kernel evaluates; None if the caller sets gradients.
    """

    name = "zigzag"

    def __init__(self, launcher: Launcher, workload: Workload, objective: ReducedRegression | None):
        packing = Packing([workload.widths], launcher.dtype)
        momentum = workload.optimizer.momentum > 0
        team = choose_team(packing, momentum, launcher.device)
        assert team is not None  # the trainer has checked
        samples = None if objective is None else minibatch_samples(objective, [workload])
        extra = 0 if samples is None else samples.rows.nbytes
        needed = batch_bytes(packing, team, momentum, workload.steps) + extra
        require_memory(launcher, workload.widths, needed)
        self._batch = Batch(
            launcher.xp,
            packing,
            [motion_of(workload)],
            steps=workload.steps,
            tolerance=workload.tolerance,
            problems=[] if objective is None else [regression_problem(objective)],
            team=team,
            nesterov=workload.optimizer.nesterov,
            samples=samples,
            first_loss=workload.checkpoint.first_loss,
        )
        load_layers(launcher, workload.draw(), functools.partial(self._batch.layer, 0))
        self.depth = packing.depth(0)
        self._launcher, self._active = launcher, np.arange(1)
        self._pacer = LaunchPacer(launcher, self._batch, [workload.schedule])

    def advance(self, step: int, goal: int) -> tuple[int, np.ndarray]:
        """As `PackedChain.advance`."""
        launch = self._pacer.plan(self._active, goal)
        self._batch.advance(self._launcher.zigzag, self._active, *launch)
        reached = int(self._pacer.finish(self._active)[0])
        return reached, self._batch.recorded(0, reached)[step:]

    def begin(self) -> None:
        """As `PackedChain.begin`."""
        self._batch.advance(self._launcher.zigzag, self._active, 0)

    def take_step(self, step: int) -> None:
        """As `PackedChain.take_step`."""
        self._batch.advance(self._launcher.zigzag, self._active, step + 1)

    def end_to_end(self) -> DeviceArray:
        """As `PackedChain.end_to_end`."""
        return self._batch.end_to_end(0)

    def put_gradient(self, G: DeviceArray | np.ndarray, step: int) -> None:
        """As `PackedChain.put_gradient`."""
        self._batch.put_gradient(0, G)

    def stop_where(self, stop: DeviceArray) -> None:
        """As `PackedChain.stop_where`."""
        self._batch.stop_where(stop)

    def layer(self, index: int) -> np.ndarray:
        """As `PackedChain.layer`; no layer has a deferred update after a launch."""
        return to_host(self._batch.layer(0, index))

    def state_array(self, number: int, index: int) -> DeviceArray:
        """As `PackedChain.state_array`."""
        return self._batch.velocity_of(0, index)


class TwoPassChain:
    """A network trained by the two-pass kernels, one launch per layer and pass.

    If d < d_y the chain is stored transposed and in reverse order, so that products have as few
    rows as possible.

    Parameters
    ----------
    launcher, workload, objective
        As for `ZigzagChain`.
    """

    name = "two-pass"

    def __init__(self, launcher: Launcher, workload: Workload, objective: ReducedRegression | None):
        widths = workload.widths
        self._transposed = widths[0] < widths[-1]
        if self._transposed:
            widths = widths[::-1]
        steps = _update_steps(workload, self._transposed)
        needed = two_pass_bytes(widths, launcher.dtype, steps.kind, workload.steps)
        require_memory(launcher, workload.widths, needed)
        self._launcher, self._span = launcher, 1
        self._graph: Callable[[], None] | None = None
        if objective is not None:
            problem = regression_problem(objective)
            self._scale, self._target = (
                launcher.xp.asarray(np.ascontiguousarray(self._oriented(a)))
                for a in (problem.scale, problem.target)
            )
        self._net = TwoPass(
            launcher,
            launcher.xp,
            widths,
            launcher.dtype,
            steps,
            workload.steps,
            workload.tolerance,
            constant=0.0 if objective is None else objective.constant,
            threads=launcher.two_pass_threads,
            taken=workload.checkpoint.steps,
            first_loss=workload.checkpoint.first_loss,
        )
        load_layers(launcher, workload.draw(), self._view)
        self.depth = self._net.depth
        self._evaluated = False

    def advance(self, step: int, goal: int) -> tuple[int, np.ndarray]:
        """As `PackedChain.advance`."""
        net, start = self._net, time.perf_counter()
        count = min(self._span, goal - step) if self._evaluated else 0
        if not self._evaluated:
            net.form_products()
            net.evaluate(self._scale, self._target)
            self._evaluated = True
        for _ in range(count):
            self._queue(self._step_and_evaluate)
        self._launcher.synchronize()
        if count:
            self._span = next_span(self._span, count, time.perf_counter() - start)
        reached = int(to_host(net.state)[0])
        return reached, to_host(net.losses[step : reached + 1])

    def begin(self) -> None:
        """As `PackedChain.begin`."""
        self._net.form_products()

    def take_step(self, step: int) -> None:
        """As `PackedChain.take_step`."""
        self._queue(self._step)

    def end_to_end(self) -> DeviceArray:
        """As `PackedChain.end_to_end`."""
        return self._oriented(self._net.end_to_end()).astype(np.float64)

    def put_gradient(self, G: DeviceArray | np.ndarray, step: int) -> None:
        """As `PackedChain.put_gradient`."""
        self._net.put_gradient(self._oriented(G), step)

    def stop_where(self, stop: DeviceArray) -> None:
        """As `PackedChain.stop_where`."""
        self._net.stop_where(stop)

    def layer(self, index: int) -> np.ndarray:
        """As `PackedChain.layer`."""
        return to_host(self._view(index))

    def state_array(self, number: int, index: int) -> DeviceArray:
        """As `PackedChain.state_array`."""
        return self._oriented(self._net.moment(number, self._stored(index)))

    def _step(self) -> None:
        self._net.update()
        self._net.form_products()

    def _step_and_evaluate(self) -> None:
        self._step()
        self._net.evaluate(self._scale, self._target)

    def _queue(self, work: Callable[[], None]) -> None:
        """Queue the kernels of `work`, the same at every call: record them once as a graph."""
        if self._graph is not None:
            self._graph()
            return
        work()  # compiles and loads the kernels
        if self._net.depth <= MAX_RECORDED:
            self._graph = self._launcher.recorded(work)

    def _view(self, index: int) -> DeviceArray:
        return self._oriented(self._net.layer(self._stored(index)))

    def _stored(self, index: int) -> int:
        """Return the position of layer `index` in the stored chain."""
        return self._net.depth - 1 - index if self._transposed else index

    def _oriented(self, matrix: DeviceArray) -> DeviceArray:
        return matrix.T if self._transposed else matrix


def _update_steps(workload: Workload, transposed: bool) -> Steps:
    """Return the constants of the optimiser, in the order of the stored layers."""
    optimizer, rates = workload.optimizer, workload.rates
    kind = ADAM if optimizer.adam else MOMENTUM if optimizer.momentum else PLAIN
    order = slice(None, None, -1 if transposed else 1)
    return Steps(
        kind,
        optimizer.nesterov,
        rates.step_sizes[order],
        rates.weight_decays[order],
        rates.row_scales[order],
        rates.decay_factor,
        optimizer.momentum,
    )
