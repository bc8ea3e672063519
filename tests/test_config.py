"""`TrainConfig` is where options are written: everything that has options derives from it."""

import dataclasses
import inspect
import pickle
import re
import typing

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import fastdln
from fastdln.command_options import with_run_options
from fastdln.config import TrainConfig, details, option
from fastdln.rng import Seed, seed_key
from fastdln.sweeps.cell_runs import CellRuns
from fastdln.sweeps.grid import Grid
from fastdln.sweeps.store import Store
from fastdln.training.prepared import prepare
from fastdln.training.run import Run
from fastdln.utils import validation

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
