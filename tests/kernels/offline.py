"""Compile triton kernels for GPUs that are not there, and report what the compiler says: registers, spills, memory.

    report = compiled(Request("matfn.kernels.triton_symm_pointer", "symmetric_product", 90, warps=8, stages=3,
                              types={"A": "*fp16", "n": "i32"}, constants={"SIZE": 128}, aligned=("A", "n")))[0]
    assert report.spilled == 0

Compilation runs in a child process without TRITON_INTERPRET, because triton reads that variable when it is imported.
"""

import functools
import importlib
import io
import os
import pickle
import re
import sys
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from child import completed

SHARED = {80: 166_912, 90: 232_448, 100: 232_448}  # bytes of shared memory that one program may have, by capability


@dataclass(frozen=True)
class Request:
    """One kernel, its arguments, and the card to compile it for.

    Attributes:
        module: Module of the kernel, as for `import`.
        name: Name of the kernel in the module.
        capability: Compute capability of the card: 80, 90 or 100.
        warps: Warps of a program.
        stages: Stages of the software pipeline.
        types: Triton's type of each argument that is no constant: "*fp16", "i32", "fp32",
            "tensordesc<fp16[1, 128, 64]>".
        constants: Values of `tl.constexpr` arguments, and of arguments that triton specialises (a stride of 1).
        aligned: Names of pointers and integers that are multiples of 16.
        maxnreg: Most registers of a thread, None: the compiler decides.
    """

    module: str
    name: str
    capability: int
    warps: int
    stages: int
    types: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    aligned: tuple[str, ...] = ()
    maxnreg: int | None = None

    def __hash__(self) -> int:
        return hash((self.module, self.name, self.capability, self.warps, self.stages, repr(self)))


@dataclass(frozen=True)
class Report:
    """What the compiler says of one kernel.

    Attributes:
        registers: Registers of a thread, at most 255.
        shared: Bytes of shared memory of a program.
        spilled: Bytes of registers that a thread writes to slow memory for want of room.
        tensor_memory: Columns of Blackwell's tensor memory, of 512.
        warps: Warps of a program: more than requested if the compiler gives loads to warps of their own.
        wgmma: Whether Hopper's matrix instruction is used.
        tcgen05: Whether Blackwell's matrix instruction is used.
        mma: Whether the older matrix instruction is used.
        tma: Whether loads by tensor descriptor are used.
        tma_store: Whether stores by tensor descriptor are used.
        cp_async: Whether asynchronous copies by pointer are used.
        ptx: The whole assembly.
    """

    registers: int
    shared: int
    spilled: int
    tensor_memory: int
    warps: int
    wgmma: bool
    tcgen05: bool
    mma: bool
    tma: bool
    tma_store: bool
    cp_async: bool
    ptx: str = field(repr=False)


def compiled(*requests: Request) -> list[Report]:
    """Compile what was not compiled before in this process, in child processes; skip the test without triton."""
    if sys.platform != "linux" or find_spec("triton") is None:
        pytest.skip("triton compiles for CUDA on Linux, and is not installed here")
    if tuple(map(int, version("triton").split(".")[:2])) < (3, 6):
        pytest.skip("triton tells what ptxas reports from 3.6 on")
    new = [r for r in dict.fromkeys(requests) if r not in _KNOWN]
    for i in range(0, len(new), _ONE_CHILD):
        some = new[i : i + _ONE_CHILD]
        _KNOWN.update(zip(some, _in_a_child(some), strict=True))
    return [_KNOWN[r] for r in requests]


_ONE_CHILD = 16  # kernels that a child compiles within its time on a busy machine
_KNOWN: dict[Request, Report] = {}


def _in_a_child(requests: list[Request]) -> list[Report]:
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "asked"), Path(folder, "answer")
        asked.write_bytes(pickle.dumps(requests))
        env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
        # A cache of its own: triton calls ptxas, whose report is read, only for what it does not find there.
        env |= {"OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(Path(folder, "cache"))}
        env["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        done = completed([sys.executable, __file__, str(asked), str(answer)], env=env)
        if done.returncode:
            raise RuntimeError(f"a kernel does not compile:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return pickle.loads(answer.read_bytes())


def _report(request: Request) -> Report:
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kernel = getattr(importlib.import_module(request.module), request.name)
    names = kernel.arg_names
    source = ASTSource(
        kernel,
        {name: "constexpr" if name in request.constants else request.types[name] for name in names},
        {(names.index(name),): value for name, value in request.constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in request.aligned},
    )
    options: dict[str, Any] = {"num_warps": request.warps, "num_stages": request.stages}
    if request.maxnreg is not None:
        options["maxnreg"] = request.maxnreg
    knobs.nvidia.dump_ptxas_log = True
    log = io.StringIO()
    with redirect_stdout(log):
        made = compile(source, target=GPUTarget("cuda", request.capability, 32), options=options)
    found = functools.partial(_most, log.getvalue())
    ptx = made.asm["ptx"]
    return Report(
        registers=found(r"Used (\d+) registers"),
        shared=made.metadata.shared,
        spilled=found(r"(\d+) bytes spill stores"),
        tensor_memory=made.metadata.tmem_size,
        warps=made.metadata.num_warps,
        wgmma="wgmma.mma_async" in ptx,
        tcgen05="tcgen05.mma" in ptx,
        mma="mma.sync" in ptx,
        tma=re.search(r"cp\.async\.bulk\.tensor[^;]*shared::\w+\.global", ptx) is not None,
        tma_store=re.search(r"cp\.async\.bulk\.tensor[^;]*\.global\.shared::", ptx) is not None,
        cp_async=re.search(r"cp\.async\.c[ag]\.", ptx) is not None,
        ptx=ptx,
    )


def _most(log: str, pattern: str) -> int:
    found = re.findall(pattern, log)
    if not found:
        raise RuntimeError(f"ptxas did not report {pattern!r}:\n{log[-2000:]}")
    return max(map(int, found))


if __name__ == "__main__":
    import offline  # the module under its own name, for pickle

    asked, answer = map(Path, sys.argv[1:])
    answer.write_bytes(pickle.dumps([offline._report(request) for request in pickle.loads(asked.read_bytes())]))
