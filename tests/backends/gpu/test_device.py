"""Refusals where there is no usable GPU say what to do about it."""

import sys
import types

import numpy as np
import pytest

from fastdln.backends.gpu import device as gpu


class NoDevice(Exception):
    """CuPy's error where the driver finds no GPU."""

    status = 100


def no_device():
    raise NoDevice


def fake(driver=13020, toolkit=13020, count=1, major=9, memory_clock=3_201_000, compiler=(13, 2)):
    """Return a stand-in for CuPy on a machine with these versions and GPUs."""
    properties = {
        "name": b"GPU",
        "major": major,
        "minor": 0,
        "multiProcessorCount": 132,
        "sharedMemPerBlockOptin": 232_448,
        "sharedMemPerMultiprocessor": 233_472,
    }
    runtime = types.SimpleNamespace(
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: toolkit,
        getDeviceCount=lambda: no_device() if count is None else count,
        getDeviceProperties=lambda i: properties,
        CUDARuntimeError=NoDevice,
        cudaDevAttrClockRate=13,
        cudaDevAttrMemoryClockRate=36,
        cudaDevAttrGlobalMemoryBusWidth=37,
        deviceGetAttribute=lambda attribute, i: {13: 1_980_000, 36: memory_clock, 37: 6144}[
            attribute
        ],
    )
    nvrtc = types.SimpleNamespace(getVersion=lambda: compiler)
    cuda = types.SimpleNamespace(runtime=runtime, nvrtc=nvrtc)
    if compiler:
        cuda.cublas = None
    else:
        del nvrtc.getVersion
    return types.SimpleNamespace(cuda=cuda)


@pytest.mark.parametrize(
    ("machine", "device", "kind", "message"),
    [
        (None, "gpu", ImportError, r"needs CuPy, which is not installed: pip install 'fastdln\["),
        (fake(driver=0), "gpu", RuntimeError, "needs an NVIDIA driver, and none is loaded"),
        (fake(driver=12080), "gpu", RuntimeError, r"for CUDA 12\.8, .* for CUDA 13\.2; .*cuda12"),
        (fake(count=0), "gpu", RuntimeError, "finds no GPU"),
        (fake(count=None), "gpu", RuntimeError, "finds no GPU"),
        (fake(compiler=None), "gpu", ImportError, r"NVRTC and cuBLAS.*pip install 'fastdln\["),
        (fake(), "gpu:7", ValueError, "this machine has 'gpu:0'"),
        (fake(count=4), "gpu:4", ValueError, "'gpu:0' to 'gpu:3'"),
        (fake(major=7), "gpu", RuntimeError, r"compute capability 7\.0; 8\.0 or later"),
        (fake(), "gpu:x", ValueError, "'gpu' or 'gpu:N'"),
        (fake(), "gpu:-1", ValueError, "'gpu' or 'gpu:N'"),
        (fake(), 0, ValueError, "'gpu' or 'gpu:N'"),
    ],
)
def test_refusals_say_what_to_do(machine, device, kind, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", machine)
    with pytest.raises(kind, match=message):
        gpu.require_gpu(device)


def test_a_gpu_is_found(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake(count=2))
    device = gpu.require_gpu("gpu:1")
    assert (str(device), device.name, device.multiprocessors) == ("gpu:1", "GPU", 132)
    assert device.clock_hz == pytest.approx(1.98e9)
    assert gpu.available()
    assert device.memory_bytes_per_cycle == pytest.approx(0.88 * 2 * 3201 * 768 / 1980)
    monkeypatch.setitem(sys.modules, "cupy", fake(memory_clock=0))
    assert gpu.require_gpu().memory_bytes_per_cycle == np.inf
