"""Gradient descent on one packed chain of layers, advanced in pieces by a team of threads."""

import functools
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fastdln.backends.cpu.cost_model import Choice, choose, step_seconds
from fastdln.kernels.cpu.layout import STRIDE, Layout, aligned_zeros
from fastdln.kernels.cpu.regression_loop import descend, descend_with_velocity
from fastdln.kernels.cpu.tiles import lanes
from fastdln.kernels.cpu.two_pass import suffix_products
from fastdln.kernels.cpu.two_pass_rows import descend_by_rows
from fastdln.kernels.cpu.zigzag import descend_zigzag, zigzag_buffers
from fastdln.objectives.regression import ReducedRegression
from fastdln.optim.loop import FRESH, PIECE_SECONDS, Callback, Past, Run, Schedule
from fastdln.optim.optimizers import Moving, Rule
from fastdln.reduction.initial_layers import put
from fastdln.reduction.plan import chain_layout
from fastdln.utils import threads

log = logging.getLogger("fastdln")

# Every so manieth piece goes to the team that was slower, and is that much shorter.
TRY_AGAIN = 16
# Length of a piece by which a team can be judged: starting its threads takes some 0.1 ms.
TRIAL_SECONDS = 0.01
# Length of a step from which a team is tried first.
LONG_STEP = 1e-3

# Takes the step to advance to, and what lets every member of a team do its part of some work.
Advance = Callable[[int, Callable[..., Any]], None]


