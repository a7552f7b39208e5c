"""plan(model): what each kind of parameter is taken for, what is refused, how the plan prints."""

import re
import warnings

import pytest
import torch
from torch import nn

from matfn.optim import Muon, PlanError, plan
from matfn.optim.matrices.layout import stack, transposed_stack


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
    (block(b=nn.Bilinear(4, 5, 6)), "blocks.0.b.weight", "linear", "matrix", ((1, 6, 20),)),
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
    (block(experts=Experts()), "blocks.0.experts.w1", "expert", "matrix", ((4, 6, 5),)),
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
    with pytest.raises(PlanError, match="got 'matrices', did you mean 'matrix'"):
        plan(model, overrides={"*.weight": "matrices"})
    with pytest.raises(PlanError, match="a rule's name, a Layout or a function; got 'polar grad'"):
        plan(model, overrides={"*.weight": "polar grad"})
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


def test_the_heads_hint_makes_every_head_a_matrix():
    model = block(q_proj=nn.Linear(6, 8), qkv_proj=nn.Linear(8, 24), attn=nn.Linear(6, 12), c_attn=Conv1D(24, 8))
    heads = {"*.q_proj.weight": 4, "*.qkv_proj.weight": 2, "*.attn.weight": 4, "*.c_attn.weight": 4}
    decided = plan(model, qkv={"*.attn.weight": (8, 2, 2)}, heads=heads)
    assert decided["blocks.0.q_proj.weight"].layout.matrices == ((4, 2, 6),)
    assert decided["blocks.0.qkv_proj.weight"].layout.matrices == ((6, 4, 8),)
    assert decided["blocks.0.attn.weight"].layout.matrices == ((6, 2, 6),)  # 4 query heads, 1 of keys, 1 of values
    assert decided["blocks.0.c_attn.weight"].layout.matrices == ((12, 2, 8),)
    assert "each head apart" in str(decided)
    with pytest.raises(PlanError, match=r"q_proj\.weight'.*\(8,\) cannot be cut into heads of one size, 3"):
        plan(model, heads={"*.q_proj.weight": 3})
    with pytest.raises(PlanError, match=r"\(8, 2, 2\) cannot be cut into heads of one size, 2 in the first"):
        plan(model, qkv={"*.attn.weight": (8, 2, 2)}, heads={"*.attn.weight": 2})


def test_heads_of_interleaved_projections_are_refused_with_what_to_say():
    model = block(query_key_value=nn.Linear(8, 24))
    with pytest.raises(PlanError, match=r"interleaved by head.*qkv=\{...: 6\}"):
        plan(model, heads={"*.weight": 2})
    assert plan(model, qkv={"*.weight": 6})["blocks.0.query_key_value.weight"].layout.matrices == ((1, 4, 8),) * 6


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


