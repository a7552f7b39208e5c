"""How much a better choice of the lower ends could gain: a search over all sequences, and over all polynomials."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from matfn.methods.ritz_minimax.table import table
from studies.ritz.rules import Grid, Sight, applied, compositions, started, to_budget, upper_end
from studies.spectra import SPECTRA, drawn

__all__ = ["CASES", "Found", "any_quintics", "best_ends", "found", "losses"]

Found = dict[str, float]
_FIRST, _LAST = -16.0, 20.0  # log(ratio / (1 - ratio)) of the lower ends tried


def _cases() -> dict[str, np.ndarray]:
    names = ("gaussian", "log-uniform 1e-3", "log-uniform 1e-6", "i^-1", "i^-2", "htmp 5", "outlier x100", "clustered")
    found = {name: SPECTRA[name](128, 128, 0) for name in names}
    return (
        found
        | {"gaussian 256x64": SPECTRA["gaussian"](256, 64, 0)}
        | {f"drawn {i}": drawn(128, 128, i) for i in (1, 3, 5)}
    )


CASES = _cases()


def rows() -> tuple[Tensor, Tensor]:
    """The quintics of the table that are tried: with their image ending at 1, and lying about 1 (for the last step)."""
    of = table(2, 2)
    place = np.log(of.ratios) - np.log1p(-of.ratios)
    near = (place >= _FIRST) & (place <= _LAST)
    c = of.coefficients[near]
    return torch.from_numpy(c / (1 + of.errors[near])[:, None]), torch.from_numpy(c)


def losses(s: Tensor, sequences: Tensor) -> Tensor:
    """Mean (1 - s)^2 at the end of each sequence of row numbers, (..., steps), from s, (n,), at most 1."""
    inner, last = rows()
    state = s.expand(*sequences.shape[:-1], -1)
    for t in range(sequences.shape[-1]):
        of = last if t == sequences.shape[-1] - 1 else inner
        state = applied(state, 2, of[sequences[..., t]].unsqueeze(-2))
    return (1 - state).square().mean(-1)


def best_ends(s: Tensor, steps: int, starts: int) -> Tensor:
    """The best sequence that was found, (steps,): from many starts, one lower end at a time, all others fixed.

    Args:
        s: (n,), at most 1.
        steps: Length.
        starts: Random ones; sequences that lift more and more are tried besides.
    """
    count, generator = len(rows()[0]), torch.Generator().manual_seed(0)
    rising = torch.randint(count, (starts, steps), generator=generator).sort(-1).values
    wild = torch.randint(count, (starts, steps), generator=generator)
    sequences = torch.cat([rising, wild])
    every = torch.arange(count)
    before = torch.full((len(sequences),), torch.inf, dtype=s.dtype)
    for _ in range(20):
        for t in range(steps):
            tried = sequences.unsqueeze(1).repeat(1, count, 1)
            tried[..., t] = every
            sequences[:, t] = torch.stack([losses(s, one).argmin() for one in tried])
        now = losses(s, sequences)
        if bool((now >= before * (1 - 1e-9)).all()):
            break
        before = now
    return sequences[losses(s, sequences).argmin()]


def any_quintics(s: Tensor, sequence: Tensor) -> float:
    """rms(1 - s) after the best odd quintics near this sequence, minimax or not: a local minimum, by L-BFGS."""
    inner, last = rows()
    start = torch.stack([(last if t == len(sequence) - 1 else inner)[row] for t, row in enumerate(sequence.tolist())])
    scale = start.abs()
    x = torch.ones_like(start).copysign(start).requires_grad_()
    search = torch.optim.LBFGS([x], max_iter=500, history_size=50, tolerance_grad=1e-14, tolerance_change=1e-16,
                               line_search_fn="strong_wolfe")  # fmt: skip

    least = [float(losses(s, sequence))]

    def loss() -> Tensor:
        search.zero_grad()
        state = s
        for t in range(len(sequence)):
            state = applied(state, 2, x[t] * scale[t])
        value = (1 - state).square().mean()
        if 0 <= value.item() < least[0]:  # a step that was too long may end at NaN
            least[0] = value.item()
        value.log().backward()  # relative progress counts: errors span decades
        return value.log()

    search.step(loss)
    return least[0] ** 0.5


def found(s: np.ndarray, steps: int, starts: int, seeds: int) -> Found:
    """rms(1 - s) by the rule as it stands, told the spectrum, by the best lower ends, and by any quintics."""
    start = started(s, 2, 1)
    relative = (start / upper_end(start**2).sqrt()).squeeze(0)
    sequence = best_ends(relative, steps, starts)
    measured = to_budget(s, steps, Sight(), seeds=seeds).square().mean().sqrt()
    return {
        "measured": float(measured),
        "told": float(to_budget(s, steps, Sight("truth"), grid=Grid(every=1))),
        "planned": _planned(relative, steps),
        "all lower ends": float(losses(relative, sequence)) ** 0.5,
        "any quintics": any_quintics(relative, sequence),
    }


def _planned(s: Tensor, steps: int) -> float:
    """The best of the compositions, once chosen and kept to."""
    state = s.unsqueeze(-1)
    for coefficients in compositions(2, 2, steps, Grid(every=1)):
        state = applied(state, 2, coefficients)
    return float((1 - state).square().mean(0).min()) ** 0.5
