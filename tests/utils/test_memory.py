"""Free memory: control groups, machines without psutil, and refusals."""

import sys
from pathlib import Path

import pytest

from fastdln.utils import memory


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
    known = memory.installed()
    monkeypatch.setitem(sys.modules, "psutil", None)
    if not Path("/proc/meminfo").exists():
        pytest.skip("only Linux says so in a file")
    assert abs(memory.installed() - known) < 0.01 * known
    assert 0 < memory.available() <= memory.installed()
