"""Ways to see a spectrum through a few products with random vectors, on vectors of eigenvalues: exactly in law.

A Gaussian vector weights the eigenvectors of a dense matrix as it weights the axes of a diagonal one, so M is kept as
its eigenvalues m, (b, n), one row for each draw of the vectors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from matfn.linalg.lanczos import lanczos
from matfn.linalg.tridiagonal import eigen
from matfn.methods.ritz_minimax.density import Density

__all__ = ["WAYS", "Way", "closed_form", "harmonic_values", "jacobi", "true_density"]

Way = Callable[[Tensor, Tensor, int], Density]  # m (b, n), vectors (b, n, columns), products with each vector


def true_density(m: Tensor) -> Density:
    """All that there is to see."""
    return Density(m, torch.full_like(m, 1 / m.shape[-1]), m.amin(-1), m.amax(-1))


def _columns(m: Tensor, V: Tensor, depth: int) -> Tensor:
    """Of each vector the tridiagonal matrix with a border that makes 0 an eigenvalue, (b, columns, depth + 1, ...)."""
    return lanczos(lambda W: m.unsqueeze(-1) * W, V, depth)


def _global(m: Tensor, V: Tensor, depth: int) -> Tensor:
    """One tridiagonal matrix for all vectors: Lanczos steps on the long vector that they make together."""
    tall = m.unsqueeze(-1).expand_as(V).flatten(1)
    return lanczos(lambda W: tall.unsqueeze(-1) * W, V.flatten(1).unsqueeze(-1), depth)


def _moments(dtype: torch.dtype) -> Callable[[Tensor, Tensor, int], Tensor]:
    """The same matrix from the moments <V, M^j V>, j = 0 .. 2 depth, of powers computed in `dtype`."""

    def bordered(m: Tensor, V: Tensor, depth: int) -> Tensor:
        powers, narrow = [V.to(dtype)], m.to(dtype).unsqueeze(-1)
        for _ in range(depth):
            powers.append(narrow * powers[-1])
        flat = torch.stack(powers, 1).flatten(2)
        mu = (flat @ flat.mT).double()
        # mu_(i + j) from the pair of powers that are nearest to each other.
        moments = torch.stack([mu[:, j // 2, (j + 1) // 2] for j in range(2 * depth + 1)], -1)
        return jacobi(moments / moments[:, :1]).unsqueeze(1)

    return bordered


def jacobi(moments: Tensor) -> Tensor:
    """The Jacobi matrix of a measure with moments mu_0 .. mu_2K, (b, 2K + 1), bordered as by `lanczos`.

    By the Cholesky factor of the Hankel matrix. Where that is not positive definite, because moments so nearly
    dependent were rounded, the matrix decouples.

    References:
        Golub, Welsch, "Calculation of Gauss quadrature rules", Math. Comp. 23 (1969), Section 4.
    """
    b, K = moments.shape[0], moments.shape[-1] // 2
    R = moments.new_zeros(b, K + 1, K + 2)
    sound, pivot = torch.ones(b, dtype=torch.bool), moments.new_ones(b)
    for i in range(K + 1):
        for j in range(i, min(K + 1, 2 * K - i) + 1):
            rest = moments[:, i + j] - (R[:, :i, i] * R[:, :i, j]).sum(-1)
            if j == i:
                sound &= rest > 1e-14 * moments[:, 2 * i]
                pivot = torch.where(sound, rest, 1.0).sqrt()
            R[:, i, j] = torch.where(sound, rest / pivot, 0.0)
    T, ratio = moments.new_zeros(b, K + 1, K + 1), moments.new_zeros(b)
    pivot = moments.new_ones(b)
    for j in range(K):
        held, size = R[:, j, j] > 0, R[:, j, j].clamp(min=1e-300)
        own = torch.where(held, R[:, j, j + 1] / size, 0.0)
        T[:, j, j], ratio = own - ratio, own
        T[:, j, j + 1] = T[:, j + 1, j] = torch.where(held, R[:, j + 1, j + 1] / size, 0.0)
        pivot = (T[:, j, j] - (T[:, j, j - 1] ** 2 / pivot if j else 0.0)).clamp(min=1e-300)
    T[:, K, K] = T[:, K, K - 1] ** 2 / pivot
    return T


def _read(bordered: Callable[[Tensor, Tensor, int], Tensor], rule: str) -> Way:
    """The density by a quadrature rule: "gauss", "radau" (a node at 0) or "mean" of both."""

    def way(m: Tensor, V: Tensor, depth: int) -> Density:
        T = bordered(m, V, depth)
        inner, share = eigen(T[..., :depth, :depth])
        outer, weights = eigen(T)
        least = torch.where(share > 1e-24, inner, torch.inf).flatten(1).amin(-1).clamp(min=0)
        greatest = torch.where(share > 1e-24, inner, 0.0).flatten(1).amax(-1)
        # The node at 0 is left out: what is zero stays zero, whatever is chosen.
        parts = {"gauss": [(inner, share)], "radau": [(outer[..., 1:], weights[..., 1:])]}
        chosen = parts[rule] if rule in parts else parts["gauss"] + parts["radau"]
        nodes = torch.cat([nodes for nodes, _ in chosen], -1).flatten(1).clamp(min=0)
        shares = torch.cat([weights for _, weights in chosen], -1).flatten(1)
        return Density(nodes, shares / shares.sum(-1, keepdim=True), least, greatest)

    return way


def _harmonic(m: Tensor, V: Tensor, depth: int) -> Density:
    """As "radau", with the least harmonic Ritz value for the lower end."""
    density = _read(_columns, "radau")(m, V, depth)
    least = harmonic_values(_columns(m, V, depth))[..., 0].amin(-1).clamp(min=0)
    return Density(density.nodes, density.weights, least, density.greatest)


def harmonic_values(T: Tensor) -> Tensor:
    """Harmonic Ritz values with target 0, ascending: (T_K^2 + beta^2 e e^T) y = theta T_K y.

    They are the nodes, but for 0, of the Gauss-Radau rule with a node at 0.
    """
    K = T.shape[-1] - 1
    inner = T[..., :K, :K]
    square = T[..., :, :K].mT @ T[..., :, :K]  # T_K^2 + beta^2 e e^T: the Gram matrix of the K + 1 x K one
    # theta = 1 / eigenvalue of L^-1 T_K L^-T, with square = L L^T.
    L, _ = torch.linalg.cholesky_ex(square)
    half = torch.linalg.solve_triangular(L, inner, upper=False)
    inverse = torch.linalg.solve_triangular(L, half.mT, upper=False)
    inverse = torch.where(torch.isfinite(inverse), inverse, 0.0)
    return (1 / torch.linalg.eigvalsh((inverse + inverse.mT) / 2).clamp(min=1e-300)).flip(-1)


def _block(rule: str) -> Way:
    """Rayleigh-Ritz on the space of all V, M V, ..., M^(depth - 1) V, with the weights of block quadrature."""

    def way(m: Tensor, V: Tensor, depth: int) -> Density:
        c = V.shape[-1]
        Q, first = torch.linalg.qr(V)
        blocks, images, border = [Q], [], first
        for _ in range(depth):
            images.append(m.unsqueeze(-1) * blocks[-1])
            W, basis = images[-1], torch.cat(blocks, -1)
            for _ in range(2):
                W = W - basis @ (basis.mT @ W)
            Q, border = torch.linalg.qr(W)
            # Where the block is used up, Q is made of roundoff: any directions will do, but orthogonal to the basis.
            Q, again = torch.linalg.qr(Q - basis @ (basis.mT @ Q))
            blocks.append(Q)
            border = again @ border
        basis = torch.cat(blocks[:-1], -1)
        T = basis.mT @ torch.cat(images, -1)
        T = (T + T.mT) / 2
        values, parts = _weighted(T, first)
        least, greatest = values[..., 0].clamp(min=0), values[..., -1]
        if rule == "mean":
            tail = torch.cat([T.new_zeros(len(T), c, c * (depth - 1)), border], -1)
            below = torch.linalg.lstsq(T, tail.mT, driver="gelsd").solution  # singular where m has zeros
            whole = torch.cat([torch.cat([T, tail.mT], -1), torch.cat([tail, tail @ below], -1)], -2)
            outer, more = _weighted((whole + whole.mT) / 2, first)
            values, parts = torch.cat([values, outer[..., c:]], -1), torch.cat([parts, more[..., c:]], -1)
        return Density(values.clamp(min=0), parts / parts.sum(-1, keepdim=True), least, greatest)

    return way


def _weighted(T: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(T)
    return values, (first.mT @ vectors[..., : first.shape[-1], :]).square().sum(-2)


def closed_form(T: Tensor) -> Tensor:
    """Eigenvalues of symmetric 3 x 3 matrices by the cosine formula, ascending.

    References:
        O. K. Smith, "Eigenvalues of a symmetric 3 x 3 matrix", Comm. ACM 4 (1961).
    """
    mean = T.diagonal(dim1=-2, dim2=-1).mean(-1)
    B = T - mean[..., None, None] * torch.eye(3, dtype=T.dtype)
    size = (B.square().sum((-2, -1)) / 6).sqrt()
    angle = (torch.linalg.det(B / size[..., None, None]) / 2).clamp(-1, 1).acos() / 3
    turns = torch.tensor([2.0, 4.0, 0.0], dtype=T.dtype) * (torch.pi / 3)
    return mean[..., None] + 2 * size[..., None] * (angle[..., None] + turns).cos()


WAYS: dict[str, Way] = {
    "Lanczos, mean": _read(_columns, "mean"),
    "Lanczos, Gauss": _read(_columns, "gauss"),
    "Lanczos, Radau": _read(_columns, "radau"),
    "harmonic": _harmonic,
    "global, mean": _read(_global, "mean"),
    "moments, float64": _read(_moments(torch.float64), "mean"),
    "moments, float32": _read(_moments(torch.float32), "mean"),
    "block, Rayleigh-Ritz": _block("gauss"),
    "block, mean": _block("mean"),
}
