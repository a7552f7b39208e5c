"""The gradients of a small GPT in training: condition numbers by kind of matrix, and the quality of each oracle.

The text is CPython's standard library, cut into words, runs of spaces and signs; the 4095 most frequent are the
vocabulary, and one token stands for the rest. So the vocabulary is 32 times as long as the width, few of its rows occur
in a batch, and their frequencies fall by Zipf's law, as in the paper's model of 541M parameters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matfn import QDWH, PolarExpress, Tuned, orthogonalize, polar
from matfn.train.data import Batches, load_corpus
from matfn.train.model import loss, make_model
from matfn.train.recipe import DataTable, ModelTable
from studies.page import Shown, number
from studies.polargrad.factors import orthogonality
from studies.verdict import Verdict, judged

__all__ = ["Gradient", "Length", "gradients", "table", "verdicts", "words"]

ORACLES: dict[str, Callable[[Tensor], Tensor]] = {
    "NS@5": lambda G: orthogonalize(G, method=Tuned("jordan")),
    "Polar Express@8": lambda G: orthogonalize(G, method=PolarExpress(steps=8)),
    # `orthogonalize` would set singular values up to max(m, n) eps sigma_1 to zero, which are most of a head's.
    "QDWH": lambda G: polar(G, method=QDWH(), factor="complete").U,
}
MODEL: dict[str, Any] = {"name": "gpt", "layers": 4, "width": 128, "heads": 4, "positions": "learned"}
CONTEXT, BATCH, VOCABULARY = 128, 8, 4096
KINDS = ("embedding", "head", "hidden")


@dataclass(frozen=True)
class Length:
    """How long to train, and the numbers of steps before which the gradients are looked at."""

    steps: int = 60
    at: tuple[int, ...] = (0, 20, 60)


@dataclass(frozen=True)
class Gradient:
    """One gradient.

    Attributes:
        kind: "embedding", "head" or "hidden".
        step: The number of steps before it.
        condition: The greatest singular value over the least, in float64.
        numeric: How many singular values lie within 1e-2, the reach of Jordan's steps, of the Frobenius norm; a share.
        orthogonality: ||U^T U - I||_F / sqrt(n) of each oracle's factor, float32.
        nuclear: <G, U> over the nuclear norm, by oracle.
    """

    kind: str
    name: str
    step: int
    condition: float
    numeric: float
    orthogonality: dict[str, float]
    nuclear: dict[str, float]


def words(text: bytes, vocabulary: int = VOCABULARY) -> np.ndarray:
    """The text as numbers of words; 0 is every word beyond the most frequent `vocabulary` - 1."""
    pieces = re.findall(rb"\w+|[^\S\n]+|\n|[^\w\s]", text)
    order = {word: k for k, (word, _) in enumerate(Counter(pieces).most_common(vocabulary - 1), 1)}
    return np.fromiter((order.get(piece, 0) for piece in pieces), dtype=np.uint16, count=len(pieces))


def gradients(notice: Callable[[str], None], length: Length = Length()) -> list[Gradient]:
    """Train with AdamW (rate 2e-3 after 10 steps of warm-up) and measure the gradients on the way."""
    corpus = load_corpus(DataTable(source="stdlib", context=CONTEXT))
    tokens = words(corpus.train[: 4 * 10**6].tobytes())
    model = make_model(ModelTable(**MODEL), VOCABULARY, context=CONTEXT, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1, betas=(0.9, 0.95))
    batches, found = Batches(tokens, CONTEXT, batch=BATCH, seed=0), []
    for step in range(length.steps + 1):
        notice(f"6.4  gradients of a GPT, step {step} of {length.steps}")
        optimizer.zero_grad()
        loss(model, *batches.draw()).backward()
        if step in length.at:
            found += list(_seen(model, step))
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 10)
        optimizer.step()
    return found


def _seen(model: torch.nn.Module, step: int) -> Iterator[Gradient]:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and not name.startswith("positions") and parameter.grad is not None:
            kind = {"embed": "embedding", "head": "head"}.get(name.split(".")[0], "hidden")
            yield measured(kind, name, step, parameter.grad)


def measured(kind: str, name: str, step: int, G: Tensor) -> Gradient:
    """The condition number of a gradient and the quality of each oracle on it."""
    s = torch.linalg.svdvals(G.double())
    factors = {oracle: made(G) for oracle, made in ORACLES.items()}
    return Gradient(
        kind, name, step, float(s[0] / s[-1]), float((s > 1e-2 * s.norm()).double().mean()),
        {oracle: orthogonality(U) for oracle, U in factors.items()},
        {oracle: float((U.double() * G).sum() / s.sum()) for oracle, U in factors.items()},
    )  # fmt: skip


def table(found: Sequence[Gradient]) -> Shown:
    """Medians by kind and step."""
    rows = []
    for step in sorted({g.step for g in found}):
        for kind in KINDS:
            own = [g for g in found if (g.kind, g.step) == (kind, step)]
            cells = [number(_median([g.condition for g in own])), f"{_median([g.numeric for g in own]):.2f}"]
            for oracle in ORACLES:
                left = _median([g.orthogonality[oracle] for g in own])
                cells.append(f"{number(left)}; {_median([g.nuclear[oracle] for g in own]):.3f}")
            rows.append((f"{kind}, after {step} steps", cells))
    heads = ("kappa_2(G)", "share above 1e-2 ||G||_F", *ORACLES)
    remark = (
        "Medians over the matrices of a kind. For each oracle: ||U'U - I||_F / sqrt(n), then <G, U> / ||G||_*; a polar "
        f"factor has 0 and 1. A GPT of {MODEL['layers']} layers and width {MODEL['width']}, {VOCABULARY} words, "
        f"{BATCH * CONTEXT} tokens a batch."
    )
    return Shown("6.4: gradients of embedding, head and hidden matrices", heads, rows, remark)


def verdicts(found: Sequence[Gradient]) -> Iterator[Verdict]:
    """The paper's argument for an exact oracle on embedding and head."""
    by_kind = {kind: [g for g in found if g.kind == kind] for kind in KINDS}
    kappa = {kind: _median([g.condition for g in own]) for kind, own in by_kind.items()}
    over = "medians over the matrices and steps of table 6.4"
    yield judged(
        "LM 6", "gradients of embedding and head are far worse conditioned than those of hidden matrices",
        "median kappa_2 of both at least 10 times the hidden matrices'",
        ", ".join(f"{kind} {number(value)}" for kind, value in kappa.items()),
        min(kappa["embedding"], kappa["head"]) >= 10 * kappa["hidden"],
        why=over, condition=over,
    )  # fmt: skip
    left = {kind: {o: _median([g.orthogonality[o] for g in own]) for o in ORACLES} for kind, own in by_kind.items()}
    tables = ("embedding", "head")
    shown = "; ".join(f"{kind} " + ", ".join(f"{o} {number(v)}" for o, v in left[kind].items()) for kind in KINDS)
    yield judged(
        "LM 7", "Newton-Schulz fails on embedding and head, QDWH does not",
        "||U'U - I||_F / sqrt(n): NS@5 on both above NS@5 on hidden matrices; QDWH < 1e-5", shown,
        min(left[kind]["NS@5"] for kind in tables) > left["hidden"]["NS@5"]
        and max(left[kind]["QDWH"] for kind in tables) < 1e-5,
        why="Jordan's steps are inexact on every matrix, the hidden ones included",
    )  # fmt: skip


def plain(found: Sequence[Gradient]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(g) for g in found]


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
