"""The command line: what it prints, and one clear line with exit code 2 for every mistake."""

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import numpy as np
import pytest
from typer.testing import CliRunner

import fastdln
from fastdln.cli import app, whole_numbers
from fastdln.figures import FIGURE1, Preset
from fastdln.sweeps import store

SWEEP = ["--widths", "3,8", "--depths", "1:5:2", "--steps", "20", "--quiet"]


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6, 4))
    np.savez(tmp_path / "data.npz", X=X, Y=rng.standard_normal((3, 6)) @ X)
    return str(tmp_path / "data.npz")


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_version_and_help():
    assert call("--version").output == f"fastdln {version('fastdln')}\n"
    said = call("--help").output
    for command in ("figure1", "figure2", "sweep", "train", "plot", "info"):
        assert command in said


def test_train_prints_loss_status_time_and_method(data, tmp_path):
    done = call(
        "train",
        "--width",
        8,
        "--depth",
        3,
        "--data",
        data,
        "--steps",
        20,
        "--plot",
        tmp_path / "loss.png",
    )
    assert done.exit_code == 0, done.output
    for word in ("loss", "completed after 20 steps", "learning rate", "time", "reduced", "cpu"):
        assert word in done.output
    assert (tmp_path / "loss.png").stat().st_size > 5000


def test_train_saves_the_network_and_the_losses(data, tmp_path):
    kept = tmp_path / "run.npz"
    given = ("train", "--width", 8, "--depth", 3, "--data", data, "--steps", 5)
    done = call(*given, "--save", kept)
    assert done.exit_code == 0, done.output
    assert f"wrote {kept}" in done.output.replace("\n", "")
    network = fastdln.Network.load(kept)
    with np.load(kept) as arrays:
        assert arrays["loss"].shape == (6,)
        assert str(arrays["status"]) == "completed"
        loss = arrays["loss"][-1]
    with np.load(data) as given_data:
        problem = fastdln.Regression(given_data["X"], given_data["Y"])
    np.testing.assert_allclose(problem.loss(network.end_to_end()), loss, rtol=1e-12)
    for place, words in ((tmp_path / "missing" / "run.npz", "no directory"), (tmp_path, "is a")):
        before_training = call(*given, "--save", place)
        assert before_training.exit_code == 2
        assert words in before_training.output


@pytest.mark.parametrize(
    ("command", "option", "meant"),
    [
        ("train", "--lr", "--learning-rate"),
        ("train", "--epochs", "--steps"),
        ("sweep", "--init", "--inits"),
    ],
)
def test_unknown_options_get_a_suggestion(command, option, meant):
    done = call(command, option, 3)
    assert done.exit_code == 2
    assert meant in done.output


def test_train_takes_a_list_of_widths(data):
    done = call("train", "--width", "8,5,3", "--data", data, "--steps", 5, "--init", "gaussian")
    assert done.exit_code == 0, done.output
    assert "dense" in done.output


