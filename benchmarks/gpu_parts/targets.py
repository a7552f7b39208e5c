"""Targets: what the package must show on a Hopper card; beside each the prediction, the measurement and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.gpu_parts import predictions
from benchmarks.gpu_parts.case import Row
from benchmarks.gpu_parts.predictions import CARDS, H200, Card
from benchmarks.gpu_parts.steps import BASE, MODELS, OURS
from benchmarks.gpu_parts.steps import COMPILED as COMPILED_STEP
from benchmarks.gpu_parts.steps import GN as GN_STEP
from benchmarks.gpu_parts.variants import COMPILED, FOUR, GN, PEERS
from matfn.run.plan import THINLY

__all__ = ["NOT_YET", "Target", "Verdict", "card_of", "judged", "targets"]

NOT_YET = "not yet measured on a GPU"
Stack = tuple[int, int, int]
Rows = dict[str, list[Row]]
# Milliseconds as a CUDA graph, at an rms of at most gram-newton-schulz's in the same run.
STACK_LIMITS: dict[Stack, float] = {
    (12, 768, 3072): 0.80, (8, 2048, 8192): 5.0, (8, 2048, 2048): 2.2, (2, 4096, 11008): 6.8,
}  # fmt: skip
GN_RMS = 0.095  # of gram-newton-schulz on these stacks, where it was not in the run (H200, 2026-11-26)
SMALL: Stack = (100, 64, 64)
_BUCKETS = 3  # of GPT-2 small: shapes


@dataclass(frozen=True)
class Target:
    """One number that must be reached.

    Attributes:
        name: What is measured.
        limit: The bound.
        least: Whether the number must be at least the limit, not at most.
        unit: Of all three numbers.
        predicted: By counts; NaN if there is no count for it, and `why` says what is known.
        measured: From the rows by part; None if they are not there.
        why: Where the prediction comes from.
    """

    name: str
    limit: float
    least: bool
    unit: str
    predicted: float
    measured: Callable[[Rows], float | None]
    why: str


@dataclass(frozen=True)
class Verdict:
    """A target, what was measured, and what follows."""

    target: Target
    measured: float | None

    @property
    def text(self) -> str:
        """met, missed, or not yet measured."""
        if self.measured is None or math.isnan(self.measured):
            return NOT_YET
        met = self.measured >= self.target.limit if self.target.least else self.measured <= self.target.limit
        return "met" if met else "missed"


def card_of(conditions: Row) -> Card:
    """The card of a run; predictions for others are those for an H200."""
    return next((card for name, card in CARDS.items() if name in str(conditions.get("gpu", ""))), H200)


def judged(result: Row) -> list[Verdict]:
    """All targets, in the order of the list; a run without a GPU has measured none."""
    conditions, rows = result["conditions"], {name: part["rows"] for name, part in result["parts"].items()}
    measured = rows if conditions["measured"] == "on a GPU" else {}
    return [Verdict(target, target.measured(measured)) for target in targets(card_of(conditions))]


def targets(card: Card = H200) -> list[Target]:
    """The list, with predictions for a card."""
    return [*_of_stacks(card), *_of_steps(card), *_of_parts(card), *_of_checks()]


def _of_stacks(card: Card) -> Iterator[Target]:
    for stack, limit in STACK_LIMITS.items():
        yield Target(
            f"{_text(stack)}, rms <= gram-newton-schulz's", limit, False, "ms", 1e3 * predictions.best(stack, card),
            partial(_quickest, stack), "products at measured shares, bytes, launches",
        )  # fmt: skip
    theirs = 0.068e-3  # plain torch, compiled, H200, 2026-11-26
    yield Target(
        f"{_text(SMALL)}, of compiled torch's time", 1.0, False, "times", predictions.best(SMALL, card) / theirs,
        partial(_of_compiled, SMALL), "ours by counts, theirs as measured on an H200 (.068 ms)",
    )  # fmt: skip


def _of_steps(card: Card) -> Iterator[Target]:
    for name, model in MODELS.items():
        ours, four = (predictions.step(model, method, card) for method in (THINLY, FOUR))
        theirs, compiled = predictions.their_step(model, card), predictions.compiled_step(model, card)
        note = f"both by counts; with one cubic step more, at less error than theirs, {theirs / four:.2f}"
        yield Target(
            f"Muon step, {name}, speed of gram-newton-schulz's", 1.25, True, "times", theirs / ours,
            partial(_speed, name, GN_STEP), note,
        )  # fmt: skip
        yield Target(
            f"Muon step, {name}, speed of compiled torch.optim.Muon's", 2.0, True, "times", compiled / ours,
            partial(_speed, name, COMPILED_STEP), "a lower bound: theirs goes matrix by matrix",
        )  # fmt: skip
    yield Target(
        "Muon step, GPT-2 small, eager by graph",
        1.15,
        False,
        "times",
        math.nan,
        _eager,
        "by launches, which the next row counts",
    )
    yield Target("Muon step, GPT-2 small, launches a bucket", 40, False, "launches", math.nan, _launches,
                 "counted on the CPU by the tests")  # fmt: skip


def _of_parts(card: Card) -> Iterator[Target]:
    known = min(share for rows, _, share in predictions.HALF if rows >= 2048)
    yield Target("symmetric products from 2048 rows, least share of the matmul rate", 0.7, True, "of the rate", known,
                 _least_share, "quack's least on an H200 (.56 at 2048 x 2048; .79 at 2048 x 8192)")  # fmt: skip
    fixed = predictions.orthogonalization((12, 768, 3072), _fixed(), _direct(), card)
    looks = 4 * 50e-6
    yield Target("RitzMinimax, looks every 10 steps, of fixed steps", 1.15, False, "times", 1 + looks / 10 / fixed,
                 partial(_looks, "measured, every 10"), "a look of 50 us by its launches and bytes")  # fmt: skip
    for b, n, limit in ((64, 256, 10.0), (16, 1024, 60.0)):
        yield Target(f"roots {b} x {n}, p = 4, error <= 1e-4", limit, False, "ms",
                     1e3 * predictions.root(b, n, 4, card), partial(_root, b, n),
                     "coupled products at 50 TFLOP/s in float32, bytes, launches")  # fmt: skip


def _of_checks() -> Iterator[Target]:
    for parts, what in (
        (("kernels", "triton", "quack"), "kernels within their roundings of float64"),
        (("contract",), "methods and verbs as on the CPU"),
        (("trajectories",), "weights after 20 steps as on the CPU"),
        (("safety",), "singular values on hostile spectra"),
    ):  # fmt: skip
        yield Target(f"{what}, checks failed", 0, False, "checks", 0.0, partial(_failed, parts), "a correct program")


def _text(stack: Stack) -> str:
    return " x ".join(map(str, stack))


def _fixed() -> Any:
    import matfn

    return matfn.PolarExpress(steps=4)


def _direct() -> Any:
    import matfn

    return matfn.Direct()


def _of_stack(rows: Rows, stack: Stack) -> list[Row]:
    return [row for row in rows.get("stacks", []) if tuple(row.get("stack", ())) == stack and row.get("graph_seconds")]


def _quickest(stack: Stack, rows: Rows) -> float | None:
    """The quickest of ours that leaves no more error than gram-newton-schulz."""
    found = _of_stack(rows, stack)
    theirs = [row["rms"] for row in found if row["name"] == GN]
    allowed = theirs[0] if theirs else GN_RMS
    ours = [row["graph_seconds"] for row in found if row["name"] not in PEERS and row["rms"] <= allowed]
    return 1e3 * min(ours) if ours else None


def _of_compiled(stack: Stack, rows: Rows) -> float | None:
    theirs = [row["graph_seconds"] for row in _of_stack(rows, stack) if row["name"] == COMPILED]
    ours = [row["graph_seconds"] for row in _of_stack(rows, stack) if row["name"] not in PEERS]
    return min(ours) / theirs[0] if ours and theirs else None


def _best_step(rows: Rows, model: str, names: Iterable[str]) -> float | None:
    found = [row for row in rows.get("steps", []) if row.get("model") == model and row["name"] in names]
    times = [row[kind] for row in found for kind in ("seconds", "graph_seconds") if row.get(kind)]
    return min(times) if times else None


def _speed(model: str, theirs: str, rows: Rows) -> float | None:
    """Their best time by our best, eager or as a graph, each."""
    names = (theirs,) if theirs in BASE[:1] else (theirs, "torch.optim.Muon, torch.compile")
    base, ours = _best_step(rows, model, names), _best_step(rows, model, (OURS, f"{OURS}, graph=True"))
    return base / ours if base and ours else None


def _ours_on_small(rows: Rows) -> Row:
    found = [row for row in rows.get("steps", []) if row.get("model") == "GPT-2 small" and row["name"] == OURS]
    return found[0] if found else {}


def _eager(rows: Rows) -> float | None:
    row = _ours_on_small(rows)
    return row["seconds"] / row["graph_seconds"] if row.get("graph_seconds") else None


def _launches(rows: Rows) -> float | None:
    launches = _ours_on_small(rows).get("launches")
    return None if launches is None else launches / _BUCKETS


def _least_share(rows: Rows) -> float | None:
    """Of each product and size from 2048 rows on the best kind, and of these the least."""
    best: dict[Any, float] = {}
    for row in rows.get("rates", []):
        if "share_of_matmul_rate" in row and row["size"][1] >= 2048:
            key = (row["product"], tuple(row["size"]), row["dtype"])
            best[key] = max(best.get(key, 0.0), row["share_of_matmul_rate"])
    return min(best.values()) if best else None


def _looks(name: str, rows: Rows) -> float | None:
    found = [r["of_fixed"] for r in rows.get("looks", []) if r.get("name") == name and "of_fixed" in r]
    return max(found) if found else None


def _root(b: int, n: int, rows: Rows) -> float | None:
    found = [
        row["seconds"] for row in rows.get("roots", [])
        if (row["batch"], row["n"], row["p"]) == (b, n, 4) and "Shampoo" in row["name"] and row.get("error", 1) <= 1e-4
    ]  # fmt: skip
    return 1e3 * min(found) if found else None


def _failed(parts: tuple[str, ...], rows: Rows) -> float | None:
    checks = [row for part in parts for row in rows.get(part, []) if "passed" in row]
    return float(sum(not row["passed"] for row in checks)) if checks else None
