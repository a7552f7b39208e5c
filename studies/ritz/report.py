"""The page of `reproduce ritz`: ways to measure a spectrum, side by side, in words, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from studies.page import Report, Shown, number
from studies.ritz import plots as ritz_plots
from studies.ritz.carry import KINDS, LAGS
from studies.ritz.rules import Sight
from studies.ritz.study import BUDGETS, FULL, QUICK, Scale, Score
from studies.ritz.tables import FIRST, Results, computed

__all__ = ["full", "made", "quick"]

NOTES = """`RitzMinimax` looks at the matrix before each step through a few products with random vectors. This page
compares ways to do that, and of using what they show. All runs are on vectors of singular values in float64, where a
Gaussian vector weights eigenvectors exactly as in a dense matrix; quintics, polar factor (p = 2)."""

FINDINGS = """**What it shows.** Depth decides and columns hardly matter: at equal depth 16 columns instead of 2 take
1 % off the error, at equal cost one column with twice the depth takes off 2 % (5 steps) and 4 % (6 steps), for
inverse fourth roots 7 %. Ways that solve a larger problem for all columns together (block Rayleigh-Ritz) gain 1 %
over columns apart, less than two more Lanczos steps do; one recurrence for all columns together (global) gains
nothing, and moments, which are the same in exact arithmetic, lose the small end to rounding. Gauss quadrature alone
does nearly as well as the mean, but for spectra that end in zeros (rank-deficient, 3 steps: 4 % above instead of 1
%); Radau alone is good for those and for nothing else. Its nodes are the harmonic Ritz values, which lie above the
Ritz values and cost a third of a step more. Where a count of steps is negative, a look that misses the last few
values does better than the true least one: the rms does not need them.

