"""The page of Polar Express: every claim of the paper that a CPU can check, its tables and its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from studies.page import Report, Shown
from studies.polar_express import (
    composition,
    degrees,
    gradients,
    gram,
    maps,
    matrices,
    optimality,
    plots,
    printed,
    training,
)
from studies.polar_express.gradients import SHOWN, Scale
from studies.polar_express.matrices import Size
from studies.polar_express.untested import UNTESTED
from studies.tournament.runs import Run
from studies.trained import RESULTS, trained
from studies.verdict import Verdict
from studies.verdict import shown as claims

__all__ = ["FULL", "QUICK", "Measured", "Preset", "full", "measured", "quick", "run"]


@dataclass(frozen=True)
class Preset:
    """How much is computed.

    Attributes:
        cases: Number of cases of the search (`optimality.CASES`).
        changes: Random changes of the first case; a quarter for each further one.
        starts: Starts of the minimisation of each case.
        scale: The GPT whose gradients are taken.
        size: The dense matrices.
        half: Steps of the ill-conditioned matrix.
        budgets: Products of the table of degrees.
    """

    cases: int
    changes: int
    starts: int
    scale: Scale
    size: Size
    half: tuple[int, ...]
    budgets: tuple[int, ...]


FULL = Preset(
    5, 20000, 40, Scale(128, 20, 20), Size(256, (6, 8, 16)), (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16), (6, 9, 12)
)
QUICK = Preset(2, 800, 4, Scale(64, 2, 0), Size(64, (6,)), (1, 5, 16), (6,))

NOTES = (
    "Each row of the first table is a claim of the paper (arXiv 2505.16932) or of its appendix, with a threshold, our "
    "number and a verdict: *confirmed*; *not seen*, where the measurement could show it and does not; *false as "
    "printed*, where a computation contradicts the text; *not tested*, with the reason; *not yet trained*. C1 to C22 "
    "are the claims that can be checked by a number; text, degrees, figure, ablation and pitfall name other places. "
    "Thresholds and verdicts are computed by the command, not typed.",
    "The table of the paper comes from the library's own construction in 60 digits (`matfn.minimax`); a second solver, "
    "Algorithm 2 as printed in double precision, and searches that know neither check it. NS5 is the quintic "
    "Newton-Schulz step. Where a polynomial acts on a matrix, it acts on each singular value, so most numbers are "
    "exact scalar computations; dense matrices are used where rounding is the question.",
)


def full(notice: Callable[[str], None]) -> Report:
    """Everything, in a minute on one quiet core."""
    return run(notice, FULL)


def quick(notice: Callable[[str], None]) -> Report:
    """The same claims on smaller matrices and fewer starts, without momenta: fifteen seconds."""
    return run(notice, QUICK)


@dataclass(frozen=True)
class Measured:
    """What is computed here; the runs of the tournament are read.

    Attributes:
        verdicts: On all claims but those about training.
        cases: The searches for a better composition.
        left: Spectral errors of Figure 3 left, by method.
        spectra: Singular values of the gradients, by matrix.
        right: The curves of Figure 3 right.
        products: The curves of degrees 3 and 5.
        momenta: Singular values of the momenta, by matrix; empty if the preset takes none.
        half: The ill-conditioned matrix in each precision.
    """

    verdicts: list[Verdict]
    cases: list[optimality.Found]
    left: dict[str, list[float]]
    spectra: dict[str, list[np.ndarray]]
    right: dict[str, gradients.Curves]
    products: dict[str, gradients.Curves]
    momenta: dict[str, np.ndarray]
    half: matrices.Half


def run(notice: Callable[[str], None], preset: Preset, results: Path = RESULTS) -> Report:
    """The report; the folder `results` has the runs of the tournament."""
    made = measured(notice, preset)
    stage = trained(results)
    runs = training.taken(stage.runs)
    verdicts = sorted([*made.verdicts, *training.verdicts(stage), *UNTESTED], key=_order)
    return Report(
        paper="polar_express",
        title="Polar Express: the paper's claims",
        notes=NOTES,
        tables=[claims("Claims", verdicts), *_tables(made, preset, runs)],
        figures=_figures(made, runs),
        plain={"verdicts": [asdict(verdict) for verdict in verdicts], **_plain(made, runs)},
        command="python -m studies.polar_express" + ("" if preset is FULL else " --preset quick"),
        reading="",
    )


def measured(notice: Callable[[str], None], preset: Preset) -> Measured:
    """Everything that is computed, part by part, with its verdicts."""
    notice("composition")
    found = [*composition.verdicts(), *printed.verdicts()]
    notice("brute force")
    cases = [
        optimality.found(degrees_, lower, preset.changes // (1 if i == 0 else 4), preset.starts)
        for i, (degrees_, lower) in enumerate(optimality.CASES[: preset.cases])
    ]
    found += optimality.verdicts(cases)
    notice("scalar maps")
    left = {name: maps.spectral(schedule, maps.SYNTHETIC) for name, schedule in maps.methods(1e-6).items()}
    found += [*maps.verdicts(left), *degrees.verdicts()]
    notice("gradients")
    spectra = gradients.gradients(preset.scale)
    right, products = gradients.figure3(spectra[SHOWN]), gradients.cubics(spectra[SHOWN])
    found += gradients.verdicts(right, products, spectra[SHOWN])
    momenta = gradients.momenta(preset.scale.steps) if preset.scale.steps else {}
    notice("dense matrices")
    half = matrices.half_precision(min(preset.size.rows, 128), preset.half)
    found += [*matrices.verdicts(preset.size, half), *gram.verdicts()]
    return Measured(found, cases, left, spectra, right, products, momenta, half)


def _tables(made: Measured, preset: Preset, runs: Sequence[Run]) -> list[Shown]:
    """The tables below the claims."""
    first = {name: spectra[0] for name, spectra in made.spectra.items()}
    tables = [
        composition.table(),
        printed.conventions(),
        optimality.shown(made.cases),
        degrees.degrees(preset.budgets),
        gradients.shown("Gradients of the fourth block, random weights", first),
    ]
    if made.momenta:
        title = f"Momenta of the fourth block after {preset.scale.steps} steps of the demo's recipe, batches of 8"
        tables.append(gradients.shown(title, made.momenta))
    return [*tables, training.rates(runs), training.compared(runs)] if runs else tables


def _figures(made: Measured, runs: Sequence[Run]) -> dict[str, tuple[str, Callable[[], Figure]]]:
    """Caption and figure for each ending."""
    figures = {
        "": (
            "Figure 3: convergence by step; bands are the 5th to 95th percentile of the batches",
            lambda: plots.convergence(made.left, made.right),
        ),
        "-products": ("error against products", lambda: plots.products(degrees.per_product(), made.products)),
        "-first": ("Figure 7: the first step, raw and stabilised", plots.first_step),
        "-half": ("half precision on a matrix of condition 1e6", lambda: plots.half_precision(made.half)),
    }
    if runs:
        figures["-training"] = (
            "training of a small GPT: loss by rate, and by seed at the best rate",
            lambda: plots.training(runs),
        )
    return figures


def _plain(made: Measured, runs: Sequence[Run]) -> dict[str, Any]:
    """For JSON, without the verdicts."""
    return {
        "rows": composition.composed(8),
        "brute_force": [asdict(case) for case in made.cases],
        "figure3_left": made.left,
        "figure3_right": {name: _medians(curves) for name, curves in made.right.items()},
        "products": {name: _medians(curves) for name, curves in made.products.items()},
        "half": asdict(made.half),
        "training": [{"arm": one.arm, "lr": one.lr, "seed": one.seed, "loss": one.loss} for one in runs],
    }


def _order(verdict: Verdict) -> tuple[int, int, str]:
    """C1 to C22 by number, then the other places in the order of the sections."""
    word, rest = verdict.claim.split()[0], verdict.claim.split()[-1]
    if word[0] == "C" and word[1:].isdigit():
        return 0, int(word[1:]), ""
    return 1, ("text", "table", "degrees", "figure", "pitfall", "ablation", "section").index(word), rest


def _medians(curves: gradients.Curves) -> dict[str, list[float]]:
    """The median over the batches, by step."""
    return {kind: np.median(getattr(curves, kind), axis=0).tolist() for kind in ("spectral", "frobenius", "cosine")}
