"""The paper's claims about training, from runs that other commands have made: the tournament, and Shampoo on text."""

from __future__ import annotations

import json
from pathlib import Path

from studies.page import number
from studies.trained import RESULTS, trained
from studies.verdict import CONFIRMED, NOT_SEEN, NOT_TESTED, NOT_TRAINED, Verdict

__all__ = ["verdicts"]

PAIRS = (
    ("GPT 1", "PRISM cut to 3 steps at a = 29/20 ends below Polar Express cut to 3 steps", "prism-3", "polar-express-3",
     "the paper: 5.03 and 5.45, width 1024, 200M tokens, the steps of its Polar Express unknown"),
    ("GPT 2", "PRISM ends below Polar Express, 5 steps each", "prism", "polar-express", ""),
    ("GPT 3", "PRISM cut to 3 steps ends below AdamW", "prism-3", "adamw", "the paper: 5.03 and 6.87"),
    ("GPT 4", "Polar Express ends below AdamW", "polar-express", "adamw", "the paper: 5.45 and 6.87"),
)  # fmt: skip


def verdicts(results: Path = RESULTS) -> list[Verdict]:
    """The paper's Shampoo and GPT experiments, from the folder of the results."""
    images = Verdict(
        "Shampoo 1", "PRISM's roots in Shampoo end where exact roots do on images, in less time",
        "ResNet-20 on CIFAR-10, ResNet-32 on CIFAR-100: the paper's curves", "-", NOT_TESTED,
        "the widths and the schedule are not published, and this repository has no image model",
    )  # fmt: skip
    stage = trained(results)
    gpt = [stage.below(claim, says, arm, other, paper=paper) for claim, says, arm, other, paper in PAIRS]
    return [images, *shampoo(results / "training.json"), *gpt]


def shampoo(path: Path) -> list[Verdict]:
    """Shampoo with PRISM's roots against exact roots on text, from the comparison of twelve optimizers."""
    says = (
        "PRISM's roots in Shampoo end where exact roots do at equal steps, on text",
        "Shampoo's step is faster with PRISM's roots than with exact ones, on text",
    )
    wanted = ("the 95 % interval of the difference holds 0", "less time in the optimizer")
    if not path.exists():
        return [
            Verdict(f"Shampoo {k}", what, asked, "-", NOT_TRAINED)
            for k, (what, asked) in enumerate(zip(says, wanted, strict=True), 2)
        ]
    made, names = json.loads(path.read_text()), ("Shampoo, PRISM", "Shampoo, exact")
    gap = next(d for d in made["differences"] if {d["first"], d["second"]} == set(names))["nats"]
    rows = {row["arm"]: row for row in made["rows"]}
    prism, exact = (rows[name]["step_seconds"] * rows[name]["optimizer_share"] * 1e3 for name in names)
    same = CONFIRMED if abs(gap["mean"]) <= gap["half_width"] else NOT_SEEN
    apart = f"{number(abs(gap['mean']))} +- {number(gap['half_width'])} nats apart, {gap['count']} seeds"
    model, train = made["recipe"]["model"], made["recipe"]["train"]
    where = f"a GPT of {model['layers']} layers and width {model['width']}, {train['steps']} steps"
    return [
        Verdict("Shampoo 2", says[0], wanted[0], apart, same, where),
        Verdict(
            "Shampoo 3", says[1], wanted[1], f"{prism:.0f} ms a step, exact {exact:.0f} ms",
            CONFIRMED if prism < exact else NOT_SEEN, f"{where}, one processor thread; the paper measured an A100",
        ),
    ]  # fmt: skip
