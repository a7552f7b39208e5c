"""plan(model) without an example: classes, names and shapes; what is a guess is marked."""

import pytest
import torch
from plan_models import Attention, Block, Chain, Experts, Named, TwoHeads
from torch import nn
from torch.nn.utils import parametrizations

from matfn.optim import Muon, plan
from matfn.optim.matrices.layout import linear, stack, transposed_stack

BODY = {"body": nn.ModuleList([nn.Linear(8, 8)])}


def nested(path, module):
    """A model with a body and `module` at the dotted path, numbers for lists."""
    for part in reversed(path.split(".")):
        module = nn.ModuleList([module]) if part.isdigit() else Named(**{part: module})
    module.body = BODY["body"]
    return module


HEADS = [
    "classifier.out_proj",
    "classification_head.out_proj",
    "qa_outputs",
    "model.qa_outputs",
    "class_embed.0",
    "head.fc",
    "lm_head",
    "decode_head.classifier",
    "classifier.modules_to_save.default",
    "base_model.model.score.modules_to_save.default",
    "lm_head.lora_B.default",
    "lm_head.lora_A.default",
    "action_net",
    "value_net",
    "actor",
    "cls.seq_relationship",
    "bbox_predictor",
    "output",
    "conv_out",
]


@pytest.mark.parametrize("path", HEADS)
def test_heads_by_name(path):
    entry = plan(nested(path, nn.Linear(8, 3)))[f"{path}.weight"]
    assert (entry.role, entry.rule, entry.certainty) == ("head", "adamw", "name")
    assert not entry.look


@pytest.mark.parametrize("path", ["classifier", "decode_head.classifier", "conv_out", "head", "lm_head"])
def test_convolutions_are_heads_by_the_same_names(path):
    entry = plan(nested(path, nn.Conv2d(8, 3, 1)))[f"{path}.weight"]
    assert (entry.role, entry.rule) == ("head", "adamw")


def test_a_convolution_called_head_before_a_classifier_is_none():
    for classifier, name in ((nn.Linear(40, 3), ""), (nn.Sequential(nn.Dropout(0.1), nn.Linear(40, 3)), "1.")):
        decided = plan(Named(blocks=BODY["body"], conv_head=nn.Conv2d(8, 40, 1), classifier=classifier))
        assert (decided["conv_head.weight"].rule, decided[f"classifier.{name}weight"].rule) == ("matrix", "adamw")


@pytest.mark.parametrize(
    "path", ["pre_classifier", "classifier.dense", "layers.0.head", "decoder.0.fc", "attention.inner.value"]
)
def test_layers_with_similar_names_are_no_heads_without_a_remark(path):
    model = nested(path, nn.Linear(8, 8))
    model.classifier = getattr(model, "classifier", Named())
    model.classifier.out_proj = nn.Linear(8, 3)
    entry = plan(model)[f"{path}.weight"]
    assert entry.rule == "matrix" or entry.look


def test_the_last_layer_of_a_sequential_is_its_head():
    model = nn.Sequential(nn.Embedding(256, 64), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 256))
    decided = plan(model)
    assert [decided[f"{i}.weight"].role for i in (0, 1, 3)] == ["embedding", "linear", "head"]
    assert not decided.looks
    nested_ = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    assert [entry.name for entry in plan(nested_) if entry.role == "head"] == ["1.1.weight"]
    ends_otherwise = nn.Sequential(nn.Linear(8, 8), nn.LSTM(8, 8))
    assert not [entry for entry in plan(ends_otherwise) if entry.role == "head"]


def test_a_width_that_no_layer_reads_is_a_guess_for_a_head_and_marked():
    decided = plan(TwoHeads())
    for name in ("pi.weight", "v.weight"):
        assert (decided[name].role, decided[name].certainty, decided[name].look) == ("head", "guess", True)
    assert "2 decisions want a look (marked ?): pi.weight, v.weight" in str(decided)
    assert decided.looks == (decided["pi.weight"], decided["v.weight"])


def test_a_decoder_with_a_row_for_each_token_is_a_head_whatever_its_width():
    model = Named(e=nn.Embedding(90, 8), up=nn.Linear(8, 16), **BODY, mlm=nn.Linear(16, 90))
    assert (plan(model)["mlm.weight"].role, plan(model)["mlm.weight"].rule) == ("head", "adamw")


def test_the_shape_of_a_position_table_means_nothing():
    model = Named(
        e=nn.Embedding(90, 8), pos_embed=nn.Embedding(16, 8), **BODY, up=nn.Linear(8, 16), down=nn.Linear(16, 8)
    )
    assert plan(model)["up.weight"].rule == "matrix"


