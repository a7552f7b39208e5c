"""plan(model, example): heads, layers that read the data, blocks and orders of axes, found in the autograd graph."""

import pytest
import torch
from plan_models import (
    Attention,
    Block,
    Chain,
    Checkpointed,
    Denoiser,
    Experts,
    Forecaster,
    Gated,
    LowRank,
    Parallel,
    Queries,
    Raw,
    Refined,
    Residual,
    Rotated,
    Tied,
    Turned,
    TwoHeads,
    WithLoss,
    Written,
)
from torch import nn
from torch.nn.utils import parametrizations, prune

from matfn.optim import Muon, PlanError, plan
from matfn.optim.matrices.layout import linear, stack, transposed, transposed_stack
from studies.plan_sweep.oracle import answers

X, IDS = torch.randn(5, 8), torch.arange(10).reshape(2, 5)


def roles(decided, *wanted):
    return {entry.name for entry in decided if entry.role in wanted}


CASES = [  # model, example, heads, layers that read the data
    (lambda: Chain(a=nn.Linear(8, 16), b=nn.Linear(16, 16), c=nn.Linear(16, 3)), X, {"c.weight"}, {"a.weight"}),
    (lambda: Chain(head=nn.Linear(8, 16), fc=nn.Linear(16, 3)), X, {"fc.weight"}, {"head.weight"}),
    (TwoHeads, X, {"pi.weight", "v.weight"}, {"body.0.weight"}),
    (Denoiser, (torch.randn(2, 3, 4, 4), torch.randn(2, 6)), {"last.weight"}, {"first.weight", "time.weight"}),
    (Forecaster, IDS, {"dec.weight"}, set()),
    (Tied, IDS, {"e.weight"}, set()),
    (Residual, X, set(), {"stem.weight"}),
    (WithLoss, {"x": X, "labels": torch.arange(5) % 3}, {"out.weight"}, {"a.weight"}),
    (lambda: Checkpointed(False), X, {"c.weight"}, {"a.weight"}),
    (lambda: Checkpointed(True), X, {"c.weight"}, {"a.weight"}),
    (Raw, X, {"v"}, {"w"}),
    (lambda: Block(Attention("thirds")), IDS, {"out.weight"}, set()),
    (
        lambda: nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 30)),
        IDS,
        {"3.weight"},
        set(),
    ),
]


@pytest.mark.parametrize(("make", "example", "heads", "inputs"), CASES)
def test_heads_and_input_layers_are_found_whatever_their_names(make, example, heads, inputs):
    decided = plan(make(), example)
    assert roles(decided, "head", "tied head") == heads
    assert roles(decided, "input") == inputs
    assert all(decided[name].rule == "adamw" for name in heads)
    assert all(decided[name].certainty == "graph" for name in heads | inputs)


@pytest.mark.parametrize(
    ("make", "example", "heads"), [case[:3] for case in CASES if case[0] not in (Forecaster, Tied, Residual, WithLoss)]
)
def test_the_heads_are_those_that_answer_as_heads_when_changed(make, example, heads):
    """The oracle changes weights and looks at the outputs; it knows neither names nor graphs."""
    model = make()
    names = [name for name, param in model.named_parameters() if param.ndim > 1]
    assert set(answers(model, example if isinstance(example, tuple) else (example,), names)) == heads


CUTS = [
    ("thirds", 48, linear((48, 16)).cut(3)),
    ("slices", 48, linear((48, 16)).cut(3)),
    ("unbound", 48, linear((48, 16)).cut(3)),
    ("rotary", 48, linear((48, 16)).cut(3)),
    ("merged", 48, linear((48, 16)).cut(3)),
    ("by_head", 48, linear((48, 16)).cut(3, repeats=4)),
    ("in_head", 48, linear((48, 16)).cut(3, repeats=4)),
    ("multi_query", 24, linear((24, 16)).cut((16, 4, 4))),
    ("multi_query_indexed", 24, linear((24, 16)).cut((16, 4, 4))),
]


