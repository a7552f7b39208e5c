"""What `python -m studies.tune` found, written down: tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import drawing
from benchmarks.polar import BASELINE, SPECTRA
from benchmarks.timing import Timing
from studies.tune.figure import figure, quickest
from studies.tune.plan import fraction
from studies.tune.tune import Candidate, Tuning

__all__ = ["CAPTION", "aside_table", "candidate_table", "kernel_table", "lines", "plain", "write"]

CAPTION = (
    "* what `orthogonalize` does unasked, M the default of optim.Muon; torch.optim.Muon iterates in bfloat16 in "
    "every table; + on the measured Pareto front of time against "
    "rms(1 - sigma), of the momenta if there are any, else of singular values log-uniform in [1e-3, 1]; ~ a spread "
    "(quartile range by median) too large to rank the row. A plan is named by degrees, lower end, cushion, S4 for the "
    "Schatten-4 norm, deflation, engine (restarts) and kernel. deflated 1/16: before the first step the largest "
    "sixteenth of the singular values are shrunk to the size of the next, by a sketch in float32, so that fewer steps "
    "do; its time is in all columns, and foretold is of what it leaves of those spectra. worst: "
    "largest |1 - s| over [lower, 1] without rounding; rounding: "
    "what the dtype may add to it at most; foretold: rms expected of those spectra. predicted: products counted, times "
    "the least measured time of each on that kernel, and what is around them."
)
Table = tuple[list[str], list[list[str]]]


def kernel_table(tuning: Tuning) -> Table:
    """Kernels by products: milliseconds and the rate of what is really done."""
    names = list(dict.fromkeys(rate.kernel for rate in tuning.rates))
    products = list(dict.fromkeys(rate.product for rate in tuning.rates))
    known = {(rate.kernel, rate.product): rate for rate in tuning.rates}
    rows = []
    for name in names:
        row = [f"{name} *" if name == tuning.kernel[0] else name]
        for product in products:
            rate = known.get((name, product))
            row.append("as eager" if rate is None else f"{1e3 * rate.seconds:.3g} ms, {rate.rate / 1e9:.0f}")
        rows.append(row)
    heads = [f"{product.name} {product.rows} x {product.inner} x {product.columns}" for product in products]
    return ["kernel: time, GF/s done", *heads], rows


def aside_table(tuning: Tuning) -> Table:
    """What is around the products, by the share of the singular values that is deflated: milliseconds."""
    once = tuning.aside.once
    heads = ["around the products:", *(f"deflated {fraction(share)}" if share else "not deflated" for share in once)]
    return heads, [["scaling, deflation, rounding, ms", *(f"{1e3 * seconds:.3g}" for seconds in once.values())]]


def candidate_table(tuning: Tuning) -> Table:
    """What was measured, by time, and torch's Muon beside it."""
    bound, figures = tuning.request.pace.bound, [n for n in _HEADS if n in (tuning.measured[0].errors or {})]
    heads = ["plan, kernel", "", "ms", "spread", "predicted", "worst", "rounding", "foretold"]
    rows = [_cells(candidate, figures, bound) for candidate in tuning.measured]
    if tuning.beside is not None:
        timing, errors = tuning.beside
        times = ["~" * (timing.spread > bound), f"{1e3 * timing.median:.3g}", _spread(timing), *["-"] * 4]
        rows.append([BASELINE, *times, *(_figure(name, errors) for name in figures)])
    return [*heads, *(_HEADS[name] for name in figures)], rows


_HEADS = {
    "rms, momenta": "rms momenta",
    "direction, momenta": "least direction",
    f"rms, {SPECTRA[1]}": "rms log-u.",
    f"rms, {SPECTRA[0]}": "rms gauss.",
    f"direction, {SPECTRA[1]}": "direction log-u.",
}


def _cells(c: Candidate, figures: list[str], bound: float) -> list[str]:
    assert c.timing is not None
    assert c.errors is not None
    mark = {"": "", "Muon": "M"}.get(c.choice, "*") + "+" * c.best + "~" * (c.timing.spread > bound)
    return [
        c.name,
        mark,
        f"{1e3 * c.timing.median:.3g}",
        _spread(c.timing),
        f"{1e3 * c.predicted:.3g}",
        f"{c.plan.error:.1e}",
        f"{c.plan.rounding:.1e}",
        f"{c.plan.expected:.1e}",
        *(_figure(name, c.errors) for name in figures),
    ]


