"""``device="gpu"`` through the public names: what the CPU gives, on a card and on its shim."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import fastdln
from fastdln import figures
from fastdln.backends.gpu import batch as gpu_batch
from fastdln.backends.gpu import pacing as pace
from fastdln.backends.gpu.cost_model import class_of
from fastdln.figures import Preset
from fastdln.objectives import base as objective
from fastdln.objectives import regression
from fastdln.sweeps import store
from fastdln.sweeps.executors import Threads
from fastdln.sweeps.setting import Setting

RTOL = {"float32": 3e-4, "float64": 1e-10}
RULES = [
    {"init": "orthogonal"},
    {"init": "orthogonal", "method": "dense"},
    {"init": "gaussian", "kernel": "two-pass", "weight_decay": 0.01},
    {"init": "gaussian", "momentum": 0.5, "nesterov": True, "weight_decay": 0.01},
    {"init": "gaussian", "optimizer": "adam"},
    {"init": "gaussian", "batch_size": 4},
    {"init": "balanced"},
]


def problem(rng, shape=(6, 3), n=9):
    return fastdln.Regression(
        rng.standard_normal((shape[0], 9)), rng.standard_normal((shape[1], 9))
    )


def close(ours, theirs, rtol):
    assert (ours.status, ours.steps_taken, ours.method) == (
        theirs.status, theirs.steps_taken, theirs.method
    )  # fmt: skip
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=rtol)
    for a, b in zip(ours.network.weights, theirs.network.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * (1 + np.abs(b).max()))


def test_adams_constants_belong_together(gpu, rng):
    """Steps of a large rate show whether means are corrected for the β that they were formed with.

    With β's of different roundings the last loss was off by 1e-4 (measured); it is by 1e-5.
    """
    given = problem(rng)
    common = {"width": 14, "depth": 6, "init": "gaussian", "optimizer": "adam", "steps": 2}
    common |= {"learning_rate": 1.0, "dtype": "float32"}
    ours, theirs = (fastdln.train(given, device=d, **common) for d in (gpu, "cpu"))
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=3e-5)


@pytest.mark.parametrize("options", RULES, ids=str)
@pytest.mark.parametrize("shape", [(6, 3), (3, 6)], ids=["", "mirrored"])
def test_train(shape, options, gpu, dtype, rng):
    given = problem(rng, shape)
    common = {"width": 11, "depth": 4, "steps": 8, "learning_rate": 1e-2, "dtype": dtype} | options
    steps = []
    ours = fastdln.train(given, device=gpu, callback=lambda t, loss: steps.append(t), **common)
    kernel = {"kernel": "auto"}
    close(ours, fastdln.train(given, **common | kernel), RTOL[dtype])
    assert steps[-1] == 8
    assert ours.device == gpu
    # Nothing of it is on the card any more.
    again = pickle.loads(pickle.dumps(ours))
    for a, b in zip(ours.network.weights, again.network.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_network_of_ones_own_and_an_objective_of_ones_own(gpu, rng):
    given = fastdln.Logistic(rng.standard_normal((7, 30)), rng.integers(0, 3, 30))
    net = fastdln.initialize(7, 3, width=9, depth=4, init="gaussian", seed=1)
    common = {"network": net, "steps": 6, "learning_rate": 1e-3}
    ours = fastdln.train(given, device=gpu, **common)
    close(ours, fastdln.train(given, **common), 1e-9)


OBJECTIVES = {
    "logistic": lambda rng: fastdln.Logistic(rng.standard_normal((6, 20)), rng.integers(0, 3, 20)),
    "completion": lambda rng: fastdln.MatrixCompletion(
        (3, 6), [0, 1, 2, 2], [0, 3, 5, 1], rng.standard_normal(4)
    ),
    "sensing": lambda rng: fastdln.MatrixSensing(
        rng.standard_normal((12, 3, 6)), rng.standard_normal(12)
    ),
    "regression": problem,
}


@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"optimizer": "adam"}], ids=str)
@pytest.mark.parametrize("kernel", ["zigzag", "two-pass"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_of_this_package_are_evaluated_on_the_card(
    name, kernel, options, gpu, rng, monkeypatch
):
    given = OBJECTIVES[name](rng)
    kernel = "two-pass" if options.get("optimizer") else kernel
    common = {"width": 7, "depth": 3, "init": "gaussian", "steps": 9} | options
    common["learning_rate"] = 1e-2 * fastdln.theory.learning_rate(given, 3)
    theirs = fastdln.train(given, **common)

    def asked(self, M):
        raise AssertionError("the host was asked")

    monkeypatch.setattr(objective.RestrictedObjective, "evaluate", asked)
    monkeypatch.setattr(regression.ReducedRegression, "evaluate", asked)
    close(fastdln.train(given, device=gpu, kernel=kernel, **common), theirs, 1e-9)


@pytest.mark.parametrize("kernel", ["zigzag", "two-pass"])
@pytest.mark.parametrize(("rate", "tolerance"), [(1e30, 0.0), (None, 0.9)])
def test_what_is_queued_after_the_end_does_nothing(kernel, rate, tolerance, gpu, rng):
    given = OBJECTIVES["sensing"](rng)
    common = {
        "width": 7, "depth": 3, "init": "gaussian", "steps": 200, "learning_rate": rate,
        "tolerance": tolerance,
    }  # fmt: skip
    theirs = fastdln.train(given, **common)
    ours = fastdln.train(given, device=gpu, kernel=kernel, **common)
    assert (ours.status, ours.steps_taken) == (theirs.status, theirs.steps_taken)
    assert 0 < ours.steps_taken < 200
    if ours.status == "converged":
        close(ours, theirs, 1e-9)


def test_a_loss_derived_from_ours_may_be_another(gpu, rng):
    class Doubled(fastdln.Logistic):
        def loss(self, M):
            return 2 * super().loss(M)

        def gradient(self, M):
            return 2 * super().gradient(M)

    given = Doubled(rng.standard_normal((6, 20)), rng.integers(0, 3, 20))
    common = {"width": 7, "depth": 3, "steps": 5, "learning_rate": 1e-3}
    close(fastdln.train(given, device=gpu, **common), fastdln.train(given, **common), 1e-9)


@pytest.mark.parametrize("options", [{}, {"kernel": "two-pass"}, {"batch_size": 3}], ids=str)
def test_train_many(options, gpu, rng):
    given, rates = problem(rng), [1e-2, 3e-2, 1e30, None]
    common = {"width": 9, "depth": 4, "init": "gaussian", "steps": 6} | options
    seen = []
    ours = fastdln.train_many(
        given, seeds=[0, 1, 2, 0], learning_rates=rates, device=gpu,
        callback=lambda t, loss: seen.append((t, loss)), **common,
    )  # fmt: skip
    theirs = fastdln.train_many(given, seeds=[0, 1, 2, 0], learning_rates=rates, **common)
    for a, b in zip(ours, theirs, strict=True):
        if b.status == "diverged":
            assert a.status == "diverged"
        else:
            close(a, b, 1e-9)
            assert (b.steps_taken, b.loss[-1]) in [(t, pytest.approx(loss)) for t, loss in seen]


def test_many_are_trained_at_once_and_hold_their_layers(shim_card, rng, monkeypatch):
    launches = []
    advance = gpu_batch.Batch.advance

    def counted(self, *arguments):
        launches.append(len(arguments[1]))
        return advance(self, *arguments)

    monkeypatch.setattr(gpu_batch.Batch, "advance", counted)
    found = fastdln.train_many(
        problem(rng), seeds=range(5), device="gpu", width=7, depth=3, init="gaussian", steps=3
    )
    assert max(launches) == 5
    assert len({r.network.weights[1][0, 0] for r in found}) == 5


def test_bits_do_not_depend_on_company(gpu, rng):
    """Neither on how many networks there are, nor on their widths, depths and order."""
    common = {"steps": 6, "dtype": "float32", "progress": False, "device": gpu}
    given = problem(rng)
    one = fastdln.sweep(given, [9], [5], ("gaussian",), **common)
    many = fastdln.sweep(given, [4, 9, 30], [2, 5, 9], ("gaussian", "orthogonal"), **common)
    there = many.sel(init=["gaussian"], width=[9], depth=[5])
    np.testing.assert_array_equal(one.loss, there.loss)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.4}], ids=str)
def test_minibatches_are_taken_on_the_card(options, gpu, rng, monkeypatch):
    """Many networks with minibatches of their own go together, a few steps a launch."""
    monkeypatch.setattr(pace, "MOST_INDICES", 40)
    common = {"steps": 9, "batch_size": 4, "seeds": (0, 1), "progress": False} | options
    given = problem(rng)
    found = [
        fastdln.sweep(given, [5, 9], [2, 4], ("gaussian", "orthogonal"), device=device, **common)
        for device in ("cpu", gpu)
    ]
    np.testing.assert_allclose(found[1].loss, found[0].loss, rtol=1e-9)


def test_groups_of_blocks_go_on_as_networks_end(shim_card, rng, monkeypatch):
    """More networks than the card has room for, of several depths, two at a time."""
    team = gpu_batch.Team(3, 8)
    monkeypatch.setattr(gpu_batch, "common_team", lambda *given: team)
    working = []
    advance = gpu_batch.Batch.advance

    def noted(self, launch, active, goal, *rest):
        working.append((list(self.depths[active]), list(goal - self.steps_taken()[active])))
        return advance(self, launch, active, goal, *rest)

    monkeypatch.setattr(gpu_batch.Batch, "advance", noted)
    common = {"steps": 30, "progress": False}
    given = problem(rng)
    ours, theirs = (
        fastdln.sweep(given, [9], [2, 4, 8, 16], ("gaussian",), device=device, **common)
        for device in ("gpu", "cpu")
    )
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-9)
    assert all(len(depths) <= 2 for depths, _ in working)
    depths, steps = working[0]
    assert depths == [16, 8]
    # Twice as deep, half the steps (and the loss before the first).
    assert steps == [2, 3]


def test_sweep(gpu, rng, tmp_path):
    pytest.importorskip("zarr")
    common = {"steps": 20, "seeds": (0, 1), "progress": False}
    given = problem(rng)
    found = [
        fastdln.sweep(given, [5, 12], [2, 6], store=tmp_path / device, device=device, **common)
        for device in ("cpu", gpu)
    ]
    np.testing.assert_allclose(found[1].loss, found[0].loss, rtol=1e-9)
    np.testing.assert_array_equal(found[1].steps_taken, found[0].steps_taken)
    assert (store.read(tmp_path / gpu).status != "pending").all()


def test_cells_that_go_alone_are_heard_of(gpu, rng, monkeypatch):
    heard, report = [], Threads._report

    def noted(self, cell, step):
        heard.append((cell.depth, step))
        return report(self, cell, step)

    monkeypatch.setattr(Threads, "_report", noted)
    common = {"steps": 5, "progress": False, "optimizer": "adam", "learning_rate": 1e-3}
    given = problem(rng)
    ours = fastdln.sweep(given, [5], [2, 4], ("gaussian",), device=gpu, **common)
    assert {depth for depth, _ in heard} == {2, 4}
    assert heard[-1][1] == 5
    theirs = fastdln.sweep(given, [5], [2, 4], ("gaussian",), **common)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-9)


def test_figures(gpu, tmp_path, monkeypatch):
    pytest.importorskip("zarr")
    monkeypatch.setitem(figures.FIGURE1, "quick", Preset((5, 9), (1, 3), 10, (0, 5, 10)))
    said = []
    files = figures.figure1("quick", tmp_path, device=gpu, progress=False, say=said.append)
    assert all(f.exists() for f in files)
    assert "estimated time" not in said[0]  # an estimate of the CPU's


def test_the_benchmark_finds_all_steps_from_a_few(shim_card, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    from benchmarks import gpu as benchmark

    taken = []
    monkeypatch.setitem(figures.FIGURE1, "tiny", Preset((5, 9), (1, 3), 1000, (0, 1000)))
    monkeypatch.setitem(benchmark.FIGURES, "tiny", ("tiny", 5, 25, 1.0, 1.0))
    assert benchmark.figure_row("tiny")["times"]["fastdln"] != 0

    def timed(preset, steps):
        taken.append(steps)
        return 3.0 + 2.0 * steps

    monkeypatch.setattr(benchmark, "swept_milliseconds", timed)
    assert benchmark.figure_row("tiny")["times"]["fastdln"] == 3.0 + 2.0 * 1000
    assert taken == [0, 5, 25]


def test_the_cards_of_a_cluster_are_not_looked_for_here(rng, tmp_path):
    given = problem(rng)
    assert Setting.of(given, 3, device="gpu:3", here=False).device == "gpu:3"
    for here in (True, False):
        with pytest.raises(ValueError, match="device must be 'cpu', 'gpu', 'gpu:N' or 'auto'"):
            Setting.of(given, 3, device="gpu:x", here=here)


def test_a_cluster_trains_on_its_cards(shim_card, rng):
    distributed = pytest.importorskip("distributed")
    common = {"steps": 4, "progress": False}
    given = problem(rng)
    with distributed.Client(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None
    ) as client:
        ours = fastdln.sweep(given, [5], [2, 3], device="gpu", client=client, **common)
    theirs = fastdln.sweep(given, [5], [2, 3], **common)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-9)


def test_what_a_card_cannot_do_is_refused(gpu, rng):
    given = problem(rng)
    common = {"width": 5, "depth": 3, "device": gpu}
    with pytest.raises(ValueError, match="kernel='zigzag' does gradient descent, not Adam"):
        fastdln.train(given, kernel="zigzag", optimizer="adam", **common)
    with pytest.raises(ValueError, match="kernel must be one of"):
        fastdln.sweep(given, [5], [3], kernel="fast", device=gpu)
    wide = fastdln.Regression(rng.standard_normal((40, 50)), rng.standard_normal((3, 50)))
    with pytest.raises(ValueError, match="carries at most 32 inputs and outputs"):
        fastdln.train(wide, kernel="zigzag", learning_rate=1e-3, init="gaussian", **common)


def test_a_class_has_one_team():
    assert [class_of(w) for w in (1, 32, 33, 4096, 4097)] == [32, 32, 64, 4096, 0]
