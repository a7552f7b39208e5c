"""`python -m studies.evidence`: docs/evidence.md, every claim of the three papers with our number and a verdict.

The numbers are those that the studies wrote into docs/results/*.json, and the runs of the tournament kept there. The
page is never edited by hand: a test compares it with what this command makes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.page import line
from studies.polargrad import training as polargrad
from studies.prism import training as prism
from studies.trained import RESULTS
from studies.verdict import NOT_TESTED, NOT_TRAINED, WORDS, Verdict

__all__ = ["PAPERS", "Paper", "claims", "page"]

PAGE = RESULTS.parent / "evidence.md"
MISSING = "not yet run"
TOURNAMENT = "python -m studies.tournament.run --stage small --text mixture"
TEXT = "matfn compare recipes/compare_30min.toml"

INTRODUCTION = """# The evidence

`python -m studies.evidence` makes this page from the results of the studies.

Every claim of three papers, our number, and a verdict. A claim is **confirmed** if our number meets what the claim asks
for; **not seen** if the measurement can show the effect and does not; **false as printed** if a formula or a number of
the paper contradicts a computation; **not tested** if this project cannot test it, with the reason; **not yet trained**
if it waits for runs of [the tournament](tournament.md). C1, C2, ... are claims with thresholds, derived from a paper;
other names are claims that a paper makes in words or in a figure. A remark after a verdict is the reason, or the
condition of the confirmation. The last column repeats the measurement.
"""


@dataclass(frozen=True)
class Paper:
    """One paper.

    Attributes:
        title: Name and reference.
        study: The name of the study and of its JSON file.
        page: The page of the study.
        wanted: The claims that must have a row.
        training: Verdicts that follow from runs in a folder of results; None if the study's file has them.
    """

    title: str
    study: str
    page: str
    wanted: tuple[str, ...]
    training: Callable[[Path], list[Verdict]] | None = None


def _numbered(count: int, *others: str) -> tuple[str, ...]:
    return (*(f"C{k}" for k in range(1, count + 1)), *others)


PAPERS = (
    Paper("Polar Express (Amsel, Persson, Musco, Gower; arXiv 2505.16932)", "polar_express", "polar_express.md",
          _numbered(22)),
    Paper("PRISM (Yang, Wang, Balabanov, Erichson, Mahoney; arXiv 2601.22137)", "prism", "prism.md",
          _numbered(19, "Theorem 1", "Theorem 2"), prism.verdicts),
    Paper("PolarGrad (Lau, Long, Su; arXiv 2505.21799)", "polargrad", "polargrad.md",
          _numbered(20), polargrad.verdicts),
)  # fmt: skip


def claims(paper: Paper, results: Path = RESULTS) -> list[Verdict]:
    """The verdicts of a paper: those of its study, a line for each claim that has none, and those of training."""
    path = results / f"{paper.study}.json"
    rows = json.loads(path.read_text())["verdicts"] if path.exists() else []
    found = [Verdict(**{key: row.get(key, "") for key in Verdict.__dataclass_fields__}) for row in rows]
    known = {verdict.claim for verdict in found}
    found += [Verdict(claim, "-", "-", "-", MISSING) for claim in paper.wanted if claim not in known]
    numbered = sorted((v for v in found if v.claim in paper.wanted), key=lambda v: paper.wanted.index(v.claim))
    others = [v for v in found if v.claim not in paper.wanted]
    return [*numbered, *others, *(paper.training(results) if paper.training else [])]


def page(results: Path = RESULTS) -> str:
    """The page as Markdown."""
    made = [(paper, claims(paper, results)) for paper in PAPERS]
    parts = [INTRODUCTION, _counts(made)]
    for paper, found in made:
        parts.append(f"## {paper.title}\n\n[The numbers and figures](results/{paper.page}).\n")
        lines = [_row(paper, verdict) for verdict in found]
        parts.append("| | claim | our number | verdict | command |\n|---|---|---|---|---|\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _counts(made: Sequence[tuple[Paper, list[Verdict]]]) -> str:
    words = [word for word in (*WORDS, MISSING) if any(v.verdict == word for _, found in made for v in found)]
    lines = [f"| | {' | '.join(words)} |", "|---|" + "--:|" * len(words)]
    for paper, found in made:
        counts = [str(sum(v.verdict == word for v in found)) for word in words]
        lines.append(f"| {paper.title.split(' (')[0]} | {' | '.join(counts)} |")
    return "\n".join(lines) + "\n"


def _row(paper: Paper, verdict: Verdict) -> str:
    asked = "" if verdict.wanted in ("", "-") else f" Wanted: {verdict.wanted}."
    says = verdict.says if verdict.says.endswith(".") or not asked else f"{verdict.says}."
    word = f"**{verdict.verdict}**" + (f": {verdict.why}" if verdict.why else "")
    cells = (verdict.claim, says + asked, verdict.measured or "-", word, command(paper, verdict))
    return line(cells)


def command(paper: Paper, verdict: Verdict) -> str:
    """The command that repeats the measurement; none for a claim that is not tested."""
    if verdict.verdict == NOT_TESTED:
        return "-"
    trained = paper.training is not None and verdict.claim.split()[0] in ("GPT", "LM") and "minus" in verdict.wanted
    if trained or verdict.verdict == NOT_TRAINED or "-cold" in verdict.wanted:
        return f"`{TOURNAMENT}`"
    return f"`{TEXT}`" if verdict.claim.startswith("Shampoo") else f"`python -m studies.{paper.study}`"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the studies' JSON files")
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args()
    given.out.write_text(page(given.results))
    print(given.out)


if __name__ == "__main__":
    main()
