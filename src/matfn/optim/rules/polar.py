"""Polar: the polar factor of each matrix of a stack, by one run plan for each shape."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...engines import Engine
from ...iteration.protocols import Evaluation, Method, Scheduled
from ...iteration.target import POLAR
from ...kernels import EAGER, Products
from ...kernels.products import without_autocast
from ...methods import NewtonSchulz, PolarExpress, RitzMinimax, Tuned
from ...run.arguments import check_method, check_options
from ...run.execute import bears_gram, execute, execute_, factor_of_gram, symmetric_factor
from ...run.machine import machine
from ...run.plan import Purpose, RunPlan, resolve
from ..matrices.buckets import Kind, Run
from .looks import kept_factor_, looks_kinds
from .rule import Rule

__all__ = ["Polar"]


class Polar(Rule):
    """The polar factor of each matrix, by any method.

    Args:
        method: A value of `matfn.METHODS`; None is the default of the purpose for each shape (`matfn.explain`).
        precision: The dtype in which the iteration runs; None is a choice by purpose and machine.
        engine: How the polynomials are applied; None is a choice by counted products.
        products: The matrix products; None is a choice by machine, dtype and size.
        purpose: `Purpose.STEP` iterates float32 momenta in half precision where the machine has the arithmetic for it;
            `Purpose.FACTOR` and `Purpose.ORACLE` iterate in the dtype of the stack. It decides the default method.
        owner: The name for error messages, usually the optimizer's.

    Raises:
        ValueError: If `precision`, `engine` or `products` was given with a method that does not iterate.
        TypeError: If `method` is no method object, or an option has a wrong type.
    """

    def __init__(
        self,
        method: Method | None = None,
        precision: torch.dtype | None = None,
        engine: Engine | None = None,
        products: Products | None = None,
        *,
        purpose: Purpose = Purpose.STEP,
        owner: str = "Polar",
    ) -> None:
        if method is not None:
            check_method(method, owner)
        check_options(engine, precision, products, owner)
        self.method, self.purpose = method, purpose
        self.options = {"precision": precision, "engine": engine, "products": products}
        for name, given in self.options.items():
            if isinstance(method, Evaluation) and given is not None:
                raise ValueError(f"{owner}: {method!r} does not iterate, so {name}={given} has no use; leave it out.")
        self.refuses_nan = isinstance(method, Evaluation)
        self._plans: dict[tuple[Any, ...], RunPlan] = {}
        self._traced: dict[tuple[Any, ...], RunPlan] = {}  # for torch.compile

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_plans": {},
            "_traced": {},
        }  # a copy may run on another machine, so it makes its own plans

    @property
    def padded_below(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Zeros are harmless for fixed polynomials. A method that fits the spectrum would see them."""
        if self.method is None:
            fits = self.purpose is Purpose.ORACLE  # QDWH measures the spectrum
            return 0 if fits else machine(torch.device("cpu")).deflated_rows.value or sys.maxsize
        fixed = isinstance(self.method, NewtonSchulz | Tuned)
        fixed = fixed or (isinstance(self.method, PolarExpress) and not self.method.deflation)
        return sys.maxsize if fixed else 0

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """The steps of the last look and the counter, for `RitzMinimax` with `every` above 1; else nothing."""
        method = self.method
        return looks_kinds(method) if isinstance(method, RitzMinimax) and method.every > 1 else {}

    def plan(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> RunPlan:
        """The run plan for matrices of a shape, made once."""
        key = (shape, dtype, device)
        if torch.compiler.is_compiling():
            return self._traced[key]
        if key not in self._plans:
            self._plans[key] = resolve(POLAR, self.method, *key, purpose=self.purpose, **self.options)
        return self._plans[key]

    def ready(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        """Make the plan for a traced step, with plain products unless the caller gave others."""
        key = (shape, dtype, device)
        if key not in self._traced:
            plain = {"products": EAGER} if self.options["products"] is None else {}
            self._traced[key] = replace(self.plan(*key), **plain, wide=EAGER, parts=None)

    def wire(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """bfloat16 if the iteration rounds to it. float16 would lose small gradients, which are not scaled yet."""
        precision = self.plan(shape, dtype, device).precision
        return precision if precision is torch.bfloat16 else dtype

    def bears_gram(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> bool:
        """Whether the factor of (m, n) matrices can be computed from their Gram matrix alone."""
        return bears_gram(self.plan(shape, dtype, device))

    def symmetric(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> bool:
        """Whether the Q of `of_gram` is symmetric."""
        return symmetric_factor(self.plan(shape, dtype, device))

    def of_gram(self, M: Tensor, shape: tuple[int, int]) -> Tensor:
        """Q (n, n) from the Gram matrix of an (m, n) matrix, of trace 1. The factor is Q X if X is wide, else X Q^T."""
        return factor_of_gram(self.plan(shape, M.dtype, M.device), M)

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """The polar factor of each matrix, in place."""
        return self.factor(stack, out=stack, runs=runs)

    def factor(self, stack: Tensor, out: Tensor | None = None, runs: Sequence[Run] = ()) -> Tensor:
        """The polar factor of each matrix, contiguous, in the dtype of the stack.

        Args:
            stack: ``(b, m, n)``. It does not change unless it is `out`.
            out: Memory for the result, of the same shape and dtype, or the stack itself. None is new memory.
            runs: As in `update`, for a rule with state.
        """
        plan, method = self.plan((stack.shape[-2], stack.shape[-1]), stack.dtype, stack.device), self.method
        kept = isinstance(method, RitzMinimax) and method.every > 1 and bool(runs)
        if torch.compiler.is_compiling() and not kept:
            with torch.autocast(stack.device.type, enabled=False):
                result = execute(plan, stack)
            return result if out is None else out.copy_(result)
        with without_autocast(stack):
            if isinstance(method, RitzMinimax) and kept:
                out = stack.clone() if out is None else out if out is stack else out.copy_(stack)
                kept_factor_(plan, method, out, runs)
                return out
            if not isinstance(plan.method, Scheduled | RitzMinimax):
                result = execute(plan, stack)
                return result if out is None else out.copy_(result)
            out = stack.clone() if out is None else out if out is stack else out.copy_(stack)
            execute_(plan, out)
            return out
