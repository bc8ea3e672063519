"""`TrainConfig` is where options are written: everything that has options derives from it."""

import dataclasses
import inspect
import pickle
import re
import threading
import typing

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import fastdln
from fastdln import figures
from fastdln.command_options import with_run_options
from fastdln.config import TrainConfig, details, option
from fastdln.rng import Seed, seed_key
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.grid import Grid
from fastdln.sweeps.store import Store
from fastdln.training.prepared import prepare
from fastdln.training.run import Run
from fastdln.utils import threads, validation

# Arguments of `train` that are no options: they have no text and no value in a store.
NO_OPTIONS = {"problem", "network", "callback"}


def arguments(function):
    return {
        name: p
        for name, p in inspect.signature(function).parameters.items()
        if name not in NO_OPTIONS
    }


def test_train_has_the_options_their_defaults_and_types():
    found, hints = arguments(fastdln.train), typing.get_type_hints(fastdln.train)
    expected = typing.get_type_hints(TrainConfig, localns={"Seed": Seed})
    assert list(found) == [*TrainConfig.names()]
    for field in dataclasses.fields(TrainConfig):
        assert found[field.name].default == field.default, field.name
        if field.name != "dtype":  # NumPy's type for all that names a dtype, kept as its name
            assert hints[field.name] == expected[field.name], field.name


def test_the_docstring_of_train_names_every_option_and_choice():
    text = inspect.getdoc(fastdln.train)
    parameters = text.partition("Parameters\n")[2].partition("Returns\n")[0]
    heads = [line for line in parameters.splitlines() if line and not line.startswith(" ")]
    named = {name.strip() for line in heads for name in line.partition(" : ")[0].split(",")}
    assert set(TrainConfig.names()) | NO_OPTIONS <= named
    for name, known in TrainConfig.options().items():
        line = next(line for line in heads if name in line.partition(" : ")[0].split(", "))
        if "{" in line:
            for choice in known.choices:
                assert f'"{choice}"' in line, name


def test_sweep_shares_the_defaults():
    found = inspect.signature(fastdln.sweep).parameters
    for field in dataclasses.fields(TrainConfig):
        if field.name in found and field.name != "device":  # left to the machine in a sweep
            assert found[field.name].default == field.default, field.name


@dataclasses.dataclass(frozen=True)
class WithNoise(TrainConfig):
    """One more option, declared in one place."""

    noise: float = option(0.0, "Noise of each step", check=validation.non_negative_number)


def test_an_option_of_a_subclass_is_checked_recorded_and_on_the_command_line():
    assert WithNoise(width=3).record() == TrainConfig().record()
    config = dataclasses.replace(WithNoise(noise=1), width=5)
    assert config.record() == TrainConfig().record() | {"noise": 1.0}
    with pytest.raises(ValueError, match="noise must be a finite number of at least 0"):
        WithNoise(noise=-1)
    with pytest.raises(TypeError, match=r"f\(\) got .* 'noize' \(did you mean 'noise'\?\)"):
        WithNoise.from_options("f", {"noize": 1})
    seen = {}

    def command(options: dict) -> None:
        seen.update(options)

    app = typer.Typer()
    app.command()(with_run_options(config=WithNoise)(command))
    assert CliRunner().invoke(app, ["--noise", "0.5"]).exit_code == 0
    assert seen["noise"] == 0.5
    assert seen.keys() == {f.name for f in dataclasses.fields(WithNoise) if details(f).command_line}


