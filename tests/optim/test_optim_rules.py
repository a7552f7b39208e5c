"""Rules: what a chain is given, state of every kind, rules of several optimizers in one, hooks that change the step."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from matfn.optim import MatrixOptimizer, Muon, PolarGrad, Shampoo, plan
from matfn.optim.matrices.layout import convolution, linear, stack
from matfn.optim.rules.ema import Ema
from matfn.optim.rules.rule import Rule

OPTIONS = {"lr": 0.1, "momentum": 0.5, "nesterov": False, "weight_decay": 0.0, "cautious": False, "scale": "unit"}


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Remember(Rule):
    """Adds up what it sees in state of every kind."""

    def state(self, shape, options):
        return {"entries": "element", "sums": "row", "totals": "matrix", "squares": (2, 3, 3), "step": "counter"}

    def update(self, stack, runs):
        self.steps = [run.step for run in runs]
        for run in runs:
            own = stack[run.where]
            entries, sums, totals, squares = (run[key] for key in ("entries", "sums", "totals", "squares"))
            run["entries"] = entries + own
            run["sums"] = sums + own.sum(-1)
            run["totals"] = totals + own.sum((-2, -1))
            run["squares"] = squares + torch.stack([own[:, :3, :3], -own[:, :3, :3]], 1)
        return stack


LAYOUTS = {
    "matrix": (linear((4, 6)), lambda w: [w]),
    "fused": (linear((8, 3)).cut(2), lambda w: [w[:4], w[4:]]),
    "experts": (stack((2, 4, 6)), lambda w: list(w)),
    "groups": (convolution((8, 3, 2), groups=2), lambda w: [w[:4].reshape(4, 6), w[4:].reshape(4, 6)]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_state_of_every_kind_is_found_again_and_saved_whole(name):
    layout, matrices = LAYOUTS[name]
    w, rule = nn.Parameter(torch.zeros(layout.shape)), Remember()
    other = nn.Parameter(torch.zeros(4, 6))
    groups = [{"params": [("w", w)], "layout": [layout]}, {"params": [("other", other)]}]
    optimizer = MatrixOptimizer(groups, {**OPTIONS, "momentum": 0.0}, (Ema(), rule))
    total = torch.zeros(layout.shape)
    for seed in range(2):
        w.grad, other.grad = gaussian(*layout.shape, seed=seed), gaussian(4, 6, seed=9)
        total += w.grad
        optimizer.step()
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    state = optimizer.state[w]
    assert torch.equal(state["entries"], total)
    rows = torch.cat([x.sum(-1) for x in matrices(total)])
    assert torch.allclose(state["sums"].flatten(), rows, atol=1e-5)
    totals = torch.stack([x.sum() for x in matrices(total)])
    assert torch.allclose(state["totals"].flatten(), totals, atol=1e-5)
    assert state["totals"].shape == (len(layout.cuts), layout.matrices[0][0])
    corners = torch.stack([x[:3, :3] for x in matrices(total)]).view(*state["totals"].shape, 3, 3)
    # of each row block first all matrices of the first square tensor, then all of the second
    assert torch.equal(state["squares"], torch.cat([corners, -corners], 1).view(-1, 3, 3))
    assert int(state["step"]) == 2
    assert set(rule.steps) == {2}


def test_runs_have_the_options_of_their_group_and_ages_apart():
    seen = []

    class Look(Rule):
        def state(self, shape, options):
            return {"step": "counter"}

        def update(self, stack, runs):
            seen.append([(run.options["lr"], run.step, run.where, [slot.name for slot in run.slots]) for run in runs])
            return stack

    a, b, c = (nn.Parameter(torch.zeros(4, 4)) for _ in range(3))
    groups = [{"params": [("a", a), ("b", b)], "lr": 0.5}, {"params": [("c", c)]}]
    optimizer = MatrixOptimizer(groups, OPTIONS, (Ema(), Look()))
    a.grad, c.grad = torch.ones(4, 4), torch.ones(4, 4)
    optimizer.step()
    b.grad = torch.ones(4, 4)
    optimizer.param_groups[1]["lr"] = 0.2
    optimizer.step()
    assert seen == [
        [(0.5, 1, slice(0, 1), ["a"]), (0.1, 1, slice(1, 2), ["c"])],
        [(0.5, 2, slice(0, 1), ["a"]), (0.5, 1, slice(1, 2), ["b"]), (0.2, 2, slice(2, 3), ["c"])],
    ]


def test_prepare_sees_all_stacks_before_any_weight_moves():
    calls = []

    class Ahead(Rule):
        def prepare(self, stacks):
            calls.append([[run.gradients().shape[0] for run in runs] for runs in stacks])
            calls.append([slot.param.abs().sum().item() for runs in stacks for run in runs for slot in run.slots])

        def update(self, stack, runs):
            return stack

    params = [nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(4, 4))]
    optimizer = MatrixOptimizer(params, OPTIONS, (Ema(), Ahead()))
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert calls == [[[1], [2]], [0.0, 0.0, 0.0]]
    assert all(p.any() for p in params)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"age": "counter"}, '"step" is the key of the counter'),
        ({"step": "matrix"}, '"step" is the key of the counter'),
        ({"momentum_buffer": "row"}, "keeps 'momentum_buffer', as another rule of its chain does"),
    ],
)
def test_keys_of_state_are_a_rules_own(kept, message):
    class Keeps(Rule):
        def state(self, shape, options):
            return kept

        def update(self, stack, runs):
            return stack

    p = nn.Parameter(torch.zeros(4, 4))
    optimizer = MatrixOptimizer([p], OPTIONS, (Ema(), Keeps()))
    p.grad = torch.ones(4, 4)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert not p.any()
    assert not optimizer.state


# -- rules of several optimizers in one --


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8), nn.Linear(8, 11))


def loss(net, seed):
    x = torch.randint(0, 11, (32,), generator=torch.Generator().manual_seed(seed))
    return nn.functional.cross_entropy(net(x), (3 * x + 1) % 11)


OWN = partial(PolarGrad, lr=0.3, scale=lambda m, n: 1 / min(m, n), momentum=0.5)
ROOTS = partial(Shampoo, lr=0.01, root_every=2)
OVERRIDES = {"0.weight": "polargrad", "4.weight": "shampoo"}


def mixed(net, **options):
    decided = plan(net, overrides=OVERRIDES, allow=("embedding", "head"))
    return Muon(decided, rules={"polargrad": OWN, "shampoo": ROOTS}, rest={"lr": 0.01}, **options)


def steps(net, optimizers, count, start=0):
    for seed in range(start, start + count):
        net.zero_grad()
        loss(net, seed).backward()
        for optimizer in optimizers:
            optimizer.step()


def test_each_group_moves_by_its_rule_as_in_an_optimizer_of_its_own():
    one, other = network(), network()
    together = mixed(one)
    named = dict(other.named_parameters())
    apart = [
        Muon([named["1.weight"], named["3.weight"]]),
        OWN([named["0.weight"]]),
        ROOTS([named["4.weight"]]),
        torch.optim.AdamW([p for n, p in named.items() if n.endswith("bias")], lr=0.01, weight_decay=0.0),
    ]
    steps(one, [together], 4)
    steps(other, apart, 4)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_one_state_dict_schedulers_and_copies():
    net = network()
    optimizer = mixed(net)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 / (1 + k))
    steps(net, [optimizer], 3)
    schedule.step()
    assert {g["rule"]: g["lr"] for g in optimizer.param_groups} == {
        "matrix": 0.01,
        "polargrad": 0.15,
        "shampoo": 0.005,
        "adamw": 0.005,
    }
    loaded_net = copy.deepcopy(net)
    loaded = mixed(loaded_net)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin_net, twin = copy.deepcopy((net, optimizer))
    for one, its in ((net, optimizer), (loaded_net, loaded), (twin_net, twin)):
        steps(one, [its], 2, start=3)
    for other in (loaded_net, twin_net):
        assert all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters(), strict=True))


def test_an_optimizer_with_other_rules_can_be_pickled():
    net = network()
    decided = plan(net, overrides={"0.weight": "polargrad"}, allow=("embedding",))
    optimizer = Muon(decided, rules={"polargrad": partial(PolarGrad, lr=0.3)})
    again = pickle.loads(pickle.dumps(optimizer))
    assert again.others["polargrad"].defaults == optimizer.others["polargrad"].defaults


def test_rules_that_are_no_rules_unknown_or_unused_are_refused():
    p, q = nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.zeros(4, 4))
    groups = [{"params": [p]}, {"params": [q], "rule": "polargrad"}]
    with pytest.raises(ValueError, match=r"group 1 has rule 'polargrad'; the rules are \('matrix', 'adamw'\)"):
        Muon(groups)
    with pytest.raises(ValueError, match=r"rules=\['polargrad'\] were given, but no group has them"):
        Muon([p], rules={"polargrad": OWN})
    with pytest.raises(TypeError, match=r"rules\['polargrad'\] must be a function from parameters to an optimizer"):
        Muon(groups, rules={"polargrad": partial(torch.optim.SGD, lr=0.1)})
    with pytest.raises(TypeError, match="rules must map names"):
        Muon(groups, rules=[OWN])
    with pytest.raises(ValueError, match="a word other than"):
        Muon(groups, rules={"matrix": OWN})
    with pytest.raises(ValueError, match=r"power must be in \[0, 1\]"):
        Muon([groups[0], {**groups[1], "power": 2.0}], rules={"polargrad": OWN})
    with pytest.raises(ValueError, match=r"group 0 .*has option 'power', which its rule does not know"):
        Muon([{**groups[0], "power": 1.0}, groups[1]], rules={"polargrad": OWN})


def test_the_plan_names_the_rule_and_asks_for_embeddings():
    net = network()
    decided = plan(net, overrides={"0.weight": "polargrad"}, allow=("embedding",))
    assert decided["0.weight"].rule == "polargrad"
    assert [group["rule"] for group in decided.groups()] == ["matrix", "polargrad", "adamw", "adamw"]
    assert "polargrad                   88 parameters" in str(decided)
    with pytest.raises(ValueError, match=r"0\.weight has the role 'embedding'"):
        plan(net, overrides={"0.weight": "polargrad"})


def test_a_hook_may_change_the_update_and_the_weights():
    w = nn.Parameter(torch.zeros(4, 6))
    optimizer = Muon([{"params": [("w", w)], "layout": [linear((4, 6)).cut(2)]}], lr=1.0)

    def upper_half(bucket, update):
        for place in bucket.places(update)[:1]:
            place.zero_()

    def clip(bucket):
        for name, weight in zip(bucket.names, bucket.weights(), strict=True):
            assert name == "w"
            weight.clamp_(-0.1, 0.1)

    optimizer.before_move.append(upper_half)
    optimizer.after_move.append(clip)
    w.grad = gaussian(4, 6)
    optimizer.step()
    assert not w[:2].any()
    assert w[2:].any()
    assert w.abs().max() <= 0.1


def test_other_parameters_may_have_a_gradient_in_each_step():
    """Equal in group, shape and number: only the parameter itself tells the steps apart."""
    a, b = nn.Parameter(torch.zeros(4, 6)), nn.Parameter(torch.zeros(4, 6))
    optimizer = MatrixOptimizer([a, b], {**OPTIONS, "momentum": 0.0}, (Ema(), Remember()))
    for moved, still in ((a, b), (b, a)):
        moved.grad, still.grad, before = gaussian(4, 6), None, still.detach().clone()
        optimizer.step()
        assert moved.any()
        assert torch.equal(still, before)


def test_hooks_see_the_dtype_of_the_stack_whatever_a_rule_computes_in():
    class Wide(Rule):
        def update(self, stack, runs):
            return stack.double() / 3

    w, seen = nn.Parameter(torch.zeros(4, 6)), []
    optimizer = MatrixOptimizer([w], {**OPTIONS, "momentum": 0.0}, (Ema(), Wide()))
    optimizer.before_move.append(lambda bucket, update: seen.append(update.clone()))
    w.grad = gaussian(4, 6)
    optimizer.step()
    assert torch.equal(seen[0][0], (w.grad.double() / 3).float())


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (lambda stack: stack[0], r"\(8, 6\), torch.float32"),
        (lambda stack: stack.sum((-2, -1)), r"\(2,\), torch.float32"),
        (lambda stack: stack.long(), r"\(2, 8, 6\), torch.int64"),
        (lambda stack: None, "NoneType"),
    ],
)
def test_what_a_rule_returns_is_checked(wrong, got):
    """A result of another shape would be broadcast over the weights, and train on nothing in silence."""

    class Wrong(Rule):
        def update(self, stack, runs):
            return wrong(stack)

    weights = [nn.Parameter(torch.zeros(8, 6)) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.ones(8, 6)
    with pytest.raises(TypeError, match=r"Wrong.update must return \(2, 8, 6\), got " + got):
        MatrixOptimizer(weights, OPTIONS, (Ema(), Wrong())).step()
    assert not any(weight.any() for weight in weights)
