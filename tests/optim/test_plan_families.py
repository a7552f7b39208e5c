"""Classes of transformers of each kind: no head is missed, and no fused projection is cut otherwise than it is used.

The expectation of heads is written by hand here. `python -m studies.plan_sweep` does the same for every class.
"""

import os

import pytest

pytest.importorskip("transformers")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from matfn.optim import PlanError, plan
from studies.plan_sweep.models import examples, small_models

HEADS = {
    "LlamaForCausalLM": "lm_head",
    "LlamaForSequenceClassification": "score",
    "LlamaForQuestionAnswering": "qa_outputs",
    "LlamaForTokenClassification": "score",
    "GPT2LMHeadModel": "transformer.wte",
    "GPTNeoXForCausalLM": "embed_out lm_head",
    "BloomForCausalLM": "transformer.word_embeddings",
    "FalconForCausalLM": "transformer.word_embeddings",
    "GPTBigCodeForCausalLM": "transformer.wte",
    "CodeGenForCausalLM": "lm_head",
    "MptForCausalLM": "transformer.wte",
    "Phi3ForCausalLM": "lm_head",
    "GptOssForCausalLM": "lm_head",
    "MixtralForCausalLM": "lm_head",
    "DeepseekV3ForCausalLM": "lm_head",
    "MambaForCausalLM": "backbone.embeddings lm_head",
    "BertForMaskedLM": "bert.embeddings.word_embeddings",
    "BertForPreTraining": "bert.embeddings.word_embeddings cls.seq_relationship",
    "RobertaForSequenceClassification": "classifier.out_proj",
    "DistilBertForSequenceClassification": "classifier",
    "AlbertForMaskedLM": "albert.embeddings.word_embeddings",
    "ElectraForMaskedLM": "electra.embeddings.word_embeddings",
    "ModernBertForTokenClassification": "classifier",
    "BartForSequenceClassification": "classification_head.out_proj",
    "T5ForConditionalGeneration": "shared lm_head",
    "WhisperForConditionalGeneration": "model.decoder.embed_tokens",
    "ViTForImageClassification": "classifier",
    "ViTMAEForPreTraining": "decoder.decoder_pred",
    "SwinForImageClassification": "classifier",
    "SegformerForSemanticSegmentation": "decode_head.classifier",
    "MobileViTForSemanticSegmentation": "segmentation_head.classifier.convolution",
    "Wav2Vec2ForCTC": "lm_head",
    "ASTForAudioClassification": "classifier.dense",
    "DetrForObjectDetection": "class_labels_classifier bbox_predictor.layers.2",
    "CLIPModel": "text_projection visual_projection",
    "BertModel": "pooler.dense",
    "LlamaModel": "",
    "ViTModel": "pooler.dense",
}


def planned(name):
    """Plans of the class without and with an example batch, on the first sizes and batch with which the model runs."""
    for model in small_models(name):
        for batch in examples(model):
            try:
                return model, plan(model), plan(model, batch)
            except PlanError as error:
                last = error
    raise last


@pytest.mark.parametrize("name", HEADS)
def test_no_head_is_missed_and_every_guess_is_marked(name):
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, name):
        pytest.skip(f"this transformers has no {name}")
    torch.manual_seed(0)
    _, names, graph = planned(name)
    found = {e.name.removesuffix(".weight") for e in graph if e.role in ("head", "tied head")}
    assert found <= set(HEADS[name].split())
    assert (len(found) > 0) == bool(HEADS[name])
    assert not [e.name for e in graph if e.is_matrix and e.role in ("head", "tied head", "embedding")]
    for entry in names:
        truth = graph[entry.name]
        if truth.role in ("head", "tied head") and "pooler" not in entry.name:
            assert entry.rule == "adamw" or entry.look, entry
        if entry.role == "head" and not entry.look:
            assert truth.role in ("head", "tied head"), entry
        if entry.layout is not None and truth.layout is not None and len(entry.layout.cuts) > 1 and not entry.look:
            assert entry.layout == truth.layout, entry


def test_raw_weights_of_three_axes_need_an_example():
    transformers = pytest.importorskip("transformers")
    config = transformers.XLNetConfig(vocab_size=31, d_model=16, n_layer=1, n_head=4, d_inner=24, pad_token_id=0)
    model = transformers.XLNetForSequenceClassification(config)
    with pytest.raises(PlanError, match=r"rel_attn\.q \(16, 4, 4\).*"):
        plan(model)
    decided = plan(model, {"input_ids": torch.arange(10).reshape(2, 5)})
    assert decided["logits_proj.weight"].role == "head"
    attention = decided["transformer.layer.0.rel_attn.q"]
    assert attention.layout.matrices == ((1, 16, 16),)  # four heads of four outputs are the rows
    assert decided["transformer.layer.0.rel_attn.o"].layout.matrices == ((1, 16, 16),)
