"""Device names: what is allowed, and that a GPU is looked for only where one is named."""

import pytest

from fastdln.backends import devices


def test_only_a_gpu_is_looked_for(shim_gpu, monkeypatch):
    assert [devices.check_device(name) for name in ("cuda", "gpu:1")] == ["gpu", "gpu:1"]

    def never(name):
        raise AssertionError("a GPU was looked for")

    monkeypatch.setattr(devices.gpu, "require_gpu", never)
    assert [devices.check_device(name) for name in ("cpu", "auto")] == ["cpu", "auto"]
    with pytest.raises(ValueError, match="device must be 'cpu', 'gpu', 'gpu:N' or 'auto'"):
        devices.check_device("tpu")
