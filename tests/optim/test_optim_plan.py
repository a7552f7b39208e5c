"""plan(model): what each kind of parameter is taken for, what is refused, how the plan prints."""

import re
import warnings

import pytest
import torch
from torch import nn

from matfn.optim import Muon, PlanError, plan
from matfn.optim.layout import stack, transposed_stack


class Named(nn.Module):
    """A module with the given children (and raw parameters), by name."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1 = nn.Parameter(torch.zeros(4, 6, 5))
        self.w2_bias = nn.Parameter(torch.zeros(4, 6))


class QuantLinear(nn.Module):
    """Not an nn.Linear, but called and shaped like one."""

    def __init__(self, n, m):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(m, n))


class Conv1D(nn.Module):
    """As transformers': the weight is stored (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.zeros(nx, nf))


class RMSNorm2d(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 4))


class GPTNeoXAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query_key_value = nn.Linear(6, 18)
        self.qkv = nn.Linear(6, 18)


def block(**parts):
    return Named(blocks=nn.ModuleList([Named(**parts)]))


L = nn.Linear(4, 6, bias=False)
ROLES = [
    (block(fc=nn.Linear(4, 6)), "blocks.0.fc.weight", "linear", "matrix", ((1, 6, 4),)),
    (block(fc=nn.Linear(4, 6)), "blocks.0.fc.bias", "bias", "adamw", None),
    (block(fc=QuantLinear(4, 6)), "blocks.0.fc.weight", "linear", "matrix", ((1, 6, 4),)),
    (block(fc=nn.Linear(4, 1)), "blocks.0.fc.weight", "linear", "adamw", None),
    (block(c=nn.Conv1d(4, 6, 3)), "blocks.0.c.weight", "conv", "matrix", ((1, 6, 12),)),
    (block(c=nn.Conv2d(4, 6, (3, 2))), "blocks.0.c.weight", "conv", "matrix", ((1, 6, 24),)),
    (block(c=nn.Conv3d(4, 6, 2)), "blocks.0.c.weight", "conv", "matrix", ((1, 6, 32),)),
    (block(c=nn.Conv2d(4, 6, 3, groups=2)), "blocks.0.c.weight", "conv", "matrix", ((2, 3, 18),)),
    (block(c=nn.Conv2d(4, 4, 3, groups=4)), "blocks.0.c.weight", "depthwise", "adamw", None),
    (block(c=nn.Conv2d(4, 8, 3, groups=4)), "blocks.0.c.weight", "depthwise", "adamw", None),
    (block(c=nn.ConvTranspose2d(4, 6, 3)), "blocks.0.c.weight", "conv", "matrix", ((1, 6, 36),)),
    (block(c=nn.ConvTranspose2d(4, 6, 3, groups=2)), "blocks.0.c.weight", "conv", "matrix", ((2, 3, 18),)),
    (block(n=nn.LayerNorm((3, 4))), "blocks.0.n.weight", "norm", "adamw", None),
    (block(n=nn.BatchNorm2d(4)), "blocks.0.n.bias", "norm", "adamw", None),
    (block(n=RMSNorm2d()), "blocks.0.n.weight", "norm", "adamw", None),
    (block(gain=nn.Parameter(torch.zeros(()))), "blocks.0.gain", "vector", "adamw", None),
    (block(r=nn.LSTM(4, 5)), "blocks.0.r.weight_ih_l0", "gates", "matrix", ((1, 5, 4),) * 4),
    (block(r=nn.GRU(4, 5)), "blocks.0.r.weight_hh_l0", "gates", "matrix", ((1, 5, 5),) * 3),
    (block(r=nn.RNN(4, 5)), "blocks.0.r.weight_ih_l0", "gates", "matrix", ((1, 5, 4),)),
    (block(r=nn.LSTMCell(4, 5)), "blocks.0.r.weight_hh", "gates", "matrix", ((1, 5, 5),) * 4),
    (block(r=nn.LSTM(4, 5, proj_size=3)), "blocks.0.r.weight_hr_l0", "linear", "matrix", ((1, 3, 5),)),
    (block(a=nn.MultiheadAttention(6, 2)), "blocks.0.a.in_proj_weight", "qkv", "matrix", ((1, 6, 6),) * 3),
    (block(a=nn.MultiheadAttention(6, 2, kdim=4)), "blocks.0.a.k_proj_weight", "linear", "matrix", ((1, 6, 4),)),
    (block(a=nn.MultiheadAttention(6, 2, add_bias_kv=True)), "blocks.0.a.bias_k", "bias", "adamw", None),
    (block(a=nn.MultiheadAttention(6, 2)), "blocks.0.a.out_proj.weight", "linear", "matrix", ((1, 6, 6),)),
    (block(qkv=nn.Linear(6, 18)), "blocks.0.qkv.weight", "qkv", "matrix", ((1, 6, 6),) * 3),
    (block(Wqkv=nn.Linear(6, 18)), "blocks.0.Wqkv.weight", "qkv", "matrix", ((1, 6, 6),) * 3),
    (block(in_proj=nn.Linear(6, 24)), "blocks.0.in_proj.weight", "linear", "matrix", ((1, 24, 6),)),
    (block(query_key_value=nn.Linear(6, 18)), "blocks.0.query_key_value.weight", "qkv", "matrix", ((1, 18, 6),)),
    (block(a=GPTNeoXAttention()), "blocks.0.a.qkv.weight", "qkv", "matrix", ((1, 18, 6),)),
    (block(c_attn=Conv1D(18, 6)), "blocks.0.c_attn.weight", "qkv", "matrix", ((1, 6, 6),) * 3),
    (block(c_fc=Conv1D(24, 6)), "blocks.0.c_fc.weight", "linear", "matrix", ((1, 24, 6),)),
    (block(experts=Experts()), "blocks.0.experts.w1", "experts", "matrix", ((4, 6, 5),)),
    (block(experts=Experts()), "blocks.0.experts.w2_bias", "bias", "adamw", None),
    (Named(e=nn.Embedding(9, 4), fc=L), "e.weight", "embedding", "adamw", None),
    (Named(e=nn.EmbeddingBag(9, 4), fc=L), "e.weight", "embedding", "adamw", None),
    (Named(pos_embed=nn.Parameter(torch.zeros(1, 9, 4)), fc=L), "pos_embed", "position", "adamw", None),
    (Named(cls_token=nn.Parameter(torch.zeros(1, 1, 4)), mlp=L), "cls_token", "position", "adamw", None),
    (Named(blocks=nn.ModuleList([L]), lm_head=nn.Linear(4, 9)), "lm_head.weight", "head", "adamw", None),
    (Named(blocks=nn.ModuleList([L]), fc=nn.Linear(4, 9)), "fc.weight", "head", "adamw", None),
    (Named(e=nn.Embedding(9, 4), mlp=L, proj=nn.Linear(4, 9)), "proj.weight", "head", "adamw", None),
    (block(head=nn.Linear(4, 6), fc=nn.Linear(4, 6)), "blocks.0.head.weight", "linear", "matrix", ((1, 6, 4),)),
    (block(output=nn.Linear(4, 6)), "blocks.0.output.weight", "linear", "matrix", ((1, 6, 4),)),
    (
        Named(classifier=nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 9))),
        "classifier.0.weight",
        "linear",
        "matrix",
        None,
    ),
    (Named(classifier=nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 9))), "classifier.1.weight", "head", "adamw", None),
    (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9), nn.Linear(9, 4)), "1.weight", "linear", "matrix", None),
    (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9)), "2.weight", "head", "adamw", None),
]


