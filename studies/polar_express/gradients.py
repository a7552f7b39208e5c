"""Figure 3 right: gradients of the fourth block of a GPT with random weights, and momenta of its training.

The error of a polar factor that keeps the singular vectors depends on the singular values alone: with p the scalar map
of a method, it is |1 - p(s)| in each singular direction. So every curve comes from one SVD in float64 for each matrix.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from matfn import NewtonSchulz, PolarExpress, Schedule, Tuned
from matfn.train import recipe as recipes
from matfn.train.data import Batches, load_corpus
from matfn.train.loop import Watcher
from matfn.train.model import loss, make_model
from matfn.train.recipe import DataTable, ModelTable
from studies.momenta import capture
from studies.page import Shown
from studies.polar_express.maps import STEPS, methods, reached, told
from studies.verdict import Verdict, judged

__all__ = [
    "SHOWN",
    "Curves",
    "Scale",
    "cubics",
    "curves",
    "figure3",
    "gradients",
    "momenta",
    "shown",
    "singular_values",
    "verdicts",
]

Array = np.ndarray
LAYERS, BATCH, CONTEXT = 4, 16, 128
BLOCK = LAYERS - 1  # the fourth
SHOWN = "up"  # the matrix of the figure


@dataclass(frozen=True)
class Scale:
    """Sizes of this part.

    Attributes:
        width: Of the GPT whose gradients are taken.
        batches: Number of gradients, each of another batch.
        steps: Training steps before the momenta are taken; 0 takes none.
    """

    width: int
    batches: int
    steps: int


@dataclass(frozen=True)
class Curves:
    """Errors of one method by step: (batches, steps) each.

    Attributes:
        frobenius: ||U - polar||_F / ||polar||_F.
        cosine: 1 - <U, polar> / (||U||_F ||polar||_F).
        spectral: ||U - polar||_2.
    """

    frobenius: Array
    cosine: Array
    spectral: Array


def singular_values(matrix: torch.Tensor) -> Array:
    """The singular values in float64, divided by the Frobenius norm, as the method sees them."""
    s = torch.linalg.svdvals(matrix.double()).numpy()
    return s / np.linalg.norm(s)


def gradients(scale: Scale) -> dict[str, list[Array]]:
    """Singular values of the gradients of the fourth block's matrices, by name.

    The matrix `SHOWN` has an array for each batch, the others one for the first batch.
    """
    corpus = load_corpus(DataTable(source="stdlib", context=CONTEXT))
    table = ModelTable(name="gpt", layers=LAYERS, width=scale.width, heads=4, positions="learned")
    model = make_model(table, corpus.vocabulary, context=CONTEXT, seed=0)
    batches = Batches(corpus.train, CONTEXT, batch=BATCH, seed=0)
    found: dict[str, list[Array]] = {}
    for _ in range(scale.batches):
        model.zero_grad()
        loss(model, *batches.draw()).backward()
        for name, parameter in model.named_parameters():
            kind = name.split(".")[-2]
            # One matrix for the band of the figure; the others once, for the table.
            if name.startswith(f"blocks.{BLOCK}.") and parameter.ndim == 2 and (kind == SHOWN or kind not in found):
                assert parameter.grad is not None
                found.setdefault(kind, []).append(singular_values(parameter.grad))
    return found


class _Silent(Watcher):
    """A watcher that prints nothing."""


def momenta(steps: int) -> dict[str, Array]:
    """Singular values of the momenta of the fourth block after so many steps of the demo's recipe, batches of 8."""
    path = Path(__file__).parents[2] / "recipes" / "demo.toml"
    recipe = recipes.load(path, ["train.batch=8", "train.eval_windows=1", "train.threads=1"])
    with tempfile.TemporaryDirectory() as folder:
        only = [f"blocks.{BLOCK}.*"]
        found = capture(recipe, "matfn Muon", at=[steps], only=only, directory=Path(folder), watcher=_Silent())
    return {one.name.split(".")[-2]: singular_values(one.matrix) for one in found}


def errors(schedule: Schedule, s: Array) -> tuple[list[float], list[float], list[float]]:
    """Frobenius error, cosine distance and spectral error after each step."""
    made = [
        (float(np.sqrt(((1 - y) ** 2).mean())), 1 - float(y.mean() / np.sqrt((y**2).mean())), float(abs(1 - y).max()))
        for y in schedule.trace(s)
    ]
    first, second, third = (list(column) for column in zip(*made, strict=True))
    return first, second, third


def curves(spectra: Sequence[Array], schedules: Mapping[str, Schedule]) -> dict[str, Curves]:
    """The curves of each schedule over the spectra."""
    found = {}
    for name, schedule in schedules.items():
        made = np.array([errors(schedule, s) for s in spectra])
        found[name] = Curves(made[:, 0], made[:, 1], made[:, 2])
    return found


