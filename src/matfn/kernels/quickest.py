"""Quickest: products by whichever kernel took the least time on this device, measured once for each kind of product."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .card import CUDA, Card
from .products import EAGER, Products, Weight, differentiated
from .trial import Call, Outcome, trial

__all__ = ["Cache", "Quickest"]


class Cache(Protocol):
    """A place that keeps the outcomes of trials for later processes."""

    def read(self, card: str) -> dict[str, Outcome]:
        """Return all outcomes for a card, by the text of their kinds."""
        ...

    def measured(
        self, card: str, kind: str, fits: Callable[[Outcome], bool], measure: Callable[[], Outcome]
    ) -> Outcome:
        """Return the outcome that is kept if it fits, else measure and keep it; one process at a time."""
        ...


@dataclass(frozen=True)
class Quickest:
    """`Products` that take, for each kind of symmetric product, the kernel that was the quickest in a trial here.

    Candidates are torch's full products (`EAGER`), Triton's and quack's, as far as they are installed and run on the
    card. They are timed at the first product of each kind, on random matrices of its shape. This takes fractions of a
    second, and before it some seconds for each kernel that must be compiled. A candidate that fails, or whose result
    differs from float64 products by more than rounding, is left out; a tie within 2 % goes to `EAGER`. A captured CUDA
    graph takes the kernel with the least time on the device alone, other calls the one with the least time from Python.
    Results without symmetry, tensors that are not on an NVIDIA GPU, float64, `torch.compile` and derivatives always
    take `EAGER`.

    While a CUDA graph is captured nothing can be timed or compiled: a product that did not run before takes `EAGER` in
    this graph, with a warning. Run the same work once before the capture.

    Kernels differ in the order of their sums. Two runs agree to the last bit if they find the same outcomes in the same
    cache and both call or both replay; a run that measures may choose another kernel than the run before. Under
    `torch.use_deterministic_algorithms(True)` every product takes `EAGER`. The environment variable MATFN_PRODUCTS
    names one kernel for all kinds, see `matfn.run.products`. In float32, a trial holds for the setting of TF32 at its
    time.

    Attributes:
        cache: Keeps the outcomes; None keeps them for this process alone.
        card: The device side.
    """

    cache: Cache | None = field(default=None, repr=False)
    card: Card = field(default=CUDA, repr=False)
    # The keys are the exact layout of the arguments and the device. A product that was chosen before needs no other
    # look-up.
    _kernels: dict[tuple[object, ...], tuple[Products, Products]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    # The keys are the name of the card and the text of the kind.
    _outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type["Quickest"], tuple[Cache | None, Card]]:
        """Copy without outcomes, because a copy may be read on a machine with another card."""
        return Quickest, (self.cache, self.card)

    def syrk(self, X: Tensor) -> Tensor:
        """Compute X X^T."""
        return self._kernel("syrk", (X,)).syrk(X)

    def sym_mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B, symmetric."""
        return self._kernel("sym_mm", (A, B)).sym_mm(A, B)

    def sym_addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C, symmetric."""
        return self._kernel("sym_addmm", (C, A, B), (alpha, beta)).sym_addmm(C, A, B, alpha=alpha, beta=beta)

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B without symmetry, by torch."""
        return EAGER.mm(A, B)

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C without symmetry, by torch."""
        return EAGER.addmm(C, A, B, alpha=alpha, beta=beta)

    def outcomes(self, device: torch.device) -> dict[str, Outcome]:
        """Return what is known about a device, by the text of each `Kind`. Measures nothing."""
        if (card := self.card.name(device)) is None:
            return {}
        kept = {} if self.cache is None else self.cache.read(card)
        return kept | {kind: outcome for (on, kind), outcome in self._outcomes.items() if on == card}

    def _kernel(self, product: str, tensors: tuple[Tensor, ...], weights: tuple[Weight, ...] = ()) -> Products:
        if torch.compiler.is_compiling() or not self.card.holds(tensors[0]) or differentiated(*tensors, *weights):
            return EAGER
        if torch.are_deterministic_algorithms_enabled():
            return EAGER
        first = tensors[0]
        # All that decides which compiled kernel runs.
        layout = [(x.shape, x.stride(), x.data_ptr() % 16) for x in tensors]
        numbers = [(w.dtype, w.shape) if isinstance(w, Tensor) else w == 1.0 for w in weights]
        same = (product, first.device, first.dtype, *layout, *numbers)
        if (kernels := self._kernels.get(same)) is None:
            with torch.cuda.device_of(first):  # no effect on a CPU
                kernels = self._chosen(Call(product, tensors, weights))
            if kernels is None:
                return EAGER
            self._kernels[same] = kernels
        called, replayed = kernels
        return called if called is replayed or not self.card.capturing() else replayed

    def _chosen(self, call: Call) -> tuple[Products, Products] | None:
        """Return the kernels for a call and for a captured one, or None if none may run for now.

        They come from memory, from the cache or from a trial.
        """
        device, kind = call.tensors[0].device, call.kind()
        card = self.card.name(device)
        if card is None or kind.scattered or not all(call.tensors[-1].shape):
            return EAGER, EAGER
        if len(candidates := self.card.candidates(kind, device)) == 1:
            return EAGER, EAGER
        if self.card.capturing():
            _warn(
                f"no product like {kind} ran before a CUDA graph was captured, so the graph takes torch's full "
                "product: run the same work once before the capture"
            )
            return None
        place = (card, str(kind))
        try:
            if place not in self._outcomes:
                self._outcomes[place] = self._outcome(call, candidates, card)
            called, replayed = (by for name in self._outcomes[place].winners for by in candidates if repr(by) == name)
            failure = _failure(call, called, replayed)
        except torch.OutOfMemoryError:
            _warn(f"no memory is left to time kernels for {kind}, so it takes torch's full product")
            return EAGER, EAGER
        if failure:
            _warn(f"{failure} for a product like {kind}, so this one takes torch's full product")
            return EAGER, EAGER
        return called, replayed

    def _outcome(self, call: Call, candidates: Sequence[Products], card: str) -> Outcome:
        def measure() -> Outcome:
            with torch.no_grad():
                return trial(call.rehearsed(), candidates, self.card.seconds)

        # Work that waits for another process must not be part of the trial: that process may wait for this trial.
        self.card.wait()
        if self.cache is None:
            return measure()
        return self.cache.measured(card, str(call.kind()), lambda outcome: outcome.covers(candidates), measure)


def _failure(call: Call, *winners: Products) -> str:
    """Say which of the winners fails for this call; empty if none does.

    The trial ran another call of the same kind, perhaps in another process, and layouts compile other programs. This
    run also compiles them, so that a CUDA graph can be captured.
    """
    for by in dict.fromkeys(winners):
        try:
            if by is not EAGER:
                call.by(by)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise their own types
            return f"{by!r} fails ({' '.join(f'{type(error).__name__}: {error}'.split())[:200]})"
    return ""


def _warn(message: str) -> None:
    warnings.warn(f"Quickest: {message}", RuntimeWarning, stacklevel=5)
