"""The text of kernels is whole, and what the compiler is told of types and constants."""

import re

import pytest

from fastdln.kernels.cuda import declarations, sources


@pytest.mark.parametrize("name", sources.NAMES)
def test_a_source_includes_no_file_and_has_every_header_before_its_use(name):
    text = sources.source(name)
    # Only the device's primitives include headers, those of the CUDA toolkit.
    assert not re.search(r'^\s*#include\s*"', text, re.M)
    files = ["vectors.cuh", *(f"{part}.cuh" for part in sources.NEEDED[name]), f"{name}.cu"]
    parts = [declarations.text(name)]
    parts += [(sources.HERE / file).read_text(encoding="utf-8") for file in files]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert all(text.count(part) == 1 for part in parts)


def test_primitives_are_replaced_in_whole():
    device = sources.source("random")
    assert device.endswith(sources.source("random", "// none").removeprefix("// none"))
    assert sources.source("random", "// none").startswith("// none\n")


def test_every_file_of_kernels_is_named():
    assert set(sources.NAMES) == {path.stem for path in sources.HERE.glob("*.cu")}


def test_every_header_is_needed():
    headers = {path.stem for path in sources.HERE.glob("*.cuh")}
    named = {part for parts in sources.NEEDED.values() for part in parts}
    assert headers == named | {"primitives", "vectors"}


def test_definitions(dtype):
    kind = {"float32": "float", "float64": "double"}[dtype]
    assert sources.defines(dtype) == [f"-DREAL={kind}"]
    assert sources.defines(dtype, (("Q", 3), ("D", 5)))[1:] == ["-DQ=3", "-DD=5"]


def test_other_types_are_refused():
    with pytest.raises(KeyError, match="float16"):
        sources.defines("float16")
