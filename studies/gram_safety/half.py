"""The greatest singular value of an optimizer's step in true float16 arithmetic, with and without restarts.

Products round their factors to float16, add up in float32 and round the result once, as tensor cores do. A float32
product of the rounded factors is this sum, in some order, so no GPU is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from matfn import Direct, Gram, PolarExpress
from matfn.iteration.protocols import Engine
from matfn.iteration.target import ORTHOGONALIZE
from matfn.kernels import EAGER
from matfn.kernels.products import Full, Weight
from matfn.run.plan import DEFLATED, LIFTED, THINLY
from matfn.run.preparation import prepared
from studies.gram_safety.search import SPECTRA, VECTORS, Matrices, bred, drawn
from studies.page import Report, Shown

__all__ = [
    "CANDIDATES",
    "FOUR",
    "HALF_SPECTRA",
    "Candidate",
    "TensorCores",
    "Worst",
    "greatest",
    "made",
    "report",
    "search",
]

LIMIT = 1.25  # a step may turn, but not grow: the images of the schedules end at 1.11 to 1.19
# Four deflated steps, of half the error of three.
FOUR = PolarExpress((5, 5, 5, 3), lower=1.0e-2, cushion=0.06, norm="schatten4", deflation=1 / 32)


def _powers(power: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda u, _: torch.arange(1, u.shape[-1] + 1, dtype=torch.float64).expand_as(u) ** -power


HALF_SPECTRA = {
    **SPECTRA,
    "i^-0.75": _powers(0.75),
    "i^-2": _powers(2.0),
    "six decades": lambda u, _: torch.logspace(0, -6, u.shape[-1], dtype=torch.float64).expand_as(u),
    "one outlier": lambda u, _: torch.where(torch.arange(u.shape[-1]) == 0, 100.0, 1.0).double().expand_as(u),
}


@dataclass(frozen=True)
class TensorCores(Full):
    """Products of half-precision matrices as a GPU rounds them: sums in float32, one rounding of the result."""

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B."""
        return (A.float() @ B.float()).to(A.dtype)

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C."""
        return (alpha * (A.float() @ B.float()) + beta * C.float()).to(C.dtype)


@dataclass(frozen=True)
class Candidate:
    """A method and an engine, for a step of an optimizer in one dtype."""

    name: str
    method: PolarExpress
    engine: Engine
    dtype: torch.dtype = torch.float16

    @property
    def thin(self) -> torch.dtype | None:
        """As `RunPlan.thin` on a GPU."""
        return torch.float16 if self.dtype is torch.float16 else None


def _candidates() -> tuple[Candidate, ...]:
    methods = {"three deflated, 1/16": DEFLATED, "three deflated, 1/32": THINLY, "four deflated, 1/32": FOUR}
    found = [Candidate(n, m, Gram(r)) for n, m in methods.items() for r in ((), (1,), (2,))]
    found += [Candidate("five lifted", LIFTED, Gram(r)) for r in ((), (1,), (2,), (3,), (2, 4))]
    found += [Candidate(n, m, Direct()) for n, m in {**methods, "five lifted": LIFTED}.items()]
    found += [Candidate("three deflated, 1/16", DEFLATED, Gram(()), torch.bfloat16)]
    return (*found, Candidate("five lifted", LIFTED, Gram((2, 4)), torch.bfloat16))


CANDIDATES = _candidates()
_SHAPES = ((16, 64), (32, 48), (64, 16), (64, 128), (24, 768))


@torch.no_grad()
def greatest(candidate: Candidate, A: Tensor) -> Tensor:
    """The greatest singular value of the step of each matrix A (b, m, n), float32, at least one column deflated."""
    products, schedule = TensorCores(), candidate.method.schedule(2)
    # At least one column, also of small matrices that stand for large ones.
    share = max(candidate.method.deflation, 1.01 / min(A.shape[-2:])) if candidate.method.deflation else 0.0
    preparation = replace(schedule.preparation, deflation=share)
    X, first, _ = prepared(ORTHOGONALIZE, A, preparation, candidate.dtype, EAGER, products, candidate.thin)
    U = candidate.engine.run(ORTHOGONALIZE, X, schedule, products, 0, first).double()
    U = torch.where(U.isfinite(), U, 1e6)
    short = U @ U.mT if U.shape[-2] <= U.shape[-1] else U.mT @ U
    return torch.linalg.eigvalsh(short)[:, -1].clamp_min(0).sqrt()


@dataclass
class Worst:
    """What the search found for one candidate."""

    candidate: Candidate
    value: float = 0.0
    at: str = ""
    run: int = 0


def search(worst: Worst, shape: tuple[int, int], members: int, rounds: int, draw: Generator) -> None:
    """Climb to the greatest singular value from every kind of spectrum, for one shape."""
    names = list(VECTORS)
    small = min(shape), max(shape)
    for family in HALF_SPECTRA:
        left, right = (names[int(torch.randint(len(names), (), generator=draw))] for _ in range(2))

        def score(M: Matrices, family: str = family, vectors: str = f"{left} x {right}") -> Tensor:
            A = M.dense()
            found = greatest(worst.candidate, A if shape[0] <= shape[1] else A.mT.contiguous())
            if found.max() > worst.value:
                worst.value, worst.at = found.max().item(), f"{family}, {vectors}, {shape[0]} x {shape[1]}"
            worst.run += len(found)
            return found

        score(bred(score, drawn(family, (left, right), small, members, draw, HALF_SPECTRA), rounds, draw))


def report(notice: Callable[[str], None], members: int, rounds: int) -> Report:
    """Search with batches of `members` matrices and `rounds` generations."""
    found = []
    for done, candidate in enumerate(CANDIDATES):
        notice(f"{done + 1} of {len(CANDIDATES)}: {candidate.name}, {candidate.engine!r}")
        worst, draw = Worst(candidate), torch.Generator().manual_seed(0)
        for shape in _SHAPES:
            search(worst, shape, members, rounds, draw)
        found.append(worst)
    return made(found)


def made(found: list[Worst]) -> Report:
    """The report of what was found."""
    rows = [
        (
            f"{w.candidate.name}, {w.candidate.engine!r}",
            [
                str(w.candidate.dtype).removeprefix("torch."),
                f"{w.candidate.method.schedule(2).images()[-1][1]:.3f}",
                f"{w.value:.3f}" if w.value < 1e3 else "diverges",
                "yes" if w.value <= LIMIT else "no",
                w.at,
            ],
        )
        for w in found
    ]
    return Report(
        paper="gram_safety_float16",
        title="The greatest singular value of a step in float16: a search for the worst matrices",
        notes=(
            f"Spectra, singular vectors and climbing as in gram_safety, for the greatest singular value; "
            f"{sum(w.run for w in found):,} matrices. Products add up in float32 and round once, as tensor cores do.",
        ),
        tables=[
            Shown(
                "Greatest singular value found",
                ("dtype", "exact", "found", f"at most {LIMIT}", "found at"),
                rows,
                "`exact`: the greatest value of the schedule in exact arithmetic.",
            )
        ],
        figures={},
        plain={
            "steps": [
                {
                    "method": w.candidate.name,
                    "engine": repr(w.candidate.engine),
                    "dtype": str(w.candidate.dtype).removeprefix("torch."),
                    "greatest": w.value,
                    "at": w.at,
                    "matrices": w.run,
                }
                for w in found
            ]
        },
        command="python -m studies.gram_safety --preset float16",
        reading="steps of an optimizer",
    )
