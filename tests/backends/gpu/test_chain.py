"""The chain on a GPU: its order of products, with NumPy standing in, and its refusals."""

from contextlib import nullcontext

import gpu_cases as cases
import naive
import numpy as np
import pytest

from fastdln.backends.gpu import chain as gpu_chain


@pytest.fixture
def _numpy_stands_in(monkeypatch):
    monkeypatch.setattr(gpu_chain, "on_gpu", lambda array: isinstance(array, np.ndarray))
    monkeypatch.setattr(gpu_chain, "_as_cupy", lambda array: array)
    monkeypatch.setattr(gpu_chain, "_current_stream", lambda like: nullcontext())


SHAPES = [(3, 2), (2, 3), (4, 5, 2), (2, 5, 4), (7, 3, 6, 5, 2), (2, 3, 6, 5, 7)]


@pytest.mark.usefixtures("_numpy_stands_in")
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_products_and_gradients(widths, rng):
    weights = [rng.standard_normal((m, n)) for n, m in zip(widths, widths[1:])]  # noqa: B905
    M = naive.end_to_end(weights)
    np.testing.assert_allclose(gpu_chain.end_to_end(weights), M, rtol=1e-12)
    X = rng.standard_normal((widths[0], 3))
    np.testing.assert_allclose(gpu_chain.forward(weights, X)[-1], M @ X, rtol=1e-12)
    G = rng.standard_normal(M.shape)
    for got, g in zip(
        gpu_chain.gradients(weights, G), naive.backpropagation(weights, G), strict=True
    ):
        np.testing.assert_allclose(got, g, rtol=1e-12, atol=1e-13)
        assert got.flags.c_contiguous  # as the weights that it moves must be


@pytest.mark.usefixtures("_numpy_stands_in")
def test_bad_arrays_are_refused():
    a = np.ones((3, 4))
    with pytest.raises(TypeError, match="float16"):
        gpu_chain.end_to_end([a.astype("float16")])
    with pytest.raises(TypeError, match=r"weights\[1\] has dtype float32"):
        gpu_chain.end_to_end([a, np.ones((2, 3), "float32")])
    with pytest.raises(ValueError, match="C-contiguous"):
        gpu_chain.end_to_end([np.ones((4, 3)).T])
    with pytest.raises(ValueError, match=r"weights\[1\] has 4 columns, but weights\[0\] has 3"):
        gpu_chain.end_to_end([a, a])
    with pytest.raises(ValueError, match="at least one"):
        gpu_chain.end_to_end([])
    with pytest.raises(ValueError, match=r"G must have shape \(3, 4\)"):
        gpu_chain.gradients([a], np.ones((4, 3)))
    with pytest.raises(TypeError, match=r"X is a list that is not on a GPU"):
        gpu_chain.forward([a], [[1.0]])


def test_arrays_of_the_cpu_are_not_on_gpu():
    assert not gpu_chain.on_gpu(np.ones(3))
    assert not gpu_chain.on_gpu([1.0])
    with pytest.raises(TypeError, match="not on a GPU"):
        gpu_chain.end_to_end([np.ones((2, 2))])


@cases.needs_gpu
@pytest.mark.parametrize("library", ["cupy", "torch", "jax"])
def test_arrays_of_other_libraries_go_in_and_out(library, rng):
    module = pytest.importorskip(library)
    if library == "torch" and not module.cuda.is_available():
        pytest.skip("torch is installed without a GPU")
    if library == "jax" and module.devices()[0].platform != "gpu":
        pytest.skip("jax is installed without a GPU")
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
    with pytest.raises(TypeError, match="not on a GPU"):
        gpu_chain.end_to_end([weights[0], host[1]])