@pytest.mark.parametrize(("how", "width", "layout"), CUTS)
def test_the_blocks_of_a_projection_are_those_that_the_model_takes(how, width, layout):
    entry = plan(Block(Attention(how, width)), IDS)["attn.qkv.weight"]
    assert (entry.role, entry.certainty, entry.look) == ("qkv", "graph", False)
    assert entry.layout == layout


@pytest.mark.parametrize(("how", "width", "layout"), CUTS)
def test_each_block_moves_one_of_q_k_and_v(how, width, layout):
    """Rows of a block are those that change one of the three: the oracle runs the model's own cut on one-hot rows."""
    attention = Attention(how, width)
    owner = []
    for row in range(width):
        one = torch.zeros(1, 1, width)
        one[..., row] = 1.0
        owner.append([bool(part.abs().sum() > 0) for part in getattr(attention, how)(one, 1, 1)].index(True))
    pieces = plan(Block(attention), IDS)["attn.qkv.weight"].layout.pieces(torch.arange(width)[:, None].expand(-1, 16))
    blocks = [sorted(set(piece.reshape(-1).tolist())) for piece in pieces]
    assert blocks == [[row for row in range(width) if owner[row] == k] for k in range(3)]


def test_the_qkv_hint_cuts_all_rows_also_where_blocks_repeat():
    model = Block(Attention("by_head"))
    with pytest.raises(PlanError, match=r"Cut all of them with qkv=\{...: 12\}"):
        plan(model, IDS, heads={"attn.qkv.weight": 4})
    told = plan(model, IDS, qkv={"attn.qkv.weight": 12})["attn.qkv.weight"]
    assert told.layout == linear((48, 16)).cut(12)  # q, k, v of each head apart


@pytest.mark.parametrize(
    ("how", "layout"),
    [
        ("halves", linear((32, 8)).cut(2)),
        ("turns", linear((32, 8)).cut(2, repeats=16)),
        ("glu", linear((32, 8)).cut(2)),
    ],
)
def test_gate_and_up_are_cut_as_the_model_takes_them(how, layout):
    entry = plan(Gated(how), X)["inner.weight"]
    assert (entry.role, entry.layout) == ("input", layout)  # it reads the data, whatever it holds


@pytest.mark.parametrize("make", [Rotated, Turned, Written])
def test_parts_that_are_joined_again_are_one_matrix(make):
    decided = plan(make(), X)
    assert decided["q.weight"].layout == linear(decided["q.weight"].parameter.shape)


def test_gate_and_up_beside_another_branch_are_two_matrices():
    assert plan(Parallel(), X)["q.weight"].layout == linear((12, 8)).cut(2)


@pytest.mark.parametrize("order", ["out_in", "in_out"])
def test_the_order_of_experts_is_read_from_their_product(order):
    decided = plan(Chain(a=nn.Linear(8, 8), experts=Experts(order), head=nn.Linear(8, 3)), X)
    layout = stack if order == "out_in" else transposed_stack
    assert decided["experts.up"].layout == layout(decided["experts.up"].parameter.shape)
    assert decided["experts.down"].layout == layout(decided["experts.down"].parameter.shape)
    assert decided["experts.up"].role == "expert"


def test_raw_parameters_are_read_by_their_use():
    decided = plan(Raw(), X)
    assert decided["w"].layout.matrices == ((1, 24, 8),)  # two axes of outputs
    assert decided["u"].layout == transposed((24, 8))
    assert decided["mix"].layout == linear((8, 8))
    assert (decided["field"].role, decided["field"].rule, decided["field"].decays) == ("gain", "adamw", False)
    Muon(decided)


