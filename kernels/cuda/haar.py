"""Form batches of Haar frames on the GPU: draw reflectors, apply them by matrix products."""

from typing import Any

import numpy as np

from fastdln.kernels.cuda.declarations import DrawReflectors, InvertFactors

# Reflectors per block. Larger blocks make the products squarer but the triangular factors larger;
# the size has not been tuned by measurement.
BLOCK = 64
THREADS = 256
# Maximum size of the second axis of a grid.
MOST_FRAMES = 65_535


def form_frames(
    launch: Any, multiply: Any, xp: Any, key: int, stream: int, special: bool, out: Any
) -> None:
    """Fill out[k], n × p C-contiguous, with the Haar frame of stream + k.

    Parameters
    ----------
    launch : callable
        As in `fill_normals`, for the dtype of `out`.
    multiply : callable
        ``multiply(C, A, B, add)`` sets C to A·B, or adds it to C, for batches of matrices that
        are views with one contiguous axis.
    xp : module
        CuPy, or NumPy where the kernels run on the CPU.
    key, stream : int
        Key and first stream of the random numbers.
    special : bool
        Whether determinants are 1, for n = p.
    out : array, shape (count, n, p)
    """
    count, n, p = out.shape
    V = xp.empty((count, p, n), out.dtype)
    sizes = xp.empty((count, p), np.float64)
    signs = xp.empty((count, p), out.dtype)
    for a in range(0, count, MOST_FRAMES):
        b = min(a + MOST_FRAMES, count)
        parameters = DrawReflectors(V[a:b], sizes[a:b], signs[a:b], key, stream + a, n, p)
        launch("haar", "draw_reflectors", (p, b - a), THREADS, 8 * THREADS, parameters)
    if special:
        # A reflection has determinant −1: choose the last sign so that the product has +1.
        odd = (signs > 0).sum(axis=1) % 2 == 1
        signs[:, -1] = xp.where(odd, -signs[:, -1], signs[:, -1])
    out[...] = 0
    diagonal = xp.arange(p)
    out[:, diagonal, diagonal] = signs
    for j in range((p - 1) // BLOCK * BLOCK, -1, -BLOCK):
        _reflect(launch, multiply, xp, V[:, j : j + BLOCK, j:], sizes, j, out[:, j:, j:])


def _reflect(launch: Any, multiply: Any, xp: Any, V: Any, sizes: Any, j: int, Q: Any) -> None:
    """Apply one block of reflectors, ``Q −= Vᵀ T (V Q)``, to the columns from its first on."""
    frames, count = V.shape[:2]
    S = xp.empty((frames, count, count), Q.dtype)
    T = xp.empty_like(S)
    multiply(S, V, V.transpose(0, 2, 1), False)
    shared = 2 * count * count * Q.dtype.itemsize
    parameters = InvertFactors(S, sizes, T, sizes.shape[1], j, count)
    launch("haar", "invert_factors", (frames, 1), BLOCK, shared, parameters)
    Z = xp.empty((frames, count, Q.shape[2]), Q.dtype)
    W = xp.empty_like(Z)
    multiply(Z, V, Q, False)
    multiply(W, T, Z, False)
    multiply(Q, V.transpose(0, 2, 1), W, True)


def working_bytes(n: int, p: int, dtype: Any) -> int:
    """Return the bytes of working memory to form one frame, without the result."""
    itemsize = np.dtype(dtype).itemsize
    block = min(BLOCK, p)
    return itemsize * (p * n + p + 2 * block * block + 2 * block * p) + 8 * p