def test_an_option_of_a_subclass_reaches_runs_cells_and_stores(tmp_path):
    problem = fastdln.paper_regression()
    config = WithNoise(width=4, depth=2, steps=2, noise=0.5, resumable=True)
    run = Run.of(prepare(problem, config), seed_key(0)).train()
    assert fastdln.resume(run, steps=1).state.prepared.config.noise == 0.5
    runs = CellRuns.of(problem, WithNoise(steps=2, noise=0.5))
    grid = Grid(("gaussian",), (4,), (2,), (0,), runs.record_steps)
    (cell,) = grid.cells()
    assert runs.config_of(cell) == WithNoise(
        init="gaussian", width=4, depth=2, seed=0, steps=2, noise=0.5
    )
    ((_, values),) = runs.train((cell,))
    assert values["steps_taken"] == 2
    Store(tmp_path / "s", grid, runs.attributes(grid, needs_fingerprint=True)).close()
    others = CellRuns.of(problem, WithNoise(steps=2)).attributes(grid, needs_fingerprint=True)
    with pytest.raises(ValueError, match=r"noise is 0\.5 there and None here"):
        Store(tmp_path / "s", grid, others)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"seed": 0.5}, TypeError, "seed must be a whole number"),
        ({"seed": "a"}, TypeError, "seed must be a whole number"),
        ({"rank_tolerance": 5}, ValueError, "rank_tolerance must be greater than 0 and less"),
        ({"resumable": "no"}, TypeError, "resumable must be True or False"),
        ({"nesterov": 1}, TypeError, "nesterov must be True or False"),
    ],
)
def test_every_option_is_checked(options, error, words):
    with pytest.raises(error, match=words):
        TrainConfig(**options)


def test_configs_are_values():
    configs = [TrainConfig(seed=seed, width=[3, 4]) for seed in ([1, 2], np.array([1, 2]))]
    assert configs[0] == configs[1]
    assert len({*configs, TrainConfig(steps=np.int64(5), momentum=np.float32(0.5))}) == 2
    assert pickle.loads(pickle.dumps(configs[0])) == configs[0]


def test_replacing_an_option_checks_it():
    config = TrainConfig(width=[4, 5], dtype="float32", device="cuda:1", learning_rate=1)
    assert (config.width, config.device, config.learning_rate) == ((4, 5), "gpu:1", 1.0)
    assert dataclasses.replace(config, width=7).width == 7
    with pytest.raises(ValueError, match=r"width\[1\] must be at least 1, not 0"):
        dataclasses.replace(config, width=[3, 0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.width = 3


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lr": 0.1}, TypeError, r"'lr' \(did you mean 'learning_rate'\?\)"),
        ({"initialisation": "gaussian"}, TypeError, r"\(did you mean 'init'\?\)"),
        ({"inits": ["gaussian"]}, TypeError, r"\(did you mean 'init'\?\)"),
        ({"optimizer": "sgd"}, ValueError, r"not 'sgd' \(did you mean 'gd'\?\)"),
        ({"init": "orthogonall"}, ValueError, r"\(did you mean 'orthogonal'\?\)"),
        ({"stpes": 3}, TypeError, r"\(did you mean 'steps'\?\)"),
    ],
)
def test_near_misses_get_a_suggestion(options, error, words):
    with pytest.raises(error, match=words):
        fastdln.train(fastdln.paper_regression(), **({"width": 4, "depth": 2} | options))
    if options.keys() & {"inits"}:
        return
    with pytest.raises(error, match=words.replace("'init'", "'inits?'")):
        fastdln.sweep(fastdln.paper_regression(), [4], [2], **options)
    with pytest.raises(error, match=words.replace("rate'", "rates?'")):
        fastdln.train_many(fastdln.paper_regression(), seeds=[0], width=4, depth=2, **options)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: fastdln.sweep(p, widht=[3], depths=[2]), "'widht' (did you mean 'widths'?)"),
        (lambda p: fastdln.train_many(p, seeds=[0], netwrok=0), "(did you mean 'network'?)"),
        (lambda p: fastdln.initialize(3, 2, initialisation="x"), "(did you mean 'init'?)"),
        (lambda p: fastdln.haar_orthogonal(3, sede=1), "(did you mean 'seed'?)"),
        (lambda p: fastdln.train(p, width=3, depth=2, dtype="flaot32"), "'float32'?)"),
        (lambda p: fastdln.train(p, width=3, depth=2, device="CUDA"), "(did you mean 'cuda'?)"),
    ],
)
def test_every_function_suggests_names(call, words):
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        call(fastdln.paper_regression())


