"""Products from the narrow network, against the product of the full-width layers."""

import naive
import numpy as np
import pytest
from reduction_cases import OPTIMIZERS, STEPS, make_problem, stable

import fastdln

# d_x, d_y, n, width: wide; narrower than d + d_y, than d_x, than d_y; width 1; one input or output.
SIZES = {
    "wide": (12, 3, 5, 31),
    "width < d + d_y": (6, 4, 9, 8),
    "width < d_x": (30, 2, 5, 17),
    "width < d_y": (4, 9, 12, 6),
    "width 1": (3, 2, 4, 1),
    "one input": (1, 5, 2, 11),
    "one output": (7, 1, 3, 13),
}


def tolerance(weights):
    """Return the rounding of a product: a few per layer, of the product of the layers' norms."""
    norms = [max(1.0, float(np.linalg.norm(w, 2))) for w in weights]
    return 50 * len(norms) * np.finfo(weights[0].dtype).eps * float(np.prod(norms))


def check_products(network, problem, rng):
    """Compare all products of a network with those of its layers, read forward."""
    weights = [w.astype(np.float64) for w in network.weights]
    assert network.weights.products is not None
    close = {"rtol": 0, "atol": tolerance(list(network.weights))}
    M = naive.end_to_end(weights)
    np.testing.assert_allclose(network.end_to_end(), M, **close)
    np.testing.assert_allclose(
        network.singular_values(), np.linalg.svd(M, compute_uv=False), **close
    )
    X = rng.standard_normal((network.d_x, 3)) / np.sqrt(network.d_x)
    inside = problem.X @ rng.standard_normal((problem.n, 2))
    inside /= np.linalg.norm(inside)
    for i in range(network.depth + 1):
        A = naive.end_to_end([np.eye(network.d_x), *weights[:i]])
        B = naive.end_to_end([*weights[i:], np.eye(network.d_y)])
        for product in (network.suffix_product(i), network.prefix_product(i)):
            assert product.dtype == network.dtype
        np.testing.assert_allclose(network.suffix_product(i), B, **close)
        np.testing.assert_allclose(network.prefix_product(i), A, **close)
        np.testing.assert_allclose(network.prefix_product(i, X), A @ X, **close)
        np.testing.assert_allclose(network.prefix_product(i, inside), A @ inside, **close)


@pytest.mark.parametrize("depth", [2, 3, 7])
@pytest.mark.parametrize("size", SIZES)
def test_products_are_those_of_the_layers(size, depth, dtype, rng):
    *shape, width = SIZES[size]
    problem = make_problem(*shape, rng)
    arguments = {"width": width, "depth": depth, "seed": 5, "steps": 5, "dtype": dtype}
    arguments |= {"learning_rate": stable(problem, depth), "method": "reduced"}
    run = fastdln.train(problem, **arguments)
    check_products(run.network, problem, rng)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("init", ["orthogonal", "identity", "zero_asymmetric", "balanced", "given"])
def test_products_of_every_start_and_optimizer(init, optimizer, rng):
    problem = make_problem(12, 3, 5, rng)
    arguments = {"width": 31, "depth": 5, "gain": 0.9, "seed": 2}
    if init == "given":
        arguments = {"network": fastdln.initialize(12, 3, **arguments)}
    else:
        arguments["init"] = init
    arguments |= {"learning_rate": stable(problem, 5), "method": "reduced", "steps": STEPS}
    run = fastdln.train(problem, **arguments, **OPTIMIZERS[optimizer])
    check_products(run.network, problem, rng)


def test_products_of_balanced_networks_with_any_widths(rng):
    problem = make_problem(7, 3, 9, rng)
    arguments = {"width": (12, 5, 9), "init": "balanced", "steps": 9, "weight_decay": 0.01}
    run = fastdln.train(problem, **arguments, learning_rate=stable(problem, 4))
    check_products(run.network, problem, rng)


@pytest.mark.parametrize("shape", [(12, 3, 5), (2, 9, 12)], ids=["d > d_y", "d < d_y"])
def test_products_on_every_device_and_after_resuming(shape, device, rng):
    problem = make_problem(*shape, rng)
    arguments = {"width": 20, "depth": 4, "steps": 6, "device": device, "resumable": True}
    arguments |= {"learning_rate": stable(problem, 4), "momentum": 0.5, "weight_decay": 0.02}
    run = fastdln.train(problem, **arguments)
    check_products(run.network, problem, rng)
    check_products(fastdln.resume(run, steps=7).network, problem, rng)


def test_losses_and_gradients_from_the_end_to_end_matrix(rng):
    problem = make_problem(12, 3, 5, rng)
    run = fastdln.train(problem, width=40, depth=30, steps=5)
    M = run.network.end_to_end()
    np.testing.assert_allclose(problem.loss(M), run.loss[-1], rtol=1e-11)
    np.testing.assert_allclose(
        problem.gradient(M), (M @ problem.X - problem.Y) @ problem.X.T, atol=1e-12
    )


def test_no_hidden_layer_is_formed_for_the_end_to_end_matrix(rng):
    """One would take 320 GB."""
    problem = make_problem(12, 3, 5, rng)
    network = fastdln.train(problem, width=200_000, depth=3, steps=0).network
    assert network.end_to_end().shape == (3, 12)
    assert network.suffix_product(1).shape == (3, 200_000)


def test_inputs_outside_the_span_are_multiplied_by_the_layers(rng):
    problem = make_problem(12, 3, 5, rng)
    network = fastdln.train(problem, width=31, depth=6, steps=5).network
    U = problem.reduced.basis
    X = rng.standard_normal((12, 4))
    X -= U @ (U.T @ X)
    expected = naive.end_to_end([X, *network.weights[:4]])
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(network.prefix_product(4, X), expected, atol=1e-13)
