"""Public sampling of Haar-distributed orthogonal matrices and frames, on the CPU or a GPU."""

import math
import numbers
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastdln.backends.cpu import haar as cpu
from fastdln.backends.cpu.reflectors import frame_shape
from fastdln.backends.devices import check_device, is_gpu
from fastdln.backends.gpu import device as gpu
from fastdln.rng import Seed, Stream, result_array, seed_key, stream_id
from fastdln.utils import arrays, validation
from fastdln.utils.suggestions import suggests_names
from fastdln.utils.threads import checked, limited


@suggests_names
def haar_orthogonal(
    n: int,
    p: int | None = None,
    *,
    size: int | tuple[int, ...] | None = None,
    seed: Seed = None,
    dtype: DTypeLike = "float64",
    special: bool = False,
    device: str = "cpu",
    threads: int | None = None,
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
        Of the matrices and of the arithmetic. Both dtypes start from the same normals.
    special : bool
        Draw from SO(n), determinant +1; needs p = n.
    device : {"cpu", "gpu", "gpu:N", "auto"}
        Where to compute; ``"auto"`` is the CPU. On a GPU the result is a CuPy array there.
    threads : int, optional
        Most threads to use, as for `fastdln.train`.
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
        If result and working memory do not fit; the message states the bytes.

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
    device = check_device(device)
    most = None if threads is None else checked("threads", threads)
    n, p = frame_shape(n, p)
    if special and p < n:
        raise ValueError(f"special needs square matrices, but p = {p} is less than n = {n}")
    batch = _batch_shape(size)
    count = math.prod(batch)
    dtype = arrays.float_dtype(dtype)
    if is_gpu(device):
        if out is not None:
            raise ValueError(f"out must be None on {device!r}: the result is a CuPy array")
        return _draw_on_gpu(device, seed_key(seed), batch, (n, p), dtype, bool(special))
    with limited(most):
        if out is None:
            cpu.require_memory(n, p, count, dtype)
        out = result_array((*batch, n, p), dtype, out)
        frames = out.reshape(count, n, p)
        cpu.fill_frames(seed_key(seed), stream_id(Stream.HAAR), bool(special), frames)
    return out


def _draw_on_gpu(
    device: str,
    key: int,
    batch: tuple[int, ...],
    shape: tuple[int, int],
    dtype: np.dtype,
    special: bool,
) -> Any:
    """Return the frames as a CuPy array, hence `Any`: CuPy is optional and untyped."""
    from fastdln.backends.gpu import haar as gpu_haar  # 25 ms that a draw on the CPU need not pay

    frames = gpu_haar.haar_batch(
        gpu.require_gpu(device), key, Stream.HAAR, 0, math.prod(batch), *shape, dtype, special
    )
    return frames.reshape(*batch, *shape)


def _batch_shape(size: int | tuple[int, ...] | None) -> tuple[int, ...]:
    if size is None:
        return ()
    if isinstance(size, numbers.Integral):
        size = (size,)
    if not isinstance(size, tuple | list):
        raise TypeError(f"size must be None, an integer or a tuple of integers, not {size!r}")
    return tuple(validation.non_negative_integer("size", length) for length in size)
