"""The heads that a class should have, written by hand: for each kind of task the names of its output layers.

The library itself names the output embeddings of language models (`get_output_embeddings`), and timm its classifiers.
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["expected_heads"]

# {kind of task, as the class name ends: pattern of the whole name of an output weight}.
KINDS = {
    r"(CausalLM|LMHeadModel|ConditionalGeneration|MaskedLM|PreTraining)": r"(.*\.)?lm_head(\.decoder)?",
    r"(Text|Image|Audio|Video|Sequence)?SequenceClassification": (
        r"score|classifier|classifier\.out_proj|classification_head\.out_proj|logits_proj|sequence_summary\.summary"
    ),
    r"TokenClassification|MultipleChoice|NextSentencePrediction|ImageClassification|VideoClassification"
    r"|AudioClassification|AudioFrameClassification": (
        r"classifier|classifier\.out_proj|score|cls\.seq_relationship|cls_classifier|logits_proj|token_classifier"
        r"|classifier\.classifier|classifier\.1"
    ),
    r"QuestionAnswering": r"outputs|(.*\.)?qa_outputs|classifier|qa_classifier",
    r"CTC": r"lm_head|ctc_head",
    r"SemanticSegmentation": r"decode_head\.classifier|segmentation_head\.classifier|head\.head\.4",
    r"ObjectDetection": (
        r"class_labels_classifier|class_head\.dense2|box_head\.dense2|bbox_predictor\.layers\.2"
        r"|(model\.decoder\.)?(class|bbox)_embed\.\d+(\.layers\.2)?"
    ),
    r"UniversalSegmentation|InstanceSegmentation": r"class_predictor",
    r"MaskedImageModeling": r"decoder\.0|lm_head",
    r"SpeechSeq2Seq": r"(.*\.)?proj_out|lm_head",
}


def expected_heads(row: Mapping[str, Any]) -> list[str]:
    """The names of the weights that are heads by the hand-written table or by the library itself."""
    found = list(row.get("expected", ()))
    if row.get("output"):
        found.append(row["output"])
    names = row.get("graph") or row.get("names") or {}
    for ending, pattern in KINDS.items():
        if re.search(rf"For({ending})$", row["class"]):
            found += [name for name in names if re.fullmatch(rf"({pattern})\.weight", name)]
    if "logits_proj.weight" in found:  # then the summary is no head: logits_proj reads it
        found = [name for name in found if not name.startswith("sequence_summary.")]
    return list(dict.fromkeys(found))
