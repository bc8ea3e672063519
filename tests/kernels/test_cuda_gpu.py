"""Refusals without a card; and on a card, everything against the CPU."""

import ctypes
import sys
import types

import naive
import numpy as np
import pytest
from cuda_cases import Networks

import fastdln
from fastdln import rng as random
from fastdln.backends.cpu import haar
from fastdln.backends.cpu import trainer as engine
from fastdln.backends.gpu import batch as gpu_batch
from fastdln.backends.gpu import chain as gpu_chain
from fastdln.backends.gpu import device as gpu
from fastdln.backends.gpu import trainer as gpu_descent
from fastdln.backends.gpu.launcher import Launcher
from fastdln.kernels.cuda.zigzag import Team, kernel_constants
from fastdln.optim.optimizers import Rule

needs_card = pytest.mark.skipif(
    not gpu.available(), reason="no GPU that CuPy can use: see fastdln.gpu.card.require_gpu()"
)


class NoDevice(Exception):
    """What CuPy raises where the driver finds no card."""

    status = 100


def no_device():
    raise NoDevice


def fake(driver=13020, toolkit=13020, cards=1, major=9, memory_clock=3_201_000, compiler=(13, 2)):
    """Return a stand-in for CuPy on a machine with these versions and cards."""
    properties = {
        "name": b"Card", "major": major, "minor": 0, "multiProcessorCount": 132,
        "sharedMemPerBlockOptin": 232_448, "sharedMemPerMultiprocessor": 233_472,
    }  # fmt: skip
    runtime = types.SimpleNamespace(
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: toolkit,
        getDeviceCount=lambda: no_device() if cards is None else cards,
        getDeviceProperties=lambda i: properties,
        CUDARuntimeError=NoDevice,
        cudaDevAttrClockRate=13,
        cudaDevAttrMemoryClockRate=36,
        cudaDevAttrGlobalMemoryBusWidth=37,
        deviceGetAttribute=lambda attribute, i: {13: 1_980_000, 36: memory_clock, 37: 6144}[
            attribute
        ],
    )
    nvrtc = types.SimpleNamespace(getVersion=lambda: compiler)
    cuda = types.SimpleNamespace(runtime=runtime, nvrtc=nvrtc)
    if compiler:
        cuda.cublas = None
    else:
        del nvrtc.getVersion
    return types.SimpleNamespace(cuda=cuda)


@pytest.mark.parametrize(
    ("machine", "device", "kind", "message"),
    [
        (None, "gpu", ImportError, r"needs CuPy, which is not installed: pip install 'fastdln\["),
        (fake(driver=0), "gpu", RuntimeError, "needs an NVIDIA driver, and none is loaded"),
        (fake(driver=12080), "gpu", RuntimeError, r"for CUDA 12\.8, .* for CUDA 13\.2; .*cuda12"),
        (fake(cards=0), "gpu", RuntimeError, "finds no card"),
        (fake(cards=None), "gpu", RuntimeError, "finds no card"),
        (fake(compiler=None), "gpu", ImportError, r"NVRTC and cuBLAS.*pip install 'fastdln\["),
        (fake(), "gpu:7", ValueError, "this machine has 'gpu:0'"),
        (fake(cards=4), "gpu:4", ValueError, "'gpu:0' to 'gpu:3'"),
        (fake(major=7), "gpu", RuntimeError, r"compute capability 7\.0; 8\.0 or later"),
        (fake(), "gpu:x", ValueError, "'gpu' or 'gpu:N'"),
        (fake(), "gpu:-1", ValueError, "'gpu' or 'gpu:N'"),
        (fake(), 0, ValueError, "'gpu' or 'gpu:N'"),
    ],
)
def test_refusals_say_what_to_do(machine, device, kind, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", machine)
    with pytest.raises(kind, match=message):
        gpu.require_gpu(device)


def test_a_card_is_found(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake(cards=2))
    card = gpu.require_gpu("gpu:1")
    assert (str(card), card.name, card.multiprocessors) == ("gpu:1", "Card", 132)
    assert gpu.available()
    assert card.memory_bytes_a_cycle == pytest.approx(0.88 * 2 * 3201 * 768 / 1980)
    monkeypatch.setitem(sys.modules, "cupy", fake(memory_clock=0))
    assert gpu.require_gpu().memory_bytes_a_cycle == np.inf


class Lent:
    """A NumPy array with the members of a CuPy array that a matrix product reads."""

    def __init__(self, array):
        self.shape, self.strides, self.dtype = array.shape, array.strides, array.dtype
        self.data = types.SimpleNamespace(ptr=array.ctypes.data)


def column_major_gemm(
    handle, turned_a, turned_b, m, n, k, alpha, a, lead_a, step_a, b, lead_b, step_b, beta,
    c, lead_c, step_c, frames,
):  # fmt: skip
    """Do what cublasDgemmStridedBatched documents, by addresses."""

    def matrices(address, rows, columns, lead, step):
        size = step * (frames - 1) + lead * (columns - 1) + rows
        flat = np.ctypeslib.as_array((ctypes.c_double * size).from_address(address))
        return np.lib.stride_tricks.as_strided(
            flat, (frames, rows, columns), (8 * step, 8, 8 * lead)
        )

    assert lead_a >= (k if turned_a else m)
    assert lead_b >= (n if turned_b else k)
    assert lead_c >= m
    A = matrices(a, *((k, m) if turned_a else (m, k)), lead_a, step_a)
    B = matrices(b, *((n, k) if turned_b else (k, n)), lead_b, step_b)
    C = matrices(c, m, n, lead_c, step_c)
    scale_1, scale_2 = (ctypes.c_double.from_address(x).value for x in (alpha, beta))
    product = (A.transpose(0, 2, 1) if turned_a else A) @ (B.transpose(0, 2, 1) if turned_b else B)
    C[...] = scale_1 * product + (scale_2 * C if scale_2 else 0)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("m", "n", "k"), [(4, 3, 5), (1, 3, 5), (4, 1, 5), (4, 3, 1), (1, 1, 1)])
