"""Claims of the paper that this study cannot test, because they need another machine or a training run."""

from __future__ import annotations

from studies.verdict import NOT_TESTED, Verdict

__all__ = ["UNTESTED"]

_CLAIMS = (
    (
        "section 3",
        "the Gram form is twice as fast at a = 4, five times at a = 32",
        "a time of one card; C19 has the counts",
    ),
    ("section 3", "per-head splitting: losses 3.59, 3.55, 3.60 and 3.56", "GPT-2 Small on a billion tokens"),
    (
        "section 5",
        "setting singular directions below 1e-4 sigma_1 to 1, 0 or -1 does not change the loss",
        "a training run for each threshold",
    ),
    (
        "section 5",
        "thirty steps are no better than five or six",
        "the tournament has no arm of thirty steps; ablation 2 is near",
    ),
    (
        "section 5",
        "the time of a training step does not depend on T, and an SVD doubles it",
        "a time of the authors' cards",
    ),
    ("section 5", "the gap shrinks from .058 at 1B to .006 at 10B tokens", "ten billion tokens"),
    ("section 5", "on CIFAR, Polar Express has no consistent advantage", "images at the paper's size"),
)
UNTESTED = tuple(Verdict(claim, says, "", "", NOT_TESTED, why) for claim, says, why in _CLAIMS)
