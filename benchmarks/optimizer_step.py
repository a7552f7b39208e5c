"""Time of one Muon step at GPT-2 small's shapes against torch.optim.Muon, with the error of the update beside it.

    python benchmarks/optimizer_step.py --threads 2 --rounds 5

All competitors take turns within each round, so that a machine that slows down slows all of them; ratios are taken
within a round. Weights start at zero, so the first update is read off exactly and its singular values are measured.
Gradients are synthetic: random singular vectors, singular values i^-0.75.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import matfn
from matfn.optim import Muon
from matfn.optim.layout import linear

SHAPES = {"qkv": (2304, 768), "proj": (768, 768), "up": (3072, 768), "down": (768, 3072)}
LR = 0.02


def gradient(shape: tuple[int, int], seed: int) -> Tensor:
    """Random orthogonal factors around the singular values i^-0.75."""
    generator = torch.Generator().manual_seed(seed)
    short = min(shape)
    left, right = (torch.linalg.qr(torch.randn(side, short, generator=generator)).Q for side in shape)
    return (left * torch.arange(1, short + 1) ** -0.75) @ right.mT


def weights(layers: int, gradients: dict[str, list[Tensor]]) -> list[tuple[str, nn.Parameter]]:
    """Zero weights with their gradients, named as a model would name them."""
    named = []
    for layer in range(layers):
        for name, shape in SHAPES.items():
            weight = nn.Parameter(torch.zeros(shape))
            weight.grad = gradients[name][layer % len(gradients[name])]
            named.append((f"layer{layer}.{name}", weight))
    return named


def torch_muon(named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    return torch.optim.Muon([w for _, w in named], lr=LR, weight_decay=0.0, momentum=0.95, nesterov=True)


def matfn_muon(cut: int = 1, **options: object) -> Callable[[list[tuple[str, nn.Parameter]]], torch.optim.Optimizer]:
    def build(named: list[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        layouts = [linear(w.shape).cut(cut if name.endswith("qkv") else 1) for name, w in named]
        return Muon([{"params": named, "layout": layouts}], lr=LR, **options)  # pyright: ignore[reportArgumentType]

    return build


COMPETITORS: dict[str, Callable[[list[tuple[str, nn.Parameter]]], torch.optim.Optimizer]] = {
    "torch.optim.Muon, bf16": torch_muon,
    "matfn Tuned('jordan'), bf16": matfn_muon(method=matfn.Tuned("jordan"), precision=torch.bfloat16),
    "matfn PolarExpress(), bf16": matfn_muon(),
    "matfn PolarExpress(), bf16, q k v apart": matfn_muon(cut=3),
    "matfn PolarExpress(), float32": matfn_muon(precision=torch.float32),
}


def errors(named: list[tuple[str, nn.Parameter]], cut: int) -> dict[str, float]:
    """Of the first layer's updates: rms |1 - sigma| over all singular values, and the least direction."""
    deviations, directions = [], []
    for name, weight in named[: len(SHAPES)]:
        pieces = cut if name.endswith("qkv") else 1
        grad = weight.grad
        assert grad is not None
        for G, W in zip(grad.chunk(pieces), (-weight.detach() / LR).chunk(pieces), strict=True):
            U = W / max(1.0, W.shape[0] / W.shape[1]) ** 0.5  # Jordan's scale, which all competitors use
            deviations.append(1 - torch.linalg.svdvals(U.double()))
            directions.append(matfn.certify(G, U, exact=True).direction.item())
    return {"rms": torch.cat(deviations).square().mean().sqrt().item(), "direction": min(directions)}


def measure(layers: int, rounds: int) -> list[dict[str, object]]:
    gradients = {
        name: [gradient(shape, 100 * k + i) for k in range(3)] for i, (name, shape) in enumerate(SHAPES.items())
    }
    models = {name: weights(layers, gradients) for name in COMPETITORS}
    optimizers = {name: build(models[name]) for name, build in COMPETITORS.items()}
    accuracy, times = {}, {name: [] for name in COMPETITORS}
    for name, optimizer in optimizers.items():  # the first step warms up and is the one whose update is examined
        optimizer.step()
        accuracy[name] = errors(models[name], 3 if "apart" in name else 1)
        print(f"  {name}: warmed up", flush=True)
    for turn in range(rounds):
        for name, optimizer in optimizers.items():
            start = time.perf_counter()
            optimizer.step()
            times[name].append(time.perf_counter() - start)
        print(f"  round {turn + 1}/{rounds}", flush=True)
    first = times[next(iter(COMPETITORS))]
    rows = []
    for name, seconds in times.items():
        ratios = [t / s for t, s in zip(first, seconds, strict=True)]
        rows.append(
            {
                "name": name,
                "seconds": seconds,
                "median": statistics.median(seconds),
                **accuracy[name],
                "speedup": statistics.median(ratios),
                "speedup_range": [min(ratios), max(ratios)],
            }
        )
    return rows


def conditions(arguments: argparse.Namespace) -> dict[str, object]:
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "matfn": matfn.__version__,
        "python": platform.python_version(),
        **vars(arguments) | {"out": None},
        "shapes": SHAPES,
        "gradients": "random singular vectors, singular values i^-0.75",
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def plot(rows: list[dict[str, object]], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for row, marker, colour in zip(rows, "sovD^", ["#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73"], strict=True):
        axes.plot(row["rms"], row["median"], marker, color=colour, markersize=11, label=row["name"])
    axes.set(
        xlabel="error of the update: rms |1 - singular value|", ylabel="time of one step, seconds (median)", title=title
    )
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="best")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("docs/results/optimizer_step"), help="path without ending")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = measure(arguments.layers, arguments.rounds)
    width = max(len(str(row["name"])) for row in rows)
    print(f"{'':{width}}   s/step   speed-up (range)     rms |1-s|   direction")
    for row in rows:
        low, high = row["speedup_range"]  # pyright: ignore[reportGeneralTypeIssues]
        print(
            f"{row['name']:{width}}  {row['median']:7.3f}   {row['speedup']:.2f} ({low:.2f}-{high:.2f})"
            f"     {row['rms']:9.4f}   {row['direction']:9.5f}"
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"conditions": conditions(arguments), "rows": rows}
    temporary = arguments.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, arguments.out.with_suffix(".json"))
    plot(
        rows,
        f"Muon step, {arguments.layers} layers of GPT-2 small, CPU, {arguments.threads} threads",
        arguments.out.with_suffix(".png"),
    )
    print(f"wrote {arguments.out}.json and {arguments.out}.png")


if __name__ == "__main__":
    main()
