"""Public sampling of Haar-distributed orthogonal matrices and frames, on the CPU or a GPU."""

import math
import numbers
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastdln.backends.cpu import haar as cpu
from fastdln.backends.cpu.reflectors import frame_shape
from fastdln.rng import Seed, Stream, result_array, seed_key
from fastdln.utils import validation


def haar_orthogonal(
    n: int,
    p: int | None = None,
    *,
    size: int | tuple[int, ...] | None = None,
    seed: Seed = None,
    dtype: DTypeLike = "float64",
    special: bool = False,
    device: str = "cpu",
    out: np.ndarray | None = None,
) -> np.ndarray:
    device = validation.device(device)
    n, p = frame_shape(n, p)
    if special and p < n:
        raise ValueError(f"special needs square matrices, but p = {p} is less than n = {n}")
    batch = _batch_shape(size)
    count = math.prod(batch)
    dtype = validation.float_dtype(dtype)
    if out is None:
        cpu.require_memory(n, p, count, dtype)
    out = result_array((*batch, n, p), dtype, out)
    frames = out.reshape(count, n, p)
    cpu.haar_batch(seed_key(seed), Stream.HAAR, 0, count, n, p, dtype, bool(special), frames)
    return out


def _batch_shape(size: Any) -> tuple[int, ...]:
    if size is None:
        return ()
    if isinstance(size, numbers.Integral):
        size = (size,)
    if not isinstance(size, tuple | list):
        raise TypeError(f"size must be None, an integer or a tuple of integers, not {size!r}")
    return tuple(validation.non_negative_integer("size", length) for length in size)
