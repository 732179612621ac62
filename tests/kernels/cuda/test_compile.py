"""NVRTC compiles every source for the GPUs in use, on any machine."""

import io
import re

import pytest

from pc_engine.kernels.cuda import COMPILE_OPTIONS, FOLDER, STATIC_SHARED_BYTES, cuda_source

cuda_core = pytest.importorskip("cuda.core", reason="cuda-core, of the extra [dev], is not installed")

SOURCES = sorted(path.stem for path in FOLDER.glob("*.cu"))
KERNEL = re.compile(r"^[A-Z_]+\((\w+_f\d\d), \w+\)$", re.MULTILINE)


def compile_with_nvrtc(code, architecture, **options):
    assert set(COMPILE_OPTIONS) == {"--std=c++17", "--fmad=false"}
    settings = cuda_core.ProgramOptions(std="c++17", fma=False, arch=architecture, **options)
    log = io.StringIO()
    try:
        program = cuda_core.Program(code, "c++", settings)
    except RuntimeError as error:
        pytest.skip(f"NVRTC is not installed: {error}")
    return program.compile("cubin", logs=log).code, log.getvalue()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_100", "sm_120"])
def test_compiles_without_a_word(source, architecture):
    code, log = compile_with_nvrtc(cuda_source(source), architecture)
    assert log.strip("\0\n ") == ""
    kernels = KERNEL.findall(cuda_source(source))
    assert len(kernels) >= 2
    assert all(f".text.{kernel}".encode() in code for kernel in kernels)


@pytest.mark.parametrize("source", [source for source in SOURCES if "BLOCK_STATE(arena)" in cuda_source(source)])
def test_compiles_for_states_that_exceed_a_block(source):
    whole = cuda_source(source, state_in_array=True)
    code, log = compile_with_nvrtc(whole, "sm_90")
    assert log.strip("\0\n ") == ""
    assert all(f".text.{kernel}".encode() in code for kernel in KERNEL.findall(whole))


@pytest.mark.parametrize("source", SOURCES)
def test_keeps_to_registers_and_to_the_shared_memory_set_aside(source):
    kernels = KERNEL.findall(cuda_source(source))
    code, log = compile_with_nvrtc(cuda_source(source), "sm_90", ptxas_options=["-v"])
    assert all(f".text.{kernel}".encode() in code for kernel in kernels)
    static = [int(size) for size in re.findall(r"(\d+) bytes smem", log)]
    spilt = [int(size) for size in re.findall(r"(\d+) bytes spill stores", log)]
    assert len(static) <= len(spilt) == len(kernels)  # nothing is said of kernels that declare none
    assert max(static, default=0) <= STATIC_SHARED_BYTES
    assert max(spilt) <= 64


def test_an_error_in_a_source_is_noticed():
    with pytest.raises(Exception, match="block_summ"):
        compile_with_nvrtc(cuda_source("dbscan").replace("block_sum(found)", "block_summ(found)"), "sm_90")
