"""The choice of a device, and the checks of a device's and a kernel's name."""

import numpy as np
import pytest
from workloads import make_workload

from fastdln.backends import selection
from fastdln.backends.cpu.trainer import CpuTrainer
from fastdln.backends.gpu import cost_model
from fastdln.backends.gpu.device import H100_CLOCK_HZ, Device
from fastdln.backends.gpu.trainer import GpuTrainer
from fastdln.optim.optimizers import Optimizer

# An H100: 132 multiprocessors, 3.35 TB/s.
H100 = Device(0, "H100", 132, 227 * 1024, 228 * 1024, 3.35e12 / H100_CLOCK_HZ)


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


def test_auto_is_the_cpu_without_a_gpu_or_free_memory_on_it(monkeypatch, with_h100):
    large = work(1000, 50, 100_000)
    monkeypatch.setattr(selection.gpu, "free_bytes", lambda device: 10**6)
    assert "too little free memory" in selection.choose_device("auto", large).reason
    monkeypatch.setattr(selection.gpu, "available", lambda: False)
    device, reason = selection.choose_device("auto", large)
    assert (device, reason) == ("cpu", "device 'auto' is cpu: no GPU can be used")


@pytest.mark.parametrize("name", ["cpu", "gpu", "gpu:3"])
def test_a_named_device_is_the_choice(name):
    assert selection.choose_device(name, work(30, 4, 100)) == (name, "")


def test_trainers_are_those_of_the_device(rng):
    from cuda_cases import ShimLauncher

    workload = make_workload((5, 6, 3), "float64", rng)
    with selection.make_trainer(workload, None) as trainer:
        assert isinstance(trainer, CpuTrainer)
    with selection.make_trainer(workload, ShimLauncher("float64")) as trainer:
        assert isinstance(trainer, GpuTrainer)


def test_kernels_are_checked_by_the_model_of_their_device():
    """Zigzag on the CPU trains plain regressions only; on the GPU, whatever is not Adam."""
    selection.check_kernel("zigzag", "cpu", plain=True, adam=False)
    selection.check_kernel("zigzag", "gpu:1", plain=False, adam=False)
    for device, plain, adam in (("cpu", False, False), ("cpu", False, True), ("gpu", False, True)):
        selection.check_kernel("two-pass", device, plain, adam)
        with pytest.raises(ValueError, match="zigzag"):
            selection.check_kernel("zigzag", device, plain, adam)
