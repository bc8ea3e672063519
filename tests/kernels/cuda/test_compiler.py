"""Every kernel compiles for every GPU from the A100 on; needs NVRTC, not a GPU."""

import re
from pathlib import Path

import pytest

from fastdln.backends.gpu.launcher import FEW_REGISTERS
from fastdln.kernels.cuda import compiler, sources, zigzag
from fastdln.kernels.cuda.sources import ARCHITECTURES
from fastdln.kernels.cuda.team import MOST_CARRIED

cupy = pytest.importorskip("cupy", reason="CuPy is not installed: kernels cannot be compiled")

try:
    from cupy.cuda import nvrtc

    nvrtc.getVersion()
except Exception as error:
    pytest.skip(f"NVRTC cannot be loaded: {error}", allow_module_level=True)

# The paper's problem: velocity, groups of blocks, warp groups.
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
def test_zigzag(variant, architecture, dtype):
    velocity, grouped, warp_groups = VARIANTS[dtype][variant]
    constants = zigzag.kernel_constants(10, 16, bool(velocity), bool(grouped), warp_groups)
    compiled = compiler.compile_source("zigzag", dtype, architecture, constants)
    assert compiled.static_shared_bytes == 0
    # 256 threads of 255 registers take all of a multiprocessor's; the rest is spilled. Each of two
    # warp groups holds its own chain.
    assert compiled.registers <= 255
    assert spilled(compiled) <= (1024 if warp_groups == 1 else 128)


def test_the_most_elements_carried_compile():
    n = MOST_CARRIED
    assert compiler.compile_source(
        "zigzag", "float64", "90", zigzag.kernel_constants(n, n, True, True)
    ).code


def test_text_of_the_benchmark_compiles(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3]))
    from benchmarks import gpu_roofline as benchmark

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
    text = ptx("zigzag", "float32", zigzag.kernel_constants(10, 16, False, False))
    assert ".ftz" not in text
    assert "ld.shared.v4" in text
    assert "st.global.v4.u32" in text
    assert "cp.async.cg" in text


def test_named_barriers_do_not_ask_for_converged_warps():
    text = ptx("zigzag", "float32", zigzag.kernel_constants(10, 16, False, True, 2))
    assert re.search(r"barrier\.sync\s+%", text)
    assert re.search(r"barrier\.arrive\s+%", text)
    assert not re.search(r"bar(\.cta)?\.(sync|arrive)\s+%|\.aligned", text)


def test_the_parameter_struct_is_not_copied_to_local_memory():
    text = ptx("zigzag", "float32", zigzag.kernel_constants(10, 16, False, False))
    assert "__local_depot" not in text


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
