"""Draw the figures of the documentation anew: the one of the first page, and those that the tutorials save.

    python docs/figures.py [PAGE ...]    # names such as index, first_run; all without a name

A tutorial's figure is what its own code draws, so that page and figure cannot differ.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch

import matfn

matplotlib.use("agg")
import matplotlib.pyplot as plt

from matfn.train.drawing import COLOURS, MARKERS, STYLE

DOCS = Path(__file__).resolve().parent
FIGURES = DOCS / "assets" / "figures"
LOOK = STYLE | {"axes.prop_cycle": plt.cycler(color=COLOURS), "savefig.dpi": 130, "text.parse_math": True}


def maps(axes: plt.Axes) -> None:
    """Draw what five steps do to a singular value."""
    s = np.logspace(-4, 0, 2000)
    for name, method in {
        "Newton-Schulz": matfn.NewtonSchulz(degree=5, steps=5),
        "Jordan": matfn.Tuned("jordan"),
        "Polar Express": matfn.PolarExpress(),
        "degrees 9, 9, 9, 5": matfn.PolarExpress(degree=(9, 9, 9, 5)),
    }.items():
        axes.semilogx(s, method.schedule(p=2)(s), label=name)
    axes.axhline(1, color="#888888", linewidth=0.8)
    axes.set(xlabel="singular value", ylabel="after the steps", ylim=(0, 1.3), title="The scalar map")
    axes.legend(fontsize=8)


def errors(axes: plt.Axes) -> None:
    """Draw rms(1 - sigma) after each number of steps on one Gaussian matrix."""
    torch.manual_seed(0)
    X = torch.randn(256, 128, dtype=torch.float64)
    counts = range(1, 9)
    for (name, method), marker in zip(
        {
            "Newton-Schulz": lambda k: matfn.NewtonSchulz(degree=5, steps=k),
            "Jordan": lambda k: matfn.Schedule(
                (matfn.Polynomial(matfn.Tuned("jordan").schedule(p=2).coefficients[0]),) * k, 2, 1e-3, "Jordan"
            ),
            "Polar Express": lambda k: matfn.PolarExpress(steps=k),
            "PRISM": lambda k: matfn.Prism(steps=k),
            "RitzMinimax": lambda k: matfn.RitzMinimax(steps=k),
        }.items(),
        MARKERS,
        strict=False,
    ):
        values = [torch.linalg.svdvals(matfn.orthogonalize(X, method=method(k))) for k in counts]
        axes.semilogy(
            counts, [max((1 - v).square().mean().sqrt().item(), 1e-16) for v in values], marker, ls="-", label=name
        )
    axes.set(xlabel="steps", ylabel="rms of 1 - singular value", title="The error on a matrix")
    axes.legend(fontsize=8)


def index() -> None:
    """Draw the figure of the first page."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    maps(left)
    errors(right)
    figure.savefig("index.png")


def tutorial(page: Path) -> None:
    """Run the code of a tutorial, which saves its figure."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
    exec(compile(code, str(page), "exec"), {"__name__": "__main__"})


def main(names: list[str]) -> None:
    """Draw the named figures, or all."""
    drawn = {"index": index}
    drawn |= {page.stem: lambda page=page: tutorial(page) for page in sorted((DOCS / "tutorials").glob("*.md"))}
    if unknown := set(names) - set(drawn):
        raise SystemExit(f"no page named {', '.join(sorted(unknown))}; there are {', '.join(drawn)}")
    FIGURES.mkdir(parents=True, exist_ok=True)
    os.chdir(FIGURES)
    for name in names or drawn:
        with plt.rc_context(LOOK):
            drawn[name]()
        plt.close("all")


if __name__ == "__main__":
    main(sys.argv[1:])
