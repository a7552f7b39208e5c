"""The parts of a page about a training: curves, figures by layer over time, decisions; and the page of an optimizer."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch

from ...errors import shown
from ...pages.charts import MOST, Line, chart, spread
from ...pages.layers import by_layer
from ...pages.page import card, document, facts, number, table
from ...run.conditions import conditions
from ..model.html import plan_table
from ..model.table import by_sizes, rows
from .choices import HEADS, Choice, choice_rows, run_plans
from .history import History

__all__ = ["choice_table", "curves", "figure_cards", "how_to_record", "last_values", "optimizer_page", "rates_card"]

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Shown:
    """How a figure of telemetry is shown.

    Attributes:
        title: The heading.
        unit: The unit, and the definition.
        caption: How to read it.
        scale: "linear" or "log".
        least: The least value of the axis; None for a limit below all values.
    """

    title: str
    unit: str
    caption: str
    scale: str = "log"
    least: float | None = None


# G is the gradient, D the direction of the update before learning rate and scale, W the weight; docs/telemetry.md.
SHOWN = {
    "condition": Shown(
        "Condition number of the gradient",
        "κ₂(G), no unit, over the range of G",
        "The greater it is, the more an orthogonal update differs from a rescaled gradient.",
    ),
    "nuclear_norm": Shown(
        "Nuclear norm of the gradient",
        "‖G‖∗, in units of the loss per unit of the weights",
        "The greatest decrease of the loss for a step of spectral norm 1, to first order. PolarGrad multiplies by it.",
    ),
    "orthogonality": Shown(
        "Orthogonality of the update",
        "‖UᵀU − I‖ / √n for U = D / ‖D‖₂, no unit",
        "0 is an orthogonal update. Updates of AdamW are not orthogonal, and a matrix of low rank cannot be.",
        scale="linear",
        least=0.0,
    ),
    "direction": Shown(
        "Direction of the update",
        "⟨G, U⟩ / ‖G‖∗, no unit, −1 to 1",
        "1 is steepest descent in the spectral norm. Near 0 the update no longer follows the gradient; below 0 it goes "
        "uphill for this batch.",
        scale="linear",
    ),
    "ratio": Shown(
        "Relative size of the step",
        "‖lr · scale · D‖ / ‖W‖, no unit",
        "A layer with another value trains at another speed. AdamW: about 1e-3; Muon: lr sqrt(3) at first.",
    ),
    "nu": Shown(
        "Spectral norm of the direction",
        "‖D‖₂: 1 for Muon, ν for PolarGrad",
        "Spikes show steps that are much longer than others. Matrices that AdamW moves have none.",
    ),
}


def optimizer_page(
    optimizer: Any, *, losses: Any = None, history: History | str | Path | None = None, title: str | None = None
) -> str:
    """Return the page of `MatrixOptimizer.report`."""
    name = type(optimizer).__name__
    if isinstance(history, str | Path):
        history = History.read(history)
    history = optimizer.history if history is None else history
    if history is not None and not isinstance(history, History):
        raise TypeError(f"{name}.report: history must be a History or the path of a file, got {shown(history)}.")
    if title is not None and not isinstance(title, str):
        raise TypeError(f"{name}.report: title must be a text, got {shown(title)}.")
    lines = curves(losses, f"{name}.report: losses")
    body = [f"<h1>{escape(title or f'A training with {name}')}</h1>", f'<p class="lead">{escape(_lead(optimizer))}</p>']
    first = [loss_card(lines, "loss", "as given to report()")] if lines else []
    order = [entry.name for entry in optimizer.entries]
    if history:
        body += ['<div class="cards">', *first, rates_card(history), "</div>"]
        body += ["<h2>What the updates did, by layer</h2>", *figure_cards(history, order), last_values(history, order)]
    else:
        body += [*first, how_to_record(f"optimizer = {name}(plan(model), ...)", "optimizer.report('report.html')")]
    body += ["<h2>What the plan decided</h2>", _decisions(optimizer), choice_table(choice_rows(run_plans(optimizer)))]
    device = next((p.device for group in optimizer.param_groups for p in group["params"]), torch.device("cpu"))
    return document(title or f"A training with {name}", [*body, "<h2>Made with</h2>", facts(conditions(device))])


def _lead(optimizer: Any) -> str:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    matrices = sum(b for layout in optimizer.layouts.values() for b, _, _ in layout.matrices)
    numbers = sum(param.numel() for param in params)
    name = type(optimizer).__name__
    return f"{name} moves {len(params)} parameters with {numbers:,} numbers, among them {matrices} matrices."


def curves(losses: Any, where: str) -> list[Line]:
    """Return the lines of losses given as numbers, (step, loss) pairs, or {name: either}; `where` is for errors.

    Raises:
        TypeError: If they are of another form.
    """
    if losses is None:
        return []
    named = losses if isinstance(losses, Mapping) else {"": losses}
    try:
        points = [_points(values) for values in named.values()]
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{where} must be one number for each step, (step, loss) pairs, or a mapping from names to either, "
            f"got {shown(losses)}"
        ) from None
    return [Line(str(name), some, index) for index, (name, some) in enumerate(zip(named, points, strict=True)) if some]


def _points(values: Sequence[Any]) -> Points:
    pairs = enumerate(values, start=1) if not values or not isinstance(values[0], tuple | list) else values
    return [(float(step), float(loss)) for step, loss in pairs]


def loss_card(lines: Sequence[Line], what: str, unit: str, caption: str = "") -> str:
    """Return the figure of losses. The greatest losses of the first steps are cut off if they hide the rest."""
    long = any(len(line.points) > MOST for line in lines)
    told = f"{caption} A point of a long line is the mean of several steps." if long else caption
    return card(what.capitalize(), unit, chart(lines, x="optimizer step", y=what, limits=_most(lines)), told.strip())


def _most(lines: Sequence[Line]) -> tuple[float, ...]:
    """Limits around all values but the greatest, of the first twentieth of the steps."""
    end = max((line.points[-1][0] for line in lines), default=0.0)
    later = [y for line in lines for x, y in line.points if x >= end / 20 and math.isfinite(y)]
    if not later:
        return ()
    low, high = min(later), max(later)
    return low - 0.05 * (high - low) - 1e-3 * abs(low), high + 0.1 * (high - low) + 1e-3 * abs(high)


def rates_card(history: History) -> str:
    """Return the figure of the learning rates at the measured steps."""
    groups = enumerate(history.rates.items())
    lines = [Line(name, _pairs(history.steps, values), k) for k, (name, values) in groups]
    drawing = chart(lines, x="optimizer step", y="learning rate")
    return card("Learning rates", "lr of each group, before its scale", drawing, "At the measured steps.")


def _pairs(steps: Sequence[float], values: Iterable[float]) -> Points:
    return [(step, value) for step, value in zip(steps, values, strict=True) if value == value]


def figure_cards(history: History, order: Sequence[str] = ()) -> Iterator[str]:
    """Yield the figures by layer over time, the layers as in `order`, the others after them by name."""
    yield '<div class="cards">'
    for name, look in SHOWN.items():
        values = _ordered(history.figures[name], order)
        if values:
            low, high = spread((value for row in values.values() for value in row), look.scale)
            limits = (low if look.least is None else look.least, high)
            drawing = by_layer(history.steps, values, said=look.title, scale=look.scale, limits=limits)
            yield card(look.title, look.unit, drawing, look.caption)
    yield "</div>"
    skipped = f" {history.skipped} measurements were left out, because of the budget." if history.skipped else ""
    yield (
        f'<p class="note">{len(history)} steps were measured, from {history.steps[0]} to {history.steps[-1]}. The line '
        "is the median of the layers, the band goes from the least to the greatest, and each row of the map is one "
        f"layer. Measuring took {history.share:.1%} of the time.{skipped}</p>"
    )


def _ordered(found: Mapping[str, Sequence[float]], order: Sequence[str]) -> dict[str, Sequence[float]]:
    """The layers that have a value, in an order; those that it lacks by name, numbers in a name by their size."""

    def place(name: str) -> tuple[Any, ...]:
        parts = re.split(r"(\d+)", name)
        return order.index(name) if name in order else len(order), [int(p) if p.isdigit() else p for p in parts]

    return {name: found[name] for name in sorted(found, key=place) if any(map(math.isfinite, found[name]))}


def last_values(history: History, order: Sequence[str] = ()) -> str:
    """Return a table of the last measurement of each layer, folded away."""
    names = _ordered(history.figures["gradient_norm"], order)
    found = []
    for param in names:
        values = (_last(history.figures[name].get(param, ())) for name in SHOWN)
        found.append((param, *map(number, values)))
    heads = ("layer", *(name.replace("_", " ") for name in SHOWN))
    return f"<details><summary>The last measurement of each layer</summary>{table(heads, found)}</details>"


def _last(values: Sequence[float]) -> float:
    return next((value for value in reversed(values) if value == value), math.nan)


def how_to_record(before: str, after: str) -> str:
    """Return the part of a page without telemetry: the lines that record it."""
    lines = f"{before}\ntelemetry = Telemetry(optimizer, every=50)\n...  # train\n{after}"
    return (
        "<h2>What the updates did</h2><p>Nothing was recorded. Telemetry measures condition number and nuclear norm of "
        "the gradients, and orthogonality and direction of the updates, at every 50th step and within 5 % of the "
        f"time:</p><pre>{escape(lines)}</pre>"
    )


def _decisions(optimizer: Any) -> str:
    """The table of the plan; of an optimizer without one the rule and matrices of each parameter."""
    if optimizer.entries:
        return plan_table(rows(optimizer.entries))
    found = []
    for group in optimizer.param_groups:
        for name, param in zip(group["param_names"], group["params"], strict=True):
            layout = optimizer.layouts.get(param)
            matrices = " + ".join(by_sizes(sizes) for sizes in layout.matrices) if layout else ""
            found.append((name, by_sizes(param.shape), group["rule"], matrices))
    note = "The optimizer was made without plan(model), so no reasons are known."
    return table(("parameter", "shape", "rule", "matrices"), found, kind="words") + f'<p class="note">{note}</p>'


def choice_table(found: Iterable[Choice]) -> str:
    """Return a table for each run plan: how matrices of each shape are computed, and why; nothing without matrices."""
    parts = []
    for what, decisions in found:
        parts.append(f"<h3>{escape(what)}</h3>{table(HEADS, decisions, kind='words')}")
    return f"<h2>How the matrices are computed</h2>{''.join(parts)}" if parts else ""
