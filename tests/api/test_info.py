"""The description of the machine: complete, and honest about what it cannot know."""

import importlib.metadata
import sys
from pathlib import Path

import pytest

from fastdln import info
from fastdln.utils import memory


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


def test_available_memory_respects_a_control_group(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert memory._left_of_control_group(str(tmp_path)) == [600]
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._left_of_control_group(str(tmp_path)) == []
    assert memory._left_of_control_group(str(tmp_path / "none")) == []
    assert memory.available() > 0


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 50, "3072.0 TiB")]
)
def test_bytes_are_in_binary_units(count, text):
    assert memory.readable(count) == text


def test_memory_is_refused_with_both_numbers():
    with pytest.raises(MemoryError, match=r"needs 2,048 bytes \(2.0 KiB\).* 1,024 bytes .*; wait"):
        memory.require(2048, 1024, "this", "wait")
    memory.require(1024, 1024, "this", "wait")


def test_memory_is_known_without_psutil(monkeypatch):
    from fastdln.utils import memory

    known = memory.installed()
    monkeypatch.setitem(sys.modules, "psutil", None)
    if not Path("/proc/meminfo").exists():
        pytest.skip("only Linux says so in a file")
    assert abs(memory.installed() - known) < 0.01 * known
    assert 0 < memory.available() <= memory.installed()
