"""Products: correctness and speed of Triton's, torch's and blocked products, and the device's own rate."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Place, timed
from matfn.kernels import EAGER, Blocked, Products
from matfn.kernels.products import Weight

Row = dict[str, Any]


def triton_products(place: Place) -> tuple[Products | None, str]:
    """Triton's, or why not: they need a GPU or, to be checked on a CPU, triton's interpreter."""
    try:
        from matfn.kernels.triton_symm import TritonSymmetric

        products = TritonSymmetric()
        products.syrk(torch.ones(1, 2, 2, device=place.device))
    except (ImportError, RuntimeError) as error:
        return None, " ".join(str(error).split())
    return products, ""


class Counting:
    """Products that count multiply-adds times two: of symmetric results once as a half, once as a whole."""

    def __init__(self) -> None:
        self.halved = self.whole = 0.0

    def _count(self, A: Tensor, B: Tensor, symmetric: bool) -> None:
        flops = 2.0 * A.shape[0] * A.shape[1] * A.shape[2] * B.shape[2]
        n = A.shape[1]
        self.whole += flops
        self.halved += flops * (n + 1) / (2 * n) if symmetric else flops

    def syrk(self, X: Tensor) -> Tensor:
        """X X^T."""
        self._count(X, X.mT, True)
        return EAGER.syrk(X)

    def sym_mm(self, A: Tensor, B: Tensor) -> Tensor:
        """A B, symmetric."""
        self._count(A, B, True)
        return EAGER.sym_mm(A, B)

    def sym_addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Alpha A B + beta C, symmetric."""
        self._count(A, B, True)
        return EAGER.sym_addmm(C, A, B, alpha=alpha, beta=beta)

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """A B."""
        self._count(A, B, False)
        return EAGER.mm(A, B)

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Alpha A B + beta C."""
        self._count(A, B, False)
        return EAGER.addmm(C, A, B, alpha=alpha, beta=beta)


def correctness(place: Place) -> Iterator[Row]:
    """Triton's products in every dtype and for odd sizes against float64, entry by entry, beside the error of torch's.

    Allowed are k + 3 float32 roundings of the sum of magnitudes and one of the result. Symmetric to the last bit.
    """
    triton, why = triton_products(place)
    if triton is None:
        yield {"skipped": f"Triton products: {why}"}
        return
    from matfn.kernels.triton_symm import TILES, TritonSymmetric

    sizes = place.pick([(129, 257), (768, 3072), (1024, 1000), (17, 33), (1, 1)], [(1, 1), (17, 5), (40, 33)])
    for i, (n, k) in enumerate(sizes):
        # Tiles in turns and none tried out: most of the time here is compiling.
        triton = TritonSymmetric(TILES[(i + 1) % len(TILES)]) if place.cuda else TritonSymmetric()
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            yield from _checked(triton, n, k, dtype, place)


def _checked(triton: Products, n: int, k: int, dtype: torch.dtype, place: Place) -> Iterator[Row]:
    generator = torch.Generator(device=place.device).manual_seed(n)
    X, Y, S, W = (
        torch.randn(3, *shape, generator=generator, device=place.device).to(dtype)
        for shape in ((n, k), (k, n), (n, n), (n, n))
    )
    S, W = ((A + A.mT) / (2 * n**0.5) for A in (S, W))
    alpha, beta = (torch.tensor(w, device=place.device)[:, None, None] for w in ([0.3, -2.0, 1.0], [2.0, 1.0, 0.0]))
    cases = {
        "X X^T": (triton.syrk(X), EAGER.syrk(X), *_sizes(X, X.mT), k),
        "X^T X, read as it lies": (triton.syrk(Y.mT), EAGER.syrk(Y.mT), *_sizes(Y.mT, Y), k),
        "S S": (triton.sym_mm(S, S), EAGER.sym_mm(S, S), *_sizes(S, S), n),
    }
    for name, a, b in (("0.3 S S - 2 W", 0.3, -2.0), ("a number per matrix", alpha, beta)):
        given = (W, S, S)
        want, size = _sizes(S, S)
        cases[name] = (
            triton.sym_addmm(*given, alpha=a, beta=b), EAGER.sym_addmm(*given, alpha=a, beta=b),
            a * want + b * W.double(), abs(a) * size + abs(b) * W.double().abs(), n,
        )  # fmt: skip
    for name, (got, eager, want, size, length) in cases.items():
        unit = torch.finfo(dtype)
        allowed = (length + 3) * torch.finfo(torch.float32).eps * size + unit.eps * want.abs() + unit.tiny * unit.eps
        error, other = ((A.double() - want).abs() / allowed for A in (got, eager))
        worst = error.max().item()
        yield {
            "product": name, "n": n, "k": k, "dtype": str(dtype), "error_of_allowed": worst,
            "torch_error_of_allowed": other.max().item(), "symmetric": torch.equal(got, got.mT),
            "passed": worst <= 1 and torch.equal(got, got.mT),
        }  # fmt: skip


def _sizes(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    return A.double() @ B.double(), A.double().abs() @ B.double().abs()


def matmul_rate(place: Place, dtype: torch.dtype) -> float:
    """Floating-point operations a second of one large product of random matrices, by torch."""
    n = place.pick(8192, 256)
    A, B = (torch.randn(n, n, device=place.device).to(dtype) for _ in range(2))
    return 2 * n**3 / timed(lambda: A @ B, place, graph=False)["seconds"]


def rates(place: Place) -> Iterator[Row]:
    """Time of X X^T and of alpha M M + beta M by every kernel, and the share of the device's matmul rate it reaches.

    The share counts half of a symmetric result, whoever computes all of it: full products cannot come above 0.5.
    """
    shapes = place.pick(
        [(12, 768, 3072), (1, 768, 768), (12, 768, 768), (24, 1024, 4096), (8, 2048, 6144), (1, 4096, 4096)],
        [(2, 96, 130)],
    )
    triton, why = triton_products(place)
    kernels: dict[str, Products | None] = {"torch": EAGER, "triton": triton, "blocked(512)": Blocked(512)}
    for dtype in (torch.bfloat16, torch.float16):
        rate = matmul_rate(place, dtype)
        yield {"product": "A B, the measure", "dtype": str(dtype), "flops_per_second": rate}
        for b, n, k in shapes:
            X = torch.randn(b, n, k, device=place.device).to(dtype)
            M = (X @ X.mT / k).contiguous()
            for name, products in kernels.items():
                if products is None:
                    yield {"skipped": f"{name}: {why}"}
                    continue
                for product, half, work in (
                    ("X X^T", b * n * (n + 1) * k, lambda p=products, X=X: p.syrk(X)),
                    (
                        "a M M + b M",
                        b * n * (n + 1) * n,
                        lambda p=products, M=M: p.sym_addmm(M, M, M, alpha=2.0, beta=-4.8),
                    ),
                ):
                    time = timed(work, place)
                    best = min(t for t in (time["seconds"], time.get("graph_seconds")) if t)
                    yield {"product": product, "kernel": name, "shape": (b, n, k), "dtype": str(dtype), **time,
                           "share_of_matmul_rate": half / best / rate}  # fmt: skip
