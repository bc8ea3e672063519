"""Compile kernels with NVRTC and load them at first use, one module for each GPU and variant.

CuPy would append ``-ftz=true``, which flushes float32 subnormals, and long products of layers pass
through subnormals. So kernels are compiled here, cached on disk, and loaded by path.
"""

import hashlib
import os
import re
import struct
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from fastdln.kernels.cpu.compile_time import counted
from fastdln.kernels.cuda.sources import Constants, defines, source

# Multiply-adds are fused in the chain kernels, as on the CPU; random numbers use operations that no
# flag changes. Subnormals, division and roots follow IEEE 754 by default; the flags are explicit
# because results depend on it.
OPTIONS = (
    "--std=c++17",
    "--fmad=true",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--ptxas-options=-v",
)


class Compiled(NamedTuple):
    """Machine code, and the assembler's log with the registers and memory of each kernel."""

    code: bytes
    log: str

    @property
    def registers(self) -> int:
        """Maximum registers per thread over the file's kernels."""
        return max(int(n) for n in re.findall(r"Used (\d+) registers", self.log))

    @property
    def static_shared_bytes(self) -> int:
        """Maximum static shared memory per block; a launch's dynamic shared memory is extra."""
        return max([0, *(int(n) for n in re.findall(r"(\d+) bytes smem", self.log))])


def compile_source(
    name: str, dtype: Any, architecture: str, constants: Constants = (), registers: int = 255
) -> Compiled:
    """Compile a file of kernels for a compute capability such as ``"90"``; needs no GPU.

    Raises
    ------
    RuntimeError
        If compilation fails; the message is the compiler's.
    """
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(source(name), f"{name}.cu", (), ())
    try:
        try:
            nvrtc.compileProgram(
                program, tuple(_arguments(dtype, architecture, constants, registers))
            )
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program)
            raise RuntimeError(
                f"compiling {name}.cu for sm_{architecture}: {error}\n{log}"
            ) from error
        return Compiled(
            _whole_elf(nvrtc.getCUBIN(program)), nvrtc.getProgramLog(program).strip("\0")
        )
    finally:
        nvrtc.destroyProgram(program)


def elf_size(code: bytes) -> int:
    """Return the size of a 64-bit ELF file: the end of the table that its header places last."""
    programs, sections = struct.unpack_from("<QQ", code, 32)
    program_size, program_count, section_size, section_count = struct.unpack_from("<4H", code, 54)
    return max(programs + program_size * program_count, sections + section_size * section_count)


def _whole_elf(code: bytes) -> bytes:
    """Restore the last byte of machine code, which CuPy strips as a string's terminator.

    The byte is the high byte of an alignment, zero. In memory CPython appends a zero to every
    string of bytes, but a file without this byte is not a valid ELF file.
    """
    return code.ljust(elf_size(code), b"\0")


def _arguments(dtype: Any, architecture: str, constants: Constants, registers: int) -> list[str]:
    target = [f"--gpu-architecture=sm_{architecture}", f"--maxrregcount={registers}"]
    return [*OPTIONS, *target, *defines(dtype, constants)]


def cache_folder() -> Path:
    """Return the folder of compiled kernels: ``$FASTDLN_CACHE_DIR``, or the user's cache."""
    given = os.environ.get("FASTDLN_CACHE_DIR")
    return Path(given) if given else Path.home() / ".cache" / "fastdln"


def machine_code(
    name: str, dtype: Any, architecture: str, constants: Constants, registers: int
) -> Path:
    """Return the path of a variant's machine code; compile the variant if the file is missing."""
    from cupy.cuda import nvrtc

    options = _arguments(dtype, architecture, constants, registers)
    text = "\n".join([source(name), *options, str(nvrtc.getVersion())])
    path = cache_folder() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.cubin"
    if not path.exists():
        _keep(compile_source(name, dtype, architecture, constants, registers).code, path)
    return path


def _keep(code: bytes, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Write to a temporary file and rename it: other processes never see a partial file.
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(code)
        os.replace(file.name, path)
    except OSError as error:
        raise OSError(
            f"compiled kernels cannot be kept in {path.parent}: {error}; set FASTDLN_CACHE_DIR to a"
            " folder that can be written"
        ) from error


@lru_cache(maxsize=256)
def _module(
    name: str, dtype: str, ordinal: int, constants: Constants, registers: int, cooperative: bool
) -> Any:
    import cupy

    architecture = cupy.cuda.Device(ordinal).compute_capability
    path = machine_code(name, dtype, architecture, constants, registers)
    return cupy.RawModule(path=str(path), enable_cooperative_groups=cooperative)


@lru_cache(maxsize=1024)
@counted
def _function(name: str, variant: tuple[Any, ...]) -> Any:
    """Return a kernel, cached: a look-up in a module can take longer than a launch."""
    return _module(*variant).get_function(name)


def kernel(
    function: str,
    name: str,
    dtype: Any,
    constants: Constants = (),
    *,
    registers: int = 255,
    cooperative: bool = False,
) -> Any:
    """Return a kernel of the file `name`, loaded on the current GPU."""
    import cupy
    import numpy as np

    ordinal = cupy.cuda.Device().id
    variant = name, np.dtype(dtype).name, ordinal, constants, registers, cooperative
    return _function(function, variant)
