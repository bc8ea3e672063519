"""Addressable normals on the card, the same numbers as on the CPU."""

from typing import Any

import numpy as np

THREADS = 256
# Blocks of one launch at most; each goes on to further numbers.
MOST_BLOCKS = 1 << 16


def fill_normals(
    launch: Any,
    key: int,
    stream: int,
    out: Any,
    *,
    first: int = 0,
    stream_step: int = 1,
    step: int = 0,
    scale: float = 1.0,
) -> None:
    """Fill the rows of `out` with normals, each rounded to its dtype and multiplied by `scale`.

    Row r gets numbers first + r·step and on of stream + r·stream_step. `out` is a matrix whose
    rows are contiguous. ``launch(file, kernel, grid, threads, shared_bytes, arguments)`` starts a
    kernel and does not wait.
    """
    rows, length = out.shape
    itemsize = out.dtype.itemsize
    if out.size == 0:
        return
    if (length > 1 and out.strides[1] != itemsize) or (rows > 1 and out.strides[0] % itemsize):
        raise ValueError("rows must be contiguous")
    stride = out.strides[0] // itemsize if rows > 1 else length
    items = rows * (length // 2 + 1)
    blocks = min(-(-items // THREADS), MOST_BLOCKS)
    arguments = (
        np.uint64(key), np.uint64(stream), np.uint64(first), out, np.int64(rows),
        np.int64(length), np.int64(stride), np.int64(stream_step), np.int64(step),
        out.dtype.type(scale),
    )  # fmt: skip
    launch("random", "fill_normals", (blocks, 1), THREADS, 0, arguments)