def test_routers_experts_and_input_layers_are_picked_by_role():
    moe = Named(gate=nn.Linear(8, 4), experts=Experts("out_in"))
    model = Named(patch_embed=Named(proj=nn.Conv2d(3, 8, 2)), blocks=nn.ModuleList([moe]), head=nn.Linear(8, 3))
    decided = plan(model)
    assert decided["blocks.0.gate.weight"].role == "router"
    assert decided["blocks.0.experts.up"].role == "expert"
    assert decided["patch_embed.proj.weight"].role == "input"
    told = plan(model, overrides={"role:router": "adamw", "role:input": "adamw", "role:exp*": "polargrad"})
    assert told["blocks.0.gate.weight"].rule == told["patch_embed.proj.weight"].rule == "adamw"
    assert told["blocks.0.experts.up"].rule == "polargrad"
    assert told["blocks.0.gate.weight"].certainty == "told"


def test_an_override_by_role_keeps_the_orientation_of_a_convolution():
    model = Named(a=nn.Conv2d(4, 8, 3), b=nn.Conv2d(8, 8, 3), conv_out=nn.ConvTranspose2d(8, 3, 2))
    decided = plan(model, overrides={"role:head": "matrix"}, allow=("head",))
    assert decided["conv_out.weight"].layout.matrices == ((1, 3, 32),)


FUSED = [  # name, out, neighbour that reads it, blocks, whether it wants a look
    ("gate_up_proj", 32, 16, 2, True),
    ("w13", 32, 16, 2, True),
    ("Wi", 32, 16, 2, True),
    ("in_proj", 24, 24, 1, False),  # an MLP: its output is read whole
    ("in_proj", 24, 8, 3, True),
    ("qkv", 24, 8, 3, True),
    ("in_proj_qkvz", 40, 8, 1, True),
    ("in_proj_ba", 6, 8, 1, True),
    ("kv_a_proj_with_mqa", 12, 8, 1, True),
    ("kv_proj", 16, 8, 2, True),
    ("fc1", 32, 16, 1, True),  # twice what fc2 reads: perhaps gate and up
    ("fc1", 32, 32, 1, False),
]


@pytest.mark.parametrize(("name", "out", "read", "blocks", "look"), FUSED)
def test_fused_projections_are_cut_only_where_the_shapes_agree_and_marked(name, out, read, blocks, look):
    parts = {name: nn.Linear(8, out), "down": nn.Linear(read, 8)}
    entry = plan(Named(layers=nn.ModuleList([Named(**parts)]), head=nn.Linear(8, 3)))[f"layers.0.{name}.weight"]
    assert entry.layout == linear((out, 8)).cut(blocks)
    assert entry.look == look


def test_a_convolution_called_qkv_is_fused():
    model = Named(layers=nn.ModuleList([Named(qkv=nn.Conv2d(8, 24, 1), proj=nn.Conv2d(8, 8, 1))]), head=nn.Linear(8, 3))
    entry = plan(model)["layers.0.qkv.weight"]
    assert (len(entry.layout.cuts), entry.look) == (3, True)


def test_by_head_layouts_of_an_unknown_class_are_marked():
    assert plan(Block(Attention("by_head")))["attn.qkv.weight"].look


@pytest.mark.parametrize(
    ("up", "down", "layout"), [((4, 32, 8), (4, 8, 16), stack), ((4, 8, 32), (4, 16, 8), transposed_stack)]
)
def test_the_order_of_experts_follows_from_gate_and_up(up, down, layout):
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_up_proj, self.down_proj = nn.Parameter(torch.zeros(up)), nn.Parameter(torch.zeros(down))

    decided = plan(Named(moe=Named(experts=Experts()), head=nn.Linear(8, 3)))
    assert decided["moe.experts.down_proj"].layout == layout(down)
    assert decided["moe.experts.gate_up_proj"].layout == layout(up).cut(2)


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 1, 8), (2, 1, 1), (1, 8), (1, 1, 1, 8)])
def test_at_most_one_long_axis_is_a_vector_and_does_not_decay(shape):
    entry = plan(Chain(a=nn.Linear(8, 8), c=Named(coefficient=nn.Parameter(torch.ones(shape)))))["c.coefficient"]
    assert (entry.role, entry.rule, entry.decays) == ("vector", "adamw", False)


def test_state_matrices_and_marked_parameters_do_not_decay():
    mixer = Named(A_log=nn.Parameter(torch.zeros(8, 4)), x=nn.Linear(8, 8), odd=nn.Parameter(torch.zeros(3, 3)))
    mixer.odd._no_weight_decay = True
    decided = plan(Named(layers=nn.ModuleList([mixer]), head=nn.Linear(8, 3)), overrides={"*.odd": "adamw"})
    assert (decided["layers.0.A_log"].rule, decided["layers.0.A_log"].decays) == ("adamw", False)
    assert not decided["layers.0.odd"].decays
    plain = Muon(decided).param_groups[-1]
    assert plain["weight_decay"] == 0.0


