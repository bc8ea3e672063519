"""The names of devices, and whether this machine has them.

It imports no kernels: functions that need one backend only check their device here.
"""

from fastdln.backends.gpu import device as gpu
from fastdln.config import check_device_name


def check_device(name: str) -> str:
    """Return a device's name if it is usable on this machine; ``"auto"`` always is.

    Raises
    ------
    ValueError
        For another name, or a GPU that this machine does not have.
    ImportError, RuntimeError
        If `name` is a GPU and CuPy, a driver or any GPU is missing; the message says which.
    """
    name = check_device_name("device", name)
    if is_gpu(name):
        gpu.require_gpu(name)
    return name


def is_gpu(device: str) -> bool:
    """Return whether a device name denotes a GPU."""
    return device.startswith("gpu")
