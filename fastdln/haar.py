"""Haar-distributed orthogonal matrices and frames, singly and in batches."""

import collections
import contextlib
import functools
import math
import numbers
import os
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fastdln import check, memory, parallel
from fastdln.kernels.cpu import abreast
from fastdln.kernels.cpu import haar as kernels
from fastdln.kernels.cpu import reflectors as layout
from fastdln.kernels.cpu.random import ACROSS
from fastdln.kernels.cpu.tiles import lanes
from fastdln.random import Seed, Stream, result_array, seed_key, stream_id
from fastdln.reflectors import HaarReflectors, frame_shape

__all__ = ["HaarReflectors", "haar_batch", "haar_orthogonal"]

# What one thread does in a second, about: used only to cut work into pieces of about a
# millisecond and to see when one matrix is worth several threads.
_NORMALS_PER_SECOND = 6e8
_FLOPS_PER_SECOND = 5e10
_SECONDS_PER_MATRIX = 4e-6
_SECONDS_PER_PIECE = 1e-3
# Rows up to which matrices are formed side by side, one in each lane of the vector registers:
# 2.5 times as fast at n = 32 and 1.4 times at n = 100, but a lane left idle costs as much as
# one in use.
_ABREAST_ROWS = 100
# Work worth another thread, which takes 0.1 ms to come.
_SECONDS_PER_THREAD = 1.5e-4
_MOST_HELPERS = 256
# Less than this is not asked for: asking takes 30 µs.
_SMALL_BYTES = 1 << 21
# A frame this tall is formed row piece by row piece: a panel of its columns leaves the caches.
_TALL_ROWS = 65536
# Rows from which a block of reflectors is taken through four panels before the next is
# fetched, for all blocks together no longer fit the last cache.
_GROUPED_ROWS = 2500


def haar_orthogonal(
    n: int,
    p: int | None = None,
    *,
    size: int | tuple[int, ...] | None = None,
    seed: Seed = None,
    dtype: Any = "float64",
    special: bool = False,
    device: str = "cpu",
    out: np.ndarray | None = None,
) -> np.ndarray:
    r"""Draw orthogonal matrices, or frames of orthonormal columns, from the uniform (Haar) law.

    Parameters
    ----------
    n : int
        Rows, at least 1.
    p : int, optional
        Columns, from 1 to n; n by default. With p < n the law is uniform on the Stiefel
        manifold. The columns are the first p of the n × n matrix of the same seed.
    size : int or tuple of int, optional
        Shape of the batch; none by default. Matrix j of a batch, in C order, depends on `seed`
        and j alone.
    seed : None, int, sequence of int, SeedSequence, BitGenerator, Generator or RandomState
        As for `numpy.random.default_rng`.
    dtype : {"float64", "float32"}
        Of the matrices and of the arithmetic. Both are made of the same normals.
    special : bool
        Draw from SO(n), determinant +1; needs p = n.
    device : {"cpu", "gpu", "gpu:N", "auto"}
        Where to compute; ``"auto"`` is the CPU. On a card the result is a CuPy array there.
    out : ndarray, optional
        C-contiguous array of the result's shape and dtype to fill and return; on the CPU only.

    Returns
    -------
    ndarray, shape (\*size, n, p)
        ``Q.T @ Q`` is the identity within 20·eps·√n. The bits depend neither on the number of
        threads nor on how a batch is split.

    Raises
    ------
    TypeError, ValueError
        For arguments outside the ranges above.
    MemoryError
        If result and working memory do not fit; the bytes are named.

    Notes
    -----
    Stewart (1980): Q is a product of Householder reflections of independent Gaussian vectors of
    lengths n, n − 1, ..., n − p + 1, times signs (Mezzadri 2007, §5) that make the law exact.
    Nothing is factorised: half the random numbers and half the flops of a QR factorisation.

    Examples
    --------
    >>> import fastdln
    >>> Q = fastdln.haar_orthogonal(4, size=10, seed=0)
    >>> Q.shape
    (10, 4, 4)
    """
    device = check.device(device)
    n, p = frame_shape(n, p)
    if special and p < n:
        raise ValueError(f"special needs square matrices, but p = {p} is less than n = {n}")
    batch = _batch_shape(size)
    count = math.prod(batch)
    dtype = check.float_dtype(dtype)
    if device != "cpu":
        key, flags = seed_key(seed), (dtype, bool(special))
        return _on_card(device, key, batch, (count, n, p), *flags, out)
    if out is None:
        _require_memory(n, p, count, dtype)
    out = result_array((*batch, n, p), dtype, out)
    haar_batch(
        seed_key(seed), Stream.HAAR, 0, count, n, p, dtype, out.reshape(count, n, p), bool(special)
    )
    return out


