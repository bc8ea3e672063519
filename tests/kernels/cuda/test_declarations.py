"""Structs and tables that kernels and host share: one layout, one parameter a kernel."""

import re

import numpy as np
import pytest
import shim

from fastdln.kernels.cuda import declarations, sources
from fastdln.kernels.cuda.zigzag import kernel_constants

CONSTANTS = {"zigzag": kernel_constants(3, 5, False, False)}


@pytest.mark.parametrize("name", sources.NAMES)
def test_fields_lie_where_the_compiler_puts_them(name, dtype):
    """Asked of g++, which aligns them as NVRTC does."""
    asserts = ""
    for struct in declarations._FILES[name].parameters:
        layout, c_name = declarations.layout(struct, np.dtype(dtype)), struct.__name__
        asserts += f"static_assert(sizeof({c_name}) == {layout.itemsize});\n"
        for field in layout.names:
            offset = layout.fields[field][1]
            asserts += f"static_assert(offsetof({c_name}, {field}) == {offset});\n"
    main = f"\n{asserts}int main() {{ return 0; }}\n"
    assert shim.build(name, dtype, CONSTANTS.get(name, ()), main=main)


@pytest.mark.parametrize("name", sources.NAMES)
def test_every_kernel_takes_one_struct(name):
    kernels = re.findall(r"^KERNEL void (\w+)\(([^)]*)\)", sources.source(name), re.M)
    assert kernels
    for function, parameters in kernels:
        struct = "".join(word.capitalize() for word in function.split("_"))
        assert parameters == f"BY_VALUE {struct} p"
        assert f"\nstruct {struct} {{" in declarations.text(name)


def test_arrays_become_addresses_and_none_is_null(dtype):
    out = np.zeros(3, dtype)
    given = declarations.FillNormals(out, 2**64 - 1, 1, 2, 3, 4, 5, 6, 7, 0.25)
    packed = given.packed(dtype)
    assert (packed["out"], packed["key"], packed["scale"]) == (out.ctypes.data, 2**64 - 1, 0.25)
    assert packed.shape == ()
    assert given.arrays() == [out]
    given = declarations.CopyRows(None, out, None, 1, 2, 3, 4)
    assert given.packed(dtype)["state"] == given.packed(dtype)["target"] == 0
    assert given.arrays() == [out]


def test_arrays_of_cupy_are_addresses():
    class OnDevice:
        data = type("Memory", (), {"ptr": 1 << 40})

    given = declarations.CopyRows(OnDevice, OnDevice, OnDevice, 1, 2, 3, 4)
    assert given.packed("float32")["source"] == 1 << 40


@pytest.mark.parametrize("columns", declarations._FILES["zigzag"].columns)
def test_columns_are_numbered_from_zero(columns):
    assert [c.value for c in columns] == list(range(len(columns)))
