"""Kernels against float64: every kind of products entry by entry, and the fused passes over a stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_parts.case import Bench, Case, Row, Skipped
from benchmarks.gpu_parts.events import Place
from benchmarks.gpu_parts.variants import KINDS
from matfn.kernels import EAGER, Products

__all__ = ["cases", "quack", "triton"]

HALF = (torch.float16, torch.bfloat16)
DTYPES = (*HALF, torch.float32)


def cases(place: Place) -> list[Case]:
    """The full products, then the fused kernels."""
    return [Case("cuBLAS", partial(_products, "cuBLAS")), Case("scaled", _scaled), Case("small", _small)]


def triton(place: Place) -> list[Case]:
    """Triton's products; they compile longest, so they are a part of their own."""
    return [Case("Triton", partial(_products, "Triton")), Case("every tile", _tiles)]


def quack(place: Place) -> list[Case]:
    """Quack's products."""
    return [Case("quack", partial(_products, "quack"))]


def _products(kind: str, bench: Bench) -> Iterator[Row]:
    """Every product in every dtype, for odd and even sizes; most of the time is compiling."""
    sizes = bench.place.pick([(768, 3072), (129, 257), (2048, 1000), (17, 33), (1, 1)], [(1, 1), (17, 5), (40, 33)])
    for n, k in sizes:
        for dtype in DTYPES if kind != "quack" else HALF:
            try:
                kernel = _built(kind, bench.place)
                label = f"{n} x {k}, {dtype}"
                yield from bench.attempt(
                    label, lambda n=n, k=k, d=dtype, p=kernel: _checked(p, kind, n, k, d, bench.place)
                )
            except Skipped as why:
                yield {"kernel": kind, "n": n, "k": k, "dtype": str(dtype), "skipped": str(why)}


def _tiles(bench: Bench) -> Iterator[Row]:
    """Every tile that a trial may choose on this card, and float32 products as three TF32 products."""
    if not bench.place.cuda:
        yield {"kernel": "Triton, every tile", "skipped": "the tests of the package run them interpreted"}
        return
    from matfn.kernels.triton_symm import candidates

    capability = torch.cuda.get_device_capability(bench.place.device)
    every = [(dtype, "ieee") for dtype in DTYPES] + [(torch.float32, "tf32x3")]
    for n, k in ((2048, 1000), (768, 3072)):
        for dtype, float32 in every:
            for kernel in candidates(capability, dtype, n, float32="tf32x3" if float32 == "tf32x3" else "ieee"):
                try:
                    yield from bench.attempt(
                        f"{kernel}, {n}, {dtype}",
                        lambda n=n, k=k, d=dtype, p=kernel: _checked(p, str(p), n, k, d, bench.place),
                    )
                except Skipped as why:
                    yield {"kernel": str(kernel), "n": n, "k": k, "dtype": str(dtype), "skipped": str(why)}


def _built(kind: str, place: Place) -> Products:
    """The products; Triton's also on a CPU, if triton is told to interpret its kernels."""
    try:
        found = KINDS[kind](place)
    except ModuleNotFoundError as error:
        raise Skipped(f"not installed ({error})") from error
    assert found is not None
    return found


def _checked(kernel: Products, kind: str, n: int, k: int, dtype: torch.dtype, place: Place) -> list[Row]:
    """Rows of five products.

    Allowed are k + 9 float32 roundings of the sum of magnitudes (six are for numbers in three TF32 parts) and one
    rounding of the result. Results of kernels that mirror one half are symmetric to the last bit. Torch's products with
    a number for each matrix round between the product and the sum, so two roundings more are allowed there.
    """
    generator = torch.Generator(device=place.device).manual_seed(n)
    X, Y, S, W = (
        torch.randn(3, *shape, generator=generator, device=place.device).to(dtype)
        for shape in ((n, k), (k, n), (n, n), (n, n))
    )
    S, W = (((A + A.mT) / (2 * n**0.5)).to(dtype) for A in (S, W))
    alpha, beta = (torch.tensor(w, device=place.device)[:, None, None] for w in ([0.3, -2.0, 1.0], [2.0, 1.0, 0.0]))
    found: dict[str, tuple[Callable[[Products], Tensor], Tensor, Tensor, Tensor, int]] = {}
    for name, A, B, work, length in (
        ("X X^T", X, X.mT, lambda p: p.syrk(X), k),
        ("X^T X, read as it lies", Y.mT, Y, lambda p: p.syrk(Y.mT), k),
        ("S S", S, S, lambda p: p.sym_mm(S, S), n),
    ):
        want, size = _sizes(A, B)
        found[name] = work, want, size, torch.zeros_like(size), length
    want, size = _sizes(S, S)
    for name, a, b in (("0.3 S S - 2 W", 0.3, -2.0), ("a number for each matrix", alpha, beta)):
        added = abs(b) * W.double().abs()
        found[name] = (
            lambda p, a=a, b=b: p.sym_addmm(W, S, S, alpha=a, beta=b), a * want + b * W.double(),
            abs(a) * size + added, abs(a) * size + added, n,
        )  # fmt: skip
    rows = []
    for name, (work, want, size, between, length) in found.items():
        got, unit = work(kernel), torch.finfo(dtype)
        allowed = (length + 9) * torch.finfo(torch.float32).eps * size + unit.eps * want.abs() + unit.tiny * unit.eps
        allowed = allowed + (2 * unit.eps * between if kernel == EAGER else 0.0)
        worst = ((got.double() - want).abs() / allowed).max().item()
        mirrored = kernel == EAGER or torch.equal(got, got.mT)
        rows.append({
            "kernel": kind, "product": name, "n": n, "k": k, "dtype": str(dtype), "error_of_allowed": worst,
            "symmetric": torch.equal(got, got.mT), "passed": worst <= 1 and mirrored,
        })  # fmt: skip
    return rows


