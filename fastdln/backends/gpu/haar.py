"""Sample Haar frames and normals on a GPU: for each seed the CPU's frames, to rounding."""

import numpy as np
from numpy.typing import DTypeLike

from fastdln.kernels.cuda.haar import form_frames, working_bytes
from fastdln.kernels.cuda.random import fill_normals
from fastdln.rng import stream_id
from fastdln.utils import arrays

from .device import Device, DeviceArray, free_bytes, on_device, require_memory
from .launcher import Launcher

# Fraction of free memory that one chunk of a batch may use as working memory.
WORKING_SHARE = 0.5


def haar_batch(
    device: Device,
    key: int,
    kind: int,
    first: int,
    count: int,
    n: int,
    p: int,
    dtype: DTypeLike = "float64",
    special: bool = False,
) -> DeviceArray:
    """Return `count` Haar frames on the GPU, frame j drawn from stream (kind, first + j).

    Parameters
    ----------
    device : Device
    key, kind, first : int
        Key and streams, as for `fastdln.backends.cpu.haar.haar_batch`.
    count, n, p : int
    dtype : {"float64", "float32"}
    special : bool
        Determinant +1; needs p = n.

    Returns
    -------
    cupy.ndarray, shape (count, n, p)

    Raises
    ------
    MemoryError
        If the result and the working memory of one frame do not fit on the GPU.
    """
    dtype = arrays.float_dtype(dtype)
    stream_id(kind, first + max(count, 1) - 1)
    stream = stream_id(kind, first)
    each = working_bytes(n, p, dtype)
    needed = each + count * n * p * dtype.itemsize
    require_memory(
        device, needed, f"drawing {count} Haar matrices of {n} × {p} in {dtype}", "draw fewer"
    )
    with on_device(device) as cupy:
        launcher = Launcher(device, dtype)
        out = cupy.empty((count, n, p), dtype)
        chunk = max(1, int(WORKING_SHARE * free_bytes(device) // each))
        for a in range(0, count, chunk):
            b = min(a + chunk, count)
            form_frames(launcher, launcher.multiply, cupy, key, stream + a, bool(special), out[a:b])
    return out


def standard_normal(
    device: Device,
    key: int,
    stream: int,
    shape: tuple[int, ...],
    dtype: DTypeLike = "float64",
    first: int = 0,
) -> DeviceArray:
    """Return normals number `first`, `first` + 1, … of a stream on the GPU, in C order.

    The bits are those of `fastdln.rng.standard_normal`.
    """
    dtype = arrays.float_dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64))
    require_memory(device, size * dtype.itemsize, f"drawing {size:,} normals", "draw fewer")
    with on_device(device) as cupy:
        out = cupy.empty(shape, dtype)
        fill_normals(Launcher(device, dtype), key, stream, out.reshape(1, size), first=first)
    return out


def drawing_bytes(widths: tuple[int, ...], dtype: np.dtype) -> int:
    """Return the maximum working memory, in GPU bytes, for drawing a network.

    Layers are drawn one by one: the maximum is that of an orthogonal layer's frame, the frame's
    working memory and the scaled copy.
    """
    m = max(widths[1:-1], default=1)
    frame = working_bytes(m, m, dtype) + 2 * m * m * dtype.itemsize
    first = widths[0] * widths[1] * dtype.itemsize
    return max(frame, first)
