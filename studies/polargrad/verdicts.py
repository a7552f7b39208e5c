"""A verdict for every claim about PolarGrad that runs on a CPU can settle, from the runs and the sweeps.

The claims and thresholds are those of section 6 of the specification; "not run" is what a shorter preset leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch

from studies.page import number
from studies.polargrad import theory
from studies.polargrad.runs import Trace
from studies.polargrad.telemetry_check import untouched
from studies.verdict import CONFIRMED, NOT_SEEN, Verdict, judged

__all__ = ["NOT_RUN", "from_runs", "from_theory"]

NOT_RUN = "not run"


def from_theory(notice: Callable[[str], None]) -> Iterator[Verdict]:
    """C1-C3, C9-C11 and C20: seconds each."""
    notice("C1-C3")
    worst = theory.nuclear_norm()
    yield judged("C1", "nu = <G, U> is the nuclear norm", "rel. error < 1e-12", number(worst), worst < 1e-12)
    yield _homogeneity()
    twins = theory.twins()
    says = "heavy-ball at gamma is momentum-first at gamma / (1 - beta)"
    yield judged("C3", says, "rel. difference < 1e-10 over 50 steps", number(twins), twins < 1e-10)
    notice("C9-C11")
    yield _rate()
    yield _plateau()
    yield _limit()
    yield _diagnostics()


def _homogeneity() -> Verdict:
    double = max(theory.homogeneity(torch.float64, v) for v in theory.VARIANTS)
    single = max(theory.homogeneity(torch.float32, v) for v in theory.VARIANTS)
    muon = theory.homogeneity(torch.float64, "muon")
    return judged(
        "C2",
        "the update is homogeneous of degree 1, Muon's is not",
        "< 1e-10 (float64), < 1e-5 (float32) over scales 1e-8 to 1e4; Muon > 1",
        f"{number(double)}, {number(single)}, all variants; Muon {number(muon)}",
        double < 1e-10 and single < 1e-5 and muon > 1,
    )


def _rate() -> Verdict:
    bowls = [theory.Bowl(*size) for size in ((20, 20, 10), (40, 10, 10), (40, 10, 100), (60, 30, 10), (30, 30, 1))]
    found = [theory.rate_bound(bowl) for bowl in bowls]
    bounds = [1 - 1 / (bowl.rank * bowl.kappa) for bowl in bowls]
    ratios = ", ".join(f"{mean:.4f} (bound {b:.4f})" for b, (_, _, mean) in zip(bounds, found, strict=True))
    return judged(
        "C9",
        "linear rate at lr = 1 / (L r)",
        "every step within 1e-9 of both bounds",
        f"mean ratios {ratios}; never above",
        all(max(a, b) <= 1e-9 for a, b, _ in found),
    )  # fmt: skip


def _plateau() -> Verdict:
    rates = (0.2, 0.1, 0.05, 0.02, 0.01)
    levels = [theory.plateau(lr, "muon") / lr**2 for lr in rates]
    polar = theory.plateau(1 / 12, "polargrad", scale=2000 / 12)
    mean = sum(levels) / len(levels)
    return judged(
        "C10",
        "Muon's plateau is O(lr^2), PolarGrad has none",
        "plateau / lr^2 within 10 % of 0.67; PolarGrad < 1e-12",
        f"{', '.join(f'{x:.3f}' for x in levels)} for lr {', '.join(map(str, rates))}; PolarGrad {number(polar)}",
        all(abs(x / 0.67 - 1) <= 0.1 for x in levels) and abs(mean / 0.67 - 1) <= 0.1 and polar < 1e-12,
    )


def _limit() -> Verdict:
    ranks = (1, 2, 5, 10)
    safe = max(theory.step_limit(r, 1 / r) for r in ranks)
    over = min(theory.step_limit(r, 2.04 / r) for r in ranks)
    one = min(theory.step_limit(r, 1.0) for r in (5, 10))
    return judged(
        "C11",
        "the step limit is 2 / (L r): a rate that ignores the rank is unsafe",
        "1/r: f / f_0 < 1e-25; 2.04/r diverges, rank 1, 2, 5, 10; 1 diverges for rank 5, 10",
        f"{number(safe)}; at least {number(over)}; at least {number(one)}",
        safe < 1e-25 and over > 1e6 and one > 1e6,
    )


def _diagnostics() -> Verdict:
    touched = untouched()
    return judged(
        "C20",
        "diagnostics of the true gradient leave .grad alone",
        ".grad bit-identical after a step with telemetry",
        f"changed by {', '.join(touched)}" if touched else "bit-identical for every optimizer",
        not touched,
    )


Runs = Mapping[str, Trace]  # by label


def from_runs(quadratic: Runs, logistic: Runs, completion: Runs) -> Iterator[Verdict]:
    """C12-C17, each from the curves it names."""
    yield from _quadratic(quadratic)
    yield _completion(completion)
    yield _logistic(logistic)


def _values(runs: Runs, *wanted: tuple[str, int]) -> list[float]:
    """The objective of each run after so many steps; NaN if not measured."""
    return [runs[label].at(k) if label in runs else math.nan for label, k in wanted]


def _compared(claim: str, says: str, wanted: str, values: list[float], held: bool, why: str = "") -> Verdict:
    known = all(value == value for value in values)
    shown = ", ".join(number(value) if value == value else "-" for value in values)
    return Verdict(claim, says, wanted, shown, (CONFIRMED if held else NOT_SEEN) if known else NOT_RUN, why)


def _quadratic(runs: Runs) -> Iterator[Verdict]:
    exact, fast = "PolarGrad, exact, lr 3e-08", "PolarGrad, exact, lr 4e-08"
    v = _values(runs, (exact, 100), (exact, 1000), (exact, 4000), (fast, 100))
    near = all(abs(a / b - 1) <= 0.02 for a, b in zip(v, (4.079e3, 12.83, 3.37e-3), strict=False))
    yield _compared(
        "C12", "quadratic, exact oracle: slow at 3e-8, diverges at 4e-8",
        "4.079e3, 12.83, 3.37e-3 within 2 % after 100, 1000, 4000; 4e-8 lost before 100", v, near and v[3] == math.inf,
    )  # fmt: skip
    v = _values(runs, ("PolarGrad, QDWH@2, lr 4e-08", 4000), ("Muon, QDWH@2, lr 0.1", 4000), ("Adam, lr 0.05", 4000))
    yield _compared(
        "C13", "reference configuration at constant rates: PolarGrad far below Muon and Adam",
        "PolarGrad < 2e-2, Muon 7.0e4 to 8.5e4, Adam > 1e4 after 4000 (Adam oscillates)",
        v, v[0] < 2e-2 and 7e4 <= v[1] <= 8.5e4 and v[2] > 1e4,
        "at an inexact oracle and rates tuned to it",
    )  # fmt: skip
    v = _values(runs, ("Muon, QDWH@2, lr 0.05, decay", 4000))
    yield _compared("C14", "decay rescues Muon, sublinearly", "400 to 1600 after 4000", v, 400 <= v[0] <= 1600)
    names = ("PolarGradM momentum-first 0.9, QDWH@2, lr 2e-07", "PolarGradM polar-first 0.95, QDWH@2, lr 4e-07")
    v = _values(runs, *((name, 500) for name in names))
    yield _compared("C15", "momentum reaches the float32 floor", "< 1e-7 after 500, both", v, max(v) < 1e-7)


def _completion(runs: Runs) -> Verdict:
    wanted = (("PolarGrad, exact, lr 30", 100), ("PolarGrad, exact, lr 15", 100), ("Muon, QDWH@2, lr 0.25", 1000))
    v = _values(runs, *wanted)
    says = "completion: PolarGrad to the floor, Muon stalls at a constant rate"
    held = v[0] < 1e-12 and v[1] < 1e-6 and v[2] > 1e-4
    return _compared("C16", says, "lr 30 < 1e-12, lr 15 < 1e-6 after 100; Muon > 1e-4 after 1000", v, held)


def _logistic(runs: Runs) -> Verdict:
    names = ("PolarGrad, QDWH@2, lr 1.5e-07", "Muon, QDWH@2, lr 0.1", "Adam, lr 0.005")
    decayed = ("PolarGrad, QDWH@2, lr 2.5e-07, decay", "Adam, lr 0.01, decay", "Muon, QDWH@2, lr 0.2, decay")
    v = _values(runs, *((name, 1500) for name in (*names, *decayed)))
    held = 4.0e5 <= v[0] <= 4.2e5 and v[0] > v[1] > v[2] and v[3] < 2.8e5
    return _compared(
        "C17", "logistic: PolarGrad has the highest floor at a constant rate, and the lowest with decay",
        "constant PolarGrad 4.0e5 to 4.2e5 > Muon > Adam; decayed PolarGrad < 2.8e5 (then Adam, Muon)", v, held,
        f"lowest only with decay, and then {v[4] / v[3] - 1:+.1%} for Adam is no difference" if v[3] == v[3] else "",
    )  # fmt: skip
