"""Polar: the polar factor of each matrix, and the default method for it by shape and device."""

import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...engines import Direct, Engine, Gram
from ...functions import orthogonalize
from ...iteration.protocols import Evaluation, Iteration, Method, Scheduled
from ...kernels import Products
from ...methods import NewtonSchulz, PolarExpress, Tuned
from ...run.arguments import check_engine, check_precision, check_products
from ...run.deflation import share_of
from ...run.execute import factor_in_place
from ..matrices.buckets import Run
from .rule import Rule

__all__ = ["DEFLATED", "DEFLATED_ROWS", "LIFTED", "THINLY", "Polar", "SignedPolar", "usual"]

# Three quintics for what deflation leaves: on 60 momenta of two training runs, in bfloat16, rms(1 - sigma) .33 and .51
# in the mean, where five steps of Muon's first polynomial leave .32 and .52 in twice the time. A cushion of .06 keeps
# the greatest singular values, which two steps may put at its height, above the rounding errors of Gram's Q. Steps of
# degree 7 and more are noise in bfloat16, except at the end.
DEFLATED = PolarExpress((5, 5, 5), lower=1.4e-2, cushion=0.06, norm="schatten4", deflation=1 / 16)

# The wider a network, the fewer of its singular values are large: at width 768 a thirty-second leaves .66, where five
# steps of Muon's first polynomial leave .70.
THINLY = replace(DEFLATED, deflation=1 / 32)

# Without deflation, which does not pay for small matrices, and needs float32 products: they take twice as long as
# bfloat16 ones on a CPU and ten times as long on a GPU. On the same momenta it leaves .24 and .45.
LIFTED = PolarExpress((5, 5, 5, 5, 3), lower=2e-3, cushion=0.07, norm="schatten4")

# Rows from which `DEFLATED` is quicker than five steps (AMD EPYC, two threads, stacks): 1.1 times at 128 and at 256,
# 1.2 at 384, 1.3 at 512; of matrices 1 : 4, 1.3 times at 128, 1.4 at 256, 1.7 at 512. One square matrix needs 512.
DEFLATED_ROWS, THIN_ROWS = 128, 512


def usual(shape: tuple[int, int], device: torch.device) -> tuple[PolarExpress, Engine]:
    """The method, and the engine for it, of who names neither: by size and device.

    Gram from 2 : 3 on, Direct for squarer matrices: counted with symmetric products at 3/4 of a full one, Gram saves
    30 % at 1 : 4 and nothing below 3 : 4. In bfloat16 M has negative eigenvalues after two steps, which a third would
    blow up by the slopes of `LIFTED`, so that it restarts; the slopes of `DEFLATED` blow nothing up.

    Args:
        shape: (rows, columns) of each matrix.
        device: Where they lie.
    """
    oblong = 2 * max(shape) >= 3 * min(shape)
    if device.type == "cpu" and min(shape) >= DEFLATED_ROWS:
        return THINLY if min(shape) >= THIN_ROWS else DEFLATED, Gram(()) if oblong else Direct()
    return LIFTED, Gram((2, 4)) if oblong else Direct()


class Polar(Rule):
    """The polar factor of each matrix, by any method: the one place where an optimizer calls the library's iterations.

    Args:
        method: a value of `matfn.METHODS`, None for what `usual` gives for each shape.
        precision: dtype in which the iteration runs; None is `lowest`, where momentum is float32 and the method has a
            form in it, else the dtype of the stack.
        engine: how the method's polynomials are applied, None for the planner's choice (`matfn.engines.choose`).
        products: the matrix products of the engine, None for those that `matfn.kernels.choice_for` shows.
        lowest: bfloat16, or float32 where the factor must be accurate.

    Raises:
        ValueError: `precision`, `engine` or `products` was given with a method that does not iterate.
        TypeError: `method` is no method object, `precision` no dtype, `engine` no engine or `products` no products.
    """

    def __init__(
        self,
        method: Method | None = None,
        precision: torch.dtype | None = None,
        engine: Engine | None = None,
        products: Products | None = None,
        *,
        lowest: torch.dtype = torch.bfloat16,
    ) -> None:
        known = method is None or isinstance(method, Scheduled | Iteration | Evaluation)
        if not known or isinstance(method, type):
            raise TypeError(f"method must be a value such as PolarExpress(), got {method!r}; see matfn.method.")
        check_precision(precision)
        if engine is not None:
            check_engine(engine)
        if products is not None:
            check_products(products)
        for name, given in (("precision", precision), ("engine", engine), ("products", products)):
            if isinstance(method, Evaluation) and given is not None:
                raise ValueError(f"{method!r} does not iterate, so {name}={given} has no use; leave it out.")
        self.method, self.precision, self.engine, self.products, self.lowest = (
            *(method, precision, engine, products),
            lowest,
        )

    @property
    def padded_below(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A fixed schedule of polynomials bears zeros; what is fitted to a spectrum, or deflates it, would see them."""
        if self.method is None:
            return DEFLATED_ROWS
        fixed = isinstance(self.method, PolarExpress | NewtonSchulz | Tuned)
        return sys.maxsize if fixed and not share_of(self.method) else 0

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """The polar factor of each matrix, in place."""
        return self.factor(stack, out=stack)

    def factor(self, stack: Tensor, out: Tensor | None = None) -> Tensor:
        """The polar factor of each matrix of the stack ``(b, m, n)``, contiguous, in its dtype.

        Args:
            stack: left alone, unless it is `out`.
            out: where to, of the stack's shape and dtype, perhaps the stack itself; None is memory of its own.
        """
        m, n = stack.shape[-2:]
        method, engine = usual((m, n), stack.device) if self.method is None else (self.method, None)
        engine = self.engine or engine
        precision = self.precision or self._usual_precision(stack.dtype)
        if isinstance(method, Scheduled) and not torch.compiler.is_compiling():
            out = stack.clone() if out is None else out if out is stack else out.copy_(stack)
            factor_in_place(out, method, engine, precision, self.products)
            return out
        precision = None if isinstance(method, Evaluation) else precision
        result = orthogonalize(stack, method=method, engine=engine, precision=precision, products=self.products)
        return result if out is None else out.copy_(result)

    def _usual_precision(self, dtype: torch.dtype) -> torch.dtype | None:
        """`lowest`, where momentum is float32 and the method has a form in it (products alone)."""
        if self.lowest is not torch.bfloat16:
            return None
        method = LIFTED if self.method is None else self.method
        iteration = method.schedule(2) if isinstance(method, Scheduled) else method
        form = getattr(iteration, "precision", lambda half: half)(torch.bfloat16)
        return torch.bfloat16 if dtype is torch.float32 and form is torch.bfloat16 else None


class SignedPolar(Polar):
    """The polar factor of the signs of the entries: the size of an entry no longer matters."""

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """The polar factor of sign(A) for each matrix A, in place."""
        return self.factor(stack.sign_(), out=stack)
