"""What keeps torch's Muon and ours from moving the same matrices: said beside every comparison of the two."""

from __future__ import annotations

from matfn.train.model import skeleton
from matfn.train.recipe import Recipe
from matfn.train.rules import MATFN


def unlike(recipe: Recipe, vocabulary: int) -> str:
    """In what the arms are not like for like, in a few sentences; empty where they are.

    Two things depend on how a model stores its weights. A fused matrix (GPT-2's q, k and v) is one matrix to torch's
    Muon and several to ours. And a weight stored (in, out) has its sides swapped in torch's "jordan" scale.

    Args:
        recipe: The model and the arms.
        vocabulary: Number of different tokens.
    """
    theirs = [arm for arm in recipe.arms if arm.kind == "torch-muon"]
    ours = [arm for arm in recipe.arms if arm.kind in MATFN]
    if not theirs or not ours:
        return ""
    from matfn.optim import plan

    model = skeleton(recipe.model, vocabulary, context=recipe.data.context)
    layouts = {entry.name: entry.layout for entry in plan(model) if entry.layout is not None}
    fused = [name for name, layout in layouts.items() if len(layout.cuts) > 1]
    swapped = [n for n, layout in layouts.items() if layout.rows == 1 and layout.shape[0] != layout.shape[1]]
    parts, mine = [], _names([arm.label for arm in ours])
    if fused:
        whole = _names([arm.label for arm in theirs])
        parts.append(
            f"{whole} orthogonalizes {_such(fused)} whole, {mine} cuts it into {_blocks(layouts[fused[0]].cuts)}"
        )
    if swapped and (jordan := [arm.label for arm in theirs if arm.scale == "jordan"]):
        parts.append(f"{_such(swapped)} is stored (in, out), and the scale of {_names(jordan)} takes in for out")
    return f"Not like for like: {'; '.join(parts)}." if parts else ""


def _names(labels: list[str]) -> str:
    return " and ".join(labels)


def _such(names: list[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def _blocks(cuts: tuple[int, ...]) -> str:
    return f"{len(cuts)} matrices"
