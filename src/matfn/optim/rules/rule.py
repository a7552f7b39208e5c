"""Rule: one link of an optimizer's chain, written for stacks of matrices, without parameters, groups or processes.

An optimizer is a chain: one elementwise rule, then matrix rules, each of which takes the result of the one before:

    Muon     Ema, Polar                  NorMuon   Ema, Polar, RowNorm       AdaMuon   Ema, Sign, Polar, ElementNorm
    Shampoo  Ema, InverseRoots           SOAP      Ema, Eigenbasis           PolarGrad VariantEma, Nuclear

The elementwise rule works on the entries of the parameters, so it needs no whole matrix. Matrix rules see stacks of
whole matrices. `MatrixOptimizer` makes, checks and saves the state that rules describe, and moves the weights by the
result times scale and learning rate.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..matrices.buckets import Kind, Run

__all__ = ["Elementwise", "Rule"]


class Link(Protocol):
    """Checks of options, and state between steps. By default there is nothing to check or to keep.

    Attributes:
        reads: The options that the rule reads. An optimizer whose default options lack one is refused.
        dials: Those of them that the rule also takes as a `Dial` (``matrices/dials.py``). A captured step reads a dial
            anew, and is captured anew if another option has changed.
        refuses_nan: Whether `update` raises for NaN and infinity. A step then looks for them before anything changes.
    """

    reads: tuple[str, ...] = ()
    dials: tuple[str, ...] = ()
    refuses_nan: bool = False

    def check(self, options: Mapping[str, Any], where: str, shapes: Iterable[tuple[int, ...]] = ()) -> None:
        """Refuse option values that are out of range.

        Args:
            options: The options of a group.
            where: The owner of the options, for the message.
            shapes: The shapes of the group's matrices, as in `state`.

        Raises:
            ValueError: If a value is out of range. The message names option, value and range.
            TypeError: If a value has a wrong type. The message names option, value and wanted type.
        """

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """The state between steps, as {key in checkpoints: kind}.

        Args:
            shape: Rows of one matrix, then the axes of its columns: ``(m, n)``, or ``(out, in, kernel...)``.
            options: The options of the group.

        Returns:
            For each key "element" (a number for each entry), "row" (for each row), "matrix" (for each matrix), or
            ``(r, d, d)``, r square tensors for each matrix. The key "step" has the kind "counter", see `Run.step`.
            State is zero at first, and float32 at least.
        """
        return {}

    def settle(self) -> None:
        """Finish what the last step left until the device has computed it.

        It is called before the state is saved, loaded or copied, and by processes that share parameters before they
        send state. Rules that leave something finish it at their next step, too.
        """


class Elementwise(Link, Protocol):
    """The first link: from gradients to the input of the matrix rules, entry by entry."""

    def update(self, gradients: list[Tensor], into: list[Tensor], run: Run) -> None:
        """Write the input of the matrix rules.

        Args:
            gradients: One view of each parameter's gradient, read only.
            into: Views of the same shapes in float32 (float64 for float64 weights), to be written.
            run: Options and state of these parameters. ``run.views(key)`` are views of the same shapes.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update(gradients, into, run).")


class Rule(Link, Protocol):
    """A link that sees whole matrices. Subclass it and define `update`; the other methods do nothing by default.

    Attributes:
        padded_below: Matrices whose short side is below this may be padded with rows and columns of zeros to share a
            stack. It must be 0 (never) if the rule has state, reads options, or gives other results with zeros.
        reads_gradients: Whether the rule calls `Run.gradients`. The gradients of sharded parameters then travel, too.
    """

    padded_below: int = 0
    reads_gradients: bool = False

    def wire(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The dtype in which inputs and directions of (m, n) matrices travel between processes: the dtype of the stack.

        A rule that rounds its input to half precision in any case may return that dtype, for half the bytes.
        """
        return dtype

    def ready(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        """Decide whatever `update` decides about stacks of (m, n) matrices, because torch.compile traces `update`."""

    def prepare(self, stacks: Sequence[Sequence[Run]]) -> None:
        """Work on all stacks of a step at once, given as their runs, before any weight moves."""

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """The direction of each matrix; weights move against it.

        Args:
            stack: ``(b, m, n)``, the result of the link before, which may be overwritten.
            runs: The parts of the stack with equal options, in order. They cover the stack, or are empty if it is
                padded.

        Returns:
            ``(b, m, n)`` on the device of `stack`, in its dtype or a narrower one.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update(stack, runs).")
