"""A step of Muon on matrices that several gloo processes hold in parts, as FSDP2 cuts them: time, and bytes sent.

    python -m benchmarks.exchange docs/results/exchange.json

Peers that are not installed are named in the result (`pip install --no-deps dtensor-muon muon-fsdp2`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from benchmarks.collectives import Collectives
from matfn import Tuned
from matfn.optim import Muon
from matfn.train.provenance import conditions

LAYERS, WIDTH = 4, 256
SHAPES = [(WIDTH, WIDTH)] * 4 + [(4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
BASELINE = "torch.optim.Muon"
PEERS = ("dtensor-muon", "muon-fsdp2")
Maker = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def makers() -> dict[str, Maker]:
    """{name: optimizer from its parameters} of all that is installed."""
    jordan = Tuned("jordan")
    found: dict[str, Maker] = {
        BASELINE: lambda p: torch.optim.Muon(p, lr=0.02, weight_decay=0.0),
        "matfn": lambda p: Muon(p, lr=0.02),
        "matfn, torch's five steps in bfloat16": lambda p: Muon(p, lr=0.02, method=jordan, precision=torch.bfloat16),
    }
    try:
        from dtensor_muon.optim import optim as dtensor_muon  # pyright: ignore[reportMissingImports]

        # Its Triton kernel wants CUDA. The package has the same loop in torch, but no option of the optimizer for it.
        dtensor_muon.zeropower = partial(dtensor_muon.zeropower, use_triton=False)
        found["dtensor-muon"] = lambda p: dtensor_muon.Muon(
            p, lr=0.02, wd=0.0, use_cautious_wd=False, orthogonalization_strategy="newton_schulz"
        )
    except ImportError:
        pass
    try:
        import muon_fsdp2  # pyright: ignore[reportMissingImports]

        found["muon-fsdp2"] = lambda p: muon_fsdp2.Muon([dict(params=p, lr=0.02, use_muon=True)])
    except ImportError:
        pass
    return found


def parameters(mesh: Any) -> list[nn.Parameter]:
    """The matrices of a small GPT without heads and tables, cut along their rows."""
    generator = torch.Generator().manual_seed(0)
    return [
        nn.Parameter(distribute_tensor(torch.randn(shape, generator=generator), mesh, [Shard(0)], src_data_rank=None))
        for shape in SHAPES * LAYERS
    ]


def give(held: list[nn.Parameter], seed: int) -> None:
    """New gradients, the same for all optimizers."""
    torch.manual_seed(seed + 1000 * distributed.get_rank())
    for parameter in held:
        assert isinstance(parameter, DTensor)
        shard = torch.randn_like(parameter.to_local())
        parameter.grad = DTensor.from_local(shard, parameter.device_mesh, parameter.placements, run_check=False)


def measured(rounds: int) -> list[dict[str, Any]]:
    """One row for each optimizer: seconds until all ranks have made the step, in turns; bytes of all ranks."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    held, optimizers, rows = {}, {}, {}
    for name, make in makers().items():
        held[name] = parameters(mesh)
        give(held[name], 0)
        optimizers[name] = make(held[name])
        optimizers[name].step()  # what compiles does it here
        give(held[name], 1)
        with torch.compiler.set_stance("force_eager"), Collectives() as seen:  # compiled code hides its calls
            optimizers[name].step()
        sent = torch.tensor(seen.sent, dtype=torch.float64)
        distributed.all_reduce(sent)
        rows[name] = {"name": name, "bytes": int(sent), "collectives": dict(seen.calls), "seconds": []}
    names = list(rows)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            give(held[name], number)
            distributed.barrier()
            start = time.perf_counter()
            optimizers[name].step()
            distributed.barrier()
            rows[name]["seconds"].append(time.perf_counter() - start)
    base = rows[BASELINE]["seconds"]
    for row in rows.values():
        ratios = [a / b for a, b in zip(base, row["seconds"], strict=True)]
        row |= {"median": statistics.median(row["seconds"]), "ratio": statistics.median(ratios)}
        row |= {"ratio low": min(ratios), "ratio high": max(ratios)}
    return list(rows.values())


def _rank(rank: int, ranks: int, folder: str, rounds: int) -> None:
    """One process."""
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", ranks)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=120))
    rows = measured(rounds)
    if rank == 0:
        Path(folder, "rows.json").write_text(json.dumps(rows))
    distributed.barrier()
    distributed.destroy_process_group()


def run(ranks: int, rounds: int) -> list[dict[str, Any]]:
    """The rows of `measured` on some processes."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (ranks, folder, rounds), nprocs=ranks)
        return json.loads(Path(folder, "rows.json").read_text())


def table(found: dict[str, Any]) -> str:
    """The result in Markdown."""
    lines = [
        "| processes | optimizer | ms a step | speed, by torch | range | MB sent by all ranks |",
        "|---|---|---|---|---|---|",
    ]
    for ranks, rows in found["processes"].items():
        for row in rows:
            lines.append(
                f"| {ranks} | {row['name']} | {1e3 * row['median']:.0f} | {row['ratio']:.2f} | "
                f"{row['ratio low']:.2f} to {row['ratio high']:.2f} | {row['bytes'] / 1e6:.2f} |"
            )
    return "\n".join(lines)


def main(out: Path, rounds: int) -> None:
    """Measure with 2 and 4 processes, write JSON and print the table."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    before = os.getloadavg()[0]
    found: dict[str, Any] = {"processes": {str(ranks): run(ranks, rounds) for ranks in (2, 4)}}
    found |= {"matrices": SHAPES * LAYERS, "rounds": rounds, "load before": round(before, 1)}
    found["versions"] = {}
    for peer in PEERS:
        try:
            found["versions"][peer] = version(peer)
        except PackageNotFoundError:
            found["versions"][peer] = "not installed"
    found["conditions"] = conditions(torch.device("cpu"))
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    main(**vars(parser.parse_args()))
