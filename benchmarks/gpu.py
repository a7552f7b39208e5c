"""One script for one GPU: checks every method and engine there, then times orthogonalization and Muon's step.

    PYTHONPATH=src python benchmarks/gpu.py --out gpu.json

Needs torch, numpy and mpmath only, and a few minutes. Without a GPU it stops and says so; `--device cpu --quick` runs
the same code small, to test the script itself.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import matfn
from matfn.engines.restarts import amplification, restarts_for
from matfn.optim import Muon

METHODS = {
    "polar-express": matfn.PolarExpress(),
    "polar-express, safety 1.05": matfn.PolarExpress(safety=1.05),
    "jordan": matfn.Tuned("jordan"),
    "newton-schulz": matfn.NewtonSchulz(),
}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def tolerance(method: matfn.PolarExpress, engine: matfn.Direct | matfn.Gram, dtype: torch.dtype) -> float:
    """100 units of roundoff, times what the Gram engine's model says it amplifies them by."""
    roundoff = torch.finfo(dtype).eps / 2
    if isinstance(engine, matfn.Direct):
        return 100 * roundoff
    schedule = method.schedule(2)
    return 100 * roundoff * amplification(schedule, restarts_for(schedule, dtype), roundoff)


def check(device: str, size: int) -> list[dict[str, object]]:
    """Each method and engine on the device against the same schedule applied to singular values in float64."""
    rows = []
    generator = torch.Generator().manual_seed(0)
    for shape in ((size, size), (size, 4 * size), (3 * size + 1, size - 1)):
        X = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        W, sigma, Vh = torch.linalg.svd(X, full_matrices=False)
        for (name, method), dtype in ((item, d) for item in METHODS.items() for d in DTYPES):
            scalars = method.schedule(2)(sigma / torch.linalg.matrix_norm(X)[:, None])
            expected = (W * scalars.unsqueeze(-2)) @ Vh
            for engine in (matfn.Direct(), matfn.Gram()):
                if isinstance(engine, matfn.Gram) and dtype is torch.bfloat16:
                    continue  # not offered: see how_to_choose
                U = matfn.orthogonalize(X.to(device), method=method, engine=engine, precision=dtype)
                error = (U.double().cpu() - expected).norm().item() / expected.norm().item()
                rows.append(
                    {
                        "shape": shape,
                        "method": name,
                        "engine": repr(engine),
                        "dtype": str(dtype),
                        "error": error,
                        "passed": error <= tolerance(method, engine, dtype),
                    }
                )
    return rows


def seconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """The median over `repeats`, by device events on CUDA."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        if device == "cpu":
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
            continue
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        work()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / 1e3)
    return statistics.median(times)


def orthogonalization(device: str, sizes: list[int], repeats: int) -> list[dict[str, object]]:
    """Time and reached error by method, shape and batch, in bfloat16."""
    rows = []
    for n in sizes:
        for ratio, batch in ((1, 1), (4, 1), (1, 8)):
            X = torch.randn(batch, n, ratio * n, device=device)
            for name, method in METHODS.items():
                iteration = method.schedule(2)

                def work(X: Tensor = X, iteration: matfn.Schedule = iteration) -> Tensor:
                    return matfn.orthogonalize(X, method=iteration, precision=torch.bfloat16)

                sigma = torch.linalg.svdvals(work()[:1].double().cpu())
                rows.append(
                    {
                        "n": n,
                        "ratio": ratio,
                        "batch": batch,
                        "method": name,
                        "seconds": seconds(work, device, repeats),
                        "rms": (1 - sigma).square().mean().sqrt().item(),
                    }
                )
    return rows


def optimizer_step(device: str, layers: int, width: int, repeats: int) -> dict[str, float]:
    """Muon's step against torch.optim.Muon on the matrices of a GPT."""
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)] * layers
    result = {}
    for name, build in {
        "torch.optim.Muon": lambda w: torch.optim.Muon(w, lr=0.02),
        "matfn": lambda w: Muon(w, lr=0.02),
    }.items():
        weights = [nn.Parameter(torch.randn(shape, device=device)) for shape in shapes]
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        result[name] = seconds(build(weights).step, device, repeats)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is seen by torch; --device cpu --quick runs the same code small")
    sizes, repeats = ([32], 1) if arguments.quick else ([512, 1024, 2048, 4096], 50)
    checks = check(arguments.device, 32 if arguments.quick else 256)
    failed = [row for row in checks if not row["passed"]]
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    for row in failed:
        print("  FAILED", row)
    result = {
        "device": torch.cuda.get_device_name() if arguments.device != "cpu" else "cpu",
        "torch": torch.__version__,
        "matfn": matfn.__version__,
        "checks": checks,
        "orthogonalization": orthogonalization(arguments.device, sizes, repeats),
        "step": optimizer_step(arguments.device, *((1, 64) if arguments.quick else (12, 768)), repeats),
    }
    for row in result["orthogonalization"]:
        print("{n:5} x {ratio} batch {batch}  {method:28} {seconds:.6f} s   rms |1 - s| {rms:.4f}".format(**row))
    print("step, seconds:", result["step"])
    temporary = arguments.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, arguments.out)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