def test_what_a_reparametrized_weight_is_made_from_is_said():
    layers = nn.ModuleList(
        [
            parametrizations.weight_norm(nn.Linear(8, 8)),
            parametrizations.spectral_norm(nn.Linear(8, 8)),
            parametrizations.orthogonal(nn.Linear(8, 8)),
        ]
    )
    before = layers[1].parametrizations.weight[0]._u.clone()
    decided = plan(Named(layers=layers, head=nn.Linear(8, 3)))
    said = {entry.name.split(".")[1]: entry.reason for entry in decided if entry.parameter.shape == (8, 8)}
    assert "weight_norm" in said["0"]
    assert "spectral_norm" in said["1"]
    assert "orthogonal" in said["2"]
    rules = {entry.name.split(".")[1]: entry.rule for entry in decided if entry.parameter.shape == (8, 8)}
    assert rules == {"0": "matrix", "1": "matrix", "2": "adamw"}
    assert torch.equal(before, layers[1].parametrizations.weight[0]._u)  # the plan computes no weight


def test_lora_of_transformers_through_peft():
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.LlamaConfig(**sizes, vocab_size=31, pad_token_id=0)
    targets = ["q_proj", "lm_head", "embed_tokens"]
    model = peft.get_peft_model(transformers.LlamaForCausalLM(config), peft.LoraConfig(r=2, target_modules=targets))
    for example in (None, {"input_ids": torch.arange(10).reshape(2, 5)}):
        decided = [entry for entry in plan(model, example) if entry.rule != "frozen"]
        rules = {entry.name.removeprefix("base_model.model."): (entry.role, entry.rule) for entry in decided}
        assert rules["lm_head.lora_A.default.weight"] == rules["lm_head.lora_B.default.weight"] == ("head", "adamw")
        assert rules["model.embed_tokens.lora_embedding_A.default"] == ("embedding", "adamw")
        assert rules["model.embed_tokens.lora_embedding_B.default"] == ("embedding", "adamw")
        assert rules["model.layers.0.self_attn.q_proj.lora_A.default.weight"] == ("linear", "matrix")
    config.num_labels = 3
    saved = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["score"])
    model = peft.get_peft_model(transformers.LlamaForSequenceClassification(config), saved)
    for example in (None, {"input_ids": torch.arange(10).reshape(2, 5)}):
        assert plan(model, example)["base_model.model.score.modules_to_save.default.weight"].role == "head"


@pytest.mark.parametrize("ratio", [2, 3])
def test_lora_of_a_layer_whose_neighbours_tell_that_it_is_one_matrix(ratio):
    """The MLP is `ratio` times as wide as the model, as fused matrices would be. `down_proj` reads all of it."""
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16 * ratio}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, vocab_size=31, pad_token_id=0))
    bare = plan(llama)
    model = peft.get_peft_model(llama, peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj", "down_proj"]))
    assert not bare.looks
    assert not plan(model).looks
    assert not plan(model, frozen="keep").looks


def test_lora_of_a_layer_that_is_perhaps_two_matrices_is_marked_as_the_layer_is():
    layer, down = nn.Linear(16, 32, bias=False), nn.Linear(16, 16, bias=False)
    block = nn.ModuleDict({"wide": layer, "down": down})
    assert "0.wide.weight" in [e.name for e in plan(nn.ModuleDict({"0": block})).looks]
    adapted = nn.Module()
    adapted.base_layer = layer.requires_grad_(False)
    adapted.lora_A = nn.ModuleDict({"default": nn.Linear(16, 2, bias=False)})
    adapted.lora_B = nn.ModuleDict({"default": nn.Linear(2, 32, bias=False)})
    marked = plan(nn.ModuleDict({"0": nn.ModuleDict({"wide": adapted, "down": down})})).looks
    assert "0.wide.lora_B.default.weight" in [e.name for e in marked]
    assert "0.wide.lora_A.default.weight" not in [e.name for e in marked]


@pytest.mark.parametrize("nested", [False, True])
def test_the_width_of_an_adapted_layer_itself_marks_nothing(nested):
    """The layer is twice as wide as its own input; nothing beside it reads a half of its output."""

    def model(wide):
        inner = nn.ModuleDict({"wide": wide})
        block = {"ff": inner, "down": nn.Linear(32, 7)} if nested else {"wide": wide, "other": nn.Linear(7, 7)}
        return nn.ModuleDict({"0": nn.ModuleDict(block), "head": nn.Linear(7, 7)})

    layer, adapted = nn.Linear(16, 32, bias=False), nn.Module()
    adapted.base_layer = layer
    adapted.lora_A = nn.ModuleDict({"default": nn.Linear(16, 2, bias=False)})
    adapted.lora_B = nn.ModuleDict({"default": nn.Linear(2, 32, bias=False)})
    for looks in (plan(model(layer)).looks, plan(model(adapted)).looks):
        assert not [entry.name for entry in looks if "wide" in entry.name]


def test_a_container_with_a_named_output_has_no_other():
    """The fusing convolution of a segmentation head comes after the classifier in the order of modules alone."""
    decode = nn.Module()
    decode.classifier, decode.fpn_bottleneck = nn.Conv2d(16, 3, 1), nn.Conv2d(32, 16, 3)
    model = nn.ModuleDict({"backbone": nn.Conv2d(3, 32, 3), "decode_head": decode})
    decided = plan(model)
    assert decided["decode_head.classifier.weight"].role == "head"
    assert decided["decode_head.fpn_bottleneck.weight"].rule == "matrix"
