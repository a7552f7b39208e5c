"""plan on models written in other styles: nested cuts, experts by one product, derivatives, caches, adapters."""

import pytest
import torch
from plan_models import Chain, Named
from torch import nn
from torch.nn import functional

from matfn.optim import PlanError, plan
from matfn.optim.matrices.layout import linear, transposed_stack

X, IDS = torch.randn(5, 8), torch.arange(10).reshape(2, 5)


def three(**parts):
    return Chain(a=nn.Linear(8, 16), b=nn.Linear(16, 16), c=nn.Linear(16, 3), **parts)


def looks(decided):
    return {entry.name for entry in decided.looks}


class Palm(nn.Module):
    """q, k, v and a gated layer from one projection: gate and up are cut from the fourth part."""

    def __init__(self, last=lambda x: x.chunk(2, -1)):
        super().__init__()
        self.last, self.fused, self.down, self.head = last, nn.Linear(8, 24 + 16), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        q, k, v, inner = self.fused(x).split((8, 8, 8, 16), -1)
        gate, up = self.last(inner)
        return self.head(torch.tanh((q @ k.mT).softmax(-1) @ v + self.down(functional.silu(gate) * up)))


def test_a_block_that_is_cut_again_is_several_blocks():
    assert plan(Palm(), X)["fused.weight"].layout == linear((40, 8)).cut((8,) * 5)


def test_a_block_that_is_joined_again_stays_one():
    turned = Palm(lambda x: torch.cat([-x[..., 8:], x[..., :8]], -1).split(8, -1))
    assert plan(turned, X)["fused.weight"].layout == linear((40, 8)).cut((8, 8, 8, 16))


@pytest.mark.parametrize("heads", [2, 4])
def test_heads_taken_one_by_one_stay_together(heads):
    model = Named(a=nn.Linear(8, 24), head=nn.Linear(8, 3))

    def forward(x):
        q, k, v = (part.chunk(heads, -1) for part in model.a(x).chunk(3, -1))
        return model.head(torch.tanh(torch.cat([(q[i] @ k[i].mT) @ v[i] for i in range(heads)], -1)))

    model.forward = forward
    assert plan(model, X)["a.weight"].layout == linear((24, 8)).cut(3)


@pytest.mark.parametrize("make", [lambda m, x: torch.jit.trace(m, x), lambda m, x: torch.jit.script(m)])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_parts_are_read_by_the_class_from_which_they_were_made(make):
    inner = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    model = Chain(a=nn.Linear(8, 8), inner=make(inner, X), head=nn.Linear(8, 3))
    modes = [module.training for module in model.modules()]
    for example in (None, X):
        decided = plan(model, example)
        assert [decided[f"inner.{i}.weight"].role for i in (0, 2)] == ["linear", "linear"]
        assert modes == [module.training for module in model.modules()]


def test_blocks_by_index_select():
    model = Named(a=nn.Linear(8, 24), head=nn.Linear(8, 3))

    def forward(x):
        y = model.a(x)
        q, k, v = (y.index_select(-1, torch.arange(i, i + 8)) for i in (0, 8, 16))
        return model.head(torch.tanh((q @ k.mT).softmax(-1) @ v))

    model.forward = forward
    assert plan(model, X)["a.weight"].layout == linear((24, 8)).cut(3)


class OneProduct(nn.Module):
    """Experts whose first weights meet the same data, in one product for all."""

    def __init__(self, how):
        super().__init__()
        self.how, self.router, self.head = how, nn.Linear(8, 4), nn.Linear(8, 3)
        self.w1 = nn.Parameter(torch.randn(4, 8, 24) / 4)
        self.w2 = nn.Parameter(torch.randn(4, 12, 8) / 4)

    def forward(self, x):
        x = torch.tanh(x)
        inner = torch.einsum("td,edf->etf", x, self.w1) if self.how == "einsum" else x @ self.w1
        gate, up = inner.chunk(2, -1)
        y = (functional.silu(gate) * up) @ self.w2
        return self.head(torch.tanh(torch.einsum("te,etd->td", self.router(x).softmax(-1), y)))


@pytest.mark.parametrize("how", ["einsum", "matmul"])
def test_experts_computed_by_one_product_are_cut_in_each_expert(how):
    model = Named(moe=OneProduct(how))
    model.forward = model.moe.forward
    decided = plan(model, X)
    assert decided["moe.w1"].layout == transposed_stack((4, 8, 24)).cut(2)
    assert decided["moe.w2"].layout == transposed_stack((4, 12, 8))
    assert not decided.looks


def test_a_router_beside_raw_experts_has_its_role():
    model = Named(moe=OneProduct("einsum"))
    model.forward = model.moe.forward
    assert plan(model, X)["moe.router.weight"].role == "router"


