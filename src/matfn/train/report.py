"""A comparison as one HTML file that can be mailed: table, figure, recipe, data, machine. No outside resources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

from matfn.train import checkpoint, drawing, plots
from matfn.train import images_section as images
from matfn.train import recipe as recipes
from matfn.train import sections as parts
from matfn.train.compare import Comparison
from matfn.train.outcome import Row, leaders
from matfn.train.task import network, per_step

CSS = """
:root { --ink: #1d1f23; --soft: #5b616b; --line: #e3e5e9; --wash: #f6f7f9; --best: #eaf3fa; }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; color: var(--ink);
       max-width: 60rem; margin: 3rem auto; padding: 0 1.5rem; background: #fff }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem }
h2 { font-size: 1.1rem; margin: 2.4rem 0 .6rem }
p.lead { color: var(--soft); margin: 0 0 2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .5rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th { font-weight: 600; color: var(--soft); font-size: .85rem; border-bottom-width: 2px; vertical-align: bottom }
th:first-child, td:first-child { text-align: left; padding-left: .4rem }
td:first-child { font-weight: 600 }
tr.best td { background: var(--best) }
table.facts td { text-align: left; font-weight: 400; white-space: normal; overflow-wrap: anywhere; font-size: .9rem;
                 padding: .3rem .4rem; vertical-align: top }
table.facts td:first-child { color: var(--soft); width: 12rem }
figure { margin: 1rem 0 } figure svg { width: 100%; height: auto; display: block }
figcaption, p.note { color: var(--soft); font-size: .9rem }
pre { background: var(--wash); padding: 1rem; border-radius: 6px; overflow-x: auto; font-size: .82rem;
      line-height: 1.45 }
details summary { cursor: pointer; font-weight: 600; margin: 2rem 0 .6rem; font-size: 1.1rem }
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: 0 2.5rem }
@media (max-width: 48rem) { .columns { grid-template-columns: 1fr } .wide { overflow-x: auto } }
@media print { body { margin: 0; max-width: none } details > * { display: block } }
"""


HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{css}</style></head>
<body>
"""


def write(comparison: Comparison, directory: Path) -> Path:
    """Write `report.html`, `loss.png` and, where rates were searched, `rates.png`; the report's path is returned."""
    figure = plots.loss_curves(comparison)
    drawing.png(figure, directory / "loss.png")
    if comparison.searches:
        drawing.png(plots.rate_curves(comparison), directory / "rates.png")
    checkpoint.replace_text(directory / "report.html", page(comparison, drawing.svg(figure)))
    return directory / "report.html"


def page(comparison: Comparison, figure: str) -> str:
    """The whole page; `figure` is an `<svg>` element."""
    recipe, unit = comparison.recipe, comparison.unit
    caption = (
        f"Validation loss in nats per {unit} (markers) and the training loss, smoothed over 10 steps (faint), for "
        f"{_seeds(recipe.compare.seeds)}. Left: against optimizer steps. Right: against steps times the time of a step "
        "here, the median of forward and backward and the mean of the optimizer. More than six arms are drawn as the "
        "mean of their seeds."
    )
    body = [
        f"<h1>{escape(recipe.title)}</h1>",
        f'<p class="lead">{escape(lead(comparison))}</p>',
        f'<div class="wide">{_results(comparison)}</div>',
        f'<p class="note">{escape(comparison.note)}</p>',
        f"<figure>{figure}<figcaption>{escape(caption)}</figcaption></figure>",
        *images.section(comparison),
        *parts.equal_steps(comparison),
        *parts.equal_times(comparison),
        *parts.searches(comparison),
        f'<div class="columns"><div><h2>Data</h2>{facts(comparison.data)}</div>',
        f"<div><h2>Conditions</h2>{facts(comparison.conditions)}</div></div>",
        f"<details open><summary>Recipe</summary><pre>{escape(recipes.text(recipe))}</pre></details>",
        f"<details><summary>Every run, as JSON</summary><pre>{escape(_runs(comparison))}</pre></details>",
    ]
    return HEAD.format(title=escape(recipe.title), css=CSS) + "\n".join(body) + "\n</body></html>\n"


def lead(comparison: Comparison) -> str:
    """What was trained on what, in a sentence."""
    recipe = comparison.recipe
    seen = _count(recipe.train.steps * per_step(recipe))
    return (
        f"A {network(recipe)}, trained for {recipe.train.steps} steps, {seen} {comparison.unit}s, on "
        f"{comparison.data['source']}."
    )


def _count(tokens: int) -> str:
    return f"{tokens / 1e6:,.2f} million" if tokens >= 10**6 else f"{tokens:,}"


def cells(row: Row, tokens_per_step: int) -> tuple[str, ...]:
    """A row of the table as text, for the page and the terminal alike."""
    value = str(row.val) if row.val else "diverged"
    lost = f" ({row.diverged} diverged)" if row.diverged and row.val else ""
    rate = tokens_per_step / row.step_seconds if row.step_seconds else 0.0
    step = f"{row.step_seconds * 1e3:.1f}"
    return row.arm, f"{row.lr:g}", value + lost, step, f"{row.optimizer_share:.0%}", f"{rate / 1e3:,.1f}k"


def headings(unit: str) -> tuple[str, ...]:
    """The table's column heads."""
    return "optimizer", "lr", f"validation loss (nats/{unit})", "step (ms)", "optimizer share", f"{unit}s/s"


def tokens_per_step(comparison: Comparison) -> int:
    """Tokens between two optimizer steps."""
    return per_step(comparison.recipe)


def _results(comparison: Comparison) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in headings(comparison.unit))
    lines, best = [], leaders(comparison.rows, comparison.differences)
    for row in comparison.rows:
        mark = ' class="best"' if row.arm in best else ""
        data = "".join(f"<td>{escape(text)}</td>" for text in cells(row, tokens_per_step(comparison)))
        lines.append(f"<tr{mark}>{data}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def facts(known: Mapping[str, object]) -> str:
    """A table of names and values."""
    pairs = ((escape(key.replace("_", " ")), escape(_shown(value))) for key, value in known.items())
    lines = (f"<tr><td>{key}</td><td>{value}</td></tr>" for key, value in pairs)
    return f'<table class="facts"><tbody>{"".join(lines)}</tbody></table>'


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _runs(comparison: Comparison) -> str:
    keep = ("arm", "seed", "lr", "val", "step_seconds", "optimizer_share", "diverged")
    return json.dumps([{key: getattr(run, key) for key in keep} for run in comparison.runs], ensure_ascii=False)


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
