"""The GPU's trainer with its kernels run on the CPU, against naive training."""

import gpu_cases as cases
import numpy as np
import pytest
from cuda_cases import ShimLauncher

import fastdln
from fastdln.backends.gpu.device import require_gpu
from fastdln.backends.gpu.launcher import Launcher
from fastdln.backends.gpu.trainer import GpuTrainer
from fastdln.kernels.cuda import two_pass
from fastdln.objectives.base import reduced_objective
from fastdln.optim.loop import Checkpoint
from fastdln.optim.optimizers import Optimizer

OPTIMIZERS = {
    "decay": Optimizer(weight_decay=0.1),
    "nesterov": Optimizer(momentum=0.6, nesterov=True, weight_decay=0.05),
    "adam": Optimizer("adam"),
}


def regression(rng, d_y=3):
    problem = fastdln.Regression(rng.standard_normal((8, 5)), rng.standard_normal((d_y, 5)))
    return problem.reduced


def train_and_check(work):
    """Train on the shim, compare with naive training and return the trainer's kernel."""
    with GpuTrainer(work, ShimLauncher(work.dtype)) as trainer:
        cases.run(trainer)
        assert trainer.step == work.steps
        cases.check(work, trainer.step, trainer.losses, trainer.trained_layers())
    return trainer.kernel


@pytest.mark.parametrize("hidden", [(), (9, 6)], ids=str)
@pytest.mark.parametrize(
    ("optimizer", "kernel"),
    [
        ("decay", "zigzag"),
        ("decay", "two-pass"),
        ("nesterov", "zigzag"),
        ("nesterov", "two-pass"),
        ("adam", "two-pass"),
    ],
)
def test_training_is_naive_training(optimizer, kernel, hidden, dtype, rng):
    work = cases.workload(
        (5, *hidden, 3),
        regression(rng),
        rng,
        5,
        dtype=dtype,
        kernel=kernel,
        optimizer=OPTIMIZERS[optimizer],
    )
    assert train_and_check(work) == kernel


@pytest.mark.parametrize("kernel", ["zigzag", "two-pass"])
def test_minibatches(kernel, rng):
    schedule = cases.Minibatches()
    work = cases.workload((5, 6, 3), regression(rng), rng, 4, schedule=schedule, kernel=kernel)
    train_and_check(work)


def test_more_outputs_than_inputs_are_trained_transposed(rng):
    train_and_check(cases.workload((5, 6, 4, 7), regression(rng, d_y=7), rng, 4, kernel="two-pass"))


@pytest.mark.parametrize("kernel", ["zigzag", "two-pass"])
def test_an_objective_of_the_user_is_evaluated_on_the_host(kernel, rng):
    class Doubled(fastdln.Logistic):
        def loss(self, M):
            return 2 * super().loss(M)

        def gradient(self, M):
            return 2 * super().gradient(M)

    problem = reduced_objective(Doubled(rng.standard_normal((4, 20)), rng.integers(0, 3, 20)))
    train_and_check(cases.workload((4, 6, 3), problem, rng, 4, rate=1e-3, kernel=kernel))


@pytest.mark.parametrize("kernel", ["zigzag", "two-pass"])
def test_divergence_ends_a_run(kernel, rng):
    work = cases.workload((5, 6, 3), regression(rng), rng, 40, rate=1e4, kernel=kernel)
    with GpuTrainer(work, ShimLauncher("float64")) as trainer:
        cases.run(trainer)
    losses, _ = cases.expected(work)
    assert trainer.status == "diverged"
    assert trainer.step == np.flatnonzero(~np.isfinite(losses))[0]


def test_no_steps(rng):
    train_and_check(cases.workload((5, 6, 3), regression(rng), rng, 0))


@pytest.mark.parametrize("kernel", ["zigzag", "two-pass"])
def test_a_view_is_the_network_of_its_step_and_changes_no_bit(kernel, rng):
    work = cases.workload((5, 7, 6, 3), regression(rng), rng, 5, kernel=kernel)
    with GpuTrainer(work, ShimLauncher("float64")) as seen:
        seen.advance(0)
        while seen.step < work.steps:
            seen.advance(seen.step + 1)
            view = seen.view()
            losses, trained = cases.expected(work, seen.step)
            np.testing.assert_allclose(view.loss, losses[-1], rtol=1e-10)
            for got, w in zip(view.layers, trained, strict=True):
                np.testing.assert_allclose(got, w, atol=1e-10)
            assert not view.layers[0].flags.writeable
        layer = seen.trained_layers()
    with GpuTrainer(work, ShimLauncher("float64")) as unseen:
        cases.run(unseen)
        for i, w in enumerate(map(unseen.trained_layers(), range(3))):
            np.testing.assert_array_equal(layer(i), w)
    np.testing.assert_array_equal(seen.losses, unseen.losses)


