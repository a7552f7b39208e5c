"""Trial: one call of a symmetric product, and the time that each of several kernels takes for it.

A kernel that fails, or whose result is wrong, is left out of the trial with the reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from .products import EAGER, Products, Weight

__all__ = ["Call", "Kind", "Outcome", "Seconds", "lower", "trial", "weight_kind"]

_ROUNDS = 5
# cuBLAS's full products are kept unless another kernel saves more than 2 % of their time.
_TIE = 1.02


class Kind(NamedTuple):
    """What decides which kernel is the quickest, as words and numbers.

    Sizes are the least of their class: `rows` up to a factor of 1.5, `inner` and `batch` up to a factor of 2.

    Attributes:
        product: "syrk", "sym_mm" or "sym_addmm".
        dtype: Of the matrices, such as "float16".
        batch: Number of matrices.
        rows: Of the result.
        inner: Terms of each sum.
        layout: For each matrix "r" if its rows lie together in memory, "c" if its columns do, "s" otherwise; then
            "whole" if all rows, also of the result, begin and end at multiples of 16 bytes, else "odd".
        weights: Empty, or "one", "number" or "tensor" for alpha and for beta.
    """

    product: str
    dtype: str
    batch: int
    rows: int
    inner: int
    layout: str
    weights: str

    def __str__(self) -> str:
        return " ".join(map(str, self)).strip()

    @property
    def scattered(self) -> bool:
        """Whether the entries of a matrix lie apart."""
        return "s" in self.layout.split()[0]

    @staticmethod
    def read(text: str) -> "Kind | None":
        """Return the kind that a text stands for, or None if it stands for no kind."""
        parts = text.split(" ", 7)
        if len(parts) < 7 or not all(size.isdecimal() for size in parts[2:5]):
            return None
        batch, rows, inner = map(int, parts[2:5])
        return Kind(parts[0], parts[1], batch, rows, inner, f"{parts[5]} {parts[6]}", "".join(parts[7:]))


@dataclass(frozen=True)
class Call:
    """The arguments of one symmetric product.

    Attributes:
        product: "syrk", "sym_mm" or "sym_addmm".
        tensors: (X,), (A, B) or (C, A, B).
        weights: alpha and beta of "sym_addmm".
    """

    product: str
    tensors: tuple[Tensor, ...]
    weights: tuple[Weight, ...] = ()

    def by(self, products: Products) -> Tensor:
        """Return the result that these products compute."""
        if self.product == "syrk":
            return products.syrk(*self.tensors)
        if self.product == "sym_mm":
            return products.sym_mm(*self.tensors)
        alpha, beta = self.weights
        return products.sym_addmm(*self.tensors, alpha=alpha, beta=beta)

    def kind(self) -> Kind:
        """Return the kind, which calls of similar sizes share."""
        first = self.tensors[-1]
        batch, rows, inner = first.shape
        dtype = str(first.dtype).removeprefix("torch.")
        whole = all(_whole(x) for x in self.tensors) and rows * first.element_size() % 16 == 0
        layout = "".join(map(_layout, self.tensors)) + (" whole" if whole else " odd")
        weights = " ".join(map(weight_kind, self.weights))
        return Kind(self.product, dtype, lower(batch, 1), lower(rows, 2), lower(inner, 1), layout, weights)

    def rehearsed(self) -> "Call":
        """Return a call of the same kind on random matrices, which commute where the product asks for it.

        Times on the arguments themselves would mislead: a GPU multiplies zeros faster, and wrong kernels pass a check
        on them. torch's own generators are not touched.
        """
        generator = torch.Generator(self.tensors[0].device).manual_seed(0)
        drawn: list[Tensor] = []
        for i, x in enumerate(self.tensors):
            R = torch.randn(*x.shape, generator=generator, dtype=x.dtype, device=x.device)
            R *= (8 * x.shape[-1]) ** -0.5  # far from the largest number of float16
            if self.product != "syrk":
                R = R + R.mT
                diagonal = R.diagonal(dim1=-2, dim2=-1).zero_()
                if i == len(self.tensors) - 1:  # B = A / 2 + I / 4 commutes with A, exactly: A has no diagonal
                    torch.mul(drawn[-1], 0.5, out=R)
                    diagonal.fill_(0.25)
            drawn.append(R.mT.contiguous().mT if _layout(x) == "c" else R)
        weights = [
            torch.linspace(0.5, 1.0, w.numel(), dtype=w.dtype, device=w.device).view_as(w)
            if isinstance(w, Tensor)
            else (1.0 if w == 1.0 else usual)
            for w, usual in zip(self.weights, (0.75, -0.5), strict=False)
        ]
        return Call(self.product, tuple(drawn), tuple(weights))

    def reference(self) -> "Reference":
        """Return what a result is compared with."""
        A, B = (self.tensors[0], self.tensors[0].mT) if self.product == "syrk" else self.tensors[-2:]
        compared = {}
        for i in {0, A.shape[0] - 1}:
            a, b = A[i].double(), B[i].double()
            want, size = a @ b, a.abs() @ b.abs()
            if self.weights:
                count = A.shape[0]
                alpha, beta = (w.expand(count, 1, 1)[i].double() if isinstance(w, Tensor) else w for w in self.weights)
                c = self.tensors[0][i].double()
                want, size = alpha * want + beta * c, abs(alpha) * size + abs(beta) * c.abs()
            unit = torch.finfo(A.dtype)
            allowed = (A.shape[-1] + 3) * torch.finfo(torch.float32).eps * size + unit.eps * want.abs() + unit.tiny
            compared[i] = want, allowed
        return Reference(torch.Size((*A.shape[:-1], B.shape[-1])), A.dtype, compared)


@dataclass(frozen=True)
class Reference:
    """The first and the last matrix of a result by float64 products, and the error that each entry is allowed.

    The sum of k numbers in float32 is allowed k + 3 roundings of the sum of their magnitudes, the result one unit in
    the last place of its dtype.
    """

    shape: torch.Size
    dtype: torch.dtype
    compared: dict[int, tuple[Tensor, Tensor]]

    def wrong(self, got: object) -> str:
        """Say what is wrong with a result; empty if nothing is."""
        if not isinstance(got, Tensor) or got.shape != self.shape or got.dtype != self.dtype:
            return f"not a {self.dtype} tensor of shape {tuple(self.shape)}"
        for i, (want, allowed) in self.compared.items():
            error = (got[i].double() - want).abs()
            if not bool((error <= allowed).all()):
                return (
                    f"wrong result: an error of {error.max().item():.2g} in numbers up to {want.abs().max().item():.2g}"
                )
        return ""


class Seconds(NamedTuple):
    """The time of one run in two ways: called from Python again and again, and replayed in a CUDA graph."""

    called: float
    replayed: float


@dataclass(frozen=True)
class Outcome:
    """The result of a trial. For each candidate, named by its `repr`: its median times, or why it was left out."""

    seconds: dict[str, Seconds]
    left_out: dict[str, str]

    @property
    def winners(self) -> tuple[str, str]:
        """The candidates with the least time called and replayed; `EAGER` if it takes at most 2 % longer."""
        return self._least(0), self._least(1)

    def _least(self, way: int) -> str:
        quickest = min(self.seconds, key=lambda name: self.seconds[name][way])
        tied = self.seconds[repr(EAGER)][way] <= _TIE * self.seconds[quickest][way]
        return repr(EAGER) if tied else quickest

    def covers(self, candidates: Sequence[Products]) -> bool:
        """Tell whether these candidates, and no others, took part."""
        names = [*self.seconds, *self.left_out]
        return sorted(names) == sorted(map(repr, candidates)) and repr(EAGER) in self.seconds


def trial(call: Call, candidates: Sequence[Products], clock: Callable[[Callable[[], object]], Seconds]) -> Outcome:
    """Time a call by every candidate, in turns, so that a change of the clock rate meets all of them.

    Args:
        call: The product.
        candidates: `EAGER` and others.
        clock: Returns the time of one run of a function on the device.

    Raises:
        torch.OutOfMemoryError: If there is no room for the trial; this says nothing about a kernel.
    """
    left_out, taking_part, reference = {}, [], call.reference()
    for candidate in candidates:
        try:
            said = reference.wrong(call.by(candidate)) if candidate is not EAGER else ""
            call.by(candidate)  # the first run compiled the kernel
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise their own types
            if candidate is EAGER:
                raise
            said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if said:
            left_out[repr(candidate)] = said
        else:
            taking_part.append(candidate)
    del reference  # frees memory
    samples: dict[str, list[Seconds]] = {repr(candidate): [] for candidate in taking_part}
    for _ in range(_ROUNDS):
        for candidate in taking_part:
            samples[repr(candidate)].append(clock(lambda by=candidate: call.by(by)))
    medians = {name: Seconds(*map(median, zip(*times, strict=True))) for name, times in samples.items()}
    return Outcome(medians, left_out)


def lower(size: int, bits: int) -> int:
    """Return the least number with the same length and the same `bits` leading binary digits."""
    shift = max(0, size.bit_length() - bits)
    return size >> shift << shift


def _layout(x: Tensor) -> str:
    if x.stride(-1) == 1 or x.shape[-1] == 1:
        return "r"
    return "c" if x.stride(-2) == 1 or x.shape[-2] == 1 else "s"


def _whole(x: Tensor) -> bool:
    steps = [stride for stride in x.stride() if stride != 1]
    return all(step * x.element_size() % 16 == 0 for step in (*steps, *x.shape[-2:]))


def weight_kind(weight: Weight) -> str:
    """Return "one", "number" or "tensor": each is another program of a kernel."""
    return "tensor" if isinstance(weight, Tensor) else "one" if weight == 1.0 else "number"
