"""The GPU's benchmark times real steps: ours advances, and the peers' step is gradient descent."""

from pathlib import Path

import naive
import numpy as np
import pytest
from cuda_cases import ShimLauncher


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))


def test_our_step_advances_all_networks():
    from benchmarks import gpu as benchmark

    ours = benchmark.Ours(ShimLauncher("float32"), 2, 6, 3, ends=(5, 3))
    ours.step(2)
    assert (ours.batch.steps_taken() == 2).all()
    np.testing.assert_array_equal(ours.batch.recorded(0, 2), ours.batch.recorded(1, 2))
    assert np.isfinite(ours.batch.recorded(1, 2)).all()


def test_teams_are_compared(monkeypatch):
    from benchmarks import gpu as benchmark

    monkeypatch.setitem(benchmark.TRAINING, "small", (2, 6, 3, "step", 1.0, 1.0))
    monkeypatch.setattr(benchmark, "release", lambda launcher: None)
    compared = benchmark.compare_teams(ShimLauncher("float32"), "small", ends=(5, 3))
    assert len({tuple(row["team"]) for row in compared}) == len(compared) > 1


def test_the_step_of_the_peers_is_gradient_descent():
    from benchmarks import gpu_peers as peers

    p, weights = peers.problem(5, 3), peers.host_layers(2, 6, 4, 5, 3)
    weights = [w.astype(np.float64) for w in weights]
    before = [w.copy() for w in weights]

    def subtract(w, B, C):
        w -= C if B is None else B.transpose(0, 2, 1) @ C

    peers.two_pass(weights, np.matmul, lambda w: w.transpose(0, 2, 1), subtract, p.scale, p.target)
    for i in range(2):
        layers = [w[i] for w in before]
        _, G = p.evaluate(naive.end_to_end(layers))
        for w, v, g in zip(layers, weights, naive.backpropagation(layers, G), strict=True):
            np.testing.assert_allclose(v[i], w - g, rtol=1e-10, atol=1e-12)


def test_all_steps_of_a_figure_follow_from_a_few(shim_gpu, monkeypatch):
    from benchmarks import gpu as benchmark
    from fastdln import figures
    from fastdln.figures import Preset

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
