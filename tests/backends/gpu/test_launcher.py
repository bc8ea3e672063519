"""Launches: arguments are checked; on a GPU, the zigzag kernel against naive training."""

import ctypes
import sys
import types

import gpu_cases as cases
import numpy as np
import pytest
from cuda_cases import Networks

from fastdln.backends.gpu.device import on_device, require_gpu
from fastdln.backends.gpu.launcher import Launcher
from fastdln.kernels.cuda.declarations import FillNormals
from fastdln.kernels.cuda.team import Team
from fastdln.kernels.cuda.zigzag import kernel_constants


class Lent:
    """A NumPy array with the members of a CuPy array that a matrix product reads."""

    def __init__(self, array):
        self.shape, self.strides, self.dtype = array.shape, array.strides, array.dtype
        self.data = types.SimpleNamespace(ptr=array.ctypes.data)


def column_major_gemm(
    handle,
    transpose_a,
    transpose_b,
    m,
    n,
    k,
    alpha,
    a,
    lead_a,
    step_a,
    b,
    lead_b,
    step_b,
    beta,
    c,
    lead_c,
    step_c,
    frames,
):
    """Do what cublasDgemmStridedBatched documents, by addresses."""

    def matrices(address, rows, columns, lead, step):
        size = step * (frames - 1) + lead * (columns - 1) + rows
        flat = np.ctypeslib.as_array((ctypes.c_double * size).from_address(address))
        return np.lib.stride_tricks.as_strided(
            flat, (frames, rows, columns), (8 * step, 8, 8 * lead)
        )

    assert lead_a >= (k if transpose_a else m)
    assert lead_b >= (n if transpose_b else k)
    assert lead_c >= m
    A = matrices(a, *((k, m) if transpose_a else (m, k)), lead_a, step_a)
    B = matrices(b, *((n, k) if transpose_b else (k, n)), lead_b, step_b)
    C = matrices(c, m, n, lead_c, step_c)
    scale_1, scale_2 = (ctypes.c_double.from_address(x).value for x in (alpha, beta))
    product = (A.transpose(0, 2, 1) if transpose_a else A) @ (
        B.transpose(0, 2, 1) if transpose_b else B
    )
    C[...] = scale_1 * product + (scale_2 * C if scale_2 else 0)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("m", "n", "k"), [(4, 3, 5), (1, 3, 5), (4, 1, 5), (4, 3, 1), (1, 1, 1)])
def test_matrix_products_of_views(m, n, k, transposed, add, monkeypatch, rng):
    """Row-major views, transposed or not, are passed rightly to cuBLAS's column-major routine."""
    cublas = types.SimpleNamespace(dgemmStridedBatched=column_major_gemm, sgemmStridedBatched=None)
    device = types.SimpleNamespace(get_cublas_handle=lambda: 0)
    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    monkeypatch.setitem(
        sys.modules, "cupy.cuda", types.SimpleNamespace(cublas=cublas, device=device)
    )
    launcher = object.__new__(Launcher)
    launcher.dtype = np.dtype("float64")

    def view(rows, columns, by_columns):
        if by_columns:
            return view(columns, rows, False).transpose(0, 2, 1)
        return rng.standard_normal((3, rows + 2, columns + 3))[:, 1 : rows + 1, 2 : columns + 2]

    A, B, C = view(m, k, transposed[0]), view(k, n, transposed[1]), view(m, n, False)
    expected = A @ B + (C if add else 0)
    launcher.multiply(Lent(C), Lent(A), Lent(B), add)
    np.testing.assert_allclose(C, expected, rtol=1e-12, atol=1e-13)


@pytest.fixture
def launcher(dtype):
    device = require_gpu()
    with on_device(device):
        yield Launcher(device, dtype)


@cases.needs_gpu
@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize(
    "team",
    [Team(1, 64), Team(1, 96), Team(3, 64), Team(6, 64, 3), Team(3, 64, 1, 2), Team(6, 64, 3, 2)],
    ids=str,
)
@pytest.mark.parametrize(
    "shapes",
    [[(5, 3)], [(16, 26, 26, 26, 10)] * 3, [(16, 67, 101, 10), (16, 10)], [(2, 60, 1, 33, 9)]],
    ids=str,
)
def test_zigzag_passes(shapes, team, momentum, launcher, dtype, rng):
    networks = Networks(shapes, dtype, rng, 0.02, momentum, momentum > 0)
    batch = networks.batch(launcher.xp, team, steps=9)
    for goal in (0, 4, 9):
        batch.advance(launcher.zigzag, np.arange(len(shapes)), goal)
    networks.check(batch, 9)


@cases.needs_gpu
def test_bad_arguments_are_refused(launcher):
    host = FillNormals(np.zeros((1, 3), launcher.dtype), 0, 0, 0, 1, 3, 3, 1, 0, 1.0)
    with pytest.raises(TypeError, match="arrays on the GPU"):
        launcher("random", "fill_normals", (1, 1), 32, 0, host)
    with pytest.raises(ValueError, match="bytes of shared memory"):
        launcher("random", "fill_normals", (1, 1), 32, 1 << 20, host)
    with pytest.raises(ValueError, match="whole warps, not 66 threads"):
        launcher.zigzag(kernel_constants(3, 5, False, True, 2), 2, 66, 0, host)
