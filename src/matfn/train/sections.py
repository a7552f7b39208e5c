"""The report's sections on differences, equal time and learning rates: as HTML, and as lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from matfn.train import drawing, plots, search
from matfn.train.compare import Comparison
from matfn.train.outcome import Difference
from matfn.train.stats import Interval
from matfn.train.views import TimeView

__all__ = ["difference_lines", "equal_steps", "equal_times", "searches", "summary", "table"]

FEW = 4  # arms, up to which every pair has a line; more are compared with the best, and all pairs are in a table


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table of plain text."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = ("".join(f"<td>{escape(text)}</td>" for text in row) for row in rows)
    lines = "".join(f"<tr>{row}</tr>" for row in body)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def equal_steps(comparison: Comparison) -> Iterable[str]:
    """Differences after the same number of steps."""
    if comparison.differences:
        means = {row.arm: row.val.mean for row in comparison.rows if row.val}
        yield f"<h2>Equal steps: differences after {comparison.recipe.train.steps} steps</h2>"
        yield _listed(comparison.differences, means, comparison.unit)


def equal_times(comparison: Comparison) -> Iterable[str]:
    """Losses and differences after the same seconds, at each moment."""
    for view in comparison.equal_time:
        yield f"<h2>Equal time: after {view.seconds:.1f} s of training</h2>"
        yield f'<p class="note">{escape(_conditions(comparison, view))}</p>'
        rows = ((r.arm, f"{r.step:.0f}", str(r.val) if r.val else "no evaluation yet") for r in view.rows)
        yield table(("optimizer", "step by then", f"validation loss (nats/{comparison.unit})"), rows)
        yield _listed(view.differences, _means(view), comparison.unit)


def _conditions(comparison: Comparison, view: TimeView) -> str:
    order = "taking turns" if comparison.recipe.compare.order == "interleaved" else "one after the other"
    return (
        f"The moment: {view.moment}. Seconds are steps times the time of a step (median of forward and backward, mean "
        f"of the optimizer, median over seeds), arms {order}, {comparison.conditions['threads']} thread(s), "
        f"{comparison.conditions['device']}, {comparison.conditions['processor']}; evaluation is not counted. Losses "
        "between two evaluations are interpolated. On another machine the order by time may be another."
    )


def searches(comparison: Comparison) -> Iterable[str]:
    """The grids: table, plot and warnings."""
    if not comparison.searches:
        return
    steps = comparison.searches[0].steps
    caption = (
        f"Validation loss (nats/{comparison.unit}) after {steps} steps against the learning rate, one run each, seed "
        f"{comparison.recipe.compare.grid.seed}, which no other number comes from. Rings: the rate that was taken."
    )
    yield "<h2>Learning rates</h2>"
    yield f"<figure>{drawing.svg(plots.rate_curves(comparison))}<figcaption>{escape(caption)}</figcaption></figure>"
    rows = []
    for found in comparison.searches:
        pairs = zip(found.rates, found.losses, strict=True)
        losses = ", ".join(f"{rate:g}: {'diverged' if loss is None else f'{loss:.3f}'}" for rate, loss in pairs)
        rows.append((found.arm, losses, f"{found.best:g}"))
    yield table(("optimizer", "loss by rate", "taken"), rows)
    yield f'<p class="note">{escape(search.warnings(comparison.searches))}</p>'


def difference_lines(pairs: Sequence[Difference], means: dict[str, float], unit: str) -> list[str]:
    """Pairs in words, all of a few arms, those with the best of many; whether a gap is resolved is said."""
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
    """For the terminal: differences at equal steps, and a line for each arm at each moment of equal time."""
    means = {row.arm: row.val.mean for row in comparison.rows if row.val}
    lines = difference_lines(comparison.differences, means, comparison.unit)
    for view in comparison.equal_time:
        lines.append(f"after {view.seconds:.1f} s of training ({view.moment}), nats/{comparison.unit}:")
        width = max(len(row.arm) for row in view.rows)
        lines += [f"  {r.arm:<{width}}  {r.val or 'no evaluation yet'}  at step {r.step:.0f}" for r in view.rows]
    return lines


def _means(view: TimeView) -> dict[str, float]:
    return {row.arm: row.val.mean for row in view.rows if row.val}


def _line(second: str, first: str, gap: Interval, unit: str) -> str:
    text = f"{second} minus {first}: {_signed(gap.mean)}"
    if gap.half_width is None:
        return f"{text} nats/{unit} (one seed: no interval)"
    verdict = "" if gap.resolved else "; no difference seen"
    return f"{text} ± {gap.half_width:.4f} nats/{unit} over {gap.count} seeds{verdict}"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else chr(0x2212)}{abs(value):.4f}"


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
    width = "" if gap.half_width is None else f" ± {gap.half_width:.3f}"
    return f"{gap.mean:+.3f}{width}{'*' if gap.resolved else ''}"