def test_sweep_and_plot(data, tmp_path):
    path = tmp_path / "run.zarr"
    done = call("sweep", path, "--data", data, *SWEEP)
    assert done.exit_code == 0, done.output
    assert "12 networks: " in done.output
    assert store.read(path).sizes["depth"] == 3
    assert call("plot", path).exit_code == 0
    assert (tmp_path / "run.png").exists()
    done = call("plot", path, "--kind", "curves", "--depths", "1,5", "--output", tmp_path / "c.svg")
    assert done.exit_code == 0, done.output
    assert "5 layers" in (tmp_path / "c.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["train", "sweep", "figure1", "figure2"])
def test_every_command_that_computes_takes_threads(command):
    assert "--threads" in call(command, "--help").output


def test_threads_are_taken(data, tmp_path):
    given = ("--data", data, "--threads", 1)
    done = call("train", "--width", 8, "--depth", 3, "--steps", 5, *given)
    assert done.exit_code == 0, done.output
    assert "compiling" in done.output
    done = call("sweep", tmp_path / "s", *given, *SWEEP)
    assert done.exit_code == 0, done.output


def test_figure1(tmp_path, monkeypatch):
    monkeypatch.setitem(FIGURE1, "quick", Preset((10,), (1, 2), 5, (0, 5)))
    monkeypatch.setattr("fastdln.sweeps.estimate.PROBE_SECONDS", 0.001)
    done = call("figure1", "--output", tmp_path, "--quiet", "--threads", 1)
    assert done.exit_code == 0, done.output
    assert "estimated time: up to" in done.output
    assert f"wrote {tmp_path / 'figure1.png'}" in done.output


def test_info():
    done = call("info")
    assert done.exit_code == 0
    assert "versions" in done.output
    assert "GPU" in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--width", "0", "--depth", "3"], "width must be at least 1, not 0"),
        (["train", "--width", "ten", "--depth", "3"], "--width must be whole numbers"),
        (["train", "--width", "8", "--depth", "0"], "depth must be at least 1"),
        (["train", "--width", "8"], "depth must be given"),
        (["train", "--width", "8", "--depth", "3", "--steps", "-1"], "steps must be at least 0"),
        (["train", "--width", "8", "--depth", "3", "--init", "xavier"], "not 'xavier'"),
        (["train", "--width", "8", "--depth", "3", "--device", "tpu"], "device must be"),
        (["train", "--width", "8", "--depth", "3", "--learning-rate", "nan"], "learning_rate"),
        (["train", "--width", "8", "--depth", "3", "--plot", "x.doc"], "must end in .png"),
        (["train", "--width", "8", "--depth", "3", "--plot", "no/x.png"], "no directory no"),
        (["train", "--width", "8", "--depth", "3", "--data", "none.npz"], "there is no file"),
        (["train", "--width", "10000000", "--depth", "1000", "--init", "gaussian"], "bytes"),
        (["train", "--width", "8", "--depth", "3", "--threads", "0"], "threads must be"),
        (["sweep", "s", "--widths", "3", "--depths", "1", "--threads", "4096"], "processors that"),
        (["sweep", "s", "--widths", "5:1", "--depths", "1"], "--widths must be whole numbers"),
        (["sweep", "s", "--widths", "3,3", "--depths", "1"], "widths must be distinct"),
        (["figure1", "--device", "tpu"], "device must be"),
        (["plot", "nothing.zarr"], "there is no sweep at nothing.zarr"),
        (["figure1", "--preset", "huge"], "preset must be one of"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("fastdln: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_help_is_no_emoji():
    assert "10:100:10" in call("sweep", "--help").output.replace("\n", " ")


def test_traceback_shows_where_an_error_arose():
    assert isinstance(call("--traceback", "plot", "nothing").exception, FileNotFoundError)


@pytest.mark.parametrize(
    "write",
    [
        lambda f: f.write_text("not arrays"),
        lambda f: f.write_bytes(b""),
        lambda f: np.savez(f, X=np.ones((2, 3))),
        lambda f: np.savez(f, X=np.array([{}]), Y=np.ones(2)),
        lambda f: np.save(f.open("wb"), np.ones((2, 3))),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_files_without_the_arrays_are_refused(write, tmp_path):
    write(tmp_path / "data.npz")
    done = call("train", "--width", 8, "--depth", 2, "--data", tmp_path / "data.npz")
    assert done.exit_code == 2
    assert "must be a NumPy file (.npz) with numeric arrays X" in done.stderr


def test_another_sweep_in_the_store_is_refused(data, tmp_path):
    call("sweep", tmp_path / "s", "--data", data, *SWEEP)
    done = call("sweep", tmp_path / "s", "--data", data, *SWEEP, "--seeds", "0:2")
    assert done.exit_code == 2
    assert "seeds has 1, 2 only here" in done.stderr


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("7", [7]),
        ("3,8", [3, 8]),
        ("1:4", [1, 2, 3, 4]),
        ("10:40:15", [10, 25, 40]),
        ("1, 5:6", [1, 5, 6]),
    ],
)
def test_whole_numbers(text, numbers):
    assert whole_numbers("--widths", text) == numbers


@pytest.mark.parametrize("text", ["", "a", "1.5", "1:", "4:1", "1:4:0", "1:2:3:4", "1,,2"])
def test_what_are_not_whole_numbers(text):
    with pytest.raises(ValueError, match="--widths must be whole numbers"):
        whole_numbers("--widths", text)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_says_how_to_continue_and_exits_with_130(data, tmp_path):
    path = tmp_path / "run.zarr"
    command = [
        sys.executable,
        "-m",
        "fastdln",
        "sweep",
        path,
        "--data",
        data,
        "--widths",
        "30",
        "--depths",
        "20,30",
        "--steps",
        "100000000",
        "--learning-rate",
        "1e-9",
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONWARNINGS": ""}
    )
    while not (path / "zarr.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert f"run the same sweep again to continue from {path}" in said


def test_help_comes_without_the_heavy_imports():
    code = (
        "import sys; from fastdln.cli import app; heavy = {'xarray', 'zarr', 'matplotlib',"
        " 'numba', 'numpy', 'distributed'} & set(sys.modules); assert not heavy, heavy;"
        "import fastdln, fastdln.figures; fastdln.sweep; assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
