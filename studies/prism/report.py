"""The page of `studies.prism`: a verdict for each claim, tables of steps, the paper's figures, the deviations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from matplotlib.figure import Figure

from studies.page import Report, Shown
from studies.prism.counts import Table, first, tables
from studies.prism.plots import convergence, step_counts
from studies.prism.sizes import DENSE, Curve, dense, paper_sizes
from studies.prism.verdicts import from_curves, from_identities, from_tables, spread
from studies.verdict import Verdict, shown

__all__ = ["made", "report"]

NOTES = """Each cell: measured here (published). A count is of steps, a mean over ten (6.1), three (6.3) or five (6.5)
sketches where it has a decimal; `>120` did not get there. Columns: `least` is the least value over the Frobenius norm,
`NS` Newton-Schulz of degree 3 or 5, `PR` PRISM with the exact fit, `s8` with a sketch of 8 columns, `w3` after three
warm steps, `PE` the published eight polynomials of Polar Express for 1e-3, then Newton-Schulz, `told` Polar Express for
the true least value; `4` the inverse fourth root, a up to 1/2 or `3/8`."""

DEVIATIONS = """**Deviations.** Spectra drawn at random differ from the published draws. The least value decides the
counts: a step lifts a singular value by a fixed factor (1.5, 1.875, 2 and 2.95 for NS3, NS5, PR3 and PR5), so a draw
whose least value is x times the published one takes ln x / ln 2.95 steps fewer with PR5. Counts are allowed to differ
by that and one step; 6.3 lists no least values, and a factor of 3.5 is allowed there. The floors of 6.3 are up to twice
the published ones: the polynomial is summed in powers of M, which stays close to I, and not of R, which vanishes."""

SIZES = """**The paper's sizes.** The singular values of its matrices are drawn from bidiagonal models (exact for
Gaussian matrices), and the iterations act on them in float64: a polar iteration moves each singular value alone, and a
Gaussian sketch weights them by chi^2. Heavy-tailed spectra (HTMP) have least values far below the rounding of float32.
A matrix assembled in float32 carries an error E with ||E||_F near 3.5e-8 ||A||_F, which lifts the least singular value
to the least one of E. `with a float32 floor` adds that in quadrature; the dense matrices are assembled and iterated in
float32.

The claims about training (Shampoo, GPT) stand with all others in [the evidence](../evidence.md)."""

Notice = Callable[[str], None]


def report(notice: Notice) -> Report:
    """Everything, reproduced."""
    identities = list(from_identities(notice))
    counted = list(tables(notice))
    curves = [*paper_sizes(notice), *dense(notice)]
    return made(counted, curves, [*identities, *from_tables(*counted)])


def made(results: Sequence[Table], curves: Sequence[Curve], found: Sequence[Verdict]) -> Report:
    """The report of these tables, curves and verdicts, with the verdicts of the curves."""
    every = [*found, *from_curves(curves)]
    return Report(
        paper="prism",
        title="PRISM: claims and steps to convergence",
        notes=(NOTES, DEVIATIONS, SIZES),
        tables=[shown("Claims", ordered(every)), *(_shown(table) for table in results), *sizes_table(curves)],
        figures=drawings(results, curves),
        plain={
            "verdicts": [asdict(verdict) for verdict in ordered(every)],
            "tables": [asdict(t) | {"unexplained": t.unexplained()} for t in results],
            "curves": [asdict(curve) for curve in curves],
        },
    )


def ordered(found: Sequence[Verdict]) -> list[Verdict]:
    """C1 to C19 by number, the others as they came."""
    return sorted(found, key=lambda v: int(v.claim[1:]) if v.claim[1:].isdigit() else 99)


def drawings(results: Sequence[Table], curves: Sequence[Curve]) -> dict[str, tuple[str, Callable[[], Figure]]]:
    """Caption and figure for each ending."""
    table = results[0]
    drawn = [i for i, head in enumerate(table.heads) if head != "least" and " s8" not in head]
    counts = [{row: [v[i] for i in drawn] for row, v in rows.items()} for rows in (table.ours, table.published)]
    found = {
        "": ("steps by spectrum and method", lambda: step_counts(table.title, [table.heads[i] for i in drawn], *counts))
    }
    size = f"{DENSE[0]}x{DENSE[1]}"
    kinds = {
        "-gaussian": ("Gaussian", False, "Gaussian matrices of the paper's sizes: error against the iteration"),
        "-htmp": ("HTMP", False, "HTMP spectra of the paper's size, with and without the floor of float32"),
        "-dense": ("", True, f"dense float32 matrices, {size}, beside exact arithmetic on their singular values"),
    }
    for end, (law, small, caption) in kinds.items():
        own = [c for c in curves if c.condition.startswith(law) and c.condition.endswith(size) == small]
        if own:
            found[end] = caption, _convergence(own)
    return found


def _convergence(curves: list[Curve]) -> Callable[[], Figure]:
    return lambda: convergence(curves)


def sizes_table(curves: Sequence[Curve]) -> list[Shown]:
    """Iterations to ||I - X^T X||_F <= 1e-2 and 1e-4 by condition, kind and method; the range over the draws."""
    methods = tuple(dict.fromkeys(curve.method for curve in curves))
    rows = []
    for condition, kind in dict.fromkeys((curve.condition, curve.kind) for curve in curves):
        own = [curve for curve in curves if (curve.condition, curve.kind) == (condition, kind)]
        least = sorted({curve.least for curve in own})
        ends = f"{least[0]:.1e}" + (f" to {least[-1]:.1e}" if len(least) > 1 else "")
        rows.append((f"{condition}, {kind}", [ends, *(_cell([c for c in own if c.method == m]) for m in methods)]))
    remark = "The first iteration with ||I - X'X||_F <= 1e-2, then 1e-4; a range is over the draws."
    return [Shown("6.6: the paper's sizes", ("least", *methods), rows, remark)] if curves else []


def _cell(curves: Sequence[Curve]) -> str:
    if not curves:
        return "-"
    return "; ".join(spread([first(curve.errors, tolerance) for curve in curves]) for tolerance in (1e-2, 1e-4))


def _shown(table: Table) -> Shown:
    rows = [
        (row, [f"{_number(a)} ({_number(b)})" for a, b in zip(ours, table.published[row], strict=True)])
        for row, ours in table.ours.items()
    ]
    left = table.unexplained()
    remark = "Deviations beyond these: " + ("; ".join(left) if left else "none") + "."
    return Shown(f"{table.number}: {table.title}", table.heads, rows, remark)


def _number(value: float | None) -> str:
    if value is None:
        return ">120"
    if value < 1:
        return f"{value:.1e}"
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"
