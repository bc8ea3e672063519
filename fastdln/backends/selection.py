"""Which device trains a network, and the trainer for it there.

``device="auto"`` compares the times that both cost models expect. It looks for a GPU only where the
CPU would be busy for longer than a GPU takes to start, so that short runs never wait for CuPy.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastdln.backends.cpu import cost_model as cpu_model
from fastdln.backends.cpu.trainer import CpuTrainer
from fastdln.backends.gpu import cost_model as gpu_model
from fastdln.backends.gpu import device as gpu
from fastdln.backends.interface import Trainer, Workload
from fastdln.config import check_device_name
from fastdln.optim.optimizers import Optimizer
from fastdln.utils import threads

if TYPE_CHECKING:
    from fastdln.backends.gpu.launcher import Launcher

# The GPU must be expected to be this many times as fast: both models err.
GPU_GAIN = 1.5


class Work(NamedTuple):
    """What is to be trained.

    Attributes
    ----------
    networks : mapping of tuple of int to int
        How many networks there are of each trained shape ``(d, m_1, …, m_{L-1}, d_y)``.
    dtype : numpy.dtype
    steps : int
        Steps of each network.
    kernel : str
    plain : bool
        Whether this is full-batch gradient descent without momentum on a regression.
    regression : bool
        Whether the loss is a regression's, which kernels evaluate themselves.
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
    """A device, ``"cpu"`` or ``"gpu"``, and why it was chosen; no reason where it was asked for."""

    device: str
    reason: str


def check_device(name: str) -> str:
    """Return a device's name if it can be used on this machine; ``"auto"`` can.

    Raises
    ------
    ValueError
        For another name, or a GPU that this machine does not have.
    ImportError, RuntimeError
        If a GPU was asked for and CuPy, a driver or any GPU is missing; says which.
    """
    name = check_device_name("device", name)
    if is_gpu(name):
        gpu.require_gpu(name)
    return name


def is_gpu(device: str) -> bool:
    """Return whether a device's name is that of a GPU."""
    return device.startswith("gpu")


def choose_device(name: str, work: Work) -> DeviceChoice:
    """Return the device on which some networks are trained, and why.

    Parameters
    ----------
    name : {"cpu", "gpu", "gpu:N", "auto"}
        Anything but ``"auto"`` is the choice.
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
    """Return the seconds that the CPU is expected to take, networks trained at the same time."""
    available, count = threads.available(), sum(work.networks.values())
    each = available if count == 1 else 1
    seconds = sum(
        number * cpu_model.expected_step_seconds(widths, work.dtype, work.kernel, work.plain, each)
        for widths, number in work.networks.items()
    )
    return work.steps * seconds / min(available // each, count)


def _gpu_seconds(work: Work, device: gpu.Device) -> float:
    """Return the seconds that a GPU is expected to take, networks of a shape batched."""
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
    """Return a trainer on the GPU of a launcher, or on the CPU where there is none."""
    if launcher is None:
        return CpuTrainer(workload)
    from fastdln.backends.gpu.trainer import GpuTrainer  # compiles with CuPy

    return GpuTrainer(workload, launcher)


def check_kernel(kernel: str, device: str, plain: bool, adam: bool) -> None:
    """Raise ValueError for a kernel that cannot train as asked on this device.

    `plain` is full-batch gradient descent without momentum on a regression.
    """
    if is_gpu(device):
        gpu_model.check_kernel(kernel, adam)
    else:
        cpu_model.check_kernel(kernel, plain, adam)
