"""Sample batches of Haar frames on the CPU, with the work divided among threads."""

import math
import queue
from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike

from fastdln.kernels.cpu import haar as kernels
from fastdln.kernels.cpu import haar_batched
from fastdln.kernels.cpu import reflectors as layout
from fastdln.kernels.cpu.random import WORDS, Source
from fastdln.kernels.cpu.tile_products import padded
from fastdln.kernels.cpu.tiles import lanes
from fastdln.rng import stream_id
from fastdln.utils import arrays, memory, threads

from .reflectors import HaarReflectors
from .thread_pool import spread_items

BLOCK = int(layout.BLOCK)
# Approximate rates of one thread: used only to divide the work into chunks of about a millisecond
# and to decide when several threads share one matrix.
_NORMALS_PER_SECOND = 6e8
_FLOPS_PER_SECOND = 5e10
_SECONDS_PER_MATRIX = 4e-6
_SECONDS_PER_CHUNK = 1e-3
# Most rows of matrices that are batched, one per lane of the vector registers: 2.5 times as fast
# at n = 32 and 1.4 times at n = 100, but an idle lane costs as much as a used one.
_BATCHED_ROWS = 100
# Least work per thread: a helper thread starts after 0.1 ms.
_SECONDS_PER_THREAD = 1.5e-4
# Least rows of a frame that is formed by chunks of rows: a panel of its columns exceeds the caches.
_TALL_ROWS = 65536
# Least rows of a frame whose blocks of reflectors are each applied to four panels before the next
# block is fetched: all blocks together exceed the last-level cache.
_GROUPED_ROWS = 2500


def haar_batch(
    key: int,
    kind: int,
    first: int,
    count: int,
    n: int,
    p: int,
    dtype: DTypeLike = "float64",
    special: bool = False,
) -> np.ndarray:
    """Return `count` Haar frames, number j drawn from stream (kind, first + j) of the key.

    Parameters
    ----------
    key, kind, first : int
        From `fastdln.rng.seed_key`, and the streams of the frames as for `fastdln.rng.stream_id`.
    count, n, p : int
        Frames, and rows and columns of each, 1 ≤ p ≤ n. Neither these nor the memory are checked;
        see `require_memory`.
    dtype : {"float64", "float32"}
    special : bool
        Determinant +1; needs p = n.

    Returns
    -------
    ndarray, shape (count, n, p)
        The bits depend neither on the number of threads nor on how a batch is split.

    Raises
    ------
    TypeError, ValueError
        For another dtype, or streams out of range.
    """
    out = np.empty((count, n, p), arrays.float_dtype(dtype))
    stream_id(kind, first + max(count, 1) - 1)
    fill_frames(key, stream_id(kind, first), special, out)
    return out


def fill_frames(key: int, stream: int, special: bool, out: np.ndarray) -> None:
    """Fill out[k], n × p, with the Haar frame of stream + k, for all k, on all threads."""
    count, n, p = out.shape
    if n <= _BATCHED_ROWS:
        form_batched(key, stream, special, out)
    elif _is_tall(n, p):
        for j in range(count):
            HaarReflectors.from_stream(n, p, key, stream + j, out.dtype).form(out[j])
    elif _takes_all_threads(n, p, count):
        for j in range(count):
            form_jointly(key, stream + j, special, out[j])
    else:
        form_separately(key, stream, special, out)


def require_memory(n: int, p: int, count: int, dtype: np.dtype) -> None:
    """Raise MemoryError unless `count` frames and the scratch to form them fit in memory."""
    if _is_tall(n, p):
        working = n * (p + 2 * BLOCK)
    else:
        at_once = 1 if _takes_all_threads(n, p, count) else min(count, threads.available())
        batched = n <= _BATCHED_ROWS
        each = haar_batched.work_size(n, p, dtype) if batched else _reflector_elements(n, p)
        working = each * at_once
    needed = (count * n * p + working) * dtype.itemsize
    if needed <= memory.SMALL_BYTES:
        return
    memory.require(
        needed,
        memory.available(),
        f"drawing {count} Haar matrices of {n} × {p} in {dtype}",
        "draw fewer at a time, fewer columns, or use HaarReflectors, which forms no matrix",
    )