def _sizes(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    return A.double() @ B.double(), A.double().abs() @ B.double().abs()


def _scaled(bench: Bench) -> Iterator[Row]:
    """The fused pass of norm, division and cast: X / ||X||_F within two roundings, for scales that squares overflow."""
    try:
        from matfn.kernels.triton_scale import scaled  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        yield {"kernel": "scaled", "skipped": f"not there ({error})"}
        return
    for shape in bench.place.pick([(12, 768, 3072), (3, 129, 33), (2, 33, 129)], [(2, 17, 5), (2, 5, 33)]):
        for precision in DTYPES:
            for scale in (1.0, 1e-30, 1e30):
                label = f"{shape}, {precision}, {scale:g}"
                try:
                    yield bench.attempt(label, partial(_scaled_row, scaled, shape, precision, scale, bench.place))
                except Skipped as why:
                    yield {"kernel": "scaled", "shape": shape, "dtype": str(precision), "skipped": str(why)}


def _scaled_row(
    scaled: Callable[..., Any], shape: tuple[int, ...], precision: torch.dtype, scale: float, place: Place
) -> Row:
    generator = torch.Generator(device=place.device).manual_seed(7)
    A = torch.randn(*shape, generator=generator, device=place.device) * scale
    A[0] = 0.0  # a zero matrix stays zero
    want = A.double() / torch.linalg.matrix_norm(A.double(), keepdim=True).clamp_min(1e-300)
    got, unit = scaled(A, precision)[0].double(), torch.finfo(precision)
    # The norm is a sum of squares in float32, in a tree: log2 of the entries times a rounding, and some for the factor.
    entries = shape[-1] * shape[-2]
    relative = unit.eps + (8 + entries.bit_length()) * torch.finfo(torch.float32).eps
    worst = ((got - want).abs() / (relative * want.abs() + unit.tiny * unit.eps)).max().item()
    return {
        "kernel": "scaled", "shape": shape, "dtype": str(precision), "scale": scale, "error_of_allowed": worst,
        "passed": worst <= 1 and not bool(got[0].any()),
    }  # fmt: skip


def _small(bench: Bench) -> Iterator[Row]:
    """The kernels on k x k matrices of a deflation, against float64."""
    try:
        from matfn.kernels import triton_small as small  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as error:
        yield {"kernel": "small", "skipped": f"not there ({error})"}
        return
    for k in bench.place.pick((2, 16, 24, 64, 128), (3, 17)):
        for name, check in (("whitening", _whitened), ("root_terms", _rooted), ("thin_product", _thin)):
            row: Row = {"kernel": name, "k": k}
            try:
                error, allowed = bench.attempt(f"{name}, {k}", partial(check, small, k, bench.place.device))
            except Skipped as why:
                yield row | {"skipped": str(why)}
                continue
            yield row | {"error_of_allowed": error / allowed, "passed": error <= allowed}


def _gram(k: int, device: str) -> Tensor:
    """Three Gram matrices of condition number 10^4, in float32."""
    generator = torch.Generator().manual_seed(k)
    Q = torch.linalg.qr(torch.randn(3, k, k, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(0, -4, k, dtype=torch.float64)
    G = (Q * values) @ Q.mT
    return ((G + G.mT) / 2).float().to(device)


def _whitened(small: Any, k: int, device: str) -> tuple[float, float]:
    """||W^T (G + r t I) W - I||, W upper triangular: k roundings times the condition number, which the ridge bounds."""
    G = _gram(k, device)
    W = small.whitening(G).double()
    ridged = G.double()
    ridged.diagonal(dim1=-2, dim2=-1).add_(small.RIDGE * _traces(ridged))
    error = (W.mT @ ridged @ W - torch.eye(k, device=device)).abs().max().item()
    return (error if not bool(W.tril(-1).any()) else float("inf")), k * torch.finfo(torch.float32).eps * 1e4


def _rooted(small: Any, k: int, device: str) -> tuple[float, float]:
    """The sum of the terms against (I + K / c^2)^(-1/2) - I in float64: within 2 % of the root, as the kernel says."""
    K = _gram(k, device) / (2 * k)
    C = small.root_terms(K, 1.0, small.LEAST_PHI).double().sum(1)
    rest = (1 - _traces(K.double())).clamp_min(0)[..., None]
    square = torch.maximum(rest / k, torch.full_like(rest, small.LEAST_PHI**2))
    values, Q = torch.linalg.eigh(K.double() / square)
    want = (Q * (1 + values).rsqrt().unsqueeze(-2)) @ Q.mT
    got = C + torch.eye(k, device=device)
    return torch.linalg.matrix_norm(got - want, 2).max().item(), 0.02


def _thin(small: Any, k: int, device: str) -> tuple[float, float]:
    """Y A in float32, with the sum of four terms for A: k + 14 roundings of the sum of magnitudes."""
    generator = torch.Generator().manual_seed(k)
    Y = torch.randn(3, 5 * k + 1, k, generator=generator).to(device)
    A = torch.randn(3, 4, k, k, generator=generator).to(device)
    got, size = small.thin_product(Y, A, torch.float32).double(), Y.double().abs() @ A.double().abs().sum(1)
    worst = ((got - Y.double() @ A.double().sum(1)).abs() / size).max().item()
    return worst, (k + 14) * torch.finfo(torch.float32).eps


def _traces(G: Tensor) -> Tensor:
    return G.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
