"""Choose the device that trains a network, and create the trainer.

``device="auto"`` compares the expected times of both cost models. It looks for a GPU only if the
CPU would take longer than a GPU takes to start, so that short runs never wait for CuPy.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastdln.backends.cpu import cost_model as cpu_model
from fastdln.backends.cpu.trainer import CpuTrainer
from fastdln.backends.devices import is_gpu
from fastdln.backends.gpu import cost_model as gpu_model
from fastdln.backends.gpu import device as gpu
from fastdln.backends.interface import Trainer, Workload
from fastdln.optim.optimizers import Optimizer
from fastdln.utils import threads

if TYPE_CHECKING:
    from fastdln.backends.gpu.launcher import Launcher

# Least expected speed-up for which the GPU is chosen: both cost models have errors.
GPU_GAIN = 1.5


class Work(NamedTuple):
    """The work for which a device is chosen.

    Attributes
    ----------
    networks : mapping of tuple of int to int
        Number of networks of each trained shape ``(d, m_1, …, m_{L-1}, d_y)``.
    dtype : numpy.dtype
    steps : int
        Steps of each network.
    kernel : str
    plain : bool
        Whether this is full-batch gradient descent without momentum on a regression.
    regression : bool
        Whether the loss is a regression, which the kernels evaluate.
    optimizer : Optimizer
    bytes : int
        Memory of the largest network.
    """

    networks: Mapping[tuple[int, ...], int]
    dtype: np.dtype
    steps: int
    kernel: str
    plain: bool
    regression: bool
    optimizer: Optimizer
    bytes: int


class DeviceChoice(NamedTuple):
    """A device, and the reason for choosing it; empty if the caller named the device."""

    device: str
    reason: str


def choose_device(name: str, work: Work) -> DeviceChoice:
    """Return the device on which networks are trained, and the reason.

    Parameters
    ----------
    name : {"cpu", "gpu", "gpu:N", "auto"}
        Any value but ``"auto"`` is the choice.
    work : Work
    """
    if name != "auto":
        return DeviceChoice(name, "")
    on_cpu = _cpu_seconds(work)
    start = gpu_model.START_SECONDS
    if on_cpu < GPU_GAIN * start:
        return _auto("cpu", f"about {on_cpu:.2g} s are expected, and a GPU starts in {start:.2g} s")
    if not gpu.available():
        return _auto("cpu", "no GPU can be used")
    device = gpu.require_gpu("gpu")
    if work.bytes > gpu.free_bytes(device):
        return _auto("cpu", f"{device} has too little free memory")
    on_gpu = start + _gpu_seconds(work, device)
    expected = f"about {on_cpu:.2g} s are expected on the CPU and {on_gpu:.2g} s on {device}"
    return _auto("gpu" if GPU_GAIN * on_gpu < on_cpu else "cpu", expected)


def _auto(device: str, why: str) -> DeviceChoice:
    return DeviceChoice(device, f"device 'auto' is {device}: {why}")


def _cpu_seconds(work: Work) -> float:
    """Return the expected seconds on the CPU, with networks trained concurrently."""
    available, count = threads.available(), sum(work.networks.values())
    each = available if count == 1 else 1
    seconds = sum(
        number * cpu_model.expected_step_seconds(widths, work.dtype, work.kernel, work.plain, each)
        for widths, number in work.networks.items()
    )
    return work.steps * seconds / min(available // each, count)


def _gpu_seconds(work: Work, device: gpu.Device) -> float:
    """Return the expected seconds on a GPU, with networks of one shape batched."""
    networks = [widths for widths, number in work.networks.items() for _ in range(number)]
    return work.steps * gpu_model.expected_batch_step_seconds(
        networks,
        work.dtype,
        work.optimizer.momentum > 0,
        device,
        zigzag=not work.optimizer.adam and work.kernel != "two-pass",
        regression=work.regression,
    )


def make_trainer(workload: Workload, launcher: "Launcher | None") -> Trainer:
    """Return a trainer on the launcher's GPU, or on the CPU if `launcher` is None."""
    if launcher is None:
        return CpuTrainer(workload)
    from fastdln.backends.gpu.trainer import GpuTrainer  # compiles with CuPy

    return GpuTrainer(workload, launcher)


def check_kernel(kernel: str, device: str, plain: bool, adam: bool) -> None:
    """Raise ValueError if a kernel cannot perform this training on this device.

    `plain` is full-batch gradient descent without momentum on a regression.
    """
    if is_gpu(device):
        gpu_model.check_kernel(kernel, adam)
    else:
        cpu_model.check_kernel(kernel, plain, adam)
