"""Machine: what each kind of hardware does well; every constant stands here, with the place it was measured.

Decisions about precision, products, preparation and roots read the profile of the machine and nothing else. If a
profile does not know which dtypes are fast, a few products are timed once (`probe`) and the times are kept on disk. The
environment variable MATFN_MACHINE names another profile; "probe" times the products of a known machine too.
"""

import hashlib
import json
import os
import platform
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

import torch
from filelock import FileLock

from ..kernels import onednn_runs
from ..minimax.cache import directory, read_small, write_whole

__all__ = ["PROFILES", "Fact", "Machine", "machine", "probe", "short"]

_HALF = (torch.bfloat16, torch.float16)
# Seconds of one 256 x 256 product on a CPU, 8 GFLOP/s: slower ones are emulated (10 ms with AVX2), whatever float32
# takes beside them on a busy machine. A wrong "quick" would cost a factor of 60, a wrong "slow" a factor of 2.
_EMULATED = 4e-3
T = TypeVar("T")


@dataclass(frozen=True)
class Fact(Generic[T]):
    """One constant of a profile, and the measurement or the reason behind it, as one clause."""

    value: T
    where: str


@dataclass(frozen=True)
class Half:
    """Which half-precision dtypes are multiplied at least as fast as float32; `where` as in `Fact`."""

    bfloat16: bool
    float16: bool
    where: str


_UNMEASURED = "not measured on this kind of machine"


