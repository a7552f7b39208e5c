"""Rule: one link of an optimizer's chain, written for stacks of matrices, without parameters, groups or processes.

An optimizer is a chain: one elementwise rule, then matrix rules, each of which takes what the last one returned:

    Muon     Ema, Polar                  NorMuon   Ema, Polar, RowNorm       AdaMuon   Ema, SignedPolar, ElementNorm
    Shampoo  Ema, InverseRoots           SOAP      Ema, Eigenbasis           PolarGrad VariantEma, Nuclear

The elementwise rule works on the parameters' own entries, so it needs no whole matrix. The matrix rules see whole
matrices, stacked. `MatrixOptimizer` does the rest: it makes, finds, checks and saves the state that a rule describes,
multiplies the result by scale and learning rate, decays and moves the weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ..matrices.buckets import Kind, Run

__all__ = ["Elementwise", "Rule"]


class Elementwise(Protocol):
    """The first link: from gradients to what the matrix rules are given, entry by entry."""

    def check(self, options: Mapping[str, Any], where: str) -> None:
        """Refuse option values that are out of range; see `Rule.check`."""

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """What is kept between steps; see `Rule.state`."""
        return {}

    def update(self, gradients: list[Tensor], into: list[Tensor], run: Run) -> None:
        """Write what the gradients become.

        Args:
            gradients: read only; one view of each parameter's gradient.
            into: views of the same shapes in float32 (float64 for float64 weights), written to.
            run: options and state of these parameters; ``run.views(key)`` are views of the same shapes.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update(gradients, into, run).")


class Rule(Protocol):
    """A link that sees whole matrices. Subclass it and define `update`; the other methods do nothing by default.

    Attributes:
        padded_below: matrices whose short side is below it may be padded with rows and columns of zeros and then share
            a stack: the rule has no state, looks at no option, and zeros change nothing. 0 for never.
    """

    padded_below: int = 0

    def check(self, options: Mapping[str, Any], where: str) -> None:
        """Refuse option values that are out of range.

        Args:
            options: the options of a group.
            where: what they belong to, for the message.

        Raises:
            ValueError: naming the option, its value and its range.
            TypeError: naming the option, its value and the type wanted.
        """

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """What is kept between steps for each matrix, by the key under which it is saved.

        Args:
            shape: rows of one matrix, then the axes of its columns: ``(m, n)``, or ``(out, in, kernel...)``.
            options: of the group.

        Returns:
            For each key "element" (a number for each entry), "row" (for each row), "matrix" (for each matrix),
            "counter" (the steps of the parameter, see `Run.step`), or ``(r, d, d)``, r square tensors for each matrix.
            All are zero at first, and float32 at least.
        """
        return {}

    def prepare(self, stacks: Sequence[Sequence[Run]]) -> None:
        """Work that wants all stacks of a step at once, done before any weight moves.

        Args:
            stacks: the runs of each stack.
        """

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """The direction of each matrix; weights move against it.

        Args:
            stack: ``(b, m, n)``, what the link before returned; may be overwritten.
            runs: the parts of the stack with equal options, in order; they cover it. Empty if the stack is padded.

        Returns:
            ``(b, m, n)`` on the device of `stack`, in its dtype or a narrower one.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update(stack, runs).")
