"""The rig for compilation without a GPU reports what the compiler did."""

import pytest
from offline import Request, compiled

pytest.importorskip("triton", reason="triton is not installed: it comes with torch for CUDA, or pip install triton")

WHOLE = ("A", "B", "C", "out", "n", "k", "a_row", "b_column", "c_row", "a_batch", "b_batch", "c_batch")
COUNTS = ("n", "k", "tiles", "a_batch", "a_row", "b_batch", "b_column", "c_batch", "c_row", "alpha_batch", "beta_batch")


def request(capability, size=32, **options):
    pointers = {"A": "*bf16", "B": "*bf16", "C": "*bf16", "out": "*bf16", "alpha": "*fp32", "beta": "fp32"}
    flags = {
        "ADD": True,
        "ALPHAS": True,
        "BETAS": False,
        "WIDEN": False,
        "PRECISION": "ieee",
        "SIZE": size,
        "DEPTH": 32,
        "GROUP": 8,
    }
    constants = {"a_column": 1, "b_row": 1, "c_column": 1, **flags}
    types = dict.fromkeys(COUNTS, "i32") | pointers
    return Request(
        "matfn.kernels.triton_symm_pointer", "symmetric_product", capability, 4, 3, types, constants, WHOLE, **options
    )


def test_what_the_compiler_did_is_reported():
    ampere, hopper, blackwell, starved = compiled(
        request(80), request(90, 64), request(100, 128), request(80, 64, maxnreg=32)
    )
    assert (ampere.mma, ampere.wgmma, ampere.tcgen05, ampere.cp_async, ampere.tma) == (True, False, False, True, False)
    assert (hopper.wgmma, hopper.tcgen05) == (True, False)
    assert (blackwell.wgmma, blackwell.tcgen05) == (False, True)
    assert blackwell.tensor_memory >= 128 > hopper.tensor_memory == 0
    assert ampere.spilled == 0 < starved.spilled
    assert starved.registers <= 32 < ampere.registers <= 255
    assert ampere.shared == 2 * 2 * (32 * 32) * 2  # two of the three stages wait in memory, of two operands
    assert (ampere.warps, ".entry symmetric_product" in ampere.ptx) == (4, True)


def test_a_kernel_that_does_not_compile_says_why():
    with pytest.raises(RuntimeError, match=r"a kernel does not compile[\s\S]*power of 2"):
        compiled(request(80, 24))
