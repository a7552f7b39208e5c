"""Polar: methods, engines and kernels on their own schedule, time against error, and the cost of measurement."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import matfn
from benchmarks.gpu_parts.products import Counting, matmul_rate, triton_products
from benchmarks.timing import Place, timed
from matfn.engines.restarts import gram_error, restarts_for
from matfn.kernels import EAGER, Products

Row = dict[str, Any]
METHODS = {
    "polar-express": matfn.PolarExpress(),
    "polar-express, safety 1.05": matfn.PolarExpress(safety=1.05),
    "jordan": matfn.Tuned("jordan"),
    "newton-schulz": matfn.NewtonSchulz(),
}
TIMED = {name: METHODS[name] for name in ("polar-express", "jordan")}
TIMED |= {f"ritz-minimax, {steps} steps": matfn.RitzMinimax(steps=steps) for steps in (4, 3)}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Batches of GPT-2 small, GPT-2 medium, and of Qwen3-1.7B with q, k, v and gate, up apart, which is what the benchmark
# of gram-newton-schulz steps: of each shape so many as fill the device.
SHAPES = {
    "GPT-2 small, MLP": (12, 768, 3072),
    "GPT-2 small, attention": (12, 768, 768),
    "GPT-2 medium, MLP": (24, 4096, 1024),
    "GPT-2 medium, attention": (24, 1024, 1024),
    "Qwen3-1.7B, MLP": (14, 6144, 2048),
    "Qwen3-1.7B, q and o": (14, 2048, 2048),
    "Qwen3-1.7B, k and v": (14, 1024, 2048),
    "one alone": (1, 768, 3072),
}


def tolerance(method: Any, engine: matfn.Direct | matfn.Gram, dtype: torch.dtype) -> float:
    """100 units of roundoff, and the error predicted for the Gram engine."""
    roundoff = torch.finfo(dtype).eps / 2
    if isinstance(engine, matfn.Direct):
        return 100 * roundoff
    schedule = method.schedule(2)
    return 100 * roundoff + gram_error(schedule, restarts_for(schedule, dtype), dtype)


def engines(dtype: torch.dtype) -> tuple[matfn.Direct | matfn.Gram, ...]:
    """The Gram engine is not offered in bfloat16: see how_to_choose."""
    return (matfn.Direct(),) if dtype is torch.bfloat16 else (matfn.Direct(), matfn.Gram())


def correctness(place: Place) -> Iterator[Row]:
    """Each method and engine on the device against the same schedule applied to singular values in float64."""
    size = place.pick(256, 32)
    generator = torch.Generator().manual_seed(0)
    triton = _one_tile(place) if place.cuda else None  # interpreted, whole iterations take minutes
    for shape in ((size, size), (size, 4 * size), (3 * size + 1, size - 1)):
        X = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        W, sigma, Vh = torch.linalg.svd(X, full_matrices=False)
        for (name, method), dtype in ((item, d) for item in METHODS.items() for d in DTYPES):
            scalars = method.schedule(2)(sigma / torch.linalg.matrix_norm(X)[:, None])
            expected = (W * scalars.unsqueeze(-2)) @ Vh
            for engine in engines(dtype):
                half = triton is not None and dtype is not torch.float64
                for kernel, products in (("torch", EAGER), *([("triton", triton)] if half else [])):
                    U = matfn.orthogonalize(
                        X.to(place.device), method=method, engine=engine, precision=dtype, products=products
                    )
                    error = (U.double().cpu() - expected).norm().item() / expected.norm().item()
                    yield {
                        "shape": shape, "method": name, "engine": repr(engine), "dtype": str(dtype), "kernel": kernel,
                        "error": error, "passed": error <= tolerance(method, engine, dtype),
                    }  # fmt: skip


def _one_tile(place: Place) -> Products | None:
    """Triton's products by one small tile for all sizes: trying tiles is mostly compiling."""
    if triton_products(place)[0] is None:
        return None
    from matfn.kernels.triton_symm import TILES, TritonSymmetric

    return TritonSymmetric(TILES[-1])


def spread_out(shape: tuple[int, int, int], device: str) -> tuple[Tensor, Tensor]:
    """Matrices (b, m, n) in float32 with random singular vectors and singular values i^-0.75, and the values."""
    b, m, n = shape
    generator = torch.Generator(device=device).manual_seed(0)
    sigma = torch.arange(1, min(m, n) + 1, device=device) ** -0.75
    left, right = (torch.randn(b, side, len(sigma), generator=generator, device=device) for side in (m, n))
    return (torch.linalg.qr(left).Q * sigma) @ torch.linalg.qr(right).Q.mT, sigma


