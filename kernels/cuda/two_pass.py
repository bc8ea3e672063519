"""Two-pass steps, one kernel for each layer and pass: any shapes, any rule; the baseline."""

from typing import Any, NamedTuple

import numpy as np

from fastdln.kernels.cuda.packing import vectors

THREADS = 256
# As in two_pass.cu.
COLUMNS_AT_ONCE, ROWS_AT_ONCE, CHUNK_BYTES = 8, 4, 64
PLAIN, VELOCITY, ADAM = range(3)


class Steps(NamedTuple):
    """How every layer moves: kind, Nesterov's form, and what the kernels read of rates."""

    kind: int
    nesterov: bool
    rates: np.ndarray
    pulls: np.ndarray
    scales: np.ndarray
    decay: float
    momentum: float


class TwoPass:
    """A chain of layers with q ≤ d, input first, and the state of its training on the card.

    Parameters
    ----------
    launch : callable
        As in `fill_normals`.
    widths : tuple of int
        ``(d, m_1, …, q)``; a chain with d < q is given transposed and back to front.
    steps : int
        Most steps that may be taken.
    taken : int
        Steps taken before, which Adam counts.
    first_loss : float, optional
        To which the tolerance is relative; the loss before these steps where it is left out.
    """

    def __init__(
        self, launch: Any, xp: Any, widths: tuple[int, ...], dtype: Any, moving: Steps,
        steps: int, tolerance: float, constant: float = 0.0, threads: int = THREADS,
        taken: int = 0, first_loss: float | None = None,
    ):  # fmt: skip
        self.launch, self.xp, self.widths, self.moving = launch, xp, widths, moving
        self.dtype, self.limit, self.threads = np.dtype(dtype), steps, threads
        self.taken, self.chunk = taken, CHUNK_BYTES // self.dtype.itemsize
        self.q, self.depth = widths[-1], len(widths) - 1
        self.strides = [_stride(n, dtype) for n in widths[:-1]]
        pairs = list(zip(widths, widths[1:], strict=False))
        self.layers = [xp.zeros((m, _stride(n, dtype)), dtype) for n, m in pairs]
        count = {PLAIN: 0, VELOCITY: 1, ADAM: 2}[moving.kind]
        empty = xp.zeros((0,), dtype)
        self.states = [
            [xp.zeros_like(w) if i < count else empty for i in range(2)] for w in self.layers
        ]
        self.products = [xp.zeros((self.q, stride), dtype) for stride in self.strides]
        edge = max([*self.strides, 1])
        self.C = [xp.zeros(self.q * edge, dtype) for _ in range(2)]
        self.rates, self.pulls, self.scales = (
            xp.asarray(a.astype(dtype)) for a in (moving.rates, moving.pulls, moving.scales)
        )
        first = np.nan if first_loss is None else first_loss
        constants = [
            moving.decay, moving.momentum, *_corrections(taken, self.dtype), tolerance, constant,
            first,
        ]  # fmt: skip
        self.constants = xp.asarray(np.array(constants))
        self.state = xp.asarray(np.array([-1, 1], np.int64))
        self.losses = xp.full(steps + 1, np.nan)
        self.null = np.uint64(0)

    def layer(self, index: int) -> Any:
        """Return a layer as a view, shape (m_i, m_{i-1})."""
        return self.layers[index][:, : self.widths[index]]

    def moment(self, number: int, index: int) -> Any:
        """Return the part of a layer of the optimiser's array `number`, as a view like a layer."""
        return self.states[index][number][:, : self.widths[index]]

    def end_to_end(self) -> Any:
        """Return M, as the last pass over the products left it, shape (q, d)."""
        return self.products[0][:, : self.widths[0]]

    def form_products(self) -> None:
        """Queue pass 1: all suffix products, the last of them M."""
        last = self.depth - 1
        self._start(
            "copy_rows", (_blocks(self.q * self.widths[last], self.threads), 1), 0,
            self.layers[last], self.products[last], np.int32(self.q), np.int32(self.widths[last]),
            np.int64(self.strides[last]), np.int64(self.strides[last]),
        )  # fmt: skip
        for i in range(last - 1, -1, -1):
            rows, columns = self.widths[i + 1], self.widths[i]
            grid = (_blocks(columns, COLUMNS_AT_ONCE), _blocks(self.q, self.chunk))
            self._start(
                "multiply_layer", grid, CHUNK_BYTES * self.threads,
                self.layers[i], self.products[i + 1], self.products[i], np.int32(self.q),
                np.int32(rows), np.int32(columns), np.int64(self.strides[i]),
                np.int64(self.strides[i + 1]), np.int64(self.strides[i]),
            )  # fmt: skip

    def evaluate(self, scale: Any, target: Any) -> None:
        """Queue the loss and gradient of a regression; moves on to the next step."""
        self._start(
            "evaluate_regression", (1, 1), 8 * self.threads, self.products[0], self.C[0], scale,
            target, self.constants, self.losses, np.int32(self.q), np.int32(self.widths[0]),
            np.int64(self.strides[0]), np.int64(self.limit),
        )  # fmt: skip

    def stop_where(self, stop: Any) -> None:
        """Let all kernels queued from now on do nothing where the boolean `stop` is true."""
        self.state[1] = self.xp.where(stop, 0, self.state[1])

    def put_gradient(self, G: Any, step: int) -> None:
        """Set the gradient of step `step` (from 0) from outside, shape (q, d)."""
        rows = self.C[0][: self.q * self.strides[0]].reshape(self.q, self.strides[0])
        rows[:, : self.widths[0]] = self.xp.asarray(G.astype(self.dtype))
        # Adam's corrections belong to step + 1, counted from 1.
        self.constants[2:4] = self.xp.asarray(
            np.array(_corrections(self.taken + step + 1, self.dtype))
        )

    def update(self) -> None:
        """Queue pass 2: every layer's step, and the co-states on the way."""
        C, D = self.C
        moving = self.moving
        for i in range(self.depth):
            more = i + 1 < self.depth
            rows, columns = self.widths[i + 1], self.widths[i]
            above = self.strides[i + 1] if more else 0
            shared = CHUNK_BYTES * self.threads
            self._start(
                "update_layer", (_blocks(rows, ROWS_AT_ONCE), 1), shared, self.layers[i],
                self.products[i + 1] if more else self.null, C, D if more else self.null,
                *self.states[i], self.rates, self.pulls, self.scales, self.constants, np.int32(i),
                np.int32(moving.kind), np.int32(moving.nesterov), np.int32(self.q),
                np.int32(rows), np.int32(columns), np.int64(self.strides[i]), np.int64(above),
                np.int64(self.strides[i]), np.int64(above),
            )  # fmt: skip
            C, D = D, C

    def _start(self, function: str, grid: tuple[int, int], shared: int, *arguments: Any) -> None:
        self.launch("two_pass", function, grid, self.threads, shared, (self.state, *arguments))


def two_pass_bytes(widths: tuple[int, ...], dtype: Any, kind: int, steps: int) -> int:
    """Return the bytes on the card of a `TwoPass`."""
    strides = [_stride(n, dtype) for n in widths[:-1]]
    layers = sum(m * stride for m, stride in zip(widths[1:], strides, strict=True))
    numbers = layers * (1 + kind) + widths[-1] * (sum(strides) + 2 * max(strides))
    return numbers * np.dtype(dtype).itemsize + 8 * (steps + 1 + 2 * widths[0] * widths[-1])


def _corrections(step: int, dtype: np.dtype) -> tuple[float, float]:
    """Return Adam's ``1 − β^step``: of the β that the kernel has, for their roundings cancel."""
    return 1 - float(dtype.type(0.9)) ** step, 1 - float(dtype.type(0.999)) ** step


def _stride(n: int, dtype: Any) -> int:
    return int(vectors(n, dtype)) * 16 // np.dtype(dtype).itemsize


def _blocks(total: int, each: int) -> int:
    return -(-total // each)