class HasModule(nn.Module):
    """A layer called "module" in a model that wraps nothing."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)
        self.module = Named(lin=nn.Linear(8, 8), module=nn.Linear(8, 8))
        self.temp = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: m,
        nn.DataParallel,
        lambda m: torch.compile(m, backend="eager"),
        lambda m: nn.DataParallel(torch.compile(m, backend="eager")),
        lambda m: torch.compile(nn.DataParallel(m), backend="eager"),
    ],
    ids=["plain", "parallel", "compiled", "parallel-compiled", "compiled-parallel"],
)
def test_a_layer_called_module_keeps_its_name_and_its_parameters(wrap):
    model = HasModule()
    decided = plan(wrap(model))
    assert {entry.name: entry.parameter for entry in decided} == dict(model.named_parameters())
    assert decided["module.lin.weight"].parameter is model.module.lin.weight
    assert len(decided.groups()[0]["params"]) == 3
    Muon(decided)


def test_a_wrapper_inside_the_model_is_set_aside_too():
    inner = Named(module=nn.Linear(4, 6), fc=nn.Linear(6, 4))
    names = [entry.name for entry in plan(Named(body=nn.DataParallel(inner)))]
    assert names == ["body.module.weight", "body.module.bias", "body.fc.weight", "body.fc.bias"]


def test_names_that_collide_without_wrappers_are_an_error():
    wrapped = nn.DataParallel(Named(fc=nn.Linear(4, 6)))
    wrapped.fc = nn.Linear(4, 6)
    with pytest.raises(PlanError, match=r"two parameters are called 'fc\.weight'"):
        plan(wrapped)


def test_a_model_that_lists_other_parameters_than_its_modules_hold_is_an_error():
    class More(Named):
        def named_parameters(self, *args, recurse=True, **options):
            yield from super().named_parameters(*args, recurse=recurse, **options)
            if recurse:
                yield "ghost", GHOST

    class Less(Named):
        def named_parameters(self, *args, recurse=True, **options):
            if not recurse:
                yield from super().named_parameters(*args, recurse=False, **options)

    with pytest.raises(PlanError, match=r"only listed \['ghost'\], only held \[\]"):
        plan(More(lin=nn.Linear(4, 6)))
    with pytest.raises(PlanError, match=r"only listed \[\], only held \['lin.weight', 'lin.bias'\]"):
        plan(Less(lin=nn.Linear(4, 6)))


GHOST = nn.Parameter(torch.zeros(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda m: {"model": m.parameters()}, "plan needs the model, an nn.Module; got a generator"),
        (lambda m: {"model": m.state_dict()}, "got a OrderedDict"),
        (lambda m: {"model": m, "overrides": ["*"]}, r"overrides must be a mapping .* got \['\*'\]"),
        (lambda m: {"model": m, "overrides": {3: "adamw"}}, "a pattern must be a string or an re.Pattern, got 3"),
        (lambda m: {"model": m, "overrides": {"*": None}}, "must be .* got None"),
        (lambda m: {"model": m, "qkv": {"*": "3"}}, "must be a number of blocks or their sizes .* got '3'"),
        (lambda m: {"model": m, "qkv": {"*": (2.0, 4.0)}}, "must be a number of blocks"),
        (lambda m: {"model": m, "qkv": {"*": True}}, "must be a number of blocks"),
        (lambda m: {"model": m, "qkv": 3}, "qkv must be a mapping"),
        (lambda m: {"model": m, "heads": 3}, "heads must be a mapping"),
        (lambda m: {"model": m, "heads": {"*": (2, 2)}}, "must be a number of heads"),
        (lambda m: {"model": m, "heads": {"*": 0}}, "must be a number of heads"),
    ],
)
def test_arguments_of_another_type_are_refused(arguments, message):
    with pytest.raises(TypeError, match=message):
        plan(**arguments(block(a=nn.Linear(4, 6))))


def test_an_override_that_gives_no_layout_and_an_allow_that_is_no_collection_are_refused():
    model = block(a=nn.Linear(4, 6))
    with pytest.raises(PlanError, match=r"must return a Layout, but for \(6, 4\) it returned 3"):
        plan(model, overrides={"*.weight": lambda shape: 3})
    with pytest.raises(PlanError, match="allow must be a collection"):
        plan(model, allow=5)


def test_an_assumed_orientation_of_experts_is_said_and_can_be_overridden():
    model = block(moe=Experts())
    assumed = plan(model)
    assert "assumed (number, out, in)" in assumed["blocks.0.moe.w1"].reason
    assert "transposed_stack" in assumed["blocks.0.moe.w1"].reason
    assert "assumed" in " ".join(str(assumed).split())
    unknown = block(fc=nn.Linear(4, 4), mixer=Named(mix=nn.Parameter(torch.zeros(4, 6, 5))))
    reason = plan(unknown, overrides={"*.mix": "matrix"})["blocks.0.mixer.mix"].reason
    assert reason == "by override, read as (number, out, in)"
    told = plan(model, overrides={"*.moe.w1": transposed_stack})["blocks.0.moe.w1"]
    assert (told.layout.matrices, told.reason) == (((4, 5, 6),), "by override")


def test_a_last_layer_taken_as_hidden_is_said():
    model = Named(fc1=nn.Linear(4, 6), fc2=nn.Linear(6, 6), fc3=nn.Linear(6, 6))
    decided = plan(model)
    assert [("last layer" in decided[f"fc{i}.weight"].reason) for i in (1, 2, 3)] == [False, False, True]
    with_head = Named(fc1=nn.Linear(4, 6), lm_head=nn.Linear(6, 3))
    assert "last layer" not in str(plan(with_head))


def test_repr_is_one_short_line_and_one_matrix_is_singular():
    decided = plan(Named(fc1=nn.Linear(40, 60)))
    assert repr(decided) == "<Plan of 2 parameters: 1 matrix, 1 adamw, 0 frozen; print() shows it>"
    assert repr(decided["fc1.weight"]).startswith("Entry('fc1.weight', (60, 40), 'linear', 'matrix', ")
    assert "1 matrix in 1 tensor" in str(decided)


def test_the_table_is_aligned_fits_120_columns_and_loses_nothing():
    long = "a_rather_long_name_for_a_module_that_someone_wrote"
    deep = [Named(**{long: Named(**{long: nn.Linear(100, 300, bias=False)})}) for _ in range(12)]
    model = Named(h=nn.ModuleList([Named(qkv=nn.Linear(6, 18), deep=d) for d in deep]), e=nn.Embedding(9, 6), head=L)
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
    torch.manual_seed(0)
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
    # Singular values near 1 where the momentum has any, for q, k and v apart: 1.19 is the most that Muon's four
    # steps make of any, and bfloat16 adds 0.02 or so.
    for moved in ((before - model.transformer.h[0].attn.c_attn.weight.detach()) / 0.1).split(12, dim=1):
        assert torch.linalg.matrix_norm(moved, 2) < 1.25
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
    assert experts.layout.matrices == ((4, 24, 16),) * 2
    assert experts.layout.cuts == (1, 1)  # gate and up in turn
    assert decided["model.layers.0.mlp.experts.down_proj"].layout.matrices == ((4, 16, 24),)


def test_the_table_has_the_order_of_the_model():
    """Also where some parameters of one kind do not fold into one row."""
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    names = [line.split()[0] for line in str(plan(net)).split("\n\n")[0].splitlines()[2:]]
    assert names == [name for name, _ in net.named_parameters()]
