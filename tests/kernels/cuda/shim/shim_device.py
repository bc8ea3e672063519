"""Run ``device="gpu"`` on the thread shim."""

import re

import cuda_cases

from fastdln.backends.gpu import device as gpu
from fastdln.backends.gpu import launcher


def launcher_on(device_name, dtype):
    """Return the shim's launcher, in place of `fastdln.backends.gpu.launcher.launcher_on`."""
    return cuda_cases.ShimLauncher(dtype)


def require_gpu(name="gpu"):
    """Return the shim's only device, in place of `fastdln.backends.gpu.device.require_gpu`."""
    if not (isinstance(name, str) and re.fullmatch(r"gpu(:\d+)?", name)):
        raise ValueError(f"device must be 'gpu' or 'gpu:N' with N from 0, not {name!r}")
    return cuda_cases.ShimLauncher.device


def install(patch=setattr):
    """Patch the GPU backend, with ``patch(module, name, value)``; return a function that undoes it.

    A test passes pytest's ``monkeypatch.setattr``, which undoes it by itself.
    """
    found = launcher.launcher_on, gpu.require_gpu
    patch(launcher, "launcher_on", launcher_on)
    patch(gpu, "require_gpu", require_gpu)

    def undo():
        launcher.launcher_on, gpu.require_gpu = found

    return undo
