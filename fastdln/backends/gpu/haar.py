"""Haar frames and normals on a card: the matrices of the CPU for the same seed, to rounding."""

from typing import Any

import numpy as np

from fastdln.backends.gpu.device import Card, free_bytes, on_card, require_memory
from fastdln.backends.gpu.launcher import Launcher
from fastdln.kernels.cuda.haar import form_frames, working_bytes
from fastdln.kernels.cuda.random import fill_normals
from fastdln.rng import stream_id
from fastdln.utils import validation

# Share of the free memory that one piece of a batch may take beside the result.
WORKING_SHARE = 0.5


def haar_batch(
    card: Card,
    key: int,
    kind: int,
    first: int,
    count: int,
    n: int,
    p: int,
    dtype: Any = "float64",
    special: bool = False,
    out: Any = None,
) -> Any:
    """Return (count, n, p) Haar frames on the card, number j from stream (kind, first + j).

    Parameters
    ----------
    card : Card
    key, kind, first
        The seed's key, and the streams of the frames, as for `fastdln.backends.cpu.haar.haar_batch`.
    count, n, p : int
    dtype : {"float64", "float32"}
    special : bool
        Determinant +1; needs p = n.
    out : cupy.ndarray, optional
        C-contiguous array to fill and return.

    Returns
    -------
    cupy.ndarray, shape (count, n, p)

    Raises
    ------
    MemoryError
        If result and working memory of one frame do not fit on the card.
    """
    dtype = validation.float_dtype(dtype)
    stream_id(kind, first + max(count, 1) - 1)
    stream = stream_id(kind, first)
    each = working_bytes(n, p, dtype)
    needed = each + (0 if out is not None else count * n * p * dtype.itemsize)
    require_memory(
        card, needed, f"drawing {count} Haar matrices of {n} × {p} in {dtype}", "draw fewer"
    )
    with on_card(card) as cupy:
        launcher = Launcher(card, dtype)
        if out is None:
            out = cupy.empty((count, n, p), dtype)
        piece = max(1, int(WORKING_SHARE * free_bytes(card) // each))
        for a in range(0, count, piece):
            b = min(a + piece, count)
            form_frames(launcher, launcher.multiply, cupy, key, stream + a, bool(special), out[a:b])
    return out


def standard_normal(
    card: Card,
    key: int,
    stream: int,
    shape: tuple[int, ...],
    dtype: Any = "float64",
    first: int = 0,
) -> Any:
    """Return normals number `first`, `first` + 1, … of a stream on the card, in C order.

    Bit for bit those of `fastdln.rng.standard_normal`.
    """
    dtype = validation.float_dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64))
    require_memory(card, size * dtype.itemsize, f"drawing {size:,} normals", "draw fewer")
    with on_card(card) as cupy:
        out = cupy.empty(shape, dtype)
        fill_normals(Launcher(card, dtype), key, stream, out.reshape(1, size), first=first)
    return out
