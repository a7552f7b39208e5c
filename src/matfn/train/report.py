"""A comparison as one HTML file without outside resources: table, figure, recipe, data, machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from matfn.pages.page import CSS, HEAD, document, facts, table
from matfn.train import drawing, files
from matfn.train import recipe as recipes
from matfn.train.compare import Comparison, edge_warnings
from matfn.train.outcome import Difference, Interval, Row, TimeView, leaders

__all__ = ["CSS", "HEAD", "cells", "difference_lines", "facts", "headings", "lead", "page", "summary", "write"]


def write(comparison: Comparison, directory: Path) -> Path:
    """Write `report.html`, `loss.png` and, for a grid, `rates.png`; returns the path of the report."""
    figure = drawing.loss_curves(comparison)
    drawing.png(figure, directory / "loss.png")
    if comparison.searches:
        drawing.png(drawing.rate_curves(comparison), directory / "rates.png")
    files.replace_text(directory / "report.html", page(comparison, drawing.svg(figure)))
    return directory / "report.html"


def page(comparison: Comparison, figure: str) -> str:
    """The page; `figure` is an `<svg>` element."""
    recipe, unit = comparison.recipe, comparison.unit
    seeds = ", ".join(map(str, recipe.compare.seeds))
    caption = (
        f"Validation loss in nats per {unit} (markers) and the training loss, smoothed over 10 steps (faint), for "
        f"seed{'s' if ',' in seeds else ''} {seeds}. Left: against optimizer steps. Right: against steps times the "
        "time of a step here, the median of forward and backward and the mean of the optimizer. More than six arms "
        "are drawn as the mean of their seeds."
    )
    body = [
        f"<h1>{escape(recipe.title)}</h1>",
        f'<p class="lead">{escape(lead(comparison))}</p>',
        _results(comparison),
        f'<p class="note">{escape(comparison.note)}</p>',
        f"<figure>{figure}<figcaption>{escape(caption)}</figcaption></figure>",
        *_precisions(comparison),
        *_equal_steps(comparison),
        *_equal_times(comparison),
        *_searches(comparison),
        f'<div class="columns"><div><h2>Data</h2>{facts(comparison.data)}</div>',
        f"<div><h2>Conditions</h2>{facts(comparison.conditions)}</div></div>",
        f"<details open><summary>Recipe</summary><pre>{escape(recipes.text(recipe))}</pre></details>",
        f"<details><summary>Every run, as JSON</summary><pre>{escape(_runs(comparison))}</pre></details>",
    ]
    return document(recipe.title, body)


def lead(comparison: Comparison) -> str:
    """The network, the length of its training and the text, in a sentence."""
    recipe, model = comparison.recipe, comparison.recipe.model
    network = f"{model.name.upper()} of {model.layers} layers and width {model.width} (context {recipe.data.context})"
    tokens = recipe.train.steps * recipe.tokens_per_step
    seen = f"{tokens / 1e6:,.2f} million" if tokens >= 10**6 else f"{tokens:,}"
    text = f"{seen} {comparison.unit}s, on {comparison.data['source']}"
    return f"A {network}, trained for {recipe.train.steps} steps, {text}."


def cells(row: Row, comparison: Comparison) -> tuple[str, ...]:
    """A row of the table as text, for the page and the terminal."""
    value = str(row.val) if row.val else "diverged"
    lost = f" ({row.diverged} diverged)" if row.diverged and row.val else ""
    rate = comparison.recipe.tokens_per_step / row.step_seconds if row.step_seconds else 0.0
    name, step = comparison.name(row.arm), f"{row.step_seconds * 1e3:.1f}"
    return name, f"{row.lr:g}", value + lost, step, f"{row.optimizer_share:.0%}", f"{rate / 1e3:,.1f}k"


def headings(unit: str) -> tuple[str, ...]:
    """The table's column heads."""
    return "optimizer", "lr", f"validation loss (nats/{unit})", "step (ms)", "optimizer share", f"{unit}s/s"


def _results(comparison: Comparison) -> str:
    best = leaders(comparison.rows, comparison.differences)
    marked = {index for index, row in enumerate(comparison.rows) if row.arm in best}
    return table(headings(comparison.unit), [cells(row, comparison) for row in comparison.rows], marked=marked)


def _runs(comparison: Comparison) -> str:
    keep = ("arm", "seed", "lr", "val", "step_seconds", "optimizer_share", "diverged")
    return json.dumps([{key: getattr(run, key) for key in keep} for run in comparison.runs], ensure_ascii=False)


FEW = 4  # with more arms only the best is compared with each, and a table has all pairs


def _precisions(comparison: Comparison) -> Iterable[str]:
    """The precision of each iteration; nothing if no arm iterates."""
    if comparison.choices:
        yield f"<h2>Precision on this machine</h2><p>{escape(comparison.conditions['profile of the machine'])}</p>"
        yield f"<ul>{''.join(f'<li>{escape(str(choice))}</li>' for choice in comparison.choices)}</ul>"


def _equal_steps(comparison: Comparison) -> Iterable[str]:
    """Differences after the same number of steps."""
    if comparison.differences:
        means = {row.arm: row.val.mean for row in comparison.rows if row.val}
        yield f"<h2>Equal steps: differences after {comparison.recipe.train.steps} steps</h2>"
        yield _listed(comparison.differences, means, comparison.unit)