def test_fused_raw_experts_are_marked_without_an_example():
    model = Named(experts=OneProduct("einsum"))
    decided = plan(model)
    assert "experts.w1" in looks(decided)
    assert "experts.w2" not in looks(decided)


def test_experts_one_after_the_other_in_one_parameter_are_marked():
    model = Named(experts=Named(), head=nn.Linear(8, 3))
    model.experts.w = nn.Parameter(torch.randn(4 * 8, 8) / 4)
    model.forward = lambda x: model.head(
        torch.tanh(torch.bmm(x.expand(4, *x.shape), model.experts.w.view(4, 8, 8))).sum(0)
    )
    entry = plan(model, X)["experts.w"]
    assert (entry.role, entry.look) == ("expert", True)


def test_a_head_that_other_matrices_read_is_marked():
    """A policy whose action the critic reads: mean and deviation are outputs all the same."""
    model = Named(body=nn.Linear(8, 16), mean=nn.Linear(16, 3), spread=nn.Linear(16, 3), q=nn.Linear(11, 16))
    model.q_out = nn.Linear(16, 2)

    def forward(x):
        inner = torch.tanh(model.body(x))
        mean, spread = model.mean(inner), model.spread(inner).clamp(-5, 2)
        action = torch.tanh(mean + spread.exp())
        return action, mean, spread, model.q_out(torch.tanh(model.q(torch.cat([x, action], -1))))

    model.forward = forward
    assert looks(plan(model, X)) == {"mean.weight", "spread.weight"}


def test_hidden_states_that_are_returned_are_not_marked():
    model = three()

    def forward(x):
        states = [torch.relu(model.a(x))]
        states.append(torch.relu(model.b(states[-1])))
        return model.c(states[-1]), states

    model.forward = forward
    assert not plan(model, X).looks


def test_weights_used_in_both_directions_are_marked():
    """The derivative of a network runs back through its weights, as in physics-informed losses."""

    def loss(model):
        x = X.clone().requires_grad_()
        y = model(x)
        return y.square().mean() + torch.autograd.grad(y.sum(), x, create_graph=True)[0].square().mean()

    assert looks(plan(three(), loss)) == {"a.weight", "b.weight", "c.weight"}
    assert not plan(three(), X).looks


def test_distances_to_prototypes_are_products():
    model = Named(a=nn.Linear(8, 16), b=nn.Linear(16, 16))
    model.prototypes = nn.Parameter(torch.randn(5, 16))
    model.forward = lambda x: -torch.cdist(torch.tanh(model.b(torch.tanh(model.a(x)))), model.prototypes)
    decided = plan(model, X)
    assert [decided[name].role for name in ("a.weight", "b.weight", "prototypes")] == ["input", "linear", "head"]


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return 2 * x @ w.mT

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return 2 * grad @ w, 2 * grad.mT @ x


def test_the_order_of_axes_in_a_function_of_the_user():
    model = Named(head=nn.Linear(16, 3))
    model.w = nn.Parameter(torch.randn(16, 8))
    model.forward = lambda x: model.head(torch.tanh(Scaled.apply(x, model.w)))
    assert plan(model, X)["w"].layout == linear((16, 8))


@pytest.mark.parametrize("example", [None, torch.randn(2, 8, 6)])
def test_filters_for_each_channel_have_one_role_and_decay(example):
    model = Chain(a=nn.Conv1d(8, 16, 3), b=nn.Conv1d(16, 16, 3, groups=16), head=nn.Conv1d(16, 3, 1))
    entry = plan(model, example)["b.weight"]
    assert (entry.role, entry.rule, entry.decays) == ("depthwise", "adamw", True)


@pytest.mark.parametrize("example", [None, (IDS,)])
def test_all_layers_of_the_adaptive_softmax_give_the_output(example):
    model = Named(e=nn.Embedding(50, 16), b=nn.Linear(16, 16), o=nn.AdaptiveLogSoftmaxWithLoss(16, 50, [10, 25]))
    model.forward = lambda ids: model.o(torch.tanh(model.b(model.e(ids))).flatten(0, 1), ids.flatten()).loss
    decided = plan(model, example)
    assert [entry.rule for entry in decided if entry.name.startswith("o.")] == ["adamw"] * 5


def test_complex_weights_go_to_adamw_without_an_example():
    model = Named(a=nn.Linear(8, 8), head=nn.Linear(8, 3))
    model.spectrum = nn.Parameter(torch.randn(8, 8, 3, dtype=torch.complex64))
    assert plan(model)["spectrum"].rule == "adamw"


