"""Addressable standard normals on the GPU, with the same bits as on the CPU."""

from typing import Any

from fastdln.kernels.cuda.declarations import FillNormals

THREADS = 256
# Maximum blocks per launch; beyond it a thread draws several pairs.
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

    Row r receives the normals of stream + r·stream_step from number first + r·step on. `out` is a
    matrix with contiguous rows. ``launch(file, kernel, grid, threads, shared_bytes, parameters)``
    starts a kernel asynchronously.

    Raises
    ------
    ValueError
        If the elements of a row are not contiguous.
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
    parameters = FillNormals(
        out, key, stream, first, rows, length, stride, stream_step, step, scale
    )
    launch("random", "fill_normals", (blocks, 1), THREADS, 0, parameters)
