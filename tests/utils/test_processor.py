"""The name of the processor."""

from fastdln.utils import processor


def test_the_name_is_the_manufacturers(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: AMD EPYC 9R14\ncache size\t: 1024 KB\n")
    assert processor.name(path) == "AMD EPYC 9R14"


def test_there_is_a_name_without_the_file(tmp_path):
    assert processor.name(tmp_path / "absent")
