"""The rule for the default of Muon: the lowest loss at equal steps, or within .003 of it and faster, on all sizes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from studies.tournament.runs import Run
from studies.tournament.statistics import arms, difference

__all__ = ["MARGIN", "METHODS", "Choice", "Size", "choose"]

MARGIN = 0.003
# The arms that differ from the default in nothing but the method. `torch` stands for Tuned("jordan"): its polynomial.
METHODS = ("torch", "you", "exact", "polar-express", "default", "four-steps", "ritz", "prism")


@dataclass(frozen=True)
class Size:
    """One size that was tried.

    Attributes:
        name: Of the stage.
        runs: Its runs.
        seconds: The time of a step of each arm.
    """

    name: str
    runs: Sequence[Run]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Choice:
    """What the rule says.

    Attributes:
        arm: The default that it asks for.
        why: The reason, in a sentence.
        lowest: The arm with the lowest loss of each size.
        running: The arms that fulfil the rule on each size.
    """

    arm: str
    why: str
    lowest: Mapping[str, str]
    running: Mapping[str, tuple[str, ...]]


def choose(sizes: Sequence[Size], present: str, candidates: Sequence[str] = METHODS) -> Choice:
    """Apply the rule.

    An arm fulfils the rule on a size if its loss is the lowest there, or at most `MARGIN` above the lowest and its
    step is faster. An arm that fulfils it on all sizes becomes the default, the fastest if there are several. The
    present default stays if no arm does, and if the arm that does is neither told apart from it nor faster. Told apart
    means: the interval of the paired difference, corrected for the number of candidates, excludes 0.

    Args:
        sizes: The sizes that were tried, each complete.
        present: The arm that is the default now, and stays when nothing is told apart.
        candidates: The arms that may become the default. Arms that were not tried on all sizes are left out.

    Raises:
        ValueError: There is no size, or the present default was not tried on all of them.
    """
    tried = [arm for arm in candidates if all(arm in arms(size.runs) for size in sizes)]
    if not sizes or present not in tried:
        raise ValueError(f"choose: wanted sizes that all have the arm {present!r}, got {[size.name for size in sizes]}")
    lowest, running = {}, {}
    for size in sizes:
        lowest[size.name], running[size.name] = _running(size, present, tried)
    common = [arm for arm in tried if all(arm in found for found in running.values())]
    if not common:
        why = f"No arm fulfils the rule on all sizes, so `{present}` stays."
        return Choice(present, why, lowest, running)
    arm = min(common, key=lambda name: sum(size.seconds[name] / size.seconds[present] for size in sizes))
    return Choice(*_against(arm, present, sizes, len(tried) - 1), lowest, running)


def _running(size: Size, present: str, tried: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The arm of the lowest loss, by differences from the present default, and all arms that fulfil the rule."""
    above = {arm: _above(size, arm, present) for arm in tried}
    lowest = min(tried, key=lambda arm: above[arm])
    near = [arm for arm in tried if arm != lowest and _above(size, arm, lowest) <= MARGIN]
    return lowest, (lowest, *(arm for arm in near if size.seconds[arm] < size.seconds[lowest]))


def _above(size: Size, arm: str, other: str) -> float:
    """The mean loss of `arm` minus the mean loss of `other`; infinite where runs of both sides diverged."""
    mean = 0.0 if arm == other else difference(size.runs, arm, other).mean
    return math.inf if math.isnan(mean) else mean


def _against(arm: str, present: str, sizes: Sequence[Size], comparisons: int) -> tuple[str, str]:
    """The arm that the rule asks for, or the present default where the two cannot be told apart, and the reason."""
    if arm == present:
        return arm, f"`{arm}` is the default and fulfils the rule on all sizes."
    found = [difference(size.runs, arm, present, comparisons=max(1, comparisons)) for size in sizes]
    if any(interval.apart and interval.mean < 0 for interval in found):
        return arm, f"`{arm}` fulfils the rule on all sizes and its loss is told apart from `{present}`."
    if all(size.seconds[arm] < size.seconds[present] for size in sizes):
        return arm, f"`{arm}` fulfils the rule on all sizes and its step is faster than the step of `{present}`."
    return present, f"`{arm}` fulfils the rule, but is neither told apart from `{present}` nor faster, so that stays."
