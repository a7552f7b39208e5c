"""The paper's claims about language models, from the runs of the tournament."""

from __future__ import annotations

from pathlib import Path

from studies.trained import RESULTS, trained
from studies.verdict import NOT_TESTED, Verdict

__all__ = ["verdicts"]


def verdicts(results: Path = RESULTS) -> list[Verdict]:
    """Hidden matrices, embedding and head, and AdamW's need of warm-up, from the folder of the results."""
    stage = trained(results)
    qwen = "the paper: Qwen2.5, 541M parameters, vocabulary 151936, curves without a table"
    return [
        stage.below("LM 1", "PolarGrad on embedding and head ends below AdamW on them, Muon on the hidden matrices",
                    "tables", "default", paper=qwen),
        stage.below("LM 2", "a step that grows with the nuclear norm (its root, between Muon and PolarGrad) ends lower",
                    "nu^.5", "default", paper="the paper's GPT-2 losses could not be recovered"),
        stage.below("LM 3", "Muon ends below AdamW", "torch", "adamw"),
        stage.colder("LM 4", "AdamW needs warm-up more than Muon does"),
        Verdict("LM 5", "AdamW's instabilities come from the gradient's condition number, which Muon sets to 1",
                "a cause, not a number", "-", NOT_TESTED,
                "no experiment of the paper separates that cause from others; LM 4 tests the symptom"),
    ]  # fmt: skip