def _on_card(
    device: str,
    key: int,
    batch: tuple[int, ...],
    shape: tuple[int, int, int],
    dtype: Any,
    special: bool,
    out: Any,
) -> Any:
    """Draw on a card; the matrices stay there, as a CuPy array."""
    from .gpu.card import require_gpu
    from .gpu.haar import haar_batch

    if out is not None:
        raise ValueError(f"out must be left out on {device!r}, where the result is a CuPy array")
    drawn = haar_batch(require_gpu(device), key, Stream.HAAR, 0, *shape, dtype, special)
    return drawn.reshape(*batch, *shape[1:])


def haar_batch(
    key: int,
    kind: int,
    first: int,
    count: int,
    n: int,
    p: int,
    dtype: Any = "float64",
    out: np.ndarray | None = None,
    special: bool = False,
) -> np.ndarray:
    """Return (count, n, p) Haar frames, number j from stream (kind, first + j) of the key.

    As `haar_orthogonal` otherwise, without its checks of sizes and memory.
    """
    out = result_array((count, n, p), dtype, out)
    stream_id(kind, first + max(count, 1) - 1)
    stream = stream_id(kind, first)
    if n <= _ABREAST_ROWS:
        _form_abreast(key, stream, special, out)
    elif _is_tall(n, p):
        for j in range(count):
            HaarReflectors.from_stream(n, p, key, stream + j, out.dtype).form(out[j])
    elif _takes_all_threads(n, p, count):
        for j in range(count):
            _form_one(key, stream + j, special, out[j])
    else:
        step = _matrices_per_piece(n, p, count)
        parallel.spread(
            lambda a: _Frames(n, p, out.dtype).form(key, stream + a, special, out[a : a + step]),
            [(a,) for a in range(0, count, step)],
        )
    return out


def _takes_all_threads(n: int, p: int, count: int) -> bool:
    """Return whether threads share each matrix, rather than take whole ones.

    A thread with a matrix of its own finds the reflectors in its own cache: a quarter less
    processor time at n = 1000. That needs matrices for all threads, small enough.
    """
    workers = parallel.threads()
    even = count % workers == 0 or count >= 4 * workers
    return n >= _GROUPED_ROWS or (not even and _seconds(n, p) > 2 * _SECONDS_PER_PIECE)


def _matrices_per_piece(n: int, p: int, count: int) -> int:
    """Return how many make pieces of about a millisecond, as many for one thread as another."""
    seconds = count * _seconds(n, p)
    if seconds < _SECONDS_PER_PIECE / 2:
        return max(count, 1)
    rounds = math.ceil(seconds / _SECONDS_PER_PIECE / parallel.threads())
    return math.ceil(count / (rounds * parallel.threads()))


