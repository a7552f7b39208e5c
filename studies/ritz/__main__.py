"""Whether RitzMinimax can be made to diverge: 100,000 spectra in double precision, 2,000 matrices in four dtypes.

    python -m studies.ritz --out ritz_minimax_safety.json

Nothing is measured in time. The bounds, the spectra and the matrices are those of studies.ritz.safety; half of
the vectors are bred for the greatest value, and half of all are run with a sketch that does not see the first of them.
"""

import argparse
import itertools
import json
import sys
from collections import defaultdict
from pathlib import Path

import torch
from torch import Generator

from matfn import Direct, Gram, RitzMinimax
from matfn.iteration.target import INV_ROOT
from matfn.methods.ritz_minimax.table import table
from matfn.train.provenance import conditions
from matfn.train.terminal import guarded
from studies.ritz.safety import END, SLACK, SPECTRA, bases, bred, greatest, greatest_root, on_vectors, structured

DEGREES = (3, 5, 7, 9, (9, 5, 3))
EXPONENTS = (1, 2, 3, 4, 8)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MEMBERS, SIZE = 250, 24


def basis(b: int, n: int, draw: Generator) -> torch.Tensor:
    """One of the bases at random."""
    return list(bases(b, n, draw).values())[int(torch.randint(3, (), generator=draw))]


def method_of(draw: Generator, degrees: tuple[int | tuple[int, ...], ...] = DEGREES) -> RitzMinimax:
    """A degree and 1 to 10 steps at random."""
    degree = degrees[int(torch.randint(len(degrees), (), generator=draw))]
    return RitzMinimax(degree=degree, steps=int(torch.randint(1, 11, (), generator=draw)))


def vectors(count: int, draw: Generator) -> dict[str, object]:
    """All families, exponents and degrees in turn, until `count` spectra have been run."""
    found: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0, 0.0, 0.0])
    cases = itertools.cycle(itertools.product(SPECTRA, EXPONENTS))
    run = 0
    while run < count:
        family, p = next(cases)
        uniform = torch.rand(MEMBERS, SIZE, generator=draw, dtype=torch.float64)
        s = SPECTRA[family](uniform, torch.rand(MEMBERS, 1, generator=draw, dtype=torch.float64)).double()
        method = method_of(draw)
        if torch.rand((), generator=draw) < 0.3:
            method = RitzMinimax(degree=method.degree, tol=1e-9)
        hidden, key = (0, 1, 4)[int(torch.randint(3, (), generator=draw))], run
        if torch.rand((), generator=draw) < 0.5:

            def score(s: torch.Tensor, args: tuple = (method, p, hidden, key)) -> torch.Tensor:
                method, p, hidden, key = args
                worst = on_vectors(method, s, p, hidden, key)
                return torch.maximum(worst.before - 1, worst.end - END)

            s = bred(score, s, 4, draw)
            run += 4 * MEMBERS
        worst = on_vectors(method, s, p, hidden, key)
        run += MEMBERS
        of = found[family]
        before, end, least = worst.before.max().item(), worst.end.max().item(), worst.least.min().item()
        counts = [of[0] + MEMBERS, of[1] + int(worst.diverged.sum())]
        found[family] = [*counts, max(of[2], before - 1), max(of[3], end), min(of[4], least)]
        if worst.diverged.any():
            print(f"DIVERGED: {family}, {p=}, {method}, {hidden=}, {key=}: {before - 1:.3g} {end:.3g} {least:.3g}")
    names = ("run", "diverged", "most above 1 before the last step", "greatest at the end", "least eigenvalue")
    return {"run": run, "families": {k: dict(zip(names, v, strict=True)) for k, v in found.items()}}