def _spread(timing: Timing) -> str:
    return f"{timing.spread:.0%}" + (f", {timing.attempts} times" if timing.attempts > 1 else "")


def _figure(name: str, errors: Mapping[str, float]) -> str:
    return f"{errors[name]:.3f}" if name.startswith("direction") else f"{errors[name]:.1e}"


def lines(tuning: Tuning) -> list[str]:
    """The choice, and everything that was left out."""
    name, reason = tuning.kernel
    refused = f"{len(tuning.refused)} mixes of degrees that this dtype does not bear (rounding) are left out"
    usual = [f"{who} takes {plan.name} ({', '.join(tuning.reasons[who])})" for who, plan in tuning.usual.items()]
    return [
        f"choice: {'; '.join(usual)}; kernel {name} ({reason})",
        f"{len(tuning.foretold)} plans on kernels foretold, {len(tuning.measured)} measured; {refused}",
        *(f"{kernel} is not here: {why}" for kernel, why in tuning.absent.items()),
        *_disturbed(tuning),
    ]


def _disturbed(tuning: Tuning) -> list[str]:
    """That times which scatter do not settle the front, if there are any."""
    bound, rows = tuning.request.pace.bound, tuning.measured
    loud = [c.best for c in rows if c.timing is not None and c.timing.spread > bound]
    text = f"~ {len(loud)} of {len(rows)} rows, {sum(loud)} of them marked +, scatter by more than {bound:.0%}"
    text += ": the machine was disturbed, and the front is not settled there. Run it again when it is quiet"
    return [text] if loud else []


def plain(tuning: Tuning) -> dict[str, Any]:
    """As plain values, for JSON."""
    request = tuning.request
    return {
        "shape": request.shape,
        "dtype": str(request.dtype).removeprefix("torch."),
        "batch": request.batch,
        "device": request.device,
        "lowers": request.lowers,
        "choice": {
            **{who: plan.name for who, plan in tuning.usual.items()},
            "kernel": tuning.kernel[0],
            "reason": tuning.kernel[1],
            "reasons": {who: list(why) for who, why in tuning.reasons.items()},
        },
        "figure": tuning.figure,
        "rates": [
            {**vars(r.product), "kernel": r.kernel, "seconds": r.seconds, "spread": r.spread, "rate": r.rate}
            for r in tuning.rates
        ],
        "aside": {
            "seconds around the products by share deflated": {f"{at:g}": t for at, t in tuning.aside.once.items()},
            "seconds per entry of a sum": tuning.aside.per_entry,
        },
        "bound": request.pace.bound,
        "measured": [_plain(candidate) for candidate in tuning.measured],
        "foretold": [_plain(candidate) for candidate in quickest(tuning)],
        BASELINE: None
        if tuning.beside is None
        else {"median": tuning.beside[0].median, "spread": tuning.beside[0].spread, "errors": tuning.beside[1]},
        "refused": tuning.refused,
        "absent": tuning.absent,
        "conditions": tuning.conditions,
    }


def _plain(c: Candidate) -> dict[str, Any]:
    known = {
        "name": c.name,
        "method": repr(c.plan.method),
        "engine": repr(c.plan.engine),
        "deflation": c.plan.deflation,
        "kernel": c.kernel,
        "predicted": c.predicted,
        "worst": c.plan.error,
        "rounding": c.plan.rounding,
        "expected": c.plan.expected,
    }
    if c.timing is None or c.errors is None:
        return known
    return {
        **known,
        "seconds": c.timing.seconds,
        "median": c.timing.median,
        "spread": c.timing.spread,
        "attempts": c.timing.attempts,
        "errors": dict(c.errors),
        "choice": c.choice,
        "front": c.best,
    }


def write(tuning: Tuning, directory: Path) -> list[Path]:
    """Write tune.json and tune.png; the paths are returned."""
    return drawing.write(directory / "tune", plain(tuning), figure(tuning))