def form_batched(key: int, stream: int, special: bool, out: np.ndarray) -> None:
    """Fill `out` with small frames, SIMD-interleaved, full batches at a time."""
    count, n, p = out.shape
    width = lanes(out.dtype)
    batches = -(-count // width)
    seconds = width * _seconds(n, p)
    workers = max(1, min(threads.available(), int(batches * seconds / _SECONDS_PER_THREAD)))
    # Four chunks per thread, because one thread may start late or be interrupted.
    step = width * max(1, -(-batches // (4 * workers if workers > 1 else 1)))

    def form(begins: Iterable[int]) -> None:
        work = _scratch(haar_batched.work_size(n, p, out.dtype), out.dtype)
        words = _scratch(2 * int(WORDS))
        for a in begins:
            source = Source(np.uint64(key), np.uint64(stream + a))
            haar_batched.form_batch(source, special, work, words, out[a : a + step])

    spread_items(form, list(range(0, count, step)), workers)


def form_separately(key: int, stream: int, special: bool, out: np.ndarray) -> None:
    """Fill `out`; each thread forms whole frames."""
    count, n, p = out.shape
    step = _matrices_per_chunk(n, p, count)

    def form(a: int) -> None:
        _FrameBuilder(n, p, out.dtype).form(key, stream + a, special, out[a : a + step])

    threads.spread(form, [(a,) for a in range(0, count, step)])


def form_jointly(key: int, stream: int, special: bool, out: np.ndarray) -> None:
    """Fill `out` with one frame on all threads: blocks of reflectors, then panels of columns."""
    n, p = out.shape
    builder = _FrameBuilder(n, p, out.dtype, 4 if n >= _GROUPED_ROWS else 1)
    batch = out[None]

    def prepare(block: int) -> None:
        builder.form_chunk(key, stream, False, (block, block + 1), (0, 0), batch)

    def form(c: int) -> None:
        columns = c, min(c + builder.group, p)
        builder.form_chunk(key, stream, False, (0, 0), columns, batch)

    threads.spread(prepare, [(block,) for block in range(builder.blocks)])
    if special:
        builder.form_chunk(key, stream, True, (0, 0), (0, 0), batch)
    # All reflectors act on the last columns: longest chunks first.
    threads.spread(form, [(c,) for c in reversed(range(0, p, builder.group))])


class _FrameBuilder:
    """Forms n × p frames: holds their reflectors, and scratch for each thread."""

    def __init__(self, n: int, p: int, dtype: np.dtype, panels: int = 1):
        self.blocks = _blocks(p)
        self.reflectors = kernels.Reflectors(
            _scratch(_reflector_elements(n, p), dtype),
            _scratch(self.blocks * BLOCK**2, dtype),
            np.empty(p, dtype),
        )
        self.group = panels * kernels.PANEL_BYTES // dtype.itemsize
        # Reuse scratch from chunk to chunk: touching fresh pages takes a tenth of the time of the
        # work on them.
        self.spare: queue.SimpleQueue[kernels.Scratch] = queue.SimpleQueue()
        self.n, self.p = n, p

    def form(self, key: int, stream: int, special: bool, out: np.ndarray) -> None:
        """Fill `out`, one frame after the other, on this thread."""
        self.form_chunk(key, stream, special, (0, self.blocks), (0, self.p), out)

    def form_chunk(
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
            scratch = self._new_scratch(out.dtype)
        source = Source(np.uint64(key), np.uint64(stream))
        chunk = kernels.Chunk(*blocks, *columns, self.group)
        kernels.form_frames(source, special, chunk, self.reflectors, scratch, out)
        self.spare.put(scratch)

    def _new_scratch(self, dtype: np.dtype) -> kernels.Scratch:
        return kernels.Scratch(
            small=np.empty(2 * BLOCK),
            places=np.empty(BLOCK, np.intp),
            work=_scratch(kernels.work_size(self.n), dtype),
            panels=_scratch(padded(self.n) * self.group, dtype),
        )


def _reflector_elements(n: int, p: int) -> int:
    return int(layout.block_start(n, _blocks(p)))


def _blocks(p: int) -> int:
    """Return the number of blocks of reflectors of a frame with p columns."""
    return -(-p // BLOCK)


def _scratch(size: int, dtype: DTypeLike = np.uint64) -> np.ndarray:
    """Return an empty vector aligned to a cache line: misalignment costs a tenth of the speed."""
    dtype = np.dtype(dtype)
    raw = np.empty(int(size) * dtype.itemsize + 64, np.uint8)
    # Takes a third of the time of `raw.ctypes.data`: noticeable in the smallest batches.
    begin = -raw.__array_interface__["data"][0] % 64
    return raw[begin : begin + int(size) * dtype.itemsize].view(dtype)


def _seconds(n: int, p: int) -> float:
    """Return the approximate seconds that one thread takes to form one frame."""
    normals = p * n - p * (p - 1) // 2
    flops = 2 * n * p**2 - 2 / 3 * p**3
    alone = _SECONDS_PER_MATRIX if n > _BATCHED_ROWS else 0.0
    return normals / _NORMALS_PER_SECOND + flops / _FLOPS_PER_SECOND + alone


def _is_tall(n: int, p: int) -> bool:
    few = p <= 2 * BLOCK
    return n >= (_TALL_ROWS // 8 if few else _TALL_ROWS) and 16 * p <= n


def _takes_all_threads(n: int, p: int, count: int) -> bool:
    """Return whether threads share each matrix instead of forming whole matrices.

    A thread that forms a whole matrix finds the reflectors in its own cache, which takes a quarter
    less processor time at n = 1000. That requires enough matrices for all threads, each small
    enough for the cache.
    """
    workers = threads.available()
    even = count % workers == 0 or count >= 4 * workers
    return n >= _GROUPED_ROWS or (not even and _seconds(n, p) > 2 * _SECONDS_PER_CHUNK)


def _matrices_per_chunk(n: int, p: int, count: int) -> int:
    """Return the matrices per chunk: about a millisecond, and equally many chunks per thread."""
    seconds = count * _seconds(n, p)
    if seconds < _SECONDS_PER_CHUNK / 2:
        return max(count, 1)
    rounds = math.ceil(seconds / _SECONDS_PER_CHUNK / threads.available())
    return math.ceil(count / (rounds * threads.available()))
