"""What is compared: kinds of products, methods, peers and optimizers, one line each; what is missing says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import matfn
from benchmarks.gpu_parts.case import Row, Skipped
from benchmarks.gpu_parts.events import Place, Work
from matfn.iteration.target import POLAR
from matfn.kernels import EAGER, Products
from matfn.kernels.products import without_autocast
from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo
from matfn.run.execute import execute
from matfn.run.plan import THINLY, Purpose, resolve

__all__ = ["FOUR", "KINDS", "METHODS", "OPTIMIZERS", "PEERS", "PLANNED", "products", "stack_work"]

PLANNED = "as planned"
# The default's deflation with one cubic step more: less error than gram-newton-schulz leaves (H200, 2026-11-26).
FOUR = replace(THINLY, degree=(5, 5, 5, 3), steps=4, lower=1e-2)
# By name: a method, and its engine on oblong matrices; None is the plan's choice for an optimizer's step.
METHODS: Mapping[str, tuple[Any, Any]] = {
    "default": (None, None),
    "default + cubic": (FOUR, matfn.Gram(())),
    "polar-express": (matfn.PolarExpress(), None),
}


def _triton(place: Place) -> Products:
    from matfn.kernels.triton_symm import TritonSymmetric

    return TritonSymmetric()


def _quack(place: Place) -> Products:
    from matfn.kernels.quack import QuackSymmetric  # pyright: ignore[reportMissingImports]

    return QuackSymmetric()


# Kinds of products; a builder fails with ImportError, RuntimeError or ValueError where they do not run.
KINDS: Mapping[str, Callable[[Place], Products | None]] = {
    PLANNED: lambda place: None,
    "cuBLAS": lambda place: EAGER,
    "Triton": _triton,
    "quack": _quack,
}


def products(kind: str, place: Place) -> Products | None:
    """The products of a kind; None leaves the choice to the plan.

    Raises:
        Skipped: If they are not installed or do not run on the device; the text says why.
    """
    if kind == "Triton" and not place.cuda:
        raise Skipped("Triton: interpreted on a CPU, whole iterations would take minutes")
    if kind == "quack" and not place.cuda:
        raise Skipped("quack: needs a GPU of sm_90 or newer")
    try:
        return KINDS[kind](place)
    except ModuleNotFoundError as error:
        raise Skipped(f"{kind}: not installed ({error})") from error
    except (ImportError, RuntimeError, ValueError) as error:
        raise Skipped(f"{kind}: {' '.join(str(error).split())[:200]}") from error


def stack_work(X: Tensor, name: str, **options: Any) -> tuple[Work, Row]:
    """Orthogonalization of a stack by a method of `METHODS`, and what the plan chose; see `step_work`."""
    method, engine = METHODS[name]
    oblong = 2 * max(X.shape[-2:]) >= 3 * min(X.shape[-2:])
    engine = engine if oblong or engine is None else matfn.Direct()
    return step_work(X, method, engine=engine, **options)


def step_work(X: Tensor, method: Any, **options: Any) -> tuple[Work, Row]:
    """Orthogonalization of a stack as an optimizer's step does it; options are engine, precision and products."""
    shape = (X.shape[-2], X.shape[-1])
    plan = resolve(POLAR, method, shape, X.dtype, X.device, purpose=Purpose.STEP, **options)

    def work() -> Tensor:
        with torch.no_grad(), without_autocast(X):
            return execute(plan, X)

    facts = {"precision": plan.precision, "engine": plan.engine, "products": plan.products, "steps": plan.method}
    return work, {name: str(value).removeprefix("torch.") for name, value in facts.items()}


def plain(X: Tensor) -> Tensor:
    """Five steps of Jordan's triple in bfloat16, as usually written, for torch.compile."""
    Y = X.bfloat16()
    Y = Y if Y.shape[-2] <= Y.shape[-1] else Y.mT
    Y = Y / (torch.linalg.matrix_norm(Y, keepdim=True) + 1e-7)
    for _ in range(5):
        A = Y @ Y.mT
        Y = 3.4445 * Y + (-4.775 * A + 2.0315 * A @ A) @ Y
    return (Y if X.shape[-2] <= X.shape[-1] else Y.mT).to(X.dtype)


def _plain_compiled(X: Tensor, place: Place) -> Work:
    if not place.cuda:
        return lambda: plain(X)
    torch.compiler.reset()  # so that every shape is compiled for itself, and none beyond a limit is left eager
    compiled = torch.compile(plain, dynamic=False)
    return lambda: compiled(X)


def _gram_newton_schulz(X: Tensor, place: Place) -> Work:
    from gram_newton_schulz import GramNewtonSchulz  # pyright: ignore[reportMissingImports]

    if not place.cuda:
        raise Skipped("compared on a GPU alone: its kernels need one")
    theirs = GramNewtonSchulz(ns_use_kernels=True, compile_kwargs=None)
    return lambda: theirs(X.clone())


GN = "gram-newton-schulz, its kernels"
COMPILED = "plain torch, Jordan bf16, compiled"
PEERS: Mapping[str, Callable[[Tensor, Place], Work]] = {GN: _gram_newton_schulz, COMPILED: _plain_compiled}

Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
LR = 0.02
# Every optimizer of matrices, for trajectories: with a learning rate that moves each weight by some percent a step.
OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "Muon": lambda w, **options: Muon(w, lr=LR, **options),
    "NorMuon": lambda w, **options: NorMuon(w, lr=LR, **options),
    "AdaMuon": lambda w, **options: AdaMuon(w, lr=1e-2, **options),
    "PolarGrad": lambda w, **options: PolarGrad(w, lr=LR, **options),
    "Shampoo": lambda w, **options: Shampoo(w, lr=1e-2, root_every=5, **options),
    "SOAP": lambda w, **options: SOAP(w, lr=1e-2, **options),
}
