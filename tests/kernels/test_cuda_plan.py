"""The products of a plan for an NVIDIA GPU, which need not be there: by profile, by MATFN_PRODUCTS, and in words."""

import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
import torch

import matfn
from matfn import RitzMinimax
from matfn.iteration.target import INV_ROOT, POLAR
from matfn.kernels import EAGER, QuackSymmetric, Quickest
from matfn.kernels import card as cards
from matfn.kernels.card import CUDA
from matfn.kernels.trial import Call, Kind, Outcome, Seconds
from matfn.run import machine as machines
from matfn.run import products as chosen
from matfn.run.plan import Purpose, resolve
from matfn.run.trials import TRIALS

BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
HERE = torch.cuda.is_available() and torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 0)


@pytest.fixture
def on(monkeypatch):
    """Plans on a CUDA device of a profile, with packages installed that need not be."""

    def plan(dtype=F32, profile="cuda-sm90", packages=("triton", "quack-kernels"), **given):
        matfn.run.plan._cached.cache_clear()  # plans do not ask again what is installed
        monkeypatch.setenv("MATFN_MACHINE", profile)
        monkeypatch.setattr(chosen, "installed", lambda name: "9.9" if name in packages else "")
        monkeypatch.setattr(machines, "probe", lambda device: {F32: 1e-3})  # asked for older cards
        return resolve(POLAR, None, (256, 512), dtype, torch.device("cuda", 7), purpose=Purpose.STEP, **given)

    return plan


def inverse_roots():
    return resolve(INV_ROOT.with_exponent(2), RitzMinimax(steps=3), (64, 64), F32, torch.device("cuda", 7))


def reason(plan):
    return dict(plan.reasons)["products"]


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """No word, no outcome and no plan of another test, and none for another one."""
    monkeypatch.delenv("MATFN_PRODUCTS", raising=False)
    monkeypatch.setenv("MATFN_CACHE_DIR", str(tmp_path))
    matfn.run.plan._cached.cache_clear()
    yield
    matfn.run.plan._cached.cache_clear()


@pytest.mark.parametrize("profile", ["cuda-sm80", "cuda-sm90", "cuda-sm100"])
def test_modern_cards_take_the_quickest(on, profile):
    for dtype in (F32, BF16, F16):
        plan = on(dtype, profile)
        assert plan.products is chosen.MEASURED
        assert plan.products.cache is TRIALS
        assert plan.wide is EAGER
        assert "timed on this card; H200, 2026-11-26" in reason(plan)


def test_where_torch_is_taken(on):
    """With the reason: older cards, float64, iterations that mirrored products spoil, derivatives, no other kernel."""
    for given, words in (
        (dict(profile="cuda"), "no kernel for symmetric results is known here"),
        (dict(dtype=F64, precision=F64), "no other kernel takes float64"),
        (dict(differentiated=True), "only plain products have derivatives"),
        (dict(packages=()), "neither triton nor quack-kernels is installed"),
        (dict(products=EAGER), "as given"),
    ):
        plan = on(**given)
        assert plan.products is EAGER
        assert words in reason(plan), words
    on()
    inverse = inverse_roots()
    assert inverse.products is EAGER
    assert "not stable with mirrored ones" in reason(inverse)
    assert on(packages=("quack-kernels",)).products is chosen.MEASURED


def test_one_kernel_by_name(on, monkeypatch):
    """An environment variable, read by each plan."""
    for word, dtype, want in (
        ("eager", BF16, EAGER),
        ("quack", BF16, QuackSymmetric()),
        ("quack", F64, EAGER),
        ("measured", BF16, chosen.MEASURED),
        ("", BF16, chosen.MEASURED),
    ):
        monkeypatch.setenv("MATFN_PRODUCTS", word)
        plan = on(dtype, precision=dtype)
        assert plan.products == want, word
        assert word in ("", "measured") or f"MATFN_PRODUCTS={word}" in reason(plan)
    monkeypatch.setenv("MATFN_PRODUCTS", "quack")
    assert "which does not take float64" in reason(on(F64, precision=F64))
    assert on(products=EAGER).products is EAGER  # an argument comes first
    assert inverse_roots().products is EAGER