def test_resume_suggests_names_too():
    with pytest.raises(TypeError, match=r"\(did you mean 'steps'\?\)"):
        fastdln.resume(None, step=3)


@pytest.fixture
def three(monkeypatch):
    """Three threads where none are asked for, on any machine."""
    monkeypatch.setenv("FASTDLN_NUM_THREADS", "3")


def limits(call):
    """Return how many threads might be used where a call served its callback, and which did."""
    found = set()
    call(lambda step, loss: found.add((threading.current_thread().name, threads.available())))
    return {name for name, _ in found}, {count for _, count in found}


def test_train_and_resume_use_no_more_threads_than_they_are_given(three, rng):
    problem = fastdln.Regression(rng.standard_normal((6, 5)), rng.standard_normal((3, 5)))
    common = {"width": 5, "depth": 3, "steps": 20, "init": "gaussian", "resumable": True}
    kept = []
    for options, count in (({}, 3), ({"threads": 1}, 1), ({"threads": None}, 3)):

        def train(callback, options=options):
            kept.append(fastdln.train(problem, callback=callback, **common, **options))

        assert limits(train)[1] == {count}

        def resume(callback, options=options):
            kept.append(fastdln.resume(kept[-1], steps=10, callback=callback, **options))

        assert limits(resume)[1] == {count}
    for run in kept[2::2]:
        np.testing.assert_array_equal(run.loss, kept[0].loss)
    for run in kept[3::2]:
        np.testing.assert_array_equal(run.loss, kept[1].loss)
    # The first run's number is not kept: it may be continued on a smaller machine.
    one = fastdln.train(problem, threads=1, **common)
    assert limits(lambda c: fastdln.resume(one, steps=10, callback=c))[1] == {3}


def test_drawing_and_preparing_obey_too(three, rng):
    problem = fastdln.Regression(rng.standard_normal((6, 5)), rng.standard_normal((3, 5)))
    prepared = prepare(problem, TrainConfig(width=5, depth=3, steps=2, threads=1))
    run = Run.of(prepared, seed_key(0), 0.01)
    drawn, draw = set(), run._initial_layers

    def watched():
        drawn.add(threads.available())
        return draw()

    run._initial_layers = watched
    run.train()
    assert drawn == {1}


def test_train_many_trains_by_as_many_threads_as_it_is_given(three, rng):
    problem = fastdln.Regression(rng.standard_normal((6, 5)), rng.standard_normal((3, 5)))
    common = {"seeds": [0, 1, 2], "width": 40, "depth": 3, "steps": 20, "init": "gaussian"}
    here = threading.current_thread().name
    names, counts = limits(lambda c: fastdln.train_many(problem, callback=c, **common))
    assert here not in names
    assert counts == {1}
    names, counts = limits(lambda c: fastdln.train_many(problem, callback=c, threads=1, **common))
    assert names == {here}
    assert counts == {1}


def wrong_numbers():
    most = threads.processors()
    return [0, -1, most + 1]


@pytest.mark.parametrize("count", wrong_numbers())
def test_every_function_refuses_wrong_numbers_of_threads(count, tmp_path):
    p, most = fastdln.paper_regression(), threads.processors()
    drawn = {"width": 3, "depth": 2, "steps": 1}
    run = fastdln.train(p, resumable=True, **drawn)
    calls = [
        lambda: fastdln.train(p, threads=count, **drawn),
        lambda: fastdln.train_many(p, seeds=[0], threads=count, **drawn),
        lambda: fastdln.resume(run, steps=1, threads=count),
        lambda: fastdln.sweep(p, [3], [2], threads=count, store=tmp_path / "s"),
        lambda: fastdln.haar_orthogonal(3, threads=count),
        lambda: figures.figure1("quick", tmp_path / "f", threads=count),
        lambda: TrainConfig(threads=count),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"threads must be .*{most}, the processors .*{count}"):
            call()
    assert not (tmp_path / "s").exists()


def test_the_number_of_threads_is_no_part_of_a_record():
    assert TrainConfig(threads=1).record() == TrainConfig().record()
