"""Kernel bodies built by g++ over a shim of threads, called with NumPy arrays."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from fastdln.kernels.cuda import sources

HERE = Path(__file__).resolve().parent


def text(name):
    return sources.source(name, (HERE / "primitives.cuh").read_text())


@cache
def build(name, dtype, constants=(), flags=("-O1",), main=""):
    """Compile a file of kernels into a library (or a program, where `main` is given)."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed: kernel bodies cannot be run on the CPU")
    options = [
        "-std=c++20", "-pthread", "-ffp-contract=off", "-Wall", "-Werror", *flags,
        *sources.defines(dtype, constants), *([] if main else ["-fPIC", "-shared"]),
    ]  # fmt: skip
    code = text(name) + main
    key = hashlib.sha256("\n".join([code, *options]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"fastdln-shim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{name}-{key}{'' if main else '.so'}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            Path(scratch, "k.cpp").write_text(code)
            out = Path(scratch, "out")
            found = subprocess.run(
                [compiler, *options, "-o", str(out), str(Path(scratch, "k.cpp"))],
                capture_output=True, text=True,
            )  # fmt: skip
            assert found.returncode == 0, found.stderr[:4000]
            os.replace(out, path)
    return path


def arguments(values):
    """Return `values` as the pointers to arguments that the shim's launch takes."""
    held = []
    for value in values:
        if isinstance(value, np.ndarray):
            # Kernels get an address; rows may lie apart.
            assert value.size == 0 or value.strides[-1] == value.itemsize or value.shape[-1] == 1
            value = ctypes.c_void_p(value.ctypes.data)
        else:
            value = np.ctypeslib.as_ctypes(np.array(value))
        held.append(value)
    pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(v) for v in held))
    return pointers, held


def run(name, function, dtype, constants, grid, threads, shared, values):
    """Run a kernel over the shim: blocks `grid` = (columns, rows)."""
    library = ctypes.CDLL(str(build(name, dtype, constants)))
    pointers, held = arguments(values)
    getattr(library, f"launch_{function}")(pointers, *grid, threads, shared)
    del held


# Reads the arguments of one launch, runs it, and writes the arrays back.
PROGRAM = """
#include <cstdio>
int main(int, char** names) {
    std::FILE* file = std::fopen(names[1], "rb");
    long long head[5], bytes;
    if (std::fread(head, 8, 5, file) != 5) return 2;
    std::vector<std::vector<char>> held;
    std::vector<void*> pointers(head[4]), arguments;
    std::vector<bool> array;
    for (int i = 0; i < head[4]; i++) {
        if (std::fread(&bytes, 8, 1, file) != 1) return 2;
        array.push_back(bytes >= 0);
        held.emplace_back((bytes < 0 ? -bytes : bytes) + 16);
        size_t size = held.back().size() - 16;
        if (std::fread(held.back().data(), 1, size, file) != size) return 2;
    }
    for (int i = 0; i < head[4]; i++) {
        pointers[i] = held[i].data();
        arguments.push_back(array[i] ? (void*)&pointers[i] : pointers[i]);
    }
    std::fclose(file);
    launch_FUNCTION(arguments.data(), head[0], head[1], head[2], head[3]);
    file = std::fopen(names[1], "wb");
    for (int i = 0; i < head[4]; i++) {
        if (array[i]) std::fwrite(held[i].data(), 1, held[i].size() - 16, file);
    }
    return std::fclose(file);
}
"""


def run_sanitized(name, function, dtype, constants, grid, threads, shared, values):
    """Run a kernel as `run` does, in a program of its own under ThreadSanitizer."""
    main = PROGRAM.replace("FUNCTION", function)
    program = build(name, dtype, constants, ("-O1", "-g", "-fsanitize=thread"), main)
    head = [*grid, threads, shared, len(values)]
    with tempfile.NamedTemporaryFile() as file:
        file.write(np.array(head, np.int64).tobytes())
        for value in values:
            bits = np.asarray(value).tobytes()
            size = len(bits) if isinstance(value, np.ndarray) else -len(bits)
            file.write(np.int64(size).tobytes() + bits)
        file.flush()
        options = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
        found = subprocess.run(
            ["setarch", "-R", str(program), file.name] if shutil.which("setarch") else
            [str(program), file.name], capture_output=True, text=True, env=options,
        )  # fmt: skip
        if "unexpected memory mapping" in found.stderr:
            pytest.skip("ThreadSanitizer does not run on this kernel's memory layout")
        assert found.returncode == 0, found.stderr[:6000]
        file.seek(0)
        for value in values:
            if isinstance(value, np.ndarray):
                bits = file.read(value.nbytes)
                value[...] = np.frombuffer(bits, value.dtype).reshape(value.shape)
