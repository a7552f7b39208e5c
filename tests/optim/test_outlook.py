"""Meshes of words, the catalog of public models, and the outlook of a step: against counts made by hand."""

import math

import pytest
import torch
from torch import nn

from matfn.optim import SOAP, Muon, PolarGrad, plan
from matfn.optim.matrices.exchange_plan import Split
from matfn.optim.model.catalog import active, known_model, names, planned, published
from matfn.optim.model.meshes import mesh_of


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        (8, {"fsdp": 8}),
        ("8", {"fsdp": 8}),
        ("8x4", {"fsdp": 8, "tp": 4}),
        ((8, 4), {"fsdp": 8, "tp": 4}),
        (" 2 x 8 X 4", {"replicate": 2, "fsdp": 8, "tp": 4}),
        ("tp=4, fsdp=8, ep=16", {"fsdp": 8, "tp": 4, "ep": 16}),
    ],
)
def test_meshes_of_words(given, sizes):
    mesh = mesh_of(given, "mesh")
    assert dict(mesh.sizes) == sizes
    assert list(mesh.sizes) == list(sizes)
    assert mesh.ranks == math.prod(size for axis, size in sizes.items() if axis != "ep")
    assert mesh_of(mesh, "mesh") is mesh


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("8y", ValueError, "a text such as"),
        ("", ValueError, "got ''"),
        ("8x", ValueError, "got '8x'"),
        ("dp=8", ValueError, "with the axes replicate, fsdp, tp, ep"),
        ("tp=8,tp=8", ValueError, "got 'tp=8,tp=8'"),
        ("tp=8,", ValueError, "got 'tp=8,'"),
        ("1x1x1x1", ValueError, "got '1x1x1x1'"),
        ((2, 2, 2, 2), ValueError, "got 4 sizes"),
        ((2, 0), ValueError, "at least 1"),
        ((2, True), ValueError, "at least 1"),
        ("999999x999999", ValueError, "at most 65536"),
        ("99999999", ValueError, "at most 65536"),
        ("8 8", ValueError, "got '8 8'"),
        ("t p=8", ValueError, "got 't p=8'"),
        ("fsdp=4,ep=8", ValueError, "ep=8 must divide fsdp x tp = 4"),
        (8.0, TypeError, "got float"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_bad_meshes(given, error, words):
    with pytest.raises(error, match=r"^here") as caught:
        mesh_of(given, "here")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", names())
def test_the_catalog_has_the_published_number_of_parameters(name):
    assert sum(p.numel() for p in known_model(name).parameters()) == published(name)[1]
    assert planned(name).looks == () or name == "deepseek-v3"  # kv_b_proj: fused, taken whole


def test_the_catalog_has_nearly_the_published_numbers_of_active_parameters():
    """The published ones are rounded, and it is not said whether embeddings count."""
    assert active("qwen3-30b-a3b") == pytest.approx(3.3e9, rel=0.02)
    assert active("deepseek-v3") == pytest.approx(37e9, rel=0.02)
    assert active("llama3-8b") == published("llama3-8b")[1]


class Layers(nn.Module):
    """The layers that tensor parallel cuts in different ways."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.o_proj, self.router = (nn.Linear(16, 8, bias=False) for _ in range(3))
        self.conv = nn.Conv1d(16, 8, 3)
        self.experts = nn.Module()
        self.experts.w1 = nn.Parameter(torch.empty(4, 8, 16))


def placements(mesh):
    return {entry.name: mesh_of(mesh, "mesh").placed(entry) for entry in plan(Layers())}


def test_what_words_mean_for_placements():
    found = placements("replicate=2,fsdp=4,tp=2")
    assert {placed.sizes for placed in found.values()} == {(2, 4, 2)}
    cuts = {name: placed.placements for name, placed in found.items()}
    assert cuts["q_proj.weight"] == (None, Split(0, last=True), Split(0))
    assert cuts["o_proj.weight"] == (None, Split(0), Split(1))
    assert cuts["router.weight"] == cuts["conv.weight"] == (None, Split(0), None)
    assert cuts["experts.w1"] == (None, Split(0), Split(1))


@pytest.mark.parametrize(
    ("mesh", "sizes", "cuts"),
    [
        ("fsdp=4,ep=2", (1, 2, 2), (None, Split(0, last=True), Split(0))),
        ("fsdp=8,ep=2", (1, 4, 2), (None, Split(1), Split(0))),  # 8 ranks, 4 experts
        ("replicate=3,fsdp=4,tp=2,ep=4", (3, 2, 4), (None, Split(1), Split(0))),
    ],
)
def test_experts_are_spread_over_ranks_of_both_axes(mesh, sizes, cuts):
    placed = placements(mesh)["experts.w1"]
    assert (placed.sizes, placed.placements) == (sizes, cuts)
    assert math.prod(placed.sizes) == mesh_of(mesh, "mesh").ranks


def outlook(count=4, **options):
    """4 matrices of 64 x 32, whose directions are computed in float32."""
    model = nn.Sequential(*(nn.Linear(32, 64, bias=False) for _ in range(count)))
    kept = plan(model, overrides={"*": "matrix"}, allow=("head", "empty"))
    return kept.outlook("4", Muon([torch.zeros(1, 1)], lr=0.1, precision=torch.float32), **options)


def test_times_are_counted_by_hand():
    found = outlook(gbps=0.001, tflops=1e-6, tokens=100)
    assert found.ranks.sent.tolist() == [2 * 4 * 64 * 32 * 3 / 4] * 4  # float32, there and back, three quarters
    [kind] = found.kinds
    assert (kind.shape, kind.count, kind.way, kind.moved) == ((64, 32), 4, "owner", 2 * 4 * 64 * 32 * 3 / 4)
    messages, work = 8 * found.ranks.sent[0] / 1e6, 2 * kind.work / 1e6
    assert found.messages() == pytest.approx(messages)
    assert found.seconds() == pytest.approx((max(messages, work), messages + work))
    training = 6 * 4 * 64 * 32 * 100 / 4 / 1e6
    assert found.training() == pytest.approx(training)
    assert found.share() == pytest.approx([s / (s + training) for s in found.seconds()])


def test_what_is_not_known_is_asked_for():
    assert outlook().seconds() is None
    assert outlook(gbps=1).seconds() is None
    assert outlook(tflops=1).seconds() is None
    assert outlook(gbps=1, tflops=1).share() is None
    assert "give gbps" in str(outlook(tflops=1))
    assert "give tflops" in str(outlook(gbps=1))
    assert "give tokens" in str(outlook(gbps=1, tflops=1))


@pytest.mark.parametrize("name", ["gbps", "tflops", "tokens", "active"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, 1e31, True, "1"])
def test_bad_numbers(name, value):
    with pytest.raises(ValueError, match=f"^Plan.outlook: {name} must be a number from 1e-30 to 1e30"):
        outlook(**{name: value})


@pytest.mark.parametrize("kind", [SOAP, PolarGrad])
def test_work_that_is_not_counted_has_no_time(kind):
    model = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 8))
    found = plan(model).outlook("2", kind([torch.zeros(1, 1)], lr=0.1), gbps=1, tflops=1)
    assert not found.counted
    assert found.seconds() is None
    assert found.messages() > 0
    assert "The products are not counted" in str(found)


def test_a_plan_with_a_mesh_prints_it_and_one_without_is_asked_for_one():
    model = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 8))
    assert "A step of Muon on 4 ranks (fsdp 2 x tp 2)" in str(plan(model, mesh=(2, 2)))
    assert str(plan(model)) == str(plan(model, mesh=(2, 2))).split("\n\nA step")[0]
    with pytest.raises(ValueError, match=r"^Plan.outlook: give a mesh"):
        plan(model).outlook()
    with pytest.raises(ValueError, match=r"^plan: mesh must be a text"):
        plan(model, mesh="8y")


@pytest.mark.parametrize("given", ["muon", Muon, torch.optim.SGD([torch.zeros(1)], lr=0.1)])
def test_an_optimizer_of_another_kind_is_refused(given):
    with pytest.raises(TypeError, match=r"^Plan.outlook: optimizer must be an optimizer of matfn.* got "):
        plan(Layers()).outlook("8", given)


def test_a_model_without_matrices():
    found = plan(nn.LayerNorm(4), allow=("empty",)).outlook("4")
    assert found.kinds == ()
    assert found.ranks.sent.sum() == found.ranks.work.sum() == 0
    assert str(found) == "A step of Muon on 4 ranks (fsdp 4) sends nothing: the plan has no matrices."


def test_the_callers_optimizer_stays_as_it_was():
    optimizer = Muon(plan(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))))
    before = dict(optimizer.layouts)
    plan(Layers()).outlook("8", optimizer)
    assert dict(optimizer.layouts) == before
