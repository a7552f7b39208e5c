"""The plan of a model as HTML: a page, and a part of a notebook."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

import torch

from ...pages.page import document, facts, table
from ...run.conditions import conditions
from .table import HEADER, rows, totals

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["fragment", "page", "plan_table"]

NOTE = (
    'The column "by" names the source of a decision, the strongest first: told (an override), class (of the module), '
    "graph (of an example), name, guess. A marked row with a question mark wants a look: it is a guess, or two sources "
    "disagree. Parameters that differ only in the number of their block share one row."
)
# In a notebook the style of the page would change the notebook.
_STYLE = """
.matfn-plan { overflow-x: auto } .matfn-plan table { border-collapse: collapse; font-size: .9em }
.matfn-plan th, .matfn-plan td { text-align: left; vertical-align: top; padding: .2em .6em;
  border-bottom: 1px solid rgba(128, 128, 128, .35) }
.matfn-plan tr.look td { background: rgba(230, 159, 0, .22) } .matfn-plan p { margin: .5em 0; opacity: .8 }
"""


def page(plan: "Plan") -> str:
    """Return a self-contained page: the parameters that each rule moves, the table of all decisions, the outlook."""
    title = f"The plan of {_model(plan)}"
    told = [f"{len(plan)} parameters, {sum(entry.parameter.numel() for entry in plan):,} numbers"]
    if plan.looks:
        told.append(f"{len(plan.looks)} want a look")
    body = [f"<h1>{escape(title)}</h1>", f'<p class="lead">{"; ".join(told)}.</p>']
    body += ["<h2>What each rule moves</h2>", table(("rule", "numbers", "share", "tensors", "matrices"), totals(plan))]
    body += ["<h2>Every parameter</h2>", plan_table(rows(plan.entries))]
    if plan.mesh is not None:
        body += ["<h2>What a step costs each process</h2>", f"<pre>{escape(str(plan.outlook()))}</pre>"]
    return document(title, [*body, "<h2>Made with</h2>", facts(conditions(_device(plan)))])


def plan_table(found: Sequence[Sequence[str]]) -> str:
    """Return the rows of `table.rows` as a table with its note; the rows that want a look are marked."""
    looks = [index for index, row in enumerate(found) if row[HEADER.index("by")].endswith("?")]
    return table(HEADER, found, marked=looks, kind="words") + f'<p class="note">{escape(NOTE)}</p>'


def fragment(plan: "Plan") -> str:
    """Return a part of a page with a style of its own, for notebooks."""
    shown = "".join(_lines(rows(plan.entries)))
    heads = "".join(f"<th>{escape(head)}</th>" for head in HEADER)
    sums = "; ".join(f"{rule}: {numbers} numbers ({share})" for rule, numbers, share, *_ in totals(plan))
    body = f"<table><thead><tr>{heads}</tr></thead><tbody>{shown}</tbody></table><p>{escape(sums)}.</p>"
    return f'<div class="matfn-plan"><style>{_STYLE}</style>{body}</div>'


def _lines(found: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in found:
        mark = ' class="look"' if row[HEADER.index("by")].endswith("?") else ""
        yield f"<tr{mark}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"


def _model(plan: "Plan") -> str:
    model = plan.model() if plan.model is not None else None
    return f"a model of {len(plan)} parameters" if model is None else type(model).__name__


def _device(plan: "Plan") -> torch.device:
    """The device of the parameters; the CPU for a model without memory, on the device meta."""
    devices = [entry.parameter.device for entry in plan]
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))
