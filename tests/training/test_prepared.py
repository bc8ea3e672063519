"""The way from `fastdln.train` to a kernel, and how a device is chosen on it."""

import sys
from pathlib import Path

import numpy as np
import pytest

import fastdln
from fastdln.backends import selection
from fastdln.backends.gpu import cost_model
from fastdln.backends.gpu.device import H100_CLOCK_HZ, Device
from fastdln.optim.optimizers import Optimizer
from fastdln.utils import threads

PACKAGE = Path(fastdln.__file__).parent
# An H100: 132 multiprocessors, 3.35 TB/s.
H100 = Device(0, "H100", 132, 227 * 1024, 228 * 1024, 3.35e12 / H100_CLOCK_HZ)


def deepest_frames(call):
    """Return, for every file of the package, the most frames of it and its callers at a time."""
    depths = {}

    def watch(frame, event, argument):
        if event != "call" or PACKAGE not in Path(frame.f_code.co_filename).parents:
            return
        name, count, at = Path(frame.f_code.co_filename).relative_to(PACKAGE), 0, frame
        while at is not None:
            count += PACKAGE in Path(at.f_code.co_filename).parents
            at = at.f_back
        depths[name] = max(depths.get(name, 0), count)

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return depths


@pytest.mark.parametrize(
    "options", [{}, {"kernel": "zigzag"}, {"momentum": 0.5}, {"optimizer": "adam"}], ids=str
)
def test_at_most_six_frames_lead_to_a_kernel(options):
    problem = fastdln.paper_regression()
    given = {"width": 20, "depth": 4, "init": "gaussian", "steps": 50, "learning_rate": 1e-5}

    def train():
        with threads.limited(1):
            fastdln.train(problem, **given, **options)

    train()  # compiles
    depths = deepest_frames(train)
    # The trainer's own frames are the last before a kernel.
    assert 3 <= depths[Path("backends/cpu/trainer.py")] <= 6


def work(width, depth, steps, count=1):
    return selection.Work(
        {(16, *(width,) * (depth - 1), 10): count},
        np.dtype("float32"),
        steps,
        "auto",
        plain=True,
        regression=True,
        optimizer=Optimizer(),
        bytes=4 * width**2 * depth,
    )


@pytest.fixture
def with_h100(monkeypatch):
    monkeypatch.setattr(selection.gpu, "available", lambda: True)
    monkeypatch.setattr(selection.gpu, "require_gpu", lambda name="gpu": H100)
    monkeypatch.setattr(selection.gpu, "free_bytes", lambda device: 70 * 2**30)


def test_auto_is_the_gpu_where_it_is_clearly_faster(with_h100):
    device, reason = selection.choose_device("auto", work(1000, 50, 100_000))
    assert device == "gpu"
    assert reason.startswith("device 'auto' is gpu: about ")
    assert selection.choose_device("auto", work(30, 20, 20_000, count=2000)).device == "gpu"


def test_auto_is_the_cpu_for_short_runs_which_never_look_for_a_gpu(monkeypatch):
    def never(*arguments):
        raise AssertionError("a GPU was looked for")

    monkeypatch.setattr(selection.gpu, "available", never)
    device, reason = selection.choose_device("auto", work(30, 4, 100))
    assert device == "cpu"
    assert f"a GPU starts in {cost_model.START_SECONDS:.2g} s" in reason


def test_auto_is_the_cpu_without_a_gpu_or_room_on_it(monkeypatch, with_h100):
    large = work(1000, 50, 100_000)
    monkeypatch.setattr(selection.gpu, "free_bytes", lambda device: 10**6)
    assert "too little free memory" in selection.choose_device("auto", large).reason
    monkeypatch.setattr(selection.gpu, "available", lambda: False)
    device, reason = selection.choose_device("auto", large)
    assert (device, reason) == ("cpu", "device 'auto' is cpu: no GPU can be used")


def test_a_result_names_the_device_and_why():
    run = fastdln.train(fastdln.paper_regression(), width=8, depth=2, steps=2, device="auto")
    assert run.device == "cpu"
    assert "device 'auto' is cpu: about" in run.reason
    asked = fastdln.train(fastdln.paper_regression(), width=8, depth=2, steps=2)
    assert "device" not in asked.reason


def test_cuda_is_another_name_of_the_gpu(shim_gpu):
    problem = fastdln.Regression(np.eye(3), np.ones((2, 3)))
    run = fastdln.train(problem, width=5, depth=2, steps=2, device="cuda")
    assert run.device == "gpu"