@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
@pytest.mark.parametrize("widths", [(5, 6, 3), (5, 6, 7)], ids=["", "transposed"])
def test_a_run_continues_from_a_checkpoint(widths, optimizer, rng):
    objective = regression(rng, widths[-1])
    whole = cases.workload(widths, objective, rng, 6, optimizer=OPTIMIZERS[optimizer])
    with GpuTrainer(whole, ShimLauncher("float64")) as trainer:
        cases.run(trainer)
        expected = trainer.trained_layers()
    common = {"optimizer": whole.optimizer}
    first = cases.workload(widths, objective, rng, 4, drawn=list(whole.draw()), **common)
    with GpuTrainer(first, ShimLauncher("float64")) as trainer:
        cases.run(trainer)
        checkpoint = Checkpoint(4, trainer.optimizer_state(), float(trainer.losses[0]))
        halfway = trainer.trained_layers()
    drawn, common = [halfway(i) for i in range(2)], common | {"checkpoint": checkpoint}
    second = cases.workload(widths, objective, rng, 2, drawn=drawn, **common)
    with GpuTrainer(second, ShimLauncher("float64")) as trainer:
        cases.run(trainer)
        layer = trainer.trained_layers()
    for i in range(2):
        np.testing.assert_allclose(layer(i), expected(i), rtol=1e-13, atol=1e-15)


def test_zigzag_is_refused_where_it_is_not_able(rng):
    objective = regression(rng)
    for given in ({"optimizer": Optimizer("adam")}, {}):
        widths = (5, 6, 3) if given else (40, 6, 3)
        work = cases.workload(widths, objective, rng, 1, kernel="zigzag", **given)
        with pytest.raises(ValueError, match="carries at most 32 inputs and outputs"):
            GpuTrainer(work, ShimLauncher("float64"))


def test_a_trainer_that_has_ended_says_so(rng):
    work = cases.workload((5, 6, 3), regression(rng), rng, 1)
    with GpuTrainer(work, ShimLauncher("float64")) as trainer:
        cases.run(trainer)
        trainer.trained_layers()
        with pytest.raises(RuntimeError, match="the training has ended"):
            trainer.view()


@pytest.mark.parametrize("kernel", ["zigzag", "two-pass"])
def test_too_little_memory_names_the_bytes(kernel, rng):
    work = cases.workload((5, 6, 3), regression(rng), rng, 1, kernel=kernel)
    with pytest.raises(MemoryError, match=r"[\d,]+ bytes .* but 100 bytes"):
        GpuTrainer(work, ShimLauncher("float64", free=100))


def test_memory_for_drawing_is_planned(rng):
    """A network that would fit, but not together with the layer that is being drawn."""
    widths = (5, 60, 60, 3)
    work = cases.workload(widths, regression(rng), rng, 1, kernel="two-pass")
    plain = two_pass.UpdateRule.PLAIN
    free = two_pass.two_pass_bytes(widths, work.dtype, plain, 1) + 8 * 60 * 60
    with pytest.raises(MemoryError, match=f"but {free:,} bytes"):
        GpuTrainer(work, ShimLauncher("float64", free=free))


@cases.needs_gpu
@pytest.mark.parametrize("kernel", ["zigzag", "two-pass"])
@pytest.mark.parametrize(("width", "depth"), [(26, 40), (100, 12), (300, 5), (1000, 3)])
def test_training_on_a_gpu_repeats_bit_for_bit(width, depth, kernel, dtype, rng):
    problem = fastdln.paper_regression()
    rate = fastdln.theory.learning_rate(problem, depth) / 4
    work = cases.workload(
        (16, *[width] * (depth - 1), 10),
        problem.reduced,
        rng,
        12,
        dtype=dtype,
        rate=rate,
        tolerance=0.0,
        kernel=kernel,
    )
    runs = []
    for _ in range(2):
        with GpuTrainer(work, Launcher(require_gpu(), dtype)) as trainer:
            cases.run(trainer)
            runs.append((trainer.losses, trainer.trained_layers()))
    (losses, first), (again, second) = runs
    rtol = {"float32": 1e-3, "float64": 1e-9}[dtype]
    expected, trained = cases.expected(work)
    np.testing.assert_allclose(losses, expected, rtol=rtol)
    np.testing.assert_array_equal(losses, again)
    for i, w in enumerate(trained):
        np.testing.assert_array_equal(first(i), second(i))
        np.testing.assert_allclose(first(i), w, atol=rtol)


@cases.needs_gpu
@pytest.mark.parametrize("kernel", ["zigzag", "two-pass"])
def test_subnormals_are_not_flushed(kernel, rng):
    """A product that passes through 2⁻¹⁴⁰ comes back where flushing would leave zero."""
    tiny, huge = np.float32(2.0**-70), np.float32(2.0**70)
    layers = [np.full((1, 1), x, "float32") for x in (tiny, tiny, huge, huge)]
    # Zigzag multiplies the inputs' end first, two passes the outputs' end.
    order = layers if kernel == "zigzag" else layers[::-1]
    objective = fastdln.Regression([[1.0]], [[0.0]]).reduced
    work = cases.workload(
        (1, 1, 1, 1, 1),
        objective,
        rng,
        0,
        dtype="float32",
        rate=1e-30,
        tolerance=0.0,
        kernel=kernel,
        drawn=order,
    )
    with GpuTrainer(work, Launcher(require_gpu(), "float32")) as trainer:
        cases.run(trainer)
    assert trainer.losses[0] == 0.5
