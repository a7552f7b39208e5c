"""The run plans of an optimizer: for each shape of its matrices the method, engine, precision and products, and why."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ...run.machine import short
from ...run.plan import RunPlan
from ..matrices.buckets import working_dtype
from ..rules.nuclear import Nuclear
from ..rules.polar import Polar
from ..shampoo import Shampoo

if TYPE_CHECKING:
    from ..optimizer import MatrixOptimizer

__all__ = ["HEADS", "Choice", "choice_rows", "run_plans"]

HEADS = ("decision", "choice", "why")
Choice = tuple[str, Sequence[tuple[str, str, str]]]
_TOLD = 6  # shapes in a cell


def run_plans(optimizer: "MatrixOptimizer") -> Iterator[RunPlan]:
    """The run plans of the polar factors and roots that an optimizer computes, one or more for each shape."""
    if isinstance(optimizer, Shampoo):
        yield from optimizer.root_choices().values()
    for group in optimizer.param_groups:
        if group["rule"] == "adamw":
            continue
        for rule in optimizer.lender(group["rule"]).chain:
            polar = rule.polar if isinstance(rule, Nuclear) else rule
            if isinstance(polar, Polar):
                for parameter in group["params"]:
                    for _, m, n in optimizer.layouts[parameter].matrices:
                        yield polar.plan((m, n), working_dtype(parameter), parameter.device)


def choice_rows(plans: Iterable[RunPlan]) -> list[Choice]:
    """For each different plan what it computes, with the shapes that share it, and its decisions under `HEADS`."""
    shapes: dict[tuple[str, tuple[tuple[str, str, str], ...]], list[str]] = {}
    for plan in plans:
        values = {
            "method": repr(plan.method),
            "engine": repr(plan.engine),
            "precision": short(plan.precision),
            "products": repr(plan.products),
        }
        decisions = tuple((what, values.get(what, ""), reason) for what, reason in plan.reasons)
        shapes.setdefault((str(plan.target), decisions), []).append(" x ".join(map(str, plan.shape)))
    rows = []
    for (target, decisions), given in shapes.items():
        known = list(dict.fromkeys(given))
        more = f" and {len(known) - _TOLD} other shapes" if len(known) > _TOLD else ""
        rows.append((f"{target} of {', '.join(known[:_TOLD])}{more}", decisions))
    return rows