class Chain:
    """Layers packed for the kernels, their products, and two co-state buffers.

    A chain with fewer inputs than outputs is kept mirrored: transposed and back to front, so
    that its products have as few rows as can be.
    """

    def __init__(self, layers: Iterable[Any], widths: tuple[int, ...], dtype: np.dtype):
        self.mirrored = widths[0] < widths[-1]
        self.layout: Layout = chain_layout(widths, dtype)
        self.weights = aligned_zeros(self.layout.size, dtype)
        for i, layer in enumerate(layers):
            put(layer, self.layer(i))
        self.products = aligned_zeros(self.layout.product_size, dtype)
        edge = self.layout.q_padded * self.layout.widest
        self.C, self.D = aligned_zeros(edge, dtype), aligned_zeros(edge, dtype)

    def layer(self, index: int) -> np.ndarray:
        """Return layer `index`, input first, as a view of the packed weights."""
        return self.part(self.weights, index)

    def part(self, packed: np.ndarray, index: int) -> np.ndarray:
        """Return what is layer `index`'s of an array that lies as the weights do, as a view."""
        if self.mirrored:
            return self.layout.view(packed, self.layout.depth - 1 - index).T
        return self.layout.view(packed, index)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What every kernel starts with: weights, layers, products and two co-states."""
        return self.weights, self.layout.layers, self.products, self.C, self.D

    def hold_costates(self) -> np.ndarray:
        """Make room for the co-states of all layers, of which the first is C; return it."""
        self.C = aligned_zeros(self.layout.product_size, self.layout.dtype)
        return self.C

    def release(self) -> None:
        """Give back all but the weights: a result keeps them, and a sweep many results."""
        self.products = self.C = self.D = np.empty(0, self.layout.dtype)

    def end_to_end(self) -> np.ndarray:
        """Return M, as the last pass 1 left it, in float64."""
        M = self._first_rows(self.products)[:, : self.layout.widths[0]].astype(np.float64)
        return M.T if self.mirrored else M

    def put_gradient(self, G: np.ndarray, factor: float) -> None:
        """Leave ``factor·G`` in C, where pass 2 looks for it."""
        rows = self._first_rows(self.C)
        rows[:] = 0
        rows[:, : self.layout.widths[0]] = factor * (G.T if self.mirrored else G)

    def _first_rows(self, buffer: np.ndarray) -> np.ndarray:
        # The product that ends at the first layer is M, and lies first in memory.
        stride = int(self.layout.layers[0, STRIDE])
        return buffer[: self.layout.q * stride].reshape(self.layout.q, stride)


class Descent(Run):
    """A chain of layers under gradient descent on an objective.

    Parameters
    ----------
    layers : iterable
        Normalised layers, input first, as of a `Start`; taken one by one and copied.
    widths : tuple of int
        Columns of the first layer, then rows of every layer.
    rows : ndarray, shape (depth,)
        Rows of every layer of the full-width network, which decide its step size.
    objective, steps, tolerance, schedule
        As for `Run`.
    kernel : {"auto", "two-pass", "zigzag"}
        See `fastdln.backends.cpu.cost_model`.
    past : Past
        What the run goes on from.
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
    ):
        super().__init__(objective, steps, tolerance, schedule, past)
        self.chain = Chain(layers, widths, dtype)
        order = slice(None, None, -1) if self.chain.mirrored else slice(None)
        self._moving = Moving(rule, learning_rate, rows[order], self.chain.layout)
        for state, moment in zip(self._moving.states, past.moments, strict=False):
            for i, part in enumerate(moment):
                self.chain.part(state, i)[:] = part
        self._fused = isinstance(objective, ReducedRegression) and not (schedule or rule.adam)
        plain = plain_regression(objective, rule, schedule)
        self.choice: Choice = choose(
            self.chain.layout, threads.available(), kernel=kernel, plain=plain
        )

    def run(self, callback: Callback | None = None) -> None:
        """Take all steps, or fewer where the loss converges or is no longer finite."""
        log.debug("kernel: %s", self.choice.reason)
        alone = step_seconds(self.chain.layout, self.choice.kernel, 1)
        pace, last = Pace(self.choice.team, alone), self.losses.size - 1
        with ThreadPoolExecutor(self.choice.team) as pool:
            advance = self.advancing(pool)
            advance(0, 1)
            while self.step < last and not self.finished:
                team, steps = pace.following()
                first, begun = self.step, time.perf_counter()
                advance(min(first + steps, last), team)
                pace.note(team, self.step - first, time.perf_counter() - begun)
                if callback is not None:
                    callback(self.step, float(self.losses[self.step]))
        self.chain.release()

    def trained(self) -> Callable[[int], np.ndarray]:
        """Return what gives the layers, input first, by their index."""
        return self.chain.layer

    def moments(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """Return copies of what the optimiser remembers, as in `Past`."""
        depth = self.chain.layout.depth
        return tuple(
            tuple(self.chain.part(state, i).copy() for i in range(depth))
            for state in self._moving.states
        )

    def advancing(self, pool: ThreadPoolExecutor) -> Callable[[int, int], None]:
        """Return what advances to a step with a team of a size, its threads from the pool."""
        scratch = self._moving.scratch(self.chain.layout, self.choice.team)
        advance = self._regression_advance(*scratch) if self._fused else self._stepwise(scratch)
        return lambda goal, team: advance(goal, functools.partial(threads.together, pool, team))

    def _regression_advance(self, scratch: np.ndarray) -> Advance:
        """Return what takes many steps of a regression in one call of a kernel."""
        work, geometry = self._regression_work(scratch), _geometry(self.chain.layout)

        def advance(goal: int, together: Callable[..., Any]) -> None:
            start, floor = self.step, self.floor
            self.step = together(lambda *member: work((start, goal), floor, (*geometry, *member)))

        return advance

    def _regression_work(self, scratch: np.ndarray) -> Callable[..., int]:
        """Return what takes a member of the team through many steps of a regression."""
        chain, moving = self.chain, self._moving
        problem = (
            *turned_regression(self._objective, chain.mirrored), self._objective.constant,
            self.losses,
        )  # fmt: skip
        if self.choice.kernel == "zigzag":
            return self._zigzag_work(problem)
        if moving.plain:
            return self._two_pass_work(scratch, problem)
        momentum = moving.momentum, moving.rule.nesterov
        arrays = (*chain.arrays, scratch, moving.velocity, moving.rates, moving.pulls, *momentum)
        return lambda span, floor, member: descend_with_velocity(
            *arrays, *problem, *span, floor, *member
        )

    def _zigzag_work(self, problem: tuple[Any, ...]) -> Callable[..., int]:
        chain, moving = self.chain, self._moving
        buffers = zigzag_buffers(chain.layout, self.choice.team)
        arrays = (*chain.arrays, *buffers, moving.rates, moving.decay)
        last = self.losses.size - 1
        return lambda span, floor, member: descend_zigzag(
            *arrays, *problem, *span, last, floor, *member
        )

    def _two_pass_work(self, scratch: np.ndarray, problem: tuple[Any, ...]) -> Callable[..., int]:
        chain, moving = self.chain, self._moving
        motion = moving.rates, moving.decay
        if self.choice.sharing == "layers":
            arrays = (*chain.arrays, scratch, *motion)
            return lambda span, floor, member: descend(*arrays, *problem, *span, floor, *member)
        costates, sums = chain.hold_costates(), np.empty(chain.layout.q_padded)
        alone = (*chain.arrays, scratch, *motion)
        shared = (chain.weights, chain.layout.layers, chain.products, costates, scratch, sums)

        def work(span: tuple[int, int], floor: float, member: tuple[Any, ...]) -> int:
            if member[-2] == 1:
                return descend(*alone, *problem, *span, floor, *member)
            return descend_by_rows(*shared, *motion, *problem, *span, floor, *member)

        return work

    def _stepwise(self, scratch: tuple[np.ndarray, ...]) -> Advance:
        """Return what takes one step after the other, with an objective in between."""
        chain = self.chain
        arrays = (*chain.arrays, *scratch)

        def update(*member: Any) -> None:
            step = self._past.steps + self.step + 1
            self._moving.update(arrays, step, (*_geometry(chain.layout), *member))

        def advance(goal: int, together: Callable[..., Any]) -> None:
            if self.step < 0:
                self._evaluate(together)
            while self.step < goal and not self.finished:
                together(update)
                self._evaluate(together)

        return advance

    def _evaluate(self, together: Callable[..., Any]) -> None:
        """Move on to the next step: its loss, and the gradient of its minibatch in C."""
        chain = self.chain
        together(
            lambda *member: suffix_products(
                chain.weights, chain.layout.layers, chain.products, *_geometry(chain.layout),
                *member,
            )
        )  # fmt: skip
        G = self.note(chain.end_to_end())
        if G is not None:
            chain.put_gradient(G, -float(self._moving.rates[0]) if self._moving.plain else 1.0)


def plain_regression(objective: Any, rule: Rule, batches: Any) -> bool:
    """Return whether this is full-batch gradient descent without momentum on a regression.

    `batches` is the size or the schedule of minibatches, None for all samples.
    """
    plain = not (rule.adam or rule.momentum or batches)
    return isinstance(objective, ReducedRegression) and plain


def turned_regression(
    objective: ReducedRegression, mirrored: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return S and T of a regression as kernels take them, transposed for a mirrored chain.

    Copies always: a view that may not be written to would be compiled for apart.
    """
    scale = np.broadcast_to(objective.scale, objective.target.shape)
    S, T = (a.T if mirrored else a for a in (scale, objective.target))
    return np.array(S, order="C"), np.array(T, order="C")


class Pace:
    """How many steps to take before looking up, and by how many threads.

    On a machine with other work a team waits for its slowest member and can be many times slower
    than one thread; and starting its threads takes as long as tens of steps of a small network.
    So one thread begins, unless a step is long, and a run that ends within milliseconds never sees
    a team. The bits do not depend on the team, so the other one is tried then, the faster goes on,
    and the slower is tried again now and then with a short piece.

    Parameters
    ----------
    team : int
        The larger team.
    step_seconds : float
        What a step of one thread is expected to take.
    """

    def __init__(self, team: int, step_seconds: float = 0.0):
        teams = (team, 1) if step_seconds > LONG_STEP else (1, team)
        self._teams = teams if team > 1 else (1,)
        self._seconds: dict[int, float] = {}  # a step, by team
        self._untried = [n for team in self._teams for n in (team, team)]
        self._trial = 1  # steps of a piece while teams are tried
        self._pieces = 0

    def following(self) -> tuple[int, int]:
        """Return the team of the next piece, and its steps."""
        self._pieces += 1
        if self._untried:
            # The first piece of a team only compiles, and starts its threads.
            first = self._untried.count(self._untried[0]) == 2
            return self._untried[0], 1 if first else self._trial
        again = self._pieces % TRY_AGAIN == 0
        team = (max if again else min)(self._teams, key=lambda team: self._seconds[team])
        length = PIECE_SECONDS / TRY_AGAIN if again else PIECE_SECONDS
        return team, max(1, int(length / self._seconds[team]))

    def note(self, team: int, steps: int, seconds: float) -> None:
        """Remember how long a piece took."""
        self._seconds[team] = max(seconds, 1e-9) / max(steps, 1)
        if not self._untried:
            return
        if self._untried.count(team) == 2 or seconds > TRIAL_SECONDS:
            self._untried.remove(team)
        else:
            self._trial *= 4


def _geometry(layout: Layout) -> tuple[int, int, int]:
    return layout.q, layout.q_padded, lanes(layout.dtype)