def test_matrix_products_of_views(m, n, k, turned, add, monkeypatch, rng):
    """Row-major views, transposed or not, are told to cuBLAS's column-major routine rightly."""
    cublas = types.SimpleNamespace(dgemmStridedBatched=column_major_gemm, sgemmStridedBatched=None)
    device = types.SimpleNamespace(get_cublas_handle=lambda: 0)
    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    monkeypatch.setitem(
        sys.modules, "cupy.cuda", types.SimpleNamespace(cublas=cublas, device=device)
    )
    launcher = object.__new__(Launcher)
    launcher.dtype = np.dtype("float64")

    def view(rows, columns, transposed):
        if transposed:
            return view(columns, rows, False).transpose(0, 2, 1)
        return rng.standard_normal((3, rows + 2, columns + 3))[:, 1 : rows + 1, 2 : columns + 2]

    A, B, C = view(m, k, turned[0]), view(k, n, turned[1]), view(m, n, False)
    expected = A @ B + (C if add else 0)
    launcher.multiply(Lent(C), Lent(A), Lent(B), add)
    np.testing.assert_allclose(C, expected, rtol=1e-12, atol=1e-13)


@pytest.fixture(scope="module")
def card():
    return gpu.require_gpu("gpu")


@pytest.fixture
def launcher(card, dtype):
    with gpu.on_card(card):
        yield Launcher(card, dtype)


@needs_card
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
def test_sweeps_on_the_card(shapes, team, momentum, launcher, dtype, rng):
    networks = Networks(shapes, dtype, rng, 0.02, momentum, momentum > 0)
    batch = networks.batch(launcher.xp, team, steps=9)
    for goal in (0, 4, 9):
        batch.advance(launcher.zigzag, np.arange(len(shapes)), goal)
    networks.check(batch, 9)


@needs_card
@pytest.mark.parametrize("kind", ["zigzag", "two-pass"])
@pytest.mark.parametrize(("width", "depth"), [(26, 40), (100, 12), (300, 5), (1000, 3)])
def test_training_on_the_card_is_training_on_the_cpu(width, depth, kind, card, dtype):
    problem = fastdln.paper_regression().reduced
    widths = (16, *[width] * (depth - 1), 10)
    rng = np.random.default_rng(0)
    pairs = zip(widths, widths[1:], strict=False)
    layers = [rng.standard_normal((m, n)) / np.sqrt(m) for n, m in pairs]
    rows = np.array(widths[1:], dtype=np.float64)
    rate = fastdln.theory.learning_rate(fastdln.paper_regression(), depth) / 4
    common = widths, np.dtype(dtype), rows, rate, Rule(), problem, 12, 0.0
    theirs = engine.Descent(layers, *common)
    theirs.run()
    launcher = Launcher(card, dtype)
    runs = [gpu_descent.Descent(layers, *common, None, kind, launcher=launcher) for _ in range(2)]
    for ours in runs:
        ours.run()
    first, second = (ours.trained() for ours in runs)
    rtol = {"float32": 1e-3, "float64": 1e-9}[dtype]
    np.testing.assert_allclose(runs[0].losses, theirs.losses, rtol=rtol)
    # Bit-identical repeats.
    np.testing.assert_array_equal(runs[0].losses, runs[1].losses)
    for i in range(depth):
        np.testing.assert_array_equal(first(i), second(i))
        np.testing.assert_allclose(first(i), theirs.chain.layer(i), atol=rtol)