def _form_abreast(key: int, stream: int, special: bool, out: np.ndarray) -> None:
    """Fill `out` with small frames, whole teams of as many as there are lanes at a time."""
    count, n, p = out.shape
    flat = out.reshape(-1)
    team = lanes(out.dtype)
    teams = -(-count // team)
    seconds = team * _seconds(n, p)
    workers = max(1, min(parallel.threads(), int(teams * seconds / _SECONDS_PER_THREAD)))
    # Four pieces a thread, for one may start late or be interrupted.
    step = team * max(1, -(-teams // (4 * workers if workers > 1 else 1)))

    def form(pieces: Iterable[tuple[int]]) -> None:
        work, words = _scratch(abreast.work_size(n, p, out.dtype), out.dtype), _scratch(2 * ACROSS)
        for (a,) in pieces:
            abreast.form_abreast(
                np.uint64(key), np.uint64(stream + a), n, p, min(step, count - a), special,
                work, words, flat[a * n * p :],
            )  # fmt: skip

    _share(form, [(a,) for a in range(0, count, step)], workers)


def _scratch(size: int, dtype: Any = np.uint64) -> np.ndarray:
    """Return an empty vector on a cache line's border: others cost a tenth of the speed."""
    dtype = np.dtype(dtype)
    raw = np.empty(int(size) * dtype.itemsize + 64, np.uint8)
    begin = -raw.ctypes.data % 64
    return raw[begin : begin + int(size) * dtype.itemsize].view(dtype)


def _share(function: Callable[[Iterable[Any]], None], pieces: list[Any], workers: int) -> None:
    """Call ``function(some of the pieces)`` on `workers` threads, one of them the caller's own.

    Each thread takes the next piece when it is done with one, and only pieces are waited for: a
    thread that comes late, on a busy machine, finds nothing left and delays nobody.
    """
    todo = collections.deque(pieces)
    outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def take() -> Iterator[Any]:
        while True:
            try:
                piece = todo.popleft()
            except IndexError:
                return
            yield piece
            outcomes.put(None)

    def run() -> None:
        try:
            if todo:
                function(take())
        except BaseException as error:
            outcomes.put(error)
            for _ in take():  # nobody need do what is left
                pass

    with contextlib.suppress(RuntimeError):  # Python is about to end: no more helpers
        for _ in range(min(workers, len(pieces)) - 1):
            _helpers().submit(run)
    run()
    for _ in pieces:
        error = outcomes.get()
        if error is not None:
            raise error


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    """Return threads that wait for work, started when first needed, for good.

    Linux starts a new thread on the processor of its maker, to move it when it has waited: it
    came to work after 0.7 ms, the time of a whole batch, and one that waits after 0.1 ms.
    """
    return ThreadPoolExecutor(_MOST_HELPERS, thread_name_prefix="fastdln-haar")


if hasattr(os, "register_at_fork"):  # threads do not come along
    os.register_at_fork(after_in_child=_helpers.cache_clear)


def _batch_shape(size: Any) -> tuple[int, ...]:
    if size is None:
        return ()
    if isinstance(size, numbers.Integral):
        size = (size,)
    if not isinstance(size, tuple | list):
        raise TypeError(f"size must be None, an integer or a tuple of integers, not {size!r}")
    return tuple(check.non_negative_integer("size", length) for length in size)


def _require_memory(n: int, p: int, count: int, dtype: np.dtype) -> None:
    """Raise MemoryError if `count` frames and what it takes to form them do not fit."""
    blocks = -(-p // int(layout.BLOCK))
    result = count * n * p
    at_once = 1 if _takes_all_threads(n, p, count) else min(count, parallel.threads())
    working = int(layout.block_start(n, blocks)) * at_once
    if n <= _ABREAST_ROWS:
        working = abreast.work_size(n, p, dtype) * at_once
    elif _is_tall(n, p):
        working = n * (p + 2 * int(layout.BLOCK))
    needed = (result + working) * dtype.itemsize
    if needed < _SMALL_BYTES:
        return
    memory.require(
        needed,
        memory.available(),
        f"drawing {count} Haar matrices of {n} × {p} in {dtype}",
        "draw fewer at a time, fewer columns, or use HaarReflectors, which forms no matrix",
    )


def _seconds(n: int, p: int) -> float:
    """Return about how long one thread takes for one frame."""
    numbers_drawn = p * n - p * (p - 1) // 2
    flops = 2 * n * p**2 - 2 / 3 * p**3
    alone = _SECONDS_PER_MATRIX if n > _ABREAST_ROWS else 0.0
    return numbers_drawn / _NORMALS_PER_SECOND + flops / _FLOPS_PER_SECOND + alone


def _is_tall(n: int, p: int) -> bool:
    few = p <= 2 * layout.BLOCK
    return n >= (_TALL_ROWS // 8 if few else _TALL_ROWS) and 16 * p <= n


class _Frames:
    """What it takes to form n × p frames: their reflectors, and scratch for one thread each."""

    def __init__(self, n: int, p: int, dtype: np.dtype, panels: int = 1):
        self.blocks = -(-p // int(layout.BLOCK))
        self.V = _scratch(layout.block_start(n, self.blocks), dtype)
        self.T = _scratch(self.blocks * int(layout.BLOCK) ** 2, dtype)
        self.signs = np.empty(p, dtype)
        self.group = panels * kernels.PANEL_BYTES // dtype.itemsize
        # Scratch is handed from piece to piece: fresh pages cost a tenth of the work on them.
        self.spare: queue.SimpleQueue[tuple[np.ndarray, ...]] = queue.SimpleQueue()
        self.n, self.p = n, p

    def form(self, key: int, stream: int, special: bool, out: np.ndarray) -> None:
        """Fill `out`, one frame after the other, on this thread."""
        self.take_part(key, stream, special, (0, self.blocks), (0, self.p), out)

    def take_part(
        self,
        key: int,
        stream: int,
        special: bool,
        blocks: tuple[int, int],
        columns: tuple[int, int],
        out: np.ndarray,
    ) -> None:
        """Prepare some blocks of reflectors, then form some columns."""
        try:
            scratch = self.spare.get_nowait()
        except queue.Empty:
            block, dtype = int(layout.BLOCK), out.dtype
            panels = _scratch(layout.padded(self.n) * self.group, dtype)
            work = _scratch(kernels.work_size(self.n), dtype)
            scratch = np.empty(2 * block), np.empty(block, np.intp), work, panels
        kernels.form_frames(
            np.uint64(key), np.uint64(stream), special, *blocks, *columns, self.group,
            self.V, self.T, self.signs, *scratch, out,
        )  # fmt: skip
        self.spare.put(scratch)


def _form_one(key: int, stream: int, special: bool, out: np.ndarray) -> None:
    """Fill `out` with one frame on all threads: blocks of reflectors, then panels of columns."""
    n, p = out.shape
    frame = _Frames(n, p, out.dtype, 4 if n >= _GROUPED_ROWS else 1)
    batch = out[None]
    parallel.spread(
        lambda b: frame.take_part(key, stream, False, (b, b + 1), (0, 0), batch),
        [(b,) for b in range(frame.blocks)],
    )
    if special:
        frame.take_part(key, stream, True, (0, 0), (0, 0), batch)
    # The last columns meet all reflectors: longest pieces first.
    parallel.spread(
        lambda c: frame.take_part(key, stream, False, (0, 0), (c, min(c + frame.group, p)), batch),
        [(c,) for c in reversed(range(0, p, frame.group))],
    )
