"""Count right, missing and false warnings of every iteration; run by hand: ``python tests/convergence_table.py``."""

import collections
import math
import sys
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import matfn
from matfn import DBNewton, NewtonSchulz, PolarExpress, Prism, RitzMinimax, SpectrumError

METHODS = {
    "Polar Express": PolarExpress(steps=40, lower=1e-8),
    "Polar Express, degree 9": PolarExpress(degree=9, steps=20, lower=1e-8),
    "Newton-Schulz": NewtonSchulz(steps=80),
    "Newton-Schulz, degree 9": NewtonSchulz(degree=9, steps=60),
    "PRISM": Prism(steps=60),
    "RitzMinimax": RitzMinimax(tol=1e-6),
    "RitzMinimax, degree 9": RitzMinimax(degree=9, tol=1e-6),
    "DB Newton": DBNewton(steps=14),
    "QDWH": matfn.QDWH(),
    "ZOLO-PD": matfn.ZoloPD(),
}
VERBS: dict[str, Callable[..., Tensor]] = {
    "polar": lambda A, method: matfn.polar(A, method=method).U,
    "signm": matfn.signm,
    "signm, nonsymmetric": matfn.signm,
    "sqrtm": matfn.sqrtm,
    "inv_sqrtm": matfn.inv_sqrtm,
    "rootm, p = 4": partial(matfn.rootm, p=4),
    "inv_rootm, p = 4": partial(matfn.inv_rootm, p=4),
    "inv_rootm, p = 1": partial(matfn.inv_rootm, p=1),
    "inv": matfn.inv,
}
KINDS = ("right", "warned", "missed", "false", "refused")


def orthogonal(n: int, k: int, draw: torch.Generator) -> Tensor:
    """k orthonormal columns of length n."""
    return torch.linalg.qr(torch.randn(n, k, generator=draw, dtype=torch.float64))[0]


def matrix(verb: str, n: int, decades: int, draw: torch.Generator) -> Tensor:
    """A matrix of condition 10^decades with a log-uniform spectrum, in float64."""
    values, Q = torch.logspace(0, -decades, n, dtype=torch.float64), orthogonal(n, n, draw)
    if verb == "polar":
        return (Q * values) @ orthogonal(n + n // 3, n, draw).mT
    if verb.startswith("signm"):
        values = values * (-1.0) ** torch.arange(n)
    if verb.endswith("nonsymmetric"):
        V = Q * torch.linspace(1, 3, n, dtype=torch.float64) @ orthogonal(n, n, draw)
        return V @ torch.diag(values) @ torch.linalg.inv(V)
    A = (Q * values) @ Q.mT
    return (A + A.mT) / 2


def outcome(verb: str, A: Tensor, name: str, decades: int) -> str:
    """Say what the verb did, and whether it was right."""
    eps, method = torch.finfo(A.dtype).eps, METHODS[name]
    want = VERBS[verb](A.double(), method=matfn.Exact())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            got = VERBS[verb](A, method=method).double()
        except (SpectrumError, ValueError):
            return "refused"
    error = (torch.linalg.matrix_norm(got - want) / torch.linalg.matrix_norm(want)).item()
    asked = 2e-4 if name.startswith("RitzMinimax") else 0.0  # n tol for the greatest of n eigenvalues, p = 4
    explained = error <= max(1.3 * math.sqrt(eps) + asked, eps * 10**decades)
    return {(True, False): "right", (False, True): "warned", (False, False): "missed", (True, True): "false"}[
        explained, bool(caught)
    ]


def main() -> None:
    """Print a table by verb and one by method."""
    draw = torch.Generator().manual_seed(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for verb in VERBS:
        for n in (3, 17, 40):
            for dtype in (torch.float64, torch.float32):
                for decades in range(int(-math.log10(10 * torch.finfo(dtype).eps)) + 1):
                    A = matrix(verb, n, decades, draw).to(dtype)
                    for name in METHODS:
                        rational, p = name in ("QDWH", "ZOLO-PD"), 2 if verb[-1] not in "14v" else 1
                        if (rational and p != 2) or (verb.endswith("nonsymmetric") and name.startswith("Ritz")):
                            continue
                        kind = outcome(verb, A, name, decades)
                        counts[verb, kind] += 1
                        counts[name, kind] += 1
                        if kind in ("missed", "false", "refused"):
                            print(kind, verb, n, dtype, f"condition 1e{decades}", name, file=sys.stderr, flush=True)
    print("| | " + " | ".join(KINDS) + " |\n" + "|---" * (len(KINDS) + 1) + "|")
    for row in (*VERBS, *METHODS):
        print(f"| {row} | " + " | ".join(str(counts[row, kind]) for kind in KINDS) + " |")


if __name__ == "__main__":
    main()