def polar_matrices(count: int, draw: Generator) -> dict[str, object]:
    """Every family in every basis, dtype and engine; and projections, whose rounding errors are correlated."""
    found: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])
    run, b = 0, 4
    while run < count:
        for dtype, engine in itertools.product(DTYPES, (Direct(), Gram())):
            n = (8, 13, 29, 61, 96, 101)[int(torch.randint(6, (), generator=draw))]
            n = 256 if torch.rand((), generator=draw) < 0.02 else n
            family = list(SPECTRA)[int(torch.randint(len(SPECTRA), (), generator=draw))]
            uniform = torch.rand(b, n, generator=draw, dtype=torch.float64)
            s = SPECTRA[family](uniform, torch.rand(b, 1, generator=draw, dtype=torch.float64)).double()
            left, right = (basis(b, n, draw) for _ in range(2))
            A = (left * s[:, None]) @ right.mT
            if n <= 101 and torch.rand((), generator=draw) < 0.3:
                plain = list(structured(n).values())
                A = torch.stack([plain[int(i)] for i in torch.randint(len(plain), (b,), generator=draw)])
                A, family = A + 1e-3 * torch.randn(A.shape, generator=draw, dtype=A.dtype), "structured"
            method = method_of(draw)
            top = greatest(A, method, engine, dtype, run)
            key = f"{str(dtype)[6:]} {type(engine).__name__}"
            of = found[key]
            found[key] = [of[0] + b, of[1] + int((top > END + SLACK).sum()), max(of[2], top.max().item())]
            if (top > END + SLACK).any():
                print(f"DIVERGED: {key}, {family}, {n=}, {method}: {top.max():.4g}")
            run += b
    return {k: dict(zip(("run", "diverged", "greatest"), v, strict=True)) for k, v in found.items()}


def root_matrices(count: int, draw: Generator) -> dict[str, object]:
    """Inverse roots by the coupled engine, of matrices that its own rounding does not make indefinite.

    A stays definite with eigenvalues above 100 u. The engine multiplies M = Z Y, whose errors are relative to the norms
    of Z and Y, and so, against the least s, 1/s times as large as in q(M), where they are u times the sum of |c_j|: ten
    times that has to be below 1, with any method.
    """
    found: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])
    run, b = 0, 4
    while run < count:
        for dtype, p in itertools.product(DTYPES, EXPONENTS):
            n = (8, 13, 29, 61)[int(torch.randint(4, (), generator=draw))]
            family = list(SPECTRA)[int(torch.randint(len(SPECTRA) - 1, (), generator=draw))]
            uniform = torch.rand(b, n, generator=draw, dtype=torch.float64)
            s = SPECTRA[family](uniform, torch.rand(b, 1, generator=draw, dtype=torch.float64)).double()
            method, u = method_of(draw), torch.finfo(dtype).eps / 2
            degrees = method.degree if isinstance(method.degree, tuple) else (method.degree,)
            amplified = max(abs(table(p, (d - 1) // 2).coefficients[0]).sum() for d in degrees)
            s = (s / s.amax(-1, keepdim=True).clamp(min=1e-300)).clamp(min=min(0.5, 10 * amplified * u))
            values = (s**p).clamp(min=100 * u)
            V = basis(b, n, draw)
            top = greatest_root(values, V, INV_ROOT.with_exponent(p), method, dtype)
            key = f"{str(dtype)[6:]} p = {p}"
            of = found[key]
            found[key] = [of[0] + b, of[1] + int((top > END + SLACK).sum()), max(of[2], top.max().item())]
            if (top > END + SLACK).any():
                print(f"DIVERGED: root {key}, {family}, {n=}, {method}: {top.max():.4g}", values[top.argmax()].min())
            run += b
    return {k: dict(zip(("run", "diverged", "greatest"), v, strict=True)) for k, v in found.items()}


def main() -> None:
    """Run, print the cases that diverged, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--matrices", type=int, default=2_000, help="half of them for the polar factor, half for roots")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    draw = torch.Generator().manual_seed(options.seed)
    result = {
        "conditions": conditions(torch.device("cpu")),
        "seed": options.seed,
        "bounds": {"before the last step": 1 + SLACK, "at the end": END},
        "vectors": vectors(options.vectors, draw),
        "matrices": polar_matrices(options.matrices // 2, draw),
        "roots": root_matrices(options.matrices // 2, draw),
    }
    text = json.dumps(result, indent=1)
    if options.out is not None:
        options.out.write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    guarded(main)