@dataclass(frozen=True)
class Machine:
    """The profile of one kind of hardware.

    Attributes:
        name: The name that MATFN_MACHINE takes.
        kind: What it describes, in words.
        half: Which half-precision dtypes are fast, and so used for iterations; None is unknown, and has them timed.
        half_dtype: The half precision of an optimizer's iteration, where it is fast.
        half_rows: Short side from which an optimizer's step is faster in half precision, where that is fast.
        onednn_rows: Short side from which oneDNN's float32 products are faster than torch's own; None for never.
        onednn_block: As `block_rows`, for float32 products by oneDNN.
        block_rows: By dtype, the height of a block row from which symmetric products in block rows pay; two must fit.
        quickest: Whether symmetric products take the kernel that a trial on the device finds (`Quickest`).
        deflated_rows: Short side from which an optimizer's three deflated steps are faster than five; None for never.
        thinly_rows: Short side from which a thirty-second of the singular values is deflated, below it a sixteenth.
        resolvent_rows: Rows from which Shampoo's roots are sums of resolvents; None for never.
        product_roots: Whether Shampoo's roots are by products alone, where no resolvents are used.
        part_entries: Entries of a stack to iterate on at a time, so that the iterates fit the cache; None for all.
    """

    name: str
    kind: str
    half: Half | None
    half_dtype: Fact[torch.dtype] = Fact(torch.bfloat16, "no measured machine of this kind multiplies float16 as fast")
    half_rows: Fact[int] = Fact(0, "half precision is used at every size")
    onednn_rows: Fact[int | None] = Fact(None, "torch's own float32 products are the quickest known here")
    onednn_block: Fact[int] = Fact(192, "AMD EPYC 9005: 1.1 times full products at 384 rows, 1.4 times at 768")
    block_rows: tuple[tuple[torch.dtype, int], ...] = ()
    block_where: str = _UNMEASURED
    quickest: Fact[bool] = Fact(False, "no kernel for symmetric results is known here")
    deflated_rows: Fact[int | None] = Fact(None, _UNMEASURED)
    thinly_rows: Fact[int] = Fact(512, "momenta of width 768: a thirty-second leaves rms .66, five Jordan steps .70")
    resolvent_rows: Fact[int | None] = Fact(None, _UNMEASURED)
    product_roots: Fact[bool] = Fact(False, _UNMEASURED)
    part_entries: int | None = None

    @property
    def narrow(self) -> torch.dtype:
        """The dtype of an optimizer's iteration on float32 momenta: `half_dtype` if it is fast, else float32."""
        return self.working(self.half_dtype.value)

    def thin(self, precision: torch.dtype) -> torch.dtype | None:
        """Return the dtype of a deflation's thin products for an iteration in `precision`; None is float32 or wider.

        Only float16 is fine enough: bfloat16 would round what deflation subtracts to more than what it leaves.
        """
        return torch.float16 if precision in _HALF and self.half_dtype.value is torch.float16 else None

    def working(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype to iterate in for an argument of `dtype`: float32 for a slow half precision."""
        # By attributes: torch.compile cannot look into a set that is not a constant of the code.
        slow_bfloat16 = dtype is torch.bfloat16 and not (self.half and self.half.bfloat16)
        slow_float16 = dtype is torch.float16 and not (self.half and self.half.float16)
        return torch.float32 if slow_bfloat16 or slow_float16 else dtype


_EPYC = "AMD EPYC 9005 with AVX512-BF16, torch 2.13, one and two threads"

_CPU = Machine(
    "cpu",
    "a CPU that no other profile describes",
    half=None,
    block_rows=((torch.float64, 64), (torch.float32, 96), (torch.bfloat16, 256)),
    block_where=f"{_EPYC}: 1.5 times full products in float32 at 512 rows, 1.2 to 1.4 times in bfloat16 from 768",
    deflated_rows=Fact(128, f"{_EPYC}: 1.1 times five steps at 128 rows, 1.3 times at 512; 1.7 times at 512 x 2048"),
    resolvent_rows=Fact(96, f"{_EPYC}: 1.6 times an eigendecomposition at 96 rows, 2.4 times at 256"),
    part_entries=2**20,
)
_GPU = Machine(
    "gpu",
    "a device that no other profile describes: plain products",
    half=None,
    product_roots=Fact(True, "decompositions wait for the device; 64 x 256 by Exact() took 130 ms (H200, 2026-11-26)"),
)
_NVIDIA = replace(_GPU, name="cuda", kind="an NVIDIA GPU older than sm_80")
_TENSOR_CORES = replace(
    _NVIDIA,
    half=Half(True, True, "tensor cores; H200, 2026-11-26: 788 TFLOP/s in bfloat16"),
    half_dtype=Fact(
        torch.float16, "H200, 2026-11-26: the rate of bfloat16, eight times finer, one restart instead of two"
    ),
    deflated_rows=Fact(
        128,
        "counted 2 n^2 m + 9 n^3 and thin products, where five lifted steps take 4 n^2 m + 13 n^3; predicted, "
        "not yet measured on a GPU in this form",
    ),
    quickest=Fact(
        True,
        "H200, 2026-11-26: quack's symmetric products took .6 of the time of cuBLAS's full ones at 2048 and 4096 rows, "
        ".9 to 1.1 at 768; the Triton kernels of that day mostly took longer than cuBLAS's",
    ),
)

PROFILES: dict[str, Machine] = {
    profile.name: profile
    for profile in (
        replace(
            _CPU,
            name="x86-avx2",
            kind="x86 without AVX512: half precision is emulated",
            half=Half(False, False, "2 cores with AVX2, torch 2.13: a bfloat16 product takes 60 times a float32 one"),
        ),
        replace(_CPU, name="x86-avx512", kind="x86 with AVX512, without bfloat16 arithmetic"),
        replace(_CPU, name="x86-avx512-bf16", kind="Intel with AVX512-BF16"),
        replace(
            _CPU,
            name="amd-avx512-bf16",
            kind="AMD with AVX512-BF16 (Zen 4 and newer)",
            half=Half(True, False, f"{_EPYC}: a bfloat16 step takes 0.3 to 0.8 of a float32 one; float16 is emulated"),
            half_rows=Fact(48, f"{_EPYC}: a step on 32 rows takes .9 to 1.7 of a float32 one, on 48 rows .5 to 1.4"),
            onednn_rows=Fact(192, "AMD EPYC 9005: MKL takes its AVX2 path; oneDNN 2.1 times as quick, 192 rows up"),
        ),
        replace(_CPU, name="x86-amx", kind="Intel with AMX"),
        replace(_CPU, name="arm", kind="ARM without bfloat16 arithmetic"),
        replace(_CPU, name="arm-bf16", kind="ARM with bfloat16 arithmetic"),
        _CPU,
        _NVIDIA,
        replace(_TENSOR_CORES, name="cuda-sm80", kind="NVIDIA Ampere and Ada (sm_80 to sm_89)"),
        replace(_TENSOR_CORES, name="cuda-sm90", kind="NVIDIA Hopper (sm_90)"),
        replace(_TENSOR_CORES, name="cuda-sm100", kind="NVIDIA Blackwell (sm_100 and newer)"),
        _GPU,
    )
}


def machine(device: torch.device) -> Machine:
    """Return the profile for a device: named by MATFN_MACHINE, else recognised; times unknown dtypes."""
    if torch.compiler.is_compiling():
        name, bfloat16, float16, where, dtype, least, rows, why, thinly = _facts(device.type, device.index)
        return Machine(  # with every field: torch.compile cannot wrap the objects that are the defaults
            name,
            "seen by torch.compile",
            Half(bfloat16, float16, where),
            half_dtype=Fact(dtype, where),
            half_rows=Fact(least, where),
            onednn_rows=Fact(None, why),
            onednn_block=Fact(0, why),
            quickest=Fact(False, why),
            deflated_rows=Fact(rows, why),
            thinly_rows=Fact(thinly, why),
            resolvent_rows=Fact(None, why),
            product_roots=Fact(False, why),
        )
    return _machine(device.type, device.index, os.environ.get("MATFN_MACHINE", ""), torch.get_num_threads())


def _facts(kind: str, index: int | None) -> tuple[str, bool, bool, str, torch.dtype, int, int | None, str, int]:
    """What a plan for torch.compile needs of a profile, as plain values: objects would need guards."""
    found = _machine(kind, index, os.environ.get("MATFN_MACHINE", ""), torch.get_num_threads())
    half = found.half or Half(False, False, _UNMEASURED)
    words, deflated = (found.name, half.bfloat16, half.float16, half.where), found.deflated_rows
    return (
        *words,
        found.half_dtype.value,
        found.half_rows.value,
        deflated.value,
        deflated.where,
        found.thinly_rows.value,
    )


# torch.compile calls it while it traces, see `matfn.linalg.constant`.
_facts._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@lru_cache(maxsize=64)
def _machine(kind: str, index: int | None, named: str, threads: int) -> Machine:
    if named not in ("", "probe") and named not in PROFILES:
        raise ValueError(f"MATFN_MACHINE must be one of {', '.join([*PROFILES, 'probe'])}, got {named!r}")
    device = torch.device(kind, index) if index is not None else torch.device(kind)
    found = PROFILES[named] if named in PROFILES else _recognised(device)
    if found.onednn_rows.value is not None and not onednn_runs():
        found = replace(found, onednn_rows=Fact(None, "this torch has no oneDNN, or has it switched off"))
    if kind == "meta":
        return replace(found, half=found.half or Half(False, False, "a meta tensor"))
    if found.half is not None and named != "probe":
        return found
    times = probe(device)
    ratio = {dtype: times.get(dtype, float("inf")) / times[torch.float32] for dtype in _HALF}
    told = " and ".join(f"{short(dtype)} {ratio[dtype]:.2g} times" for dtype in _HALF)
    where = f"timed here, {threads} threads, torch {torch.__version__}: the time of float32, {told}"
    slow = _EMULATED if kind == "cpu" else float("inf")
    quick = {dtype: ratio[dtype] <= 1 and times.get(dtype, slow) < slow for dtype in _HALF}
    return replace(found, half=Half(quick[torch.bfloat16], quick[torch.float16], where))


def _recognised(device: torch.device) -> Machine:
    """The profile of the hardware."""
    if device.type == "cuda" and torch.version.hip is None:
        try:
            major, _ = torch.cuda.get_device_capability(device)
        except (AssertionError, RuntimeError):  # torch was built without CUDA, or finds no driver
            if torch.cuda.is_available():
                raise
            # `explain` plans for a device that is not there.
            return replace(PROFILES["cuda-sm90"], kind="NVIDIA Hopper, assumed: torch finds no CUDA device here")
        return PROFILES[{8: "cuda-sm80", 9: "cuda-sm90"}.get(major, "cuda-sm100" if major > 9 else "cuda")]
    return PROFILES[_cpu() if device.type == "cpu" else "gpu"]


def _cpu() -> str:
    """The name of the profile for the processor, from torch's own dispatch and /proc/cpuinfo."""
    listed, name = processor()
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "arm-bf16" if "bf16" in listed else "arm"
    capability = torch.backends.cpu.get_cpu_capability()
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "cpu"
    if not capability.startswith("AVX512"):
        return "x86-avx2" if capability == "AVX2" else "cpu"
    if "amx_bf16" in listed:
        return "x86-amx"
    if "avx512_bf16" in listed:
        return "amd-avx512-bf16" if "AMD" in name else "x86-avx512-bf16"
    return "x86-avx512"


@lru_cache(maxsize=1)
def processor() -> tuple[frozenset[str], str]:
    """The flags of the processor, and its vendor and model."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").split("\n\n")[0].splitlines() if path.exists() else []
    pairs = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = (pairs.get("flags") or pairs.get("Features") or "").split()
    name = " ".join(filter(None, (pairs.get("vendor_id"), pairs.get("model name")))) or platform.processor()
    return frozenset(flags), name


def probe(device: torch.device) -> dict[torch.dtype, float]:
    """Time one square product in float32, bfloat16 and float16 on a device: the least of a few, in seconds.

    This takes under 0.2 s, once: the times are kept on disk (`matfn.minimax.directory`) by processor, torch version and
    threads. Dtypes that the device cannot multiply are left out.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()[1]
    capability = torch.backends.cpu.get_cpu_capability()
    key = f"{device.type}, {name}, {capability}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    folder = directory()
    path = folder / f"machine-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json" if folder else None
    times = _timed(device) if path is None else _stored(path, key) or _timed_by_one(path, key, device)
    return {getattr(torch, name): seconds for name, seconds in times.items()}


def _timed_by_one(path: Path, key: str, device: torch.device) -> dict[str, float]:
    """Time and store. Of processes that start together one times; the others wait and decide by the same times."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=60):
            if (times := _stored(path, key)) is None:
                times = _timed(device)
                write_whole(path, json.dumps({"key": key, "seconds": times}, indent=1))
            return times
    except (OSError, NotImplementedError):  # a folder that cannot be written, or locked
        return _timed(device)


def _timed(device: torch.device) -> dict[str, float]:
    rows = 256 if device.type == "cpu" else 2048
    times = {}
    for dtype in (torch.float32, *_HALF):
        try:
            A = torch.ones(rows, rows, device=device).to(dtype)
            # The first products pay for threads and kernels that later ones find ready.
            _once(A, device)
            seconds = [_once(A, device)]
            while len(seconds) < 30 and sum(seconds) < 0.03:
                seconds.append(_once(A, device))
        except (RuntimeError, NotImplementedError):
            continue
        times[short(dtype)] = min(seconds)
    return times


def _once(A: torch.Tensor, device: torch.device) -> float:
    begun = time.perf_counter()
    (A @ A)[0, 0].item()  # reading one entry waits for the device
    return time.perf_counter() - begun


def _stored(path: Path, key: str) -> dict[str, float] | None:
    try:
        content = json.loads(read_small(path))
        times = content["seconds"] if content["key"] == key else None
        if times is None or not {"float32"} <= set(times) <= {"float32", "bfloat16", "float16"}:
            return None
        return times if all(isinstance(s, float) and 0 < s < 1e3 for s in times.values()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def short(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")
