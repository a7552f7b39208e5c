"""Time of Shampoo's steps by the way its roots are computed: eigendecompositions or products, batched or one by one.

    python -m benchmarks.shampoo_roots --model text --threads 2 --rounds 7

All competitors take turns within each round, so that a machine that slows down slows all of them; ratios are taken
within a round. A round is `root_every` steps, of which the first computes roots; gradients are synthetic (random
singular vectors, singular values i^-0.75, fresh noise at every step) and the same for all. Beside the time stands the
error of the roots in use, against float64 on the very factors.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import matfn
from matfn.iteration.target import Target
from matfn.optim import Shampoo, minimax
from matfn.optim.matrices.layout import linear
from matfn.optim.rules.roots import ridged

RIDGE = 1e-6
P = 4
# Matrices of a model, inputs of convolutions merged with the kernel: how many of each shape.
MODELS: dict[str, dict[tuple[int, int], int]] = {
    "text": {(384, 128): 4, (128, 128): 4, (512, 128): 4, (128, 512): 4},
    "resnet20": {(16, 144): 6, (32, 144): 1, (32, 288): 5, (64, 288): 1, (64, 576): 5},
    "wide": {(512, 512): 4, (1024, 512): 2},
    "smoke": {(24, 16): 2, (16, 24): 2},
}


@dataclass(frozen=True)
class Eigh:
    """What the one-at-a-time loops of the field do: eigh in the dtype of the factor, eigenvalues clamped from below."""

    def evaluate(self, target: Target, A: Tensor) -> Tensor:
        """The power of the target."""
        values, vectors = torch.linalg.eigh(A)
        least = values[..., -1:] * torch.finfo(A.dtype).eps
        return (vectors * torch.maximum(values, least).pow(target.homogeneity).unsqueeze(-2)) @ vectors.mT


class OneByOne(Shampoo):
    """Roots without batches."""

    portion = 1


def prism(p: int, lower: float) -> matfn.Prism:
    """As many steps as the ridge needs."""
    return matfn.Prism(degree=5, steps=10)


Build = Callable[[list[nn.Parameter]], Shampoo]


def competitors(root_every: int) -> dict[str, Build]:
    """The ways to compute roots; the first is the baseline."""
    methods = {
        "eigh float32": Eigh(),
        "eigh float64 (Exact)": matfn.Exact(),
        "minimax": minimax,
        "PRISM, 10 steps": prism,
        "DB Newton": matfn.DBNewton(),
    }
    methods |= {name: cls() for name, cls in matfn.METHODS.items() if name == "ritz-minimax"}

    def build(kind: type[Shampoo], method: object, params: list[nn.Parameter]) -> Shampoo:
        groups = [{"params": params, "layout": [linear(p.shape) for p in params]}]
        return kind(groups, ridge=RIDGE, root_every=root_every, method=method)  # pyright: ignore[reportArgumentType]

    return {
        f"{name}, {how}": partial(build, kind, method)
        for name, method in methods.items()
        for how, kind in (("one by one", OneByOne), ("batched", Shampoo))
    }


def gradients(shapes: list[tuple[int, int]], steps: int) -> list[list[Tensor]]:
    """For each step, one gradient per shape: singular values i^-0.75 in fixed directions, times fresh noise."""
    generator = torch.Generator().manual_seed(0)
    bases = []
    for m, n in shapes:
        short = min(m, n)
        left, right = (torch.linalg.qr(torch.randn(side, short, generator=generator)).Q for side in (m, n))
        bases.append((left * torch.arange(1, short + 1) ** -0.75, right))
    found = []
    for _ in range(steps):
        noise = [torch.randn(left.shape[1], right.shape[1], generator=generator) for left, right in bases]
        found.append(
            [left @ z @ right.mT / left.shape[1] ** 0.5 for (left, right), z in zip(bases, noise, strict=True)]
        )
    return found


def root_errors(optimizer: Shampoo) -> dict[str, float]:
    """The worst relative error ||R - R*||_F / ||R*||_F and balanced residual of the roots just made."""
    worst = {"error": 0.0, "residual": 0.0}
    group = optimizer.param_groups[0]
    for param in group["params"]:
        state = optimizer.state[param]
        for key in [key for key in state if key.startswith("factors")]:
            A = state[key] / (1 - group["beta2"] ** int(state["step"]))
            X, scale = ridged(A, group["ridge"])
            exact = scale.undo(matfn.inv_rootm(X.double(), P), -1 / P)
            R = state[key.replace("factors", "roots")]
            error = torch.linalg.matrix_norm(R - exact) / torch.linalg.matrix_norm(exact)
            unit = R / scale.undo(torch.ones_like(X[:, :1, :1]), -1 / P)
            residual = matfn.certify(X, unit, of="inv_root", p=P, only="balanced", exact=True).residual
            worst = {
                "error": max(worst["error"], error.max().item()),
                "residual": max(worst["residual"], residual.max().item()),
            }
    return worst


def measure(model: str, rounds: int, root_every: int) -> list[dict[str, Any]]:
    shapes = [shape for shape, count in MODELS[model].items() for _ in range(count)]
    builds = competitors(root_every)
    weights = {name: [nn.Parameter(torch.zeros(shape)) for shape in shapes] for name in builds}
    optimizers = {name: build(weights[name]) for name, build in builds.items()}
    given = gradients(shapes, root_every)
    errors: dict[str, dict[str, float]] = {}
    roots, plain = ({name: [] for name in builds} for _ in range(2))
    for turn in range(rounds + 1):  # the first round warms up
        for step, grads in enumerate(given):
            for name, optimizer in optimizers.items():
                for param, grad in zip(weights[name], grads, strict=True):
                    param.grad = grad
                start = time.perf_counter()
                optimizer.step()
                seconds = time.perf_counter() - start
                if turn:
                    (plain if step else roots)[name].append(seconds)
            if turn == rounds and step == 0:
                errors = {name: root_errors(optimizer) for name, optimizer in optimizers.items()}
        print(f"  round {turn}/{rounds}", flush=True)
    return rows(roots, plain, errors, root_every)


def rows(
    roots: dict[str, list[float]], plain: dict[str, list[float]], errors: dict[str, dict[str, float]], root_every: int
) -> list[dict[str, Any]]:
    """Medians, and ratios within a round to the first competitor: of the steps with roots, and of a whole round."""
    whole = {
        name: [
            (root + sum(plain[name][i * (root_every - 1) : (i + 1) * (root_every - 1)])) / root_every
            for i, root in enumerate(roots[name])
        ]
        for name in roots
    }
    first = next(iter(roots))

    def ratios(times: dict[str, list[float]], name: str) -> list[float]:
        found = [a / b for a, b in zip(times[first], times[name], strict=True)]
        return [statistics.median(found), min(found), max(found)]

    return [
        {
            "name": name,
            "root_step": statistics.median(roots[name]),
            "plain_step": statistics.median(plain[name]) if plain[name] else None,
            "mean_step": statistics.median(whole[name]),
            "root_speedup": ratios(roots, name),
            "mean_speedup": ratios(whole, name),
            **errors[name],
            "seconds": {"with roots": roots[name], "without": plain[name]},
        }
        for name in roots
    ]


def conditions(arguments: argparse.Namespace) -> dict[str, object]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "matfn": matfn.__version__,
        "python": platform.python_version(),
        **vars(arguments) | {"out": None},
        "shapes": [[*shape, count] for shape, count in MODELS[arguments.model].items()],
        "ridge": RIDGE,
        "p": P,
        "gradients": "fixed random singular vectors, i^-0.75, fresh noise at every step",
    }


def plot(table: list[dict[str, Any]], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    colours = ["#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7"]
    for i, row in enumerate(table):
        marker = "o" if i % 2 else "x"
        axes.plot(row["error"], 1e3 * row["root_step"], marker, color=colours[i // 2], ms=9, label=row["name"])
    axes.set(
        xlabel="worst relative error of a root",
        ylabel="time of a step with roots, ms (median)",
        title=title,
        xscale="log",
        yscale="log",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="best")
    figure.savefig(path, dpi=150)


def line(row: dict[str, Any]) -> str:
    """One competitor, for people."""
    middle, low, high = row["root_speedup"]
    plain = f"{1e3 * row['plain_step']:8.2f}" if row["plain_step"] else " " * 8
    return (
        f"{row['name']:36}  {1e3 * row['root_step']:8.2f}{plain}{1e3 * row['mean_step']:8.2f}"
        f"   {middle:7.2f} ({low:.2f}-{high:.2f})  {row['mean_speedup'][0]:7.2f}"
        f"   {row['error']:.1e}   {row['residual']:.1e}"
    )


def page(table: list[dict[str, Any]], stand: dict[str, Any], name: str) -> str:
    """The result as a short page."""
    sizes = ", ".join(f"{count} of {m} x {n}" for m, n, count in stand["shapes"])
    options = " ".join(
        f"--{key.replace('_', '-')} {stand[key]}" for key in ("model", "threads", "rounds", "root_every")
    )
    columns = ("roots by", "with roots, ms", "without, ms", "speed with roots (range)", "speed of a round", "error")
    lines = [
        f"# Roots of Shampoo: {stand['model']}",
        "",
        f"Time of a step of `Shampoo` on matrices ({sizes}), by the way the inverse {stand['p']}th roots",
        f"of its factors are computed; ridge {stand['ridge']:g}, roots once in {stand['root_every']} steps.",
        f"`python -m benchmarks.shampoo_roots {options}`;",
        f"{stand['cpu']}, {stand['threads']} threads, torch {stand['torch']}; all in one run, taking turns within each",
        "round; medians, and medians of the ratios within a round with their range. The error is the worst of all,",
        "||R - R*||_F / ||R*||_F against float64 on the same factors.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" + "|--:" * (len(columns) - 1) + "|",
    ]
    for row in table:
        middle, low, high = row["root_speedup"]
        plain = f"{1e3 * row['plain_step']:.2f}" if row["plain_step"] else ""
        lines.append(
            f"| {row['name']} | {1e3 * row['root_step']:.2f} | {plain} | {middle:.2f} ({low:.2f}-{high:.2f}) "
            f"| {row['mean_speedup'][0]:.2f} | {row['error']:.0e} |"
        )
    return "\n".join([*lines, "", f"![Time against error]({name}.png)", "", f"[As JSON]({name}.json).", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--root-every", type=int, default=10)
    parser.add_argument("--out", type=Path, default=None, help="path without ending; runs/shampoo_roots-MODEL")
    arguments = parser.parse_args()
    if not 1 <= arguments.threads <= 1024:
        parser.error(f"--threads is from 1 to 1024, got {arguments.threads}")
    out = arguments.out or Path(f"runs/shampoo_roots-{arguments.model}")
    torch.set_num_threads(arguments.threads)
    table = measure(arguments.model, arguments.rounds, arguments.root_every)
    print(f"{'':36} ms: roots   plain    mean   speed-up: roots (range)    mean     error  residual")
    for row in table:
        print(line(row))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary, stand = out.with_suffix(".tmp"), conditions(arguments)
    temporary.write_text(json.dumps({"conditions": stand, "rows": table}, indent=1) + "\n")
    os.replace(temporary, out.with_suffix(".json"))
    out.with_suffix(".md").write_text(page(table, stand, out.name))
    plot(table, f"Shampoo, {arguments.model}, CPU, {arguments.threads} threads", out.with_suffix(".png"))
    print(f"wrote {out}.json, {out}.md and {out}.png")


if __name__ == "__main__":
    from matfn.train.terminal import guarded

    guarded(main)