@pytest.mark.parametrize(("model", "name", "role", "rule", "matrices"), ROLES, ids=[case[1] for case in ROLES])
def test_recognises(model, name, role, rule, matrices):
    entry = plan(model, allow=("empty",))[name]
    assert (entry.role, entry.rule) == (role, rule)
    assert entry.reason
    if matrices is not None:
        assert entry.layout.matrices == matrices
    assert (entry.layout is None) == (rule != "matrix")


def test_complex_and_empty_weights_are_not_orthogonalized():
    model = block(fc=nn.Linear(4, 6, dtype=torch.complex64), mlp=nn.Linear(4, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that initialising an empty weight does nothing
        model.blocks.append(Named(none=nn.Linear(0, 6, bias=False)))
    rules = {entry.name: entry.rule for entry in plan(model)}
    assert rules["blocks.0.fc.weight"] == "adamw"
    assert rules["blocks.0.mlp.weight"] == "matrix"
    assert rules["blocks.1.none.weight"] == "adamw"


def test_a_tied_head_appears_once_and_answers_to_both_names():
    model = Named(wte=nn.Embedding(9, 4), mlp=nn.Linear(4, 4), lm_head=nn.Linear(4, 9, bias=False))
    model.lm_head.weight = model.wte.weight
    entries = plan(model)
    assert [entry.name for entry in entries] == ["wte.weight", "mlp.weight", "mlp.bias"]
    assert entries["wte.weight"].role == "tied head"
    assert plan(model, overrides={"lm_head.weight": "frozen"})["wte.weight"].rule == "frozen"


def test_frozen_parameters_are_shown_and_left_out():
    model = block(a=nn.Linear(4, 6), b=nn.Linear(4, 6))
    model.blocks[0].a.requires_grad_(False)
    decided = plan(model)
    assert decided["blocks.0.a.weight"].rule == "frozen"
    assert "frozen" in str(decided)
    names = [name for group in decided.groups() for name, _ in group["params"]]
    assert names == ["blocks.0.b.weight", "blocks.0.b.bias"]


def test_groups_split_matrices_decayed_and_undecayed():
    model = Named(wte=nn.Embedding(9, 4), mlp=nn.Linear(4, 4), norm=nn.LayerNorm((2, 4)))
    matrix, decayed, plain = plan(model).groups()
    assert [name for name, _ in matrix["params"]] == ["mlp.weight"]
    assert [name for name, _ in decayed["params"]] == ["wte.weight"]
    assert [name for name, _ in plain["params"]] == ["mlp.bias", "norm.weight", "norm.bias"]
    assert plain["weight_decay"] == 0.0
    assert "weight_decay" not in decayed


def test_an_unknown_parameter_is_an_error_that_overrides_resolve():
    model = block(mixer=Named(mix=nn.Parameter(torch.zeros(4, 6))), fc=nn.Linear(4, 4))
    with pytest.raises(PlanError, match=r"blocks\.0\.mixer\.mix \(4, 6\) of Named"):
        plan(model)
    assert plan(model, overrides={"*.mix": "matrix"})["blocks.0.mixer.mix"].layout.matrices == ((1, 4, 6),)
    assert plan(model, overrides={"*.mix": "adamw"})["blocks.0.mixer.mix"].rule == "adamw"
    regex = plan(model, overrides={re.compile(r"blocks\.\d+\.mixer\..*"): "frozen"})
    assert regex["blocks.0.mixer.mix"].rule == "frozen"


def test_an_override_may_be_a_layout_or_a_function_of_the_shape():
    model = block(moe=Experts())
    assert plan(model, overrides={"*.w1": transposed_stack})["blocks.0.moe.w1"].layout.matrices == ((4, 5, 6),)
    assert (
        plan(model, overrides={"*.w1": stack((4, 6, 5)).cut(2)})["blocks.0.moe.w1"].layout.matrices == ((4, 3, 5),) * 2
    )
    with pytest.raises(PlanError, match=r"blocks\.0\.moe\.w1.*\(4, 6, 7\)"):
        plan(model, overrides={"*.w1": stack((4, 6, 7))})


def test_the_first_matching_override_counts():
    model = block(a=nn.Linear(4, 6), b=nn.Linear(4, 6))
    decided = plan(model, overrides={"*.a.weight": "adamw", "*.weight": "matrix"})
    assert [decided[f"blocks.0.{x}.weight"].rule for x in "ab"] == ["adamw", "matrix"]


def test_patterns_that_match_nothing_and_wrong_decisions_are_errors():
    model = block(a=nn.Linear(4, 6))
    with pytest.raises(PlanError, match=r"'\*\.q\.weight' matches no parameter"):
        plan(model, overrides={"*.q.weight": "adamw"})
    with pytest.raises(PlanError, match="matches no parameter"):
        plan(model, qkv={"*.c_attn.weight": 3})
    with pytest.raises(PlanError, match="'muon'"):
        plan(model, overrides={"*.weight": "muon"})
    with pytest.raises(PlanError, match="fewer than two axes"):
        plan(model, overrides={"*.bias": "matrix"})
    with pytest.raises(PlanError, match="allow must be"):
        plan(model, allow="empty")


def test_the_qkv_hint_cuts_unequal_and_equal_blocks():
    model = block(attn=nn.Linear(6, 10), c_attn=Conv1D(12, 6))
    decided = plan(model, qkv={"*.attn.weight": (6, 2, 2), "*.c_attn.weight": 2})
    assert decided["blocks.0.attn.weight"].layout.matrices == ((1, 6, 6), (1, 2, 6), (1, 2, 6))
    assert decided["blocks.0.c_attn.weight"].layout.matrices == ((1, 6, 6),) * 2
    with pytest.raises(PlanError, match=r"blocks\.0\.attn\.weight.*add up to 9"):
        plan(model, qkv={"*.attn.weight": (6, 2, 1)})


def test_nothing_orthogonalized_is_an_error_unless_asked_for():
    model = Named(e=nn.Embedding(9, 4))
    with pytest.raises(PlanError, match="nothing would be orthogonalized"):
        plan(model)
    assert len(plan(model, allow=("empty",))) == 1


def test_an_orthogonalized_embedding_or_head_is_an_error_unless_asked_for():
    model = Named(e=nn.Embedding(9, 4), mlp=nn.Linear(4, 4), lm_head=nn.Linear(4, 9))
    with pytest.raises(PlanError, match=r"e\.weight has the role 'embedding'"):
        plan(model, overrides={"e.weight": "matrix"})
    with pytest.raises(PlanError, match=r"lm_head\.weight has the role 'head'"):
        plan(model, overrides={"lm_head.weight": "matrix"})
    decided = plan(model, overrides={"lm_head.weight": "matrix", "e.weight": "matrix"}, allow=("embedding", "head"))
    assert decided["e.weight"].rule == decided["lm_head.weight"].rule == "matrix"


def test_lazy_parameters_and_modules_without_parameters_are_errors():
    with pytest.raises(PlanError, match="lazy"):
        plan(block(a=nn.LazyLinear(4)))
    with pytest.raises(PlanError, match="no parameters"):
        plan(nn.ReLU())


def test_wrappers_do_not_change_the_plan():
    model = block(a=nn.Linear(4, 6), n=nn.LayerNorm(4))
    expected = str(plan(model))
    assert str(plan(torch.compile(model, backend="eager"))) == expected
    assert str(plan(nn.DataParallel(model))) == expected
    model.blocks[0] = torch.compile(model.blocks[0], backend="eager")
    assert str(plan(model)) == expected


def test_the_table_is_aligned_fits_120_columns_and_loses_nothing():
    long = "a_rather_long_name_for_a_module_that_someone_wrote"
    deep = [Named(**{long: Named(**{long: nn.Linear(100, 300, bias=False)})}) for _ in range(12)]
    model = Named(h=nn.ModuleList([Named(qkv=nn.Linear(6, 18), deep=d) for d in deep]), e=nn.Embedding(9, 6))
    text = str(plan(model))
    assert max(len(line) for line in text.splitlines()) <= 120
    assert "h.0-11.qkv.weight" in text
    assert "3 x 6 x 6" in text
    # 12 blocks of q, k, v and one deep matrix
    assert "48 matrices in 24 tensors" in text
    width = len(text.splitlines()[1].split("  ")[0])
    names = "".join(line[:width].strip() for line in text.splitlines())
    assert f"h.0-11.deep.{long}.{long}.weight" in names


def test_unequal_repetitions_are_not_folded():
    model = Named(h=nn.ModuleList([Named(fc=nn.Linear(4, 4 + 2 * (i == 1), bias=False)) for i in range(3)]))
    text = str(plan(model))
    assert "h.0.fc.weight" in text
    assert "h.1.fc.weight" in text
    assert "h.0-2" not in text


def test_gpt2_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=12, n_head=2, vocab_size=31, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    decided = plan(model)
    assert decided["transformer.wte.weight"].role == "tied head"
    assert decided["transformer.wpe.weight"].role == "embedding"
    assert decided["transformer.h.1.attn.c_attn.weight"].layout.matrices == ((1, 12, 12),) * 3
    assert decided["transformer.h.1.mlp.c_fc.weight"].layout.matrices == ((1, 48, 12),)
    assert decided["transformer.h.1.mlp.c_proj.weight"].layout.matrices == ((1, 12, 48),)
    assert len(decided) == len(list(model.parameters()))
    untied = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**config.to_dict(), "tie_word_embeddings": False}))
    assert plan(untied)["lm_head.weight"].role == "head"
    before = model.transformer.h[0].attn.c_attn.weight.detach().clone()
    optimizer = Muon(decided, lr=0.1)
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    # five Polar Express steps: singular values near 1 where the momentum has any, for q, k and v apart
    for moved in ((before - model.transformer.h[0].attn.c_attn.weight.detach()) / 0.1).split(12, dim=1):
        assert torch.linalg.matrix_norm(moved, 2) < 1.2
        assert torch.linalg.matrix_norm(moved) > 1.5


def test_mixture_of_transformers():
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "GptOssForCausalLM"):
        pytest.skip("this transformers has no GPT-OSS")
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "num_local_experts": 4}
    config = transformers.GptOssConfig(**sizes, head_dim=8, num_attention_heads=2, num_key_value_heads=1, vocab_size=31)
    decided = plan(transformers.GptOssForCausalLM(config))
    experts = decided["model.layers.0.mlp.experts.gate_up_proj"]
    assert experts.parameter.shape == (4, 16, 48)
    assert experts.layout.matrices == ((4, 48, 16),)
    assert decided["model.layers.0.mlp.experts.down_proj"].layout.matrices == ((4, 16, 24),)
