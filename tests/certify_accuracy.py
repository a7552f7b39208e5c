"""Compare `certify` with NumPy on 10,000 good and bad factors; run by hand: ``python tests/certify_accuracy.py``.

The small problems (1 to 64 rows) are exact; `--large N` measures N problems of 513 to 700 rows, which are sketched.
"""

import argparse
from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

import matfn

SPECTRA = ("flat", "log 1e2", "log 1e4", "log 1e8", "log 1e15", "1/i", "1/i^2", "outlier", "rank 1", "rank 5", "steep")
FACTORS = ("exact", "one flipped", "some flipped", "half flipped", "negative", "Gaussian", "orthogonal", "scaled")
FACTORS += ("half as long", "huge", "tiny", "zero", "low rank", "few steps", "float16")


def singular_values(name: str, n: int) -> Tensor:
    """n values, the greatest of which is about 1."""
    i = torch.arange(n, dtype=torch.float64)
    if name.startswith("log "):
        return torch.logspace(0, -float(np.log10(float(name[4:]))), n, dtype=torch.float64)
    if name.startswith("rank "):
        return (i < int(name[5:])).double()
    made = {"flat": 1 - 0.2 * i / n, "1/i": 1 / (i + 1), "1/i^2": (i + 1) ** -2, "steep": torch.exp(-i / 10)}
    return made[name] if name in made else torch.where(i == 0, 1.0, 0.01)


def factor(name: str, X: Tensor, W: Tensor, V: Tensor, draw: torch.Generator) -> Tensor:
    """A factor of X = W diag(s) V^T, right or wrong."""
    n = W.shape[1]
    signs = torch.ones(n, dtype=torch.float64)
    P = W @ V.mT
    if name.endswith("flipped"):
        count = {"one": 1, "some": min(n, 5), "half": (n + 1) // 2}[name.split()[0]]
        signs[torch.randperm(n, generator=draw)[:count]] = -1
        return (W * signs) @ V.mT
    G = torch.randn(X.shape, generator=draw, dtype=torch.float64)
    scales = {"negative": -1.0, "scaled": 3.0, "half as long": 0.5, "tiny": 1e-200, "zero": 0.0, "exact": 1.0}
    if name in scales:
        return scales[name] * P
    if name == "low rank":
        return W[:, : max(1, n // 8)] @ V[:, : max(1, n // 8)].mT
    made = {
        "Gaussian": lambda: G,
        "huge": lambda: 1e300 * G,
        "orthogonal": lambda: torch.linalg.qr(G if X.shape[0] >= X.shape[1] else G.mT)[0],
        "few steps": lambda: matfn.orthogonalize(X),
        "float16": lambda: P.half(),
    }
    U = made[name]()
    return U if U.shape == X.shape else U.mT


def truth(X: Tensor, U: Tensor) -> float:
    """The direction by NumPy's singular values."""
    x, u = X.numpy() / np.abs(X.numpy()).max(), U.double().numpy()
    peak = np.abs(u).max() or 1.0
    ratio = (x * (u / peak)).sum() / np.linalg.svd(x, compute_uv=False).sum()
    return float(np.clip(np.clip(ratio * min(peak, 1e100), -1e100, 1e100), -1, 1))


def main() -> None:
    """Print the worst differences for each spectrum and factor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=0)
    options = parser.parse_args()
    draw = torch.Generator().manual_seed(0)
    worst: dict[tuple[str, str], float] = defaultdict(float)
    outside = 0
    low, high, count = (513, 700, options.large) if options.large else (1, 64, options.count)
    for k in range(count):
        n = int(torch.randint(low, high + 1, (), generator=draw))
        m = n + int(torch.randint(0, 2, (), generator=draw)) * n // 4
        spectrum, kind = SPECTRA[k % len(SPECTRA)], FACTORS[(k // len(SPECTRA)) % len(FACTORS)]
        W = torch.linalg.qr(torch.randn(n, n, generator=draw, dtype=torch.float64))[0]
        V = torch.linalg.qr(torch.randn(m, n, generator=draw, dtype=torch.float64))[0]
        X = (W * singular_values(spectrum, n)) @ V.mT * 10.0 ** int(torch.randint(-30, 31, (), generator=draw))
        U = factor(kind, X, W, V, draw)
        if k % 2:
            X, U = X.mT, U.mT
        direction = matfn.certify(X, U, generator=draw).direction.item()
        outside += not -1 <= direction <= 1
        worst["all", kind] = max(worst["all", kind], abs(direction - truth(X, U)))
        worst[spectrum, "all"] = max(worst[spectrum, "all"], abs(direction - truth(X, U)))
    for key, value in worst.items():
        print(*key, f"{value:.2g}", sep=" | ")
    print(f"{count} factors, {outside} outside [-1, 1], largest difference {max(worst.values()):.2g}")


if __name__ == "__main__":
    main()
