"""Every kernel compiles for every card from the A100 on; needs NVRTC, not a card."""

import re
from pathlib import Path

import pytest

from fastdln.backends.gpu.launcher import FEW_REGISTERS
from fastdln.kernels.cuda import compiler, sources
from fastdln.kernels.cuda import zigzag as batch
from fastdln.kernels.cuda.sources import ARCHITECTURES

cupy = pytest.importorskip("cupy", reason="CuPy is not installed: kernels cannot be compiled")

try:
    from cupy.cuda import nvrtc

    nvrtc.getVersion()
except Exception as error:
    pytest.skip(f"NVRTC cannot be loaded: {error}", allow_module_level=True)

# The paper's problem, plain and with everything; shared memory of all blocks is dynamic.
# Momentum, groups of blocks, crews.
VARIANTS = {
    "float32": [(0, 0, 1), (1, 1, 1), (0, 1, 2)],
    "float64": [(0, 1, 1), (1, 0, 1), (1, 1, 2)],
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["two_pass", "random", "haar"])
def test_small_kernels(name, architecture, dtype):
    compiled = compiler.compile_source(name, dtype, architecture, registers=FEW_REGISTERS)
    assert compiled.code.startswith(b"\x7fELF")
    assert len(compiled.code) == compiler.elf_size(compiled.code)
    assert compiled.registers <= FEW_REGISTERS
    assert compiled.static_shared_bytes == 0
    assert not spilled(compiled)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("variant", [0, 1, 2])
def test_sweeps(variant, architecture, dtype):
    velocity, grouped, crews = VARIANTS[dtype][variant]
    constants = batch.kernel_constants(10, 16, bool(velocity), bool(grouped), crews)
    compiled = compiler.compile_source("zigzag", dtype, architecture, constants)
    assert compiled.static_shared_bytes == 0
    # 256 threads of 255 registers are all of a multiprocessor's; what does not fit is spilled. Of
    # two crews, each holds what it carries.
    assert compiled.registers <= 255
    assert spilled(compiled) <= (1024 if crews == 1 else 128)


def test_most_numbers_carried_compile():
    n = batch.MOST_CARRIED
    assert compiler.compile_source(
        "zigzag", "float64", "90", batch.kernel_constants(n, n, True, True)
    ).code


def test_text_of_the_benchmark_compiles(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    from benchmarks import gpu as benchmark

    program = nvrtc.createProgram(benchmark.MULTIPLY_ADDS, "benchmark.cu", (), ())
    try:
        nvrtc.compileProgram(program, ("--std=c++17",))
    finally:
        nvrtc.destroyProgram(program)


def test_where_code_cannot_be_kept_the_message_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTDLN_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(OSError, match="set FASTDLN_CACHE_DIR"):
        compiler.machine_code("random", "float32", "90", (), 255)


def spilled(compiled):
    return max([0, *(int(n) for n in re.findall(r"(\d+) bytes spill stores", compiled.log))])


def ptx(name, dtype, constants=()):
    program = nvrtc.createProgram(sources.source(name), f"{name}.cu", (), ())
    options = [o for o in compiler.OPTIONS if "ptxas" not in o]
    options += ["--gpu-architecture=compute_90", *sources.defines(dtype, constants)]
    nvrtc.compileProgram(program, tuple(options))
    text = nvrtc.getPTX(program)
    nvrtc.destroyProgram(program)
    return text.decode() if isinstance(text, bytes) else text


def test_subnormals_are_kept_and_loads_are_whole_vectors():
    text = ptx("zigzag", "float32", batch.kernel_constants(10, 16, False, False))
    assert ".ftz" not in text
    assert "ld.shared.v4" in text
    assert "st.global.v4.u32" in text
    assert "cp.async.cg" in text


def test_random_numbers_are_never_fused(dtype):
    text = ptx("random", dtype)
    assert "fma" not in text
    assert "div.rn.f64" in text
    assert "sqrt.rn.f64" in text


def test_messages_of_the_compiler_are_passed_on(monkeypatch):
    monkeypatch.setattr(compiler, "source", lambda name: "not C++")
    with pytest.raises(RuntimeError, match=r"compiling two_pass\.cu for sm_90[\s\S]*error"):
        compiler.compile_source("two_pass", "float32", "90")


def test_machine_code_is_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTDLN_CACHE_DIR", str(tmp_path))
    path = compiler.machine_code("random", "float32", "90", (), 255)
    assert path.read_bytes().startswith(b"\x7fELF")
    monkeypatch.setattr(compiler, "compile_source", None)  # not compiled again
    assert compiler.machine_code("random", "float32", "90", (), 255) == path
    assert list(tmp_path.iterdir()) == [path]
