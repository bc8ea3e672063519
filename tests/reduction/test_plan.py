"""The plan of a run: which method, at which widths, at which cost, and why."""

import numpy as np
import pytest

import fastdln
from fastdln.optim.optimizers import Optimizer
from fastdln.reduction.plan import plan, plan_network


def test_adam_on_reduced_says_why():
    with pytest.raises(ValueError, match=r"not exact here: Adam's steps are taken entry by entry"):
        fastdln.train(
            fastdln.paper_regression(), width=30, depth=3, method="reduced", optimizer="adam"
        )


def test_the_reduced_width_is_that_of_the_theory():
    problem = fastdln.paper_regression()
    for width, kept in [(5, 5), (26, 26), (27, 26), (10**6, 26)]:
        chosen = plan(problem, width=width, depth=4)
        assert chosen.method == "reduced"
        assert chosen.widths == (16, kept, kept, kept, 10)


def test_a_wide_reduced_run_needs_little_memory():
    """Width 20,000 and depth 400: one full layer alone would be 3.2 GB."""
    problem = fastdln.paper_regression()
    chosen = plan(problem, width=20_000, depth=400)
    assert chosen.bytes < 2**28
    r = fastdln.train(problem, width=20_000, depth=400, steps=3)
    assert r.method == "reduced"
    assert np.isfinite(r.loss).all()


@pytest.mark.parametrize("width", [40, (30, 40, 20)])
def test_a_gaussian_network_is_irreducible(width):
    problem = fastdln.paper_regression()
    network = fastdln.initialize(1024, 10, width=width, depth=4, init="gaussian")
    chosen, bases = plan_network(problem, network)
    assert (chosen.method, bases) == ("dense", [])
    assert "mixes more than" in chosen.reason
    with pytest.raises(ValueError, match="not exact here: the second layer alone mixes more than"):
        fastdln.train(problem, network=network, method="reduced")


@pytest.mark.parametrize(
    ("width", "depth", "init", "message"),
    [
        (8, 3, "gaussian", "hidden layers of init 'gaussian' mix"),
        ((8, 9), None, "orthogonal", r"hidden widths differ \(8 to 9\)"),
        (8, 1, "orthogonal", "depth 1 has no hidden layer"),
    ],
)
def test_where_the_reduction_is_not_exact_auto_is_dense_and_says_why(width, depth, init, message):
    problem = fastdln.paper_regression()
    arguments = {"width": width, "depth": depth, "init": init}
    chosen = plan(problem, **arguments)
    assert chosen.method == "dense"
    assert chosen.reason.startswith("not reducible: ")
    with pytest.raises(ValueError, match=message):
        plan(problem, **arguments, method="reduced")
    with pytest.raises(ValueError, match=message):
        fastdln.train(problem, **arguments, method="reduced", steps=1)


def test_balanced_layers_keep_the_smaller_of_inputs_and_outputs():
    problem = fastdln.paper_regression()
    chosen = plan(problem, width=(30, 12), init="balanced")
    assert (chosen.method, chosen.widths) == ("reduced", (16, 10, 10, 10))
    assert chosen.full_widths == (1024, 30, 12, 10)


def test_adam_is_dense_on_all_inputs():
    problem = fastdln.paper_regression()
    chosen = plan(problem, width=30, depth=3, optimizer=Optimizer("adam"))
    assert (chosen.method, chosen.widths) == ("dense", (1024, 30, 30, 10))


def test_a_dense_plan_counts_the_operations_and_bytes_of_its_layers(dtype):
    problem = fastdln.paper_regression()
    chosen = plan(problem, width=30, depth=3, init="gaussian", dtype=dtype)
    assert chosen.reason == "not reducible: hidden layers of init 'gaussian' mix all directions"
    asked = plan(problem, width=30, depth=3, method="dense")
    assert asked.reason == "method='dense' was asked for"
    elements = sum(a * b for a, b in zip(chosen.widths, chosen.widths[1:], strict=False))
    assert chosen.bytes >= elements * np.dtype(dtype).itemsize
    # At least the products of one matrix of 10 rows with every layer, a few times.
    assert 2 * 10 * elements <= chosen.flops_per_step <= 10 * 10 * elements
