"""The description of the machine: complete, and honest about what is unknown."""

import importlib.metadata
import sys

import pytest

from fastdln import info


def test_every_section_is_there_and_readable():
    found = info.info()
    assert list(found) == ["versions", "processor", "kernels", "memory", "BLAS", "GPU"]
    assert found["versions"]["numpy"] == importlib.metadata.version("numpy")
    assert found["processor"]["threads"].endswith("used by fastdln")
    text = str(found)
    for section in found.values():
        assert all(isinstance(value, str) and value for value in section.values())
        assert all(value in text for value in section.values())


def test_caches_come_from_the_kernel(tmp_path):
    for i, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K")]
    ):
        index = tmp_path / f"index{i}"
        index.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (index / name).write_text(value + "\n")
    assert info._caches(str(tmp_path)) == {"L1 cache": "48K", "L2 cache": "1024K"}


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS is asked instead")
def test_unknown_caches_are_unknown(tmp_path):
    assert info._caches(str(tmp_path)) == {"caches": "unknown"}


def test_without_cupy_there_is_no_gpu_and_it_says_why(monkeypatch):
    monkeypatch.setattr(info, "_version", lambda name: None)
    assert "CuPy is not installed" in info._gpu()["device"]


def test_cupy_that_cannot_be_used_is_reported(monkeypatch):
    monkeypatch.setattr(info, "_version", lambda name: "14.0" if name == "cupy" else None)
    monkeypatch.setitem(sys.modules, "cupy", None)
    found = info._gpu()
    assert found["CuPy"] == "cupy 14.0"
    assert found["device"].startswith("none: ")
