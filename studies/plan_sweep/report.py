"""The result page of the sweep: what was planned, missed and marked. The JSON beside it has each class."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from .expected import expected_heads

__all__ = ["judged", "report"]

Row = dict[str, Any]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "plan_sweep.md"


def judged(row: Row) -> dict[str, Any]:
    """Where the plans of one class differ from the expectation.

    Both plans, with and without an example, are compared with `expected_heads`. The blocks of fused projections in the
    plan without an example are compared with those in the plan with one.
    """
    found: dict[str, Any] = {}
    for source in ("names", "graph"):
        plan = row.get(source)
        if plan is None:
            continue
        heads = [name for name in expected_heads(row) if name in plan]
        missed = [name for name in heads if plan[name][2] == "matrix"]
        found[f"heads by {source}"] = len(heads)
        found[f"missed by {source}, not marked"] = [name for name in missed if not plan[name][4]]
        found[f"missed by {source}, marked"] = [name for name in missed if plan[name][4]]
        found[f"marked by {source}"] = sum(entry[4] for entry in plan.values())
        found[f"decisions by {source}"] = len(plan)
    if "names" in row and "graph" in row:
        cuts = [(name, row["names"][name], row["graph"][name]) for name in row["names"]]
        wrong = [(name, a, b) for name, a, b in cuts if a[2] == b[2] == "matrix" and a[6] != b[6]]
        found["cut otherwise than the graph, not marked"] = [n for n, a, _ in wrong if not a[4] and len(a[6][1]) > 1]
        found["cut otherwise than the graph, marked"] = [n for n, a, _ in wrong if a[4]]
        found["whole where the graph cuts, not marked"] = [n for n, a, _ in wrong if not a[4] and len(a[6][1]) == 1]
        called = {name for name, entry in row["names"].items() if entry[1] in ("head", "tied head") and not entry[4]}
        found["no head by the graph, not marked"] = [n for n in sorted(called) if row["graph"][n][2] == "matrix"]
    if row.get("oracle") is not None:
        heads = [name for name, entry in row["graph"].items() if entry[1] == "head" and entry[3] == "graph"]
        found["heads by graph that the oracle confirms"] = sum(name in row["oracle"] for name in heads)
        found["heads by graph that the oracle does not"] = [name for name in heads if name not in row["oracle"]]
    return found


def report(paths: Sequence[Path]) -> None:
    """Write the page, and the judgement of each class, from the sweeps in `paths`."""
    lines = [
        "# The sweep of plan over transformers and timm",
        "",
        "`python -m studies.plan_sweep` plans small models of many classes, with and without an example batch, and",
        "compares the plans with heads that are known otherwise: for transformers the output embeddings of the library",
        "and names written by hand (`studies/plan_sweep/expected.py`), for timm `get_classifier()`. A second oracle",
        "changes weights and looks at the outputs: they are affine in a head, or change in one coordinate alone.",
        "",
        "How to read the numbers. A weight that the example does not reach is marked: most marks by the graph are",
        "vision towers of models that got text alone. Without an example nothing tells a fused matrix of an uncommon",
        "name from a whole one: these are listed as whole where the graph cuts. The oracle cannot confirm a head where",
        "the outputs are normalised or mixed (retrieval, contrastive losses, masks from products of two heads), where",
        "they do not depend on it for these random weights, or where they are not finite. Classes that could not be",
        "built lack a package, or their small or default configuration is not consistent.",
        "",
        "The classes of transformers whose name contains `For`; of timm one model of each module.",
        f"One thread of a CPU; transformers with torch {torch.__version__.split('+')[0]} and the versions in",
        "constraints.txt, timm 1.0.31 with torch 2.14.1.",
        "",
    ]
    found: dict[str, Any] = {}
    for path in paths:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        lines += [f"## {'timm' if 'timm' in path.name else 'transformers'}", "", *_tables(rows), ""]
        found |= {row["class"]: row.get("failed") or {k: v for k, v in judged(row).items() if v} for row in rows}
    PAGE.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text("\n".join(lines).rstrip() + "\n")
    print("\n".join(lines))


def _tables(rows: Sequence[Row]) -> Iterable[str]:
    results = {row["class"]: judged(row) for row in rows}
    total: Counter[str] = Counter()
    names: dict[str, list[str]] = {}
    for cls, found in results.items():
        for key, value in found.items():
            total[key] += value if isinstance(value, int) else len(value)
            if isinstance(value, list) and value:
                names.setdefault(key, []).append(f"{cls} ({', '.join(value[:2])})")
    yield "| what | number |"
    yield "|---|---|"
    yield f"| classes tried | {len(rows)} |"
    yield f"| built and planned without an example | {sum('names' in row for row in rows)} |"
    yield f"| built, but raw parameters ask for an example or an override | {sum('names_failed' in r for r in rows)} |"
    yield f"| run on an example and planned with it | {sum('graph' in row for row in rows)} |"
    yield f"| could not be built here, or took too long | {sum('failed' in row for row in rows)} |"
    for key in sorted(total):
        yield f"| {key} | {total[key]} |"
    for key, some in sorted(names.items()):
        if "not marked" in key or "does not" in key:
            yield ""
            yield f"**{key[0].upper() + key[1:]}:** " + "; ".join(f"`{one}`" for one in some[:60])