def test_tritons_kernel_by_name(on, monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed: it comes with torch for CUDA")
    from matfn.kernels.triton_symm import TritonSymmetric

    monkeypatch.setenv("MATFN_PRODUCTS", "triton")
    assert on(F32).products == TritonSymmetric()
    assert on(F64, precision=F64).products is EAGER


def test_wrong_words_and_missing_packages(on, monkeypatch):
    monkeypatch.setenv("MATFN_PRODUCTS", "cublas")
    with pytest.raises(ValueError, match="MATFN_PRODUCTS must be one of measured, eager, triton, quack, got 'cublas'"):
        on()
    for word, package in (("triton", "triton, which comes with torch"), ("quack", "quack-kernels, which is in ")):
        monkeypatch.setenv("MATFN_PRODUCTS", word)
        with pytest.raises(ImportError, match=f"MATFN_PRODUCTS={word} needs the package {package}"):
            on(packages=())


def test_a_plan_measures_nothing(on, monkeypatch):
    monkeypatch.setattr(cards.Cuda, "seconds", lambda *given: pytest.fail("timed"))
    monkeypatch.setattr(cards.Cuda, "candidates", lambda *given: pytest.fail("tried"))
    assert "Quickest()" in str(on())


@pytest.mark.parametrize(("kind", "want"), [
    ("syrk float16 8 1024 2048 r whole", (EAGER, "a", "b", QuackSymmetric())),
    ("syrk bfloat16 8 1024 2048 c whole", (EAGER, "a", "b", QuackSymmetric())),
    ("sym_addmm float16 8 1024 1024 rrr whole one number", (EAGER, "a", "b", QuackSymmetric())),
    ("sym_addmm float16 8 1024 1024 rrr whole number tensor", (EAGER, "a", "b")),
    ("syrk float16 8 256 2048 r whole", (EAGER, "a", "b")),  # one tile of quack's
    ("syrk float16 8 1024 2048 r odd", (EAGER, "a", "b")),
    ("syrk float32 8 1024 2048 r whole", (EAGER, "a", "b")),
    ("syrk float64 8 1024 2048 r whole", (EAGER,)),
])  # fmt: skip
def test_the_candidates(kind, want, monkeypatch):
    asked = []
    stand_in = ModuleType("matfn.kernels.triton_symm")
    stand_in.candidates = lambda *given: asked.append(given) or ("a", "b")
    monkeypatch.setitem(sys.modules, "matfn.kernels.triton_symm", stand_in)
    monkeypatch.setattr(cards, "installed", lambda name: "9.9")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    kind = Kind.read(kind)
    assert CUDA.candidates(kind, torch.device("cuda")) == want
    assert asked == [((9, 0), getattr(torch, kind.dtype), kind.rows)] * ("a" in want)
    monkeypatch.setattr(cards, "installed", lambda name: "")
    assert CUDA.candidates(kind, torch.device("cuda")) == (EAGER,)
    monkeypatch.setattr(cards, "installed", lambda name: "9.9")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert QuackSymmetric() not in CUDA.candidates(kind, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert CUDA.candidates(kind, torch.device("cuda")) == (EAGER,)


def test_the_name_of_a_card(monkeypatch):
    """It holds all that decides: other outcomes belong to another file."""
    facts = dict(name="NVIDIA H200", major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(**facts))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    cards._name.cache_clear()
    try:
        name = CUDA.name(torch.device("cuda"))
        assert name == CUDA.name(torch.device("cuda", 1))
        for part in (
            "NVIDIA H200, sm_90, 132 multiprocessors",
            f"torch {torch.__version__}",
            "quack-kernels",
            "driver",
        ):
            assert part in name
    finally:
        cards._name.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert CUDA.name(torch.device("cuda")) is None


def test_the_time_of_one_run(monkeypatch):
    """Two events around ten runs, called at once, and again behind a sleep that outlasts the calls."""
    told = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            told.append("event")

        def synchronize(self):
            told.append("waited")

        def elapsed_time(self, other):
            assert other is not self
            return 30.0 if "sleep" not in told else 20.0  # milliseconds, as torch tells them

    def sleep(cycles):
        assert cycles >= 2 * 2e9 * 10 * 1e-3
        told.append("sleep")

    def work():
        time.sleep(1e-3)
        told.append("run")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", sleep)
    assert CUDA.seconds(work) == pytest.approx((3e-3, 2e-3))
    once = ["event", *["run"] * 10, "event", "waited"]
    assert told == [*once, "sleep", *once]


def test_explain_without_a_gpu(monkeypatch):
    monkeypatch.delenv("MATFN_MACHINE", raising=False)
    monkeypatch.setattr(chosen, "installed", lambda name: "9.9")
    text = " ".join(str(matfn.explain((768, 3072), "muon", device="cuda")).split())
    if not torch.cuda.is_available():
        assert "cuda-sm90: NVIDIA Hopper, assumed: torch finds no CUDA device here" in text
        assert "kernel syrk 768 x 3072: not measured yet: measured at the first product of this size" in text
    assert "products Quickest(): the quickest kernel" in text


def test_explain_says_what_was_measured(monkeypatch):
    """For each product the sizes of stacks that were timed, the kernel they take, all times, and who was left out."""
    monkeypatch.setenv("MATFN_MACHINE", "cuda-sm90")
    monkeypatch.setattr(chosen, "installed", lambda name: "9.9")
    monkeypatch.setattr(cards.Cuda, "name", lambda self, device: "a card")
    wide, square = torch.zeros(8, 768, 3072, dtype=BF16), torch.zeros(1, 768, 768, dtype=BF16)
    kinds = Call("syrk", (wide,)).kind(), Call("sym_addmm", (square,) * 3, (2.0, torch.ones(1, 1, 1))).kind()
    for kind in (*kinds, Call("syrk", (wide.half(),)).kind(), Call("syrk", (wide[:, :512],)).kind()):
        times = {"Eager()": Seconds(2e-3, 2e-3), "Kernel(1)": Seconds(1e-3, 9e-4), "Kernel(3)": Seconds(3e-3, 5e-4)}
        outcome = Outcome(times, {"Kernel(2)": "wrong result"})
        TRIALS.measured("a card", str(kind), lambda found: False, lambda outcome=outcome: outcome)
    plan = matfn.explain((768, 3072), "muon", device="cuda", precision=BF16)
    text = " ".join(str(plan).split())
    told = (
        "take Kernel(1), in a CUDA graph Kernel(3): called and replayed, Kernel(1) 1 ms and 0.9, Eager() 2 ms and 2, "
        "Kernel(3) 3 ms and 0.5, Kernel(2) is left out: wrong result"
    )
    assert f"kernel syrk 768 x 3072: 8 to 15 matrices {told} kernel" in text
    assert f"sym_addmm 768 x 768: 1 matrix (weights: number tensor) {told} kernel" in text
    assert "kernel sym_mm 768 x 768: not measured yet" in text
    assert text.count("Kernel(2)") == 2
    assert all(len(line) <= 100 for line in str(plan).splitlines())
    torch.use_deterministic_algorithms(True)
    try:
        assert "kernels torch's full products: torch.use_deterministic_algorithms(True)" in " ".join(str(plan).split())
    finally:
        torch.use_deterministic_algorithms(False)
    ritz = " ".join(str(matfn.explain((768, 3072), method=RitzMinimax(), device="cuda", precision=BF16)).split())
    assert f"kernel syrk 768 x 3072: 8 to 15 matrices {told}" in ritz


@pytest.mark.skipif(not HERE, reason="needs an NVIDIA GPU of sm_80 or newer")
def test_on_a_gpu():
    """Each product is right, measured once, and captured; a kind without a trial is captured with a warning."""
    by = Quickest(TRIALS)
    X = torch.randn(3, 520, 264, device="cuda").half()
    got = by.syrk(X)
    call = Call("syrk", (X,))
    assert not call.reference().wrong(got)
    [(kind, outcome)] = by.outcomes(X.device).items()
    assert kind == str(call.kind())
    assert all(0 < time < 1 for times in outcome.seconds.values() for time in times)
    graph = torch.cuda.CUDAGraph()
    Y = torch.randn(3, 40, 264, device="cuda").half()
    with torch.cuda.graph(graph):
        again = by.syrk(X)
        with pytest.warns(RuntimeWarning, match="run the same work once before"):
            other = by.syrk(Y)
    graph.replay()
    assert not call.reference().wrong(again)
    assert torch.equal(other, EAGER.syrk(Y))
    assert list(by.outcomes(X.device)) == [kind]