Looking before every second step with twice the depth costs as much and does as well; looking once does not. Looks
from an earlier optimizer step are nearly as good as fresh ones at a budget (0 to 3 % up to four steps later, up to 6
% after sixteen), at no cost; to an accuracy they cost a step or two. Candidates half a unit apart cost 1 to 4 % told
the spectrum and up to 2 % as measured, one unit 7 to 10 %. The best of the compositions is within 2 % of the best
sequence of lower ends where the errors are not tiny (geometric mean 1.003, 1.006 and 1.015 at 3, 4 and 5 steps; two
sharp clusters apart); the loss is in what is measured (1.02, 1.07 and 1.18). Quintics that know every value can do
far better on few separate values (an outlier, two clusters), which is fitting rather than minimax. A formula for
three Lanczos steps is as accurate as LAPACK in float64 and useless in float32."""

READING = """**How to read.** A ratio is (rms(1 - s) + 1e-3) / (rms told the spectrum + 1e-3) after 3, 4, 5 and 6
steps: the geometric mean over the spectra, then the worst of them; "unlucky", the mean again with the worst draw of the
vectors for each spectrum. Told the spectrum, the method has the true density instead of a measured one, and candidates
at every row of the table. "Steps" is how many more are taken to rms(I - M) <= 1e-6 than told the least singular value
before each step, where that gets there; mean, then worst. Cost is in products of M with a vector before each step;
"deep" is how many of those wait for one another, each of them one pass over M, which is what takes time where memory is
the limit."""


def full(notice: Callable[[str], None]) -> Report:
    """Everything: about 15 minutes."""
    return made(computed(FULL, notice), FULL)


def quick(notice: Callable[[str], None]) -> Report:
    """The same on a few spectra: about two minutes."""
    return made(computed(QUICK, notice), QUICK)


def made(results: Results, scale: Scale) -> Report:
    """The report of these results."""
    return Report(
        paper="ritz_measurement",
        title="Measuring the spectrum: which way, how much, how often",
        notes=(NOTES, READING, _size(scale), *FINDINGS.split("\n\n")),
        tables=[
            _ways("Twelve products before each step", results.equal, ""),
            _ways("Columns and depth: Lanczos steps, mean of Gauss and Radau", results.sweep, ""),
            _ways(
                "Inverse fourth roots",
                results.roots,
                "Of X X^T for the same X; rms(1 - m^(1/4) q) instead of rms(1 - s).",
            ),
            _ways("Looking less often", results.less, "Between two looks the nodes are mapped as the values are."),
            _carried(results),
            _grids(results),
            _search(results),
            _three(results),
        ],
        figures={
            "": ("mean ratio against cost and against depth", lambda: ritz_plots.sweep(results.sweep)),
            "-ways": ("ways at twelve products", lambda: ritz_plots.ways(results.equal, _name)),
        },
        plain={"scale": vars(scale), **results.plain()},
        command="matfn reproduce ritz",
        reading="see the page",
    )


def _size(scale: Scale) -> str:
    return (
        f"Fifteen spectra of known laws (512 values), {scale.drawn} drawn at random (256 values) and {scale.small} "
        f"more of 32 values; {scale.seeds} draws of the vectors for each. Spectra that end in zeros or below the "
        "roundoff have no count of steps."
    )


def _name(sight: Sight) -> str:
    often = {1: "", FIRST: ", before the first step"}.get(sight.every, f", every {sight.every}")
    return f"{sight.way} {sight.columns} x {sight.depth}{often}"


def _ways(title: str, scores: Sequence[Score], remark: str) -> Shown:
    heads = (
        "cost",
        "deep",
        *(f"{steps}" for steps in BUDGETS),
        *(f"worst {steps}" for steps in BUDGETS),
        "unlucky 5",
        "steps",
        "worst",
    )
    rows = []
    for score in scores:
        sight = score.sight
        cost = number(sight.cost(5)) if sight.every < FIRST else f"{sight.products} once"
        ratios = [f"{score.means[s]:.3f}" for s in BUDGETS] + [f"{score.worst[s][0]:.2f}" for s in BUDGETS]
        ratios.append(f"{score.worst_draws[5]:.3f}")
        rows.append((_name(sight), [cost, str(sight.depth), *ratios, *(f"{more:+.2f}" for more in score.more)]))
    return Shown(title, heads, rows, remark)


def _carried(results: Results) -> Shown:
    heads = (
        "told", "fresh", *(f"all looks {lag} old" for lag in LAGS), *(f"first look {lag} old" for lag in LAGS),
        "steps, fresh", *(f"steps, {lag} old" for lag in LAGS),
    )  # fmt: skip
    rows = [
        (
            c.kind,
            [
                *(f"{e:.4f}" for e in (c.told, c.fresh, *c.every_look.values(), *c.first_look.values())),
                *(f"{count:.2f}" for count in c.to_accuracy.values()),
            ],
        )
        for c in results.carried
    ]
    kinds = "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())
    remark = (
        "rms(1 - s) after five steps on the momentum M <- 0.95 M + 0.05 G, with looks taken from a run so many "
        f"optimizer steps ago, which cost nothing now; then steps to 1e-6 with carried least Ritz values. {kinds}."
    )
    return Shown("From one optimizer step to the next", heads, rows, remark)


def _grids(results: Results) -> Shown:
    heads = tuple(f"{who} {steps}" for who in ("told", "measured") for steps in BUDGETS)
    rows = [
        (
            f"table {told.grid.stride / 8:g}, candidates {told.grid.stride * told.grid.every / 8:g} apart",
            [f"{s.means[steps]:.3f}" for s in (told, measured) for steps in BUDGETS],
        )
        for told, measured in results.grids
    ]
    remark = "Distances in log(ratio / (1 - ratio)). Measured: Lanczos, mean, 2 x 6."
    return Shown("The table's spacing and the candidates", heads, rows, remark)


def _search(results: Results) -> Shown:
    first = next(iter(next(iter(results.search.values())).values()))
    rows = [
        (f"{name}, {steps} steps", [f"{error:.3g}" for error in found.values()])
        for name, by_steps in results.search.items()
        for steps, found in by_steps.items()
    ]
    remark = (
        "rms(1 - s) on 128 values (64 for gaussian 256x64): the method as it measures (2 x 6); told the spectrum; the "
        "best composition kept to the end; the best sequence of lower ends, one for each step, of a search with many "
        "starts; the best odd quintics near it, minimax or not (L-BFGS, a local minimum). The last two know all values."
    )
    return Shown("All lower ends, and all quintics", tuple(first), rows, remark)


def _three(results: Results) -> Shown:
    first = next(iter(results.three.values()))
    rows = [
        (f"{decades:g} decades", [f"{e:.1e}" for e in errors.values()]) for decades, errors in results.three.items()
    ]
    remark = "Worst relative error of the least of the three Ritz values, against 60 digits; two clusters so far apart."
    return Shown("Three Lanczos steps by a formula", tuple(first), rows, remark)