def test_factors_of_a_weight_are_matrices_and_learned_queries_are_not():
    decided = plan(LowRank(), X)
    assert decided["A"].layout == linear((2, 8))
    assert decided["B"].layout == linear((8, 2))
    assert decided["w.weight"].layout == linear((8, 8))
    queries = plan(Queries(), X)
    assert (queries["q"].role, queries["q"].rule) == ("position", "adamw")
    assert queries["att.in_proj_weight"].layout == linear((24, 8)).cut(3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: parametrizations.weight_norm(nn.Linear(16, 16)),
        lambda: parametrizations.spectral_norm(nn.Linear(16, 16)),
        lambda: torch.nn.utils.weight_norm(nn.Linear(16, 16)),
        lambda: torch.nn.utils.spectral_norm(nn.Linear(16, 16)),
        lambda: prune.l1_unstructured(nn.Linear(16, 16), "weight", 0.3),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_reparametrized_weights_have_the_place_of_their_layer(make):
    hidden = plan(Chain(a=nn.Linear(8, 16), b=make(), c=nn.Linear(16, 3)), X)
    last = plan(Chain(a=nn.Linear(8, 16), c=nn.Linear(16, 16), b=make()), X)
    (inner,) = [e for e in hidden if e.name.startswith("b.") and e.parameter.shape == (16, 16)]
    (outer,) = [e for e in last if e.name.startswith("b.") and e.parameter.shape == (16, 16)]
    assert (inner.role, inner.rule, outer.role, outer.rule) == ("linear", "matrix", "head", "adamw")
    assert hidden["c.weight"].role == "head"


def test_the_graph_is_stronger_than_a_name_and_a_name_stronger_than_nothing():
    model = Chain(classifier=nn.Linear(8, 16), mid=nn.Linear(16, 16), tail=nn.Linear(16, 3))
    assert plan(model)["classifier.weight"].role == "head"
    decided = plan(model, X)
    assert decided["classifier.weight"].rule == decided["mid.weight"].rule == "matrix"
    assert decided["tail.weight"].role == "head"


def test_an_output_that_another_layer_reads_too_is_decided_by_its_name_and_marked():
    decided = plan(Refined(), X)
    assert (decided["bbox_embed.weight"].role, decided["bbox_embed.weight"].look) == ("head", True)
    assert decided["quality.weight"].rule == "matrix"
    assert decided["class_embed.weight"].certainty == "graph"


def test_an_override_is_stronger_than_the_graph():
    model = Chain(a=nn.Linear(8, 16), b=nn.Linear(16, 16), c=nn.Linear(16, 3))
    decided = plan(model, X, overrides={"role:head": "matrix", "role:input": "adamw"}, allow=("head",))
    assert [decided[f"{x}.weight"].rule for x in "abc"] == ["adamw", "matrix", "matrix"]
    assert decided["c.weight"].certainty == "told"


def test_what_the_example_does_not_reach_wants_a_look():
    model = Chain(a=nn.Linear(8, 16), b=nn.Linear(16, 3))
    model.unused = nn.Linear(16, 16)
    model.forward = lambda x: model.b(torch.tanh(model.a(x)))
    decided = plan(model, X)
    assert [entry.name for entry in decided.looks] == ["unused.weight"]
    assert "does not reach" in decided["unused.weight"].reason


def test_the_example_may_be_a_function_from_the_model_to_its_loss():
    model = Denoiser()
    decided = plan(model, lambda m: m(torch.randn(2, 3, 4, 4), torch.randn(2, 6)).square().mean())
    assert roles(decided, "head") == {"last.weight"}


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel])
def test_wrapped_models_are_read_inside(wrap):
    model = Chain(a=nn.Linear(8, 16), b=nn.Linear(16, 16), c=nn.Linear(16, 3))
    expected = str(plan(model, X))
    assert str(plan(wrap(model), X)) == expected
    model.b = wrap(model.b)
    assert str(plan(model, X)) == expected


def test_a_function_of_the_user_counts_as_a_product():
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            return x @ w.T

    model = Chain(a=nn.Linear(8, 16, bias=False), b=nn.Linear(16, 3, bias=False))
    model.forward = lambda x: Product.apply(torch.tanh(Product.apply(x, model.a.weight)), model.b.weight)
    assert roles(plan(model, X), "head") == {"b.weight"}
