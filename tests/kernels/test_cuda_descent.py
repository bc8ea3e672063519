"""Training as `fastdln.train` will call it, its kernels run on the CPU, against the CPU engine."""

import logging
import weakref
from pathlib import Path

import numpy as np
import pytest
from cuda_cases import NoRoom, ShimLauncher

import fastdln
from fastdln.backends.cpu import trainer as engine
from fastdln.backends.gpu import batch as gpu_batch
from fastdln.backends.gpu import trainer as gpu_descent
from fastdln.backends.gpu.cost_model import choose_team
from fastdln.kernels.cuda import two_pass
from fastdln.kernels.cuda.packing import Packing
from fastdln.optim.optimizers import Rule

RTOL = {"float32": 3e-4, "float64": 1e-10}
RULES = {
    "decay": Rule(weight_decay=0.1),
    "nesterov": Rule(momentum=0.6, nesterov=True, weight_decay=0.05),
    "adam": Rule(optimizer="adam"),
}


@pytest.fixture(autouse=True)
def _few_threads(monkeypatch):
    monkeypatch.setattr(two_pass.TwoPass.__init__, "__defaults__", (0.0, 32, 0, None))


def regression(rng, d_y=3):
    return fastdln.Regression(rng.standard_normal((8, 5)), rng.standard_normal((d_y, 5)))


def pair(widths, dtype, rule, objective, rng, steps, schedule=None, kind="auto", rate=0.02):
    """Return the CPU's descent and the card's of the same network."""
    layers = [rng.standard_normal((m, n)) / np.sqrt(m) for n, m in zip(widths, widths[1:])]  # noqa: B905
    rows = np.array(widths[1:], dtype=np.float64)
    common = widths, np.dtype(dtype), rows, rate, rule, objective, steps, 1e-12, schedule
    launcher = ShimLauncher(dtype)
    ours = gpu_descent.Descent(layers, *common, kind, launcher=launcher)
    return engine.Descent(layers, *common), ours


def check(theirs, ours, dtype):
    assert (theirs.step, theirs.status) == (ours.step, ours.status)
    n = theirs.step + 1
    np.testing.assert_allclose(ours.losses[:n], theirs.losses[:n], rtol=RTOL[dtype])
    trained = ours.trained()
    for i in range(theirs.chain.layout.depth):
        w = theirs.chain.layer(i)
        np.testing.assert_allclose(trained(i), w, atol=RTOL[dtype] * (1 + abs(w).max()))