@needs_card
def test_subnormals_are_not_flushed(card):
    """A product that passes through 2⁻¹⁴⁰ comes back where flushing would leave zero."""
    tiny, huge = np.float32(2.0**-70), np.float32(2.0**70)
    layers = [np.full((1, 1), x, "float32") for x in (tiny, tiny, huge, huge)]
    # Sweeps multiply the inputs' end first, the baseline the outputs' end.
    for turned, kind in ((layers, "zigzag"), (layers[::-1], "two-pass")):
        descent = gpu_descent.Descent(
            turned, (1, 1, 1, 1, 1), np.dtype("float32"), np.ones(4), 1e-30, Rule(),
            fastdln.Regression([[1.0]], [[0.0]]).reduced, 0, 0.0, kernel=kind,
            launcher=Launcher(card, "float32"),
        )  # fmt: skip
        descent.run()
        assert descent.losses[0] == 0.5


@needs_card
def test_many_networks(launcher, dtype):
    objective = fastdln.paper_regression().reduced
    rng, jobs = np.random.default_rng(1), []
    for depth in [2, 30, 7] * 20:
        widths = (16, *[26] * (depth - 1), 10)
        pairs = zip(widths, widths[1:], strict=False)
        layers = [rng.standard_normal((m, n)) / np.sqrt(m) for n, m in pairs]
        jobs.append(
            gpu_batch.Job(widths, np.array(widths[1:], float), 1e-6, lambda layers=layers: layers)
        )
    done = []
    for outcome in gpu_batch.train_together(launcher, jobs, Rule(), objective, 20, 0.0):
        if isinstance(outcome, dict):
            continue
        done.append(outcome.index)
        job = jobs[outcome.index]
        single = engine.Descent(
            job.draw(), job.widths, np.dtype(dtype), job.rows, 1e-6, Rule(), objective, 20, 0.0
        )
        single.run()
        np.testing.assert_allclose(outcome.loss, single.losses, rtol=1e-3)
    assert sorted(done) == list(range(60))


@needs_card
def test_normals_have_the_bits_of_the_cpu(card, dtype):
    from fastdln.backends.gpu.haar import standard_normal

    for first, shape in ((0, (1000, 37)), (5, (7,)), (2**40 + 1, (100_001,))):
        ours = standard_normal(card, 12345, 678, shape, dtype, first)
        expected = random.standard_normal(12345, 678, shape, dtype, first=first)
        np.testing.assert_array_equal(ours.get(), expected)


@needs_card
@pytest.mark.parametrize(("n", "p"), [(1, 1), (5, 3), (64, 64), (129, 65), (1000, 1000)])
def test_frames_are_those_of_the_cpu(n, p, card, dtype):
    from fastdln.backends.gpu.haar import haar_batch

    ours = haar_batch(card, 3, 7, 1, 3, n, p, dtype).get()
    expected = haar.haar_batch(3, 7, 1, 3, n, p, dtype)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(ours, expected, rtol=0, atol=60 * eps * np.sqrt(n))
    gram = ours.transpose(0, 2, 1) @ ours
    assert np.abs(gram - np.eye(p)).max() < 20 * eps * np.sqrt(n)


@needs_card
@pytest.mark.parametrize("library", ["cupy", "torch", "jax"])
def test_arrays_of_other_libraries_go_in_and_out(library, rng):
    module = pytest.importorskip(library)
    if library == "torch" and not module.cuda.is_available():
        pytest.skip("torch is installed without a card")
    if library == "jax" and module.devices()[0].platform != "gpu":
        pytest.skip("jax is installed without a card")
    host = [rng.standard_normal((m, n)).astype("float32") for n, m in ((5, 7), (7, 3))]
    if library == "torch":
        weights = [module.tensor(w, device="cuda") for w in host]
    else:
        weights = [getattr(module, "numpy", module).asarray(w) for w in host]
    M = gpu_chain.end_to_end(weights)
    assert type(M) is type(weights[0])
    back = (
        M.cpu().numpy() if library == "torch" else np.asarray(M.get() if library == "cupy" else M)
    )
    np.testing.assert_allclose(back, naive.end_to_end(host), rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="not on a card"):
        gpu_chain.end_to_end([weights[0], host[1]])


@needs_card
def test_haar_on_the_card_is_haar_on_the_cpu(dtype):
    for size, special in ((None, False), (5, True)):
        ours, theirs = (
            fastdln.haar_orthogonal(
                65, size=size, special=special, seed=3, dtype=dtype, device=device
            )
            for device in ("gpu", "cpu")
        )
        ours = ours if isinstance(ours, np.ndarray) else ours.get()
        atol = 60 * np.finfo(dtype).eps * np.sqrt(65)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


@needs_card
def test_bad_arrays_are_refused(launcher):
    with pytest.raises(TypeError, match="arrays on the card"):
        launcher("random", "fill_normals", (1, 1), 32, 0, (np.zeros(3),))
    with pytest.raises(ValueError, match="bytes of shared memory"):
        launcher("random", "fill_normals", (1, 1), 32, 1 << 20, ())
    with pytest.raises(ValueError, match="whole warps, not 66 threads"):
        launcher.zigzag(kernel_constants(3, 5, False, True, 2), 2, 66, 0, ())
