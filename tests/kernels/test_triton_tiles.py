"""Every tile of `TritonSymmetric`, compiled for the cards it serves: no spilled registers, memory within the card's."""

import os
import sys

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: it comes with torch for CUDA, or pip install triton")

from offline import SHARED, Request, compiled

from child import completed
from matfn.kernels import triton_symm
from matfn.kernels.triton_symm import DescriptorTile, PointerTile, candidates
from matfn.kernels.triton_symm_descriptor import constants

NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
COUNTS = ("n", "k", "blocks", "tiles", "alpha_batch", "beta_batch")
# The two that need most: a sum with weights in memory, the columns of B contiguous; X X^T with contiguous columns of X.
ADDED = {"ADD": True, "ALPHAS": True, "BETAS": True}, (False, True)
ALONE = {"ADD": False, "ALPHAS": False, "BETAS": False}, (True, True)


def by_descriptors(tile, name, turned, flags):
    """The module, the kernel, the types of its arguments, its constants, and what is aligned."""

    def operand(rows, exchanged):
        return f"tensordesc<{name}[1, {f'{tile.depth}, {rows}' if exchanged else f'{rows}, {tile.depth}'}]>"

    square = f"tensordesc<{name}[1, {tile.rows}, {tile.rows}]>"
    types = {"A": operand(tile.rows, turned[0]), "B": operand(tile.columns, turned[1]), "C": square, "out": square}
    fixed = {**flags, "A_TURNED": turned[0], "B_TURNED": turned[1], **constants(tile)}
    return "triton_symm_descriptor", "symmetric_product_by_descriptors", types, fixed, ()


def by_pointers(tile, name, turned, flags):
    types = dict.fromkeys(("A", "B", "C", "out"), f"*{name}")
    strides = [f"{x}_{axis}" for x in "abc" for axis in ("batch", "row", "column")]
    ones = {"a_row" if turned[0] else "a_column", "b_column" if turned[1] else "b_row", "c_column"}
    fixed = {**flags, **dict.fromkeys(ones, 1), "SIZE": tile.size, "DEPTH": tile.depth, "GROUP": 8}
    aligned = (*types, "n", "k", *(x for x in strides if x not in ones))
    return "triton_symm_pointer", "symmetric_product", {**types, **dict.fromkeys(strides, "i32")}, fixed, aligned


def request(capability, tile, dtype, float32, flags, turned):
    make = by_descriptors if isinstance(tile, DescriptorTile) else by_pointers
    module, kernel, types, fixed, aligned = make(tile, NAMES[dtype], turned, flags)
    weight = "*fp32" if flags["ALPHAS"] else "fp32"
    types = {**types, "alpha": weight, "beta": weight, **dict.fromkeys(COUNTS, "i32")}
    fixed = {**fixed, "WIDEN": False, "PRECISION": float32}
    return Request(
        f"matfn.kernels.{module}",
        kernel,
        capability,
        tile.warps,
        tile.stages,
        types,
        fixed,
        (*aligned, "alpha", "beta"),
    )


def cases():
    """Every candidate with each dtype on each card; what takes most registers of float16 and bfloat16 differs."""
    kinds = {torch.float16: ("ieee", ADDED), torch.bfloat16: ("ieee", ALONE), torch.float32: ("ieee", ADDED)}
    for capability in (80, 90, 100):
        card = capability // 10, 0
        for dtype, (float32, variant) in kinds.items():
            for made in candidates(card, dtype, 4096):
                yield capability, made.tile, dtype, float32, variant
        for made in candidates(card, torch.float32, 4096, float32="tf32x3"):
            yield capability, made.tile, torch.float32, "tf32x3", ADDED


# The compiler does the same for a tile of pointers on Blackwell as on Hopper, but for the matrix instruction.
CASES = [case for case in cases() if case[0] != 100 or isinstance(case[1], DescriptorTile)]


