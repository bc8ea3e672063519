"""Two-pass steps by one kernel per layer and pass: any shapes and update rule; the baseline."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fastdln.kernels.cuda.declarations import (
    BETA_1,
    BETA_2,
    CHUNK_BYTES,
    COLUMNS_AT_ONCE,
    ROWS_AT_ONCE,
    CopyRows,
    EvaluateRegression,
    MultiplyLayer,
    Parameters,
    TwoPassConstant,
    TwoPassState,
    UpdateLayer,
    UpdateRule,
)
from fastdln.kernels.cuda.packing import tile, vectors

PLAIN, MOMENTUM, ADAM = UpdateRule.PLAIN, UpdateRule.MOMENTUM, UpdateRule.ADAM


class Steps(NamedTuple):
    """Update rule and constants of every layer's step.

    Attributes
    ----------
    kind : {PLAIN, MOMENTUM, ADAM}
    nesterov : bool
    step_sizes, weight_decays, row_scales : ndarray, shape (depth,)
        As `fastdln.optim.optimizers.LayerRates`.
    decay_factor : float
        Factor by which weight decay scales the weights in one plain step.
    momentum : float
    """

    kind: int
    nesterov: bool
    step_sizes: np.ndarray
    weight_decays: np.ndarray
    row_scales: np.ndarray
    decay_factor: float
    momentum: float


class TwoPass:
    """A chain of layers with q ≤ d, input first, and the state of its training on the GPU.

    Parameters
    ----------
    launch : callable
        As in `fill_normals`.
    xp : module
        CuPy, or NumPy where the kernels run on the CPU.
    widths : tuple of int
        ``(d, m_1, …, q)``; a chain with d < q must be passed transposed and in reverse order.
    dtype : dtype
    moving : Steps
    steps : int
        Maximum number of steps.
    tolerance : float
        Relative loss at or below which the run has converged.
    constant : float
        Part of the loss that does not depend on the weights.
    threads : int, optional
        Threads per block; by default ``launch.two_pass_threads``.
    taken : int
        Steps taken before, for Adam's corrections.
    first_loss : float, optional
        Loss to which the tolerance is relative; by default the loss before these steps.

    Attributes
    ----------
    state : array of int64
        As `TwoPassState`.
    losses : array of float64, shape (steps + 1,)
    """

    def __init__(
        self,
        launch: Any,
        xp: Any,
        widths: tuple[int, ...],
        dtype: Any,
        moving: Steps,
        steps: int,
        tolerance: float,
        constant: float = 0.0,
        threads: int | None = None,
        taken: int = 0,
        first_loss: float | None = None,
    ):
        self.launch, self.xp, self.widths, self.moving = launch, xp, widths, moving
        self.dtype, self.limit, self.taken = np.dtype(dtype), steps, taken
        self.threads = launch.two_pass_threads if threads is None else threads
        self.q, self.depth = widths[-1], len(widths) - 1
        self.strides = [_stride(n, dtype) for n in widths[:-1]]
        pairs = list(zip(widths, widths[1:], strict=False))
        self.layers = [xp.zeros((m, _stride(n, dtype)), dtype) for n, m in pairs]
        empty = xp.zeros((0,), dtype)
        self.states = [
            [xp.zeros_like(w) if i < moving.kind else empty for i in range(2)] for w in self.layers
        ]
        self.products = [xp.zeros((self.q, stride), dtype) for stride in self.strides]
        edge = max([*self.strides, 1])
        self.C = [xp.zeros(self.q * edge, dtype) for _ in range(2)]
        self.step_sizes, self.weight_decays, self.row_scales = (
            xp.asarray(a.astype(dtype))
            for a in (moving.step_sizes, moving.weight_decays, moving.row_scales)
        )
        constants = np.zeros(len(TwoPassConstant))
        constants[TwoPassConstant.DECAY] = moving.decay_factor
        constants[TwoPassConstant.MOMENTUM] = moving.momentum
        constants[_CORRECTIONS] = _corrections(taken, self.dtype)
        constants[TwoPassConstant.TOLERANCE] = tolerance
        constants[TwoPassConstant.CONSTANT] = constant
        constants[TwoPassConstant.FIRST_LOSS] = np.nan if first_loss is None else first_loss
        self.constants = xp.asarray(constants)
        self.state = xp.asarray(np.array([-1, 1], np.int64))
        self.losses = xp.full(steps + 1, np.nan)

    def layer(self, index: int) -> Any:
        """Return a layer as a view, shape (m_i, m_{i-1})."""
        return self.layers[index][:, : self.widths[index]]

    def moment(self, number: int, index: int) -> Any:
        """Return a view of a layer in the optimiser's array `number`, in the layer's shape."""
        return self.states[index][number][:, : self.widths[index]]

    def end_to_end(self) -> Any:
        """Return M as formed by the latest pass 1, shape (q, d)."""
        return self.products[0][:, : self.widths[0]]

    def form_products(self) -> None:
        """Queue pass 1: form all suffix products; the last one is M."""
        last = self.depth - 1
        blocks = _ceil_div(self.q * self.widths[last], self.threads)
        self._start("copy_rows", (blocks, 1), 0, self._last_product)
        for i in range(last - 1, -1, -1):
            chunks = _ceil_div(self.q, CHUNK_BYTES // self.dtype.itemsize)
            grid = (_ceil_div(self.widths[i], COLUMNS_AT_ONCE), chunks)
            self._start(
                "multiply_layer", grid, CHUNK_BYTES * self.threads, self._multiplications[i]
            )

    def evaluate(self, scale: Any, target: Any) -> None:
        """Queue the loss and gradient of a regression, and advance the step counter."""
        parameters = EvaluateRegression(
            self.state,
            self.products[0],
            self.C[0],
            scale,
            target,
            self.constants,
            self.losses,
            stride=self.strides[0],
            limit=self.limit,
            q=self.q,
            columns=self.widths[0],
        )
        self._start("evaluate_regression", (1, 1), 8 * self.threads, parameters)

    def stop_where(self, stop: Any) -> None:
        """Make all kernels queued from now on do nothing if the boolean `stop` is true."""
        active = self.state[TwoPassState.ACTIVE]
        self.state[TwoPassState.ACTIVE] = self.xp.where(stop, 0, active)

    def put_gradient(self, G: Any, step: int) -> None:
        """Set the gradient G, shape (q, d), of step number `step`, counted from 0."""
        rows = self.C[0][: self.q * self.strides[0]].reshape(self.q, self.strides[0])
        rows[:, : self.widths[0]] = self.xp.asarray(G.astype(self.dtype))
        # Adam's corrections belong to step + 1, counted from 1.
        self.constants[_CORRECTIONS] = self.xp.asarray(
            np.array(_corrections(self.taken + step + 1, self.dtype))
        )

    def update(self) -> None:
        """Queue pass 2: update every layer and form the co-states."""
        for i, parameters in enumerate(self._updates):
            grid = (_ceil_div(self.widths[i + 1], ROWS_AT_ONCE), 1)
            self._start("update_layer", grid, CHUNK_BYTES * self.threads, parameters)

    @cached_property
    def _last_product(self) -> CopyRows:
        last = self.depth - 1
        stride = self.strides[last]
        return CopyRows(
            self.state,
            self.layers[last],
            self.products[last],
            source_stride=stride,
            target_stride=stride,
            rows=self.q,
            columns=self.widths[last],
        )

    @cached_property
    def _multiplications(self) -> list[MultiplyLayer]:
        """Return the parameters of pass 1 for every layer but the last."""
        return [
            MultiplyLayer(
                self.state,
                self.layers[i],
                self.products[i + 1],
                self.products[i],
                stride=self.strides[i],
                above_stride=self.strides[i + 1],
                below_stride=self.strides[i],
                q=self.q,
                rows=self.widths[i + 1],
                columns=self.widths[i],
            )
            for i in range(self.depth - 1)
        ]

    @cached_property
    def _updates(self) -> list[UpdateLayer]:
        return [self._update_of(i) for i in range(self.depth)]

    def _update_of(self, i: int) -> UpdateLayer:
        last = i + 1 == self.depth
        above = 0 if last else self.strides[i + 1]
        first, second = self.states[i]
        return UpdateLayer(
            self.state,
            self.layers[i],
            None if last else self.products[i + 1],
            self.C[i % 2],
            None if last else self.C[1 - i % 2],
            first,
            second,
            self.step_sizes,
            self.weight_decays,
            self.row_scales,
            self.constants,
            stride=self.strides[i],
            B_stride=above,
            C_stride=self.strides[i],
            next_stride=above,
            layer=i,
            rule=self.moving.kind,
            nesterov=self.moving.nesterov,
            q=self.q,
            rows=self.widths[i + 1],
            columns=self.widths[i],
        )

    def _start(
        self, function: str, grid: tuple[int, int], shared: int, parameters: Parameters
    ) -> None:
        self.launch("two_pass", function, grid, self.threads, shared, parameters)


def two_pass_bytes(widths: tuple[int, ...], dtype: Any, kind: int, steps: int) -> int:
    """Return the bytes on the GPU of a `TwoPass`."""
    strides = [_stride(n, dtype) for n in widths[:-1]]
    layers = sum(m * stride for m, stride in zip(widths[1:], strides, strict=True))
    elements = layers * (1 + kind) + widths[-1] * (sum(strides) + 2 * max(strides))
    return elements * np.dtype(dtype).itemsize + 8 * (steps + 1 + 2 * widths[0] * widths[-1])


_CORRECTIONS = slice(TwoPassConstant.FIRST_CORRECTION, TwoPassConstant.SECOND_CORRECTION + 1)


def _corrections(step: int, dtype: np.dtype) -> tuple[float, float]:
    """Return Adam's ``1 − β^step`` with β rounded as in the kernel, since ``1 − β`` cancels."""
    return 1 - float(dtype.type(BETA_1)) ** step, 1 - float(dtype.type(BETA_2)) ** step


def _stride(n: int, dtype: Any) -> int:
    return int(vectors(n, dtype)) * tile(dtype)


def _ceil_div(total: int, each: int) -> int:
    return -(-total // each)