def _equal_times(comparison: Comparison) -> Iterable[str]:
    """Losses and differences after the same seconds, at each moment."""
    for view in comparison.equal_time:
        yield f"<h2>Equal time: after {view.seconds:.1f} s of training</h2>"
        yield f'<p class="note">{escape(_conditions(comparison, view))}</p>'
        rows = ((r.arm, f"{r.step:.0f}", str(r.val) if r.val else "no evaluation yet") for r in view.rows)
        yield table(("optimizer", "step by then", f"validation loss (nats/{comparison.unit})"), rows)
        means = {row.arm: row.val.mean for row in view.rows if row.val}
        yield _listed(view.differences, means, comparison.unit)


def _conditions(comparison: Comparison, view: TimeView) -> str:
    order = "taking turns" if comparison.recipe.compare.order == "interleaved" else "one after the other"
    return (
        f"The moment: {view.moment}. Seconds are steps times the time of a step (median of forward and backward, mean "
        f"of the optimizer, median over seeds), arms {order}, {comparison.conditions['threads']} thread(s), "
        f"{comparison.conditions['device']}, {comparison.conditions['processor']}; evaluation is not counted. Losses "
        "between two evaluations are interpolated. On another machine the order by time may be another."
    )


def _searches(comparison: Comparison) -> Iterable[str]:
    """The grids: table, plot and warnings."""
    if not comparison.searches:
        return
    steps = comparison.searches[0].steps
    caption = (
        f"Validation loss (nats/{comparison.unit}) after {steps} steps against the learning rate, one run each, seed "
        f"{comparison.recipe.compare.grid.seed}, which no other number comes from. Rings: the rate that was taken."
    )
    yield "<h2>Learning rates</h2>"
    yield f"<figure>{drawing.svg(drawing.rate_curves(comparison))}<figcaption>{escape(caption)}</figcaption></figure>"
    rows = []
    for found in comparison.searches:
        pairs = zip(found.rates, found.losses, strict=True)
        losses = ", ".join(f"{rate:g}: {'diverged' if loss is None else f'{loss:.3f}'}" for rate, loss in pairs)
        rows.append((found.arm, losses, f"{found.best:g}"))
    yield table(("optimizer", "loss by rate", "taken"), rows)
    yield f'<p class="note">{escape(edge_warnings(comparison.searches))}</p>'


def difference_lines(pairs: Sequence[Difference], means: dict[str, float], unit: str) -> list[str]:
    """Pairs in words, with whether the gap is resolved: all pairs of few arms, of many only those with the best."""
    best = min(means, key=lambda arm: means[arm]) if len(means) > FEW else None
    lines = []
    for pair in pairs:
        if best is None:
            lines.append(_line(pair.second, pair.first, pair.nats, unit))
        elif pair.first == best:
            lines.append(_line(pair.second, best, pair.nats, unit))
        elif pair.second == best:
            lines.append(_line(pair.first, best, pair.nats.negative, unit))
    return lines


def summary(comparison: Comparison) -> list[str]:
    """For the terminal: precisions, differences at equal steps, losses at equal times."""
    means = {row.arm: row.val.mean for row in comparison.rows if row.val}
    lines = list(map(str, comparison.choices))
    lines += difference_lines(comparison.differences, means, comparison.unit)
    for view in comparison.equal_time:
        lines.append(f"after {view.seconds:.1f} s of training ({view.moment}), nats/{comparison.unit}:")
        width = max(len(row.arm) for row in view.rows)
        lines += [f"  {r.arm:<{width}}  {r.val or 'no evaluation yet'}  at step {r.step:.0f}" for r in view.rows]
    return lines


def _line(second: str, first: str, gap: Interval, unit: str) -> str:
    sign = "+" if gap.mean > 0 else "\N{MINUS SIGN}"
    text = f"{second} minus {first}: {sign}{abs(gap.mean):.4f}"
    if gap.half_width is None:
        return f"{text} nats/{unit} (one seed: no interval)"
    verdict = "" if gap.resolved else "; no difference seen"
    return f"{text} ± {gap.half_width:.4f} nats/{unit} over {gap.count} seeds{verdict}"


def _listed(pairs: Sequence[Difference], means: dict[str, float], unit: str) -> str:
    lines = "".join(f"<li>{escape(text)}</li>" for text in difference_lines(pairs, means, unit))
    whole = _matrix(pairs, list(means), unit) if len(means) > FEW else ""
    return f"<ul>{lines}</ul>{whole}"


def _matrix(pairs: Sequence[Difference], arms: list[str], unit: str) -> str:
    """Every pair: row minus column, with a star where the interval leaves out 0."""
    gaps = {(pair.second, pair.first): pair.nats for pair in pairs}
    gaps |= {(pair.first, pair.second): pair.nats.negative for pair in pairs}
    rows = [(arm, *(_cell(gaps.get((arm, other))) for other in arms)) for arm in arms]
    count = len(pairs)
    note = (
        f"All {count} pairs, row minus column, in nats/{unit}; a star where the 95 % interval leaves out 0. Of {count} "
        f"such intervals about {0.05 * count:.0f} would do so by chance alone."
    )
    return f'<details><summary>Every pair</summary>{table(("", *arms), rows)}<p class="note">{note}</p></details>'


def _cell(gap: Interval | None) -> str:
    if gap is None:
        return ""
    width = "" if gap.half_width is None else f" ±\N{NO-BREAK SPACE}{gap.half_width:.3f}"
    return f"{gap.mean:+.3f}{width}{'*' if gap.resolved else ''}"