def errors(U: Tensor, X: Tensor, sigma: Tensor) -> Row:
    """Of the first matrix: rms(1 - sigma) over all its singular values, and the direction <U, X> / ||X||_*."""
    one = U[0].double() if min(U.shape[1:]) <= 1024 else U[0]  # float32 shows 1e-6, and float64 takes seconds there
    one, given = one if one.shape[0] <= one.shape[1] else one.mT, X[0].double()
    values = torch.linalg.eigvalsh(one @ one.mT).clamp(min=0).sqrt()
    direction = (U[0].double() * given).sum() / sigma.double().sum()
    return {"rms": (1 - values).square().mean().sqrt().item(), "direction": direction.item()}


def orthogonalization(place: Place) -> Iterator[Row]:
    """Time and error by shape, method, dtype, engine and kernel; the installed peers first."""
    triton, why = triton_products(place) if place.cuda else (None, "not on a CPU: interpreted, it would take minutes")
    yield from [{"skipped": f"triton: {why}"}] * (triton is None)
    measure = {dtype: matmul_rate(place, dtype) for dtype in (torch.bfloat16, torch.float16)}
    for name, shape in place.pick(SHAPES, {"small": (2, 48, 64)}).items():
        X, sigma = spread_out(shape, place.device)
        for peer, work in peers(place, X).items():
            if isinstance(work, str):
                yield {"skipped": f"{peer}: {work}"}
                continue
            try:
                yield {"shape": shape, "what": name, "method": peer, **errors(work(), X, sigma), **timed(work, place)}
            except Exception as error:  # record that a peer does not run here, and continue
                yield {"skipped": f"{peer}: {' '.join(str(error).split())[:200]}"}
        for (label, method), dtype in ((m, d) for m in TIMED.items() for d in measure):
            for engine in engines(dtype):
                for kernel, products in {"torch": EAGER, "triton": triton}.items():
                    if products is None:
                        continue
                    work = _work(X, method, engine, dtype, products)
                    counting = Counting()
                    _work(X[:1], method, engine, dtype, counting)()
                    time = timed(work, place)
                    best = min(t for t in (time["seconds"], time.get("graph_seconds")) if t)
                    yield {
                        "shape": shape, "what": name, "method": label, "dtype": str(dtype), "engine": repr(engine),
                        "kernel": kernel, **errors(work(), X, sigma), **time,
                        "share_of_matmul_rate": counting.halved * shape[0] / best / measure[dtype],
                    }  # fmt: skip


def _work(X: Tensor, method: Any, engine: Any, dtype: torch.dtype, products: Products) -> Callable[[], Tensor]:
    iteration = method.schedule(2) if hasattr(method, "schedule") else method
    return lambda: matfn.orthogonalize(X, method=iteration, engine=engine, precision=dtype, products=products)


def plain(X: Tensor) -> Tensor:
    """Five steps of Jordan's triple in bfloat16, as usually written, for torch.compile."""
    Y = X.bfloat16()
    Y = Y if Y.shape[-2] <= Y.shape[-1] else Y.mT
    Y = Y / (torch.linalg.matrix_norm(Y, keepdim=True) + 1e-7)
    for _ in range(5):
        A = Y @ Y.mT
        Y = 3.4445 * Y + (-4.775 * A + 2.0315 * A @ A) @ Y
    return (Y if X.shape[-2] <= X.shape[-1] else Y.mT).to(X.dtype)


def peers(place: Place, X: Tensor) -> dict[str, Callable[[], Tensor] | str]:
    """Plain Newton-Schulz, compiled where that means Triton, and gram-newton-schulz where it is installed."""
    found: dict[str, Callable[[], Tensor] | str] = {"plain torch, bf16": lambda: plain(X)}
    if not place.cuda:
        return found | {"gram-newton-schulz": "compared on a GPU alone, here it would be compiled for the CPU"}
    torch.compiler.reset()  # so that every shape is compiled for itself, and none beyond a limit left eager
    compiled = torch.compile(plain, dynamic=False)
    found["plain torch, bf16, compiled"] = lambda: compiled(X)
    try:
        from gram_newton_schulz import GramNewtonSchulz  # pyright: ignore[reportMissingImports]

        theirs = GramNewtonSchulz(ns_use_kernels=True)
    except ImportError as error:
        return found | {"gram-newton-schulz": f"not installed ({error})"}
    found["gram-newton-schulz, its defaults"] = lambda: theirs(X.clone())
    return found


def measuring(place: Place) -> Iterator[Row]:
    """What RitzMinimax adds to as many steps of a fixed schedule of the same degree: Lanczos steps and a table."""
    for name, shape in place.pick(SHAPES, {"small": (2, 48, 64)}).items():
        X, _ = spread_out(shape, place.device)
        rows = {
            label: timed(_work(X, method, matfn.Direct(), torch.bfloat16, EAGER), place)
            for label, method in (("fixed", matfn.PolarExpress(steps=4)), ("measured", matfn.RitzMinimax(steps=4)))
        }
        ratio = {
            kind: rows["measured"][kind] / rows["fixed"][kind]
            for kind in ("seconds", "graph_seconds")
            if all(row.get(kind) for row in rows.values())
        }
        yield {"shape": shape, "what": name, **rows, "measured_over_fixed": ratio}