@pytest.mark.parametrize("kind", ["zigzag", "two-pass"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("hidden", [(), (9, 6)], ids=str)
def test_the_card_takes_the_steps_of_the_cpu(hidden, rule, kind, dtype, rng):
    if rule == "adam" and kind == "zigzag":
        pytest.skip("Adam is trained by one kernel a layer")
    objective = regression(rng).reduced
    theirs, ours = pair((5, *hidden, 3), dtype, RULES[rule], objective, rng, 5, kind=kind)
    assert ours.kernel == kind
    seen = []
    theirs.run()
    ours.run(lambda step, loss: seen.append((step, loss)))
    check(theirs, ours, dtype)
    assert seen[-1] == (5, ours.losses[5])


@pytest.mark.parametrize("kind", ["zigzag", "two-pass"])
def test_minibatches(kind, rng):
    objective = regression(rng).reduced
    schedule = lambda step: np.array([step % 5, (step + 2) % 5])
    theirs, ours = pair((5, 6, 3), "float64", Rule(), objective, rng, 4, schedule, kind)
    theirs.run()
    ours.run()
    check(theirs, ours, "float64")


def test_more_outputs_than_inputs_are_trained_mirrored(rng):
    objective = regression(rng, d_y=7).reduced
    theirs, ours = pair((5, 6, 4, 7), "float64", Rule(), objective, rng, 4, kind="two-pass")
    theirs.run()
    ours.run()
    check(theirs, ours, "float64")


@pytest.mark.parametrize("kind", ["zigzag", "two-pass"])
def test_divergence_is_seen(kind, rng):
    objective = regression(rng).reduced
    theirs, ours = pair((5, 6, 3), "float64", Rule(), objective, rng, 40, kind=kind, rate=1e4)
    theirs.run()
    ours.run()
    assert ours.status == theirs.status == "diverged"
    assert ours.step == theirs.step < 40


def test_no_steps(rng):
    theirs, ours = pair((5, 6, 3), "float64", Rule(), regression(rng).reduced, rng, 0)
    theirs.run()
    ours.run()
    check(theirs, ours, "float64")


def test_too_little_memory_names_the_bytes(rng):
    launcher = ShimLauncher("float64", free=100)
    for kind in ("zigzag", "two-pass"):
        with pytest.raises(MemoryError, match=r"[\d,]+ bytes .* but 100 bytes"):
            gpu_descent.Descent(
                [], (5, 6, 3), np.dtype("float64"), np.array([6, 3]), 0.1, Rule(),
                regression(rng).reduced, 1, 0.0, kernel=kind, launcher=launcher,
            )  # fmt: skip


def test_memory_for_drawing_is_planned(rng):
    """A network that would fit once it is there, but not the layer that is drawn beside it."""
    widths, dtype = (5, 60, 60, 3), np.dtype("float64")
    free = two_pass.two_pass_bytes(widths, dtype, two_pass.PLAIN, 1) + 8 * 60 * 60
    with pytest.raises(MemoryError, match=f"but {free:,} bytes"):
        gpu_descent.Descent(
            [], widths, dtype, np.array([60, 60, 3]), 0.1, Rule(), regression(rng).reduced, 1, 0.0,
            kernel="two-pass", launcher=ShimLauncher("float64", free=free),
        )  # fmt: skip


def jobs(rng, depths=(1, 4, 2, 6, 3), width=7):
    made = []
    for depth in depths:
        widths = (5, *[width] * (depth - 1), 3)
        layers = [rng.standard_normal((m, n)) / np.sqrt(m) for n, m in zip(widths, widths[1:])]  # noqa: B905
        rate = float(rng.uniform(0.01, 0.03))
        made.append(
            gpu_batch.Job(widths, np.array(widths[1:], float), rate, lambda layers=layers: layers)
        )
    return made


def outcomes(launcher, work, objective, steps):
    for found in gpu_batch.train_together(launcher, work, Rule(), objective, steps, 1e-12):
        if not isinstance(found, dict):
            yield found


def check_job(job, outcome, objective, steps):
    single = engine.Descent(
        job.draw(), job.widths, np.dtype("float64"), job.rows, job.learning_rate, Rule(),
        objective, steps, 1e-12,
    )  # fmt: skip
    single.run()
    np.testing.assert_allclose(outcome.loss, single.losses[: single.step + 1], rtol=1e-10)
    assert outcome.status == single.status
    for i in range(len(job.rows)):
        np.testing.assert_allclose(outcome.layers(i), single.chain.layer(i), atol=1e-10)


def test_networks_of_a_sweep_are_trained_together(rng):
    objective, launcher = regression(rng).reduced, ShimLauncher("float64")
    work = jobs(rng) + jobs(rng, (2, 3), width=40)
    seen = []
    for outcome in gpu_batch.train_together(launcher, work, Rule(), objective, 6, 1e-12):
        if isinstance(outcome, dict):
            seen.append(outcome)
            continue
        check_job(work[outcome.index], outcome, objective, 6)
        work[outcome.index] = None
    assert work == [None] * 7
    # Two classes of widths: far fewer launches than networks times steps.
    assert launcher.launches < 12
    assert seen[-1].keys() == {0, 1, 2, 3, 4}


def test_running_out_of_memory_shrinks_the_batch_and_says_so(rng, monkeypatch, caplog):
    objective, launcher = regression(rng).reduced, ShimLauncher("float64")
    batch = gpu_batch.Batch

    def limited(xp, packing, motions, **options):
        if len(motions) > 2:
            raise NoRoom
        return batch(xp, packing, motions, **options)

    monkeypatch.setattr(gpu_batch, "Batch", limited)
    work = jobs(rng)
    with caplog.at_level(logging.WARNING, "fastdln"):
        for outcome in outcomes(launcher, work, objective, 3):
            check_job(work[outcome.index], outcome, objective, 3)
    assert "with 5 networks at once; going on with 2" in caplog.text
    monkeypatch.setattr(gpu_batch, "Batch", lambda *a, **k: limited(*a, **k) if 0 else _full())
    with pytest.raises(MemoryError, match=r"a network of depth 6 and width 7 .* ran out of memory"):
        list(gpu_batch.train_together(launcher, work, Rule(), objective, 3, 1e-12))


def _full():
    raise NoRoom


def test_a_batch_is_cut_to_the_memory_that_is_free(rng, caplog):
    objective = regression(rng).reduced
    work = jobs(rng, (3,) * 6)
    launcher = ShimLauncher("float64", free=8000)
    with caplog.at_level(logging.INFO, "fastdln"):
        found = [o.index for o in outcomes(launcher, work, objective, 2)]
    assert sorted(found) == list(range(6))
    assert caplog.text.count("gpu:0 holds 1 of 6 networks at once") == 1
    with pytest.raises(MemoryError, match="but 100 bytes"):
        list(
            gpu_batch.train_together(ShimLauncher("float64", 100), work, Rule(), objective, 2, 0.0)
        )


def test_a_batch_is_gone_before_the_next_is_planned(rng, monkeypatch):
    """Also where the last outcome is kept: on a card it would hold the next batch's memory."""
    work, alive, seen = jobs(rng, (3,) * 6), [], []

    class Batch(gpu_batch.Batch):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            alive.append(weakref.ref(self))

    class Launcher(ShimLauncher):
        def free_bytes(self):
            seen.append(sum(batch() is not None for batch in alive))
            return super().free_bytes()

    monkeypatch.setattr(gpu_batch, "Batch", Batch)
    kept = []
    launcher = Launcher("float64", free=8000)
    for found in gpu_batch.train_together(launcher, work, Rule(), regression(rng).reduced, 2, 0.0):
        if isinstance(found, gpu_batch.Outcome):
            assert np.isfinite(found.layers(0)).all()
            kept.append(found)
    assert len(alive) > 1
    assert not any(seen)
    with pytest.raises(RuntimeError, match="until the next outcome"):
        kept[0].layers(0)


def test_the_benchmark_times_real_steps(rng, monkeypatch):
    """Ours advances; and the peers' hand-written step is a step of gradient descent."""
    import naive

    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    from benchmarks import gpu as benchmark

    monkeypatch.setattr(benchmark, "D", 5)
    monkeypatch.setattr(benchmark, "Q", 3)
    ours = benchmark.Ours(ShimLauncher("float32"), 2, 6, 3)
    ours.step(2)
    assert (ours.batch.steps_taken() == 2).all()
    np.testing.assert_array_equal(ours.batch.recorded(0, 2), ours.batch.recorded(1, 2))
    assert np.isfinite(ours.batch.recorded(1, 2)).all()
    monkeypatch.setitem(benchmark.TRAINING, "small", (2, 6, 3, "step", 1.0, 1.0))
    monkeypatch.setattr(benchmark, "release", lambda launcher: None)
    compared = benchmark.compare_teams(ShimLauncher("float32"), "small")
    assert len({tuple(row["team"]) for row in compared}) == len(compared) > 1
    weights = [w.astype(np.float64) for w in benchmark.host_layers(2, 6, 4)]
    before = [w.copy() for w in weights]

    def subtract(w, B, C):
        w -= C if B is None else B.transpose(0, 2, 1) @ C

    p = benchmark.problem()
    benchmark.two_pass(
        weights, np.matmul, lambda w: w.transpose(0, 2, 1), subtract, p.scale, p.target
    )
    for i in range(2):
        layers = [w[i] for w in before]
        _, G = p.evaluate(naive.end_to_end(layers))
        for w, v, g in zip(layers, weights, naive.backpropagation(layers, G), strict=True):
            np.testing.assert_allclose(v[i], w - g, rtol=1e-10, atol=1e-12)


def test_adam_is_not_trained_in_batches(rng):
    adam = Rule(optimizer="adam")
    with pytest.raises(ValueError, match="one by one"):
        next(
            gpu_batch.train_together(
                ShimLauncher("float64"), jobs(rng), adam, regression(rng).reduced, 1, 0.0
            )
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shared", [101_376, 166_912, 232_448])
@pytest.mark.parametrize("width", [1, 26, 32, 100, 256, 512, 1000, 2048])
@pytest.mark.parametrize("count", [1, 4, 400])
def test_teams_hold_their_networks(width, count, shared, dtype):
    """Shared memory of the smallest and largest cards; wide networks only where they fit."""
    from fastdln.backends.gpu.device import Card
    from fastdln.kernels.cuda.zigzag import fits, shared_bytes

    packing = Packing([(16, width, width, 10)] * count, dtype)
    team = choose_team(packing, True, Card(0, "", 132, shared, shared, 2200.0))
    if team is None:
        assert width * np.dtype(dtype).itemsize > 2000 * shared / 101_376
        return
    assert fits(packing, team)
    assert shared_bytes(packing, team, True) <= shared
    assert team.group <= 132
    if width <= 32:
        assert team.group == 1


@pytest.mark.parametrize(
    ("count", "width", "team"),
    [
        (132, 100, (2, 128, 1, 1)),
        (400, 26, (1, 49, 1, 1)),
        (4, 1000, (66, 126, 11, 1)),
        (1, 1000, (132, 128, 11, 2)),
    ],
)
def test_teams_keep_all_schedulers_busy(count, width, team):
    """Of an H200: two blocks beside each other, of networks that have two, or half of the card,
    each, so that one works while the other waits; room for all 400; two crews where one network
    has the card."""
    from fastdln.backends.gpu.device import Card

    packing = Packing([(16, width, width, 10)] * count, "float32")
    assert choose_team(packing, False, Card(0, "", 132, 232_448, 233_472, 2200.0)) == team
