"""The way from `fastdln.train` to a kernel, and the device that a result names."""

import sys
from pathlib import Path

import numpy as np
import pytest

import fastdln
from fastdln.utils import threads

PACKAGE = Path(fastdln.__file__).parent


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