def test_each_layer_of_a_dictionary_of_heads_is_one():
    model = Named(body=nn.Linear(8, 8))
    model.heads = nn.ModuleDict({"a": nn.Linear(8, 5), "b": nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))})
    decided = plan(model)
    assert {entry.name for entry in decided if entry.role == "head"} == {"heads.a.weight", "heads.b.2.weight"}


def test_the_one_layer_behind_recurrent_weights_is_marked():
    assert looks(plan(Named(cell=nn.GRUCell(8, 12), o=nn.Linear(12, 3)))) == {"o.weight"}


def test_a_layer_that_gives_as_much_as_the_data_has_is_marked():
    """The last layer of a denoiser has the width of the data, which the first layer alone reads."""
    model = Named(d1=nn.Linear(3, 8), d2=nn.Linear(8, 16), u=nn.Linear(16, 8), o=nn.Linear(8, 3), t=nn.Linear(6, 8))
    assert "o.weight" in looks(plan(model))


def test_of_a_stem_only_the_first_layer_reads_the_data():
    stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    decided = plan(Named(stem=stem, body=nn.Linear(8, 8), head=nn.Linear(8, 3)))
    assert [decided[f"stem.{i}.weight"].role for i in (0, 2)] == ["input", "conv"]


class Caching(Chain):
    """Keeps a table, its length, and the last result, as rotary embeddings and attention maps are kept."""

    def __init__(self):
        super().__init__(a=nn.Linear(8, 8), c=nn.Linear(8, 3))
        self.register_buffer("mask", torch.ones(4, 4).expand(3, 4, 4))
        self.register_buffer("table", torch.zeros(2))
        self.length, self.numbers = 2, torch.Generator().manual_seed(0)

    def forward(self, x):
        if self.length < len(x):
            self.length = len(x)
            self.register_buffer("table", torch.zeros(self.length))
        self.register_buffer("late", torch.zeros(3))
        x = x + self.table[:, None] + torch.rand(x.shape, generator=self.numbers)
        self.last = super().forward(x)
        return self.last


def test_what_a_model_stores_is_as_it_was():
    model = Caching()
    table, state, keys = model.table, model.numbers.get_state(), set(model.__dict__)
    assert plan(model, X)["c.weight"].role == "head"
    assert model.table is table
    assert model.length == len(table)
    assert set(model.__dict__) == keys
    assert set(model.state_dict()) >= {"table", "mask"}
    assert "late" not in model.state_dict()
    assert torch.equal(model.numbers.get_state(), state)
    model(X)


def test_parameters_made_by_the_run_are_told():
    model = Named(a=nn.Linear(8, 8))

    def forward(x):
        model.late = nn.Linear(8, 3)
        return model.late(torch.tanh(model.a(x)))

    model.forward = forward
    with pytest.raises(PlanError, match=r"makes parameters while it runs: \['late.weight', 'late.bias'\]"):
        plan(model, X)


def test_parameters_made_in_inference_mode_are_told():
    with torch.inference_mode():
        model = nn.Linear(8, 8)
    for example in (None, X):
        with pytest.raises(PlanError, match=r"'weight' was made in inference mode"):
            plan(model, example)


def test_lora_of_a_head_known_by_the_vocabulary_alone():
    """Both factors have the place of their layer, without an example too."""
    lm = Named(
        base_layer=nn.Linear(16, 50), lora_A=Named(default=nn.Linear(16, 2)), lora_B=Named(default=nn.Linear(2, 50))
    )
    decided = plan(Named(wte=nn.Embedding(50, 16), body=nn.Linear(16, 16), lm=lm))
    assert [decided[f"lm.{name}.weight"].role for name in ("base_layer", "lora_A.default", "lora_B.default")] == [
        "head"
    ] * 3


def test_parameters_of_other_adapters_are_named():
    peft = pytest.importorskip("peft")
    configs = [
        peft.LoHaConfig(r=2, target_modules=["b"]),
        peft.LoKrConfig(r=2, target_modules=["b"]),
        peft.OFTConfig(target_modules=["b"], oft_block_size=4),
        peft.HRAConfig(r=2, target_modules=["b"]),
    ]
    for config in configs:
        decided = plan(peft.get_peft_model(three(), config), allow=("empty",))
        trained = [entry for entry in decided if entry.rule != "frozen"]
        assert {(entry.role, entry.rule) for entry in trained} == {("parametrized", "adamw")}
    decided = plan(peft.get_peft_model(three(), peft.AdaLoraConfig(target_modules=["b"], total_step=10)))
    assert [entry.rule for entry in decided if ".lora_A" in entry.name or ".lora_B" in entry.name] == ["matrix"] * 2