def figure3(spectra: Sequence[Array]) -> dict[str, Curves]:
    """The methods of Figure 3, with l the least singular value of the first batch."""
    return curves(spectra, methods(float(spectra[0].min())))


def cubics(spectra: Sequence[Array]) -> dict[str, Curves]:
    """Degrees 3 (Chen and Chow's up to scale) and 5, told the least singular value, and their rivals."""
    low = float(spectra[0].min())
    known = {
        "Newton-Schulz 3": NewtonSchulz(3, 30),
        "Newton-Schulz 5": NewtonSchulz(5, STEPS),
        "Jordan": Tuned("jordan", STEPS),
        "PE, degree 3 (Chen and Chow)": told(low, 3, 30),
        "PE, degree 5": told(low),
    }
    return curves(spectra, {name: method.schedule() for name, method in known.items()})


FIVE: dict[str, Callable[[], Schedule]] = {
    "NS5": lambda: NewtonSchulz(5, 5).schedule(),
    "Jordan": lambda: Tuned("jordan").schedule(),
    "You": lambda: Tuned("you").schedule(),
    "PE": lambda: PolarExpress().schedule(),
    "PE, 6 steps": lambda: PolarExpress(steps=6).schedule(),
}


def shown(title: str, spectra: Mapping[str, Array]) -> Shown:
    """Frobenius error and cosine of each method after its steps, matrix by matrix."""
    rows = []
    for name, s in spectra.items():
        cells = [f"{s[0] / s[-1]:.1e}", f"{(s < 1e-3 * s[0]).mean():.0%}"]
        for make in FIVE.values():
            frobenius, cosine, _ = errors(make(), s)
            cells.append(f"{frobenius[-1]:.3f}, {1 - cosine[-1]:.4f}")
        rows.append((name, cells))
    remark = "Relative Frobenius error and cosine to the polar factor after five steps, unless said."
    return Shown(title, ("sigma_1 / sigma_n", "below 1e-3 sigma_1", *FIVE), rows, remark)


def verdicts(
    found: Mapping[str, Curves], products: Mapping[str, Curves], spectra: Sequence[Array]
) -> Iterator[Verdict]:
    """What the paper reads from its figures of gradients."""
    at = {name: np.median(c.spectral, axis=0) for name, c in found.items()}
    right, jordan, newton = at["PE, l right"], at["Jordan"], at["Newton-Schulz 5"]
    near = min(reached(right, 0.1), STEPS)
    others = float(jordan[near - 1]), float(newton[near - 1])
    tail = f"median of {len(spectra)} batches, sigma_n = {spectra[0].min():.1e} of the Frobenius norm"
    yield judged(
        "figure 3",
        "right, gradient of the 4th block: the same ordering, PE told l before Jordan before Newton-Schulz",
        "when PE's error is first below .1, Jordan's is at its plateau or above and Newton-Schulz's still larger",
        f"step {near}: PE {right[near - 1]:.2g}, Jordan {others[0]:.2g}, NS5 {others[1]:.2g}; {tail}",
        bool(right[near - 1] < 0.1 and 0.3 <= others[0] < others[1]),
    )
    small = at["PE, l 100x too small"]
    reach = [reached(curve, 0.1) for curve in (right, small)]
    yield judged(
        "figure 3",
        "right: far too small an l delays convergence",
        "more steps to an error of .1",
        f"{reach[1]} against {reach[0]} steps",
        reach[1] > reach[0],
    )
    low = [s[s > 1e-3 * s[0]] for s in spectra]
    cut = curves([s / np.linalg.norm(s) for s in low], {"PE": PolarExpress(steps=8).schedule()})["PE"]
    frobenius, cosine = np.median(cut.frobenius, axis=0), np.median(cut.cosine, axis=0)
    yield judged(
        "figure 3",
        "restricted to sigma > 1e-3 sigma_1, PE has converged in 6 steps (Frobenius) or 5 (cosine)",
        "relative Frobenius error <= .02 at T = 6; 1 - cosine <= .01 at T = 5",
        f"{frobenius[5]:.4f} (T = 5: {frobenius[4]:.3f}); {cosine[4]:.4f}",
        frobenius[5] <= 0.02 and cosine[4] <= 0.01,
    )
    cubic, quintic = (
        np.median(products[name].frobenius, axis=0) for name in ("PE, degree 3 (Chen and Chow)", "PE, degree 5")
    )
    pairs = [(6 * i, float(cubic[3 * i - 1]), float(quintic[2 * i - 1])) for i in (2, 3, 4, 5)]
    yield judged(
        "figure 3",
        "per product, the optimal cubic (Chen and Chow) is competitive with degree 5",
        "Frobenius error within a factor of 2 at 12 and 18 products",
        "; ".join(f"{n} products: {c:.2g} against {q:.2g}" for n, c, q in pairs),
        all(c <= 2 * q for _, c, q in pairs[:2]),
    )