def check_report(case, report):
    capability, tile, dtype, float32, _ = case
    described = isinstance(tile, DescriptorTile)
    assert report.spilled == 0
    programs = tile.programs if described else 1
    # Each program takes 1 kB more than it asks for.
    assert programs * (report.shared + 1024) <= SHARED[capability] + 1024
    assert described or report.shared <= 98_304  # so that smaller cards of the same generation run it
    assert programs * report.registers * 32 * report.warps <= 65_536
    assert report.tensor_memory * programs <= 512
    on_tensor_cores = dtype != torch.float32 or float32 == "tf32x3"
    assert (report.mma or report.wgmma or report.tcgen05) is on_tensor_cores
    if on_tensor_cores and (described or tile.size >= 64):
        assert {80: report.mma, 90: report.wgmma, 100: report.tcgen05}[capability]
    assert report.tma is report.tma_store is described
    assert described or report.cp_async
    assert report.warps > tile.warps if described and tile.specialized else report.warps == tile.warps
    # Three products of TF32 numbers for one of float32, and none for "ieee".
    rounded = report.ptx.count(".tf32.tf32") + report.ptx.count("kind::tf32")
    assert (rounded > 0) == (dtype == torch.float32 and float32 == "tf32x3")
    if described and float32 == "tf32x3":
        assert rounded % 3 == 0


def test_every_tile_fits_its_card():
    """One test for all, because two processes would compile all tiles twice."""
    found = compiled(*(request(*case[:4], *case[4]) for case in CASES))
    for case, report in zip(CASES, found, strict=True):
        try:
            check_report(case, report)
        except AssertionError as error:
            error.add_note(f"This was {case}: {report}")
            raise


def test_a_table_holds_no_tile_that_no_card_tries():
    tables = [value for name, value in vars(triton_symm).items() if name.isupper() and isinstance(value, tuple)]
    listed = {tile for table in tables for tile in table if isinstance(tile, (DescriptorTile, PointerTile))}
    if candidates((10, 0), torch.float16, 4096)[0].tile not in triton_symm.BLACKWELL_SPECIALIZED:  # triton before 3.7
        listed -= {*triton_symm.BLACKWELL_SPECIALIZED}
    assert listed == {case[1] for case in CASES}


def run_without_the_interpreter(code):
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = completed([sys.executable, "-c", code], env={**env, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]


REFUSED = """
import torch
from matfn.kernels.triton_symm import TritonSymmetric

try:
    TritonSymmetric().syrk(torch.ones(1, 2, 2))
except RuntimeError as error:
    assert "got a tensor on cpu: take Blocked()" in str(error), error
else:
    raise SystemExit("a tensor on a CPU was taken")
"""


def test_a_tensor_on_a_cpu_is_refused_without_the_interpreter():
    run_without_the_interpreter(REFUSED)


LAUNCHED = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from matfn.kernels import triton_symm, triton_symm_descriptor


class Card:  # what triton asks about the card before it compiles
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0


def run(*given, grid, warmup, **options):
    made.append(compile_and_launch(*given, grid=grid, warmup=True, **options))  # compiled, not launched


driver.set_active(Card())
triton_symm._check = lambda *given: None  # takes tensors on a CPU for tensors on the card
made, kernel = [], triton_symm_descriptor.symmetric_product_by_descriptors
compile_and_launch, kernel.run = kernel.run, run
for b, n, k in ((3, 256, 512), (1, 768, 1000), (7, 8, 8), (2, 1016, 1)):
    X = torch.zeros(b, n, max(k, 8), dtype=torch.bfloat16)[..., :k]
    triton_symm.TritonSymmetric(triton_symm.HOPPER_HALF[0]).syrk(X)
assert len(made) == 4, len(made)
assert len({id(one) for one in made}) == 1, "one kernel serves all sizes"
block = "tensordesc<bf16[1, {}, 64]>".format
assert (made[0].src.signature["A"], made[0].src.signature["B"]) == (block(128), block(256)), made[0].src.signature
"""


@pytest.mark.skipif(sys.platform != "linux", reason="triton compiles for CUDA on Linux")
def test_one_kernel_serves_all_sizes():
    """As triton binds the arguments of a launch: by the check of captures, too, what ran once runs in every size."""
    run_without_the_interpreter(LAUNCHED)
