"""Build kernel bodies with g++ over the thread shim, and run them on NumPy arrays."""

import ctypes
import getpass
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from fastdln.kernels.cuda import sources
from fastdln.kernels.cuda.declarations import pointers

HERE = Path(__file__).resolve().parent


def text(name):
    return sources.source(name, (HERE / "primitives.cuh").read_text(encoding="utf-8"))


@cache
def gcc():
    """Return the path of g++; skip the test where it is missing or another compiler."""
    if sys.platform == "win32":
        pytest.skip("the thread shim needs POSIX threads: kernel bodies cannot be run on Windows")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed: kernel bodies cannot be run on the CPU")
    version = output([compiler, "--version"]).stdout
    if "Free Software Foundation" not in version:  # on macOS, g++ is Clang
        pytest.skip(f"g++ is not GCC, whose flags the thread shim needs: {version[:80]!r}")
    return compiler


def output(command, **options):
    """Run a command and return its captured text."""
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False, **options
    )


def build_folder():
    """Return a folder for compiled kernels that no other user can write to."""
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    folder = Path(tempfile.gettempdir()) / f"fastdln-shim-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@cache
def build(name, dtype, constants=(), flags=("-O1",), main=""):
    """Compile a file of kernels into a library (or a program, where `main` is given)."""
    compiler = gcc()
    options = ["-std=c++20", "-pthread", "-ffp-contract=off", "-Wall", "-Werror", *flags]
    options += sources.defines(dtype, constants)
    options += [] if main else ["-fPIC", "-shared"]
    code = text(name) + main
    key = hashlib.sha256("\n".join([code, *options]).encode()).hexdigest()[:24]
    folder = build_folder()
    path = folder / f"{name}-{key}{'' if main else '.so'}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            Path(scratch, "k.cpp").write_text(code, encoding="utf-8")
            out = Path(scratch, "out")
            command = [compiler, *options, "-o", str(out), str(Path(scratch, "k.cpp"))]
            found = output(command)
            assert found.returncode == 0, found.stderr[:4000]
            os.replace(out, path)
    return path


def run(name, function, dtype, constants, grid, threads, shared, parameters):
    """Run a kernel over the shim: blocks `grid` = (columns, rows)."""
    for array in parameters.arrays():
        # Kernels get an address; rows may lie apart.
        assert array.size == 0 or array.strides[-1] == array.itemsize or array.shape[-1] == 1
    library = ctypes.CDLL(str(build(name, dtype, constants)))
    packed = parameters.packed(dtype)
    arguments = (ctypes.c_void_p * 1)(packed.ctypes.data)
    getattr(library, f"launch_{function}")(arguments, *grid, threads, shared)


# Reads the parameters of one launch, runs it, and writes the arrays back. Every array comes with
# the offset of its address in the struct.
PROGRAM = """
#include <cstdio>
int main(int, char** names) {
    std::FILE* file = std::fopen(names[1], "rb");
    long long head[6], place[2];
    if (std::fread(head, 8, 6, file) != 6) return 2;
    std::vector<char> parameters(head[5]);
    if (std::fread(parameters.data(), 1, head[5], file) != (size_t)head[5]) return 2;
    std::vector<std::vector<char>> held;
    for (int i = 0; i < head[4]; i++) {
        if (std::fread(place, 8, 2, file) != 2) return 2;
        held.emplace_back(place[1] + 16);
        if (std::fread(held.back().data(), 1, place[1], file) != (size_t)place[1]) return 2;
        char* address = held.back().data();
        std::memcpy(parameters.data() + place[0], &address, 8);
    }
    std::fclose(file);
    void* arguments[] = {parameters.data()};
    launch_FUNCTION(arguments, head[0], head[1], head[2], head[3]);
    file = std::fopen(names[1], "wb");
    for (const auto& bytes : held) std::fwrite(bytes.data(), 1, bytes.size() - 16, file);
    return std::fclose(file);
}
"""


def run_sanitized(name, function, dtype, constants, grid, threads, shared, parameters):
    """Run a kernel as `run` does, in a program of its own under ThreadSanitizer."""
    main = PROGRAM.replace("FUNCTION", function)
    program = build(name, dtype, constants, ("-O1", "-g", "-fsanitize=thread"), main)
    packed, arrays = parameters.packed(dtype), parameters.arrays()
    given = [name for name in pointers(type(parameters)) if getattr(parameters, name) is not None]
    head = [*grid, threads, shared, len(arrays), packed.nbytes]
    with tempfile.NamedTemporaryFile() as file:
        file.write(np.array(head, np.int64).tobytes() + packed.tobytes())
        for field, array in zip(given, arrays, strict=True):
            offset = packed.dtype.fields[field][1]
            file.write(np.array([offset, array.nbytes], np.int64).tobytes() + array.tobytes())
        file.flush()
        options = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
        command = [str(program), file.name]
        if shutil.which("setarch"):
            command = ["setarch", "-R", *command]
        found = output(command, env=options)
        if "unexpected memory mapping" in found.stderr:
            pytest.skip("ThreadSanitizer does not run on this kernel's memory layout")
        assert found.returncode == 0, found.stderr[:6000]
        file.seek(0)
        for array in arrays:
            bits = file.read(array.nbytes)
            array[...] = np.frombuffer(bits, array.dtype).reshape(array.shape)
