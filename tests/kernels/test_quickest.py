"""The choice of a kernel by time, on a card of invented times: trials, classes of sizes, the cache, the exceptions."""

import copy
import json
import pickle
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pytest
import torch

from matfn.kernels import EAGER
from matfn.kernels.card import Cuda
from matfn.kernels.products import Eager
from matfn.kernels.quickest import Quickest
from matfn.kernels.trial import Call, Kind, Outcome, Seconds, lower
from matfn.run import trials
from matfn.run.trials import TRIALS, Trials
from matrices import gaussian

RAN = []  # the products that ran last
CUDA_HERE = torch.cuda.is_available() and torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 0)


@dataclass(frozen=True)
class Kernel(Eager):
    """Products that note that they ran, or fail, or are wrong."""

    name: str
    fault: str = ""

    def _noted(self, result):
        RAN.append(self.name)
        if self.fault == "fails":
            raise ValueError("out of shared\nmemory")
        if self.fault == "no memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if self.fault == "last entry":
            result[-1, -1, -1] += 0.1
        return result.float() if self.fault == "dtype" else result

    def mm(self, A, B):
        return self._noted(super().mm(A, B))

    def addmm(self, C, A, B, *, alpha, beta):
        if self.fault == "beta":
            beta = 2 * beta
        return self._noted(super().addmm(C, A, B, alpha=alpha, beta=beta))


@dataclass(frozen=True)
class FakeCard:
    """A card that runs on the CPU and takes the seconds that a table says for each kernel."""

    seconds_of: dict = field(hash=False)
    kernels: tuple = ()
    state: dict = field(default_factory=lambda: {"capturing": False, "trials": 0}, hash=False)

    def holds(self, x):
        return True

    def name(self, device):
        return "a card"

    def candidates(self, kind, device):
        return (EAGER, *self.kernels)

    def capturing(self):
        return self.state["capturing"]

    def wait(self):
        self.state["trials"] += 1

    def seconds(self, work):
        before = len(RAN)
        work()
        times = self.seconds_of[RAN[-1] if len(RAN) > before else "torch"]
        return Seconds(*times) if isinstance(times, tuple) else Seconds(times, times)


SLOW, QUICK = Kernel("slow"), Kernel("quick")
TIMES = {"torch": 2.0, "slow": 3.0, "quick": 1.0}


@pytest.fixture(autouse=True)
def nothing_ran():
    RAN.clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MATFN_CACHE_DIR", str(tmp_path))
    return tmp_path


def products(*kernels, cache=None, **times):
    return Quickest(cache, FakeCard(TIMES | times, kernels))


def chosen(by, b=2, n=24, k=40, dtype=torch.float32):
    """The kernel that computes X X^T, after the trial if there is one."""
    X = torch.ones(b, n, k, dtype=dtype)
    by.syrk(X)
    RAN.clear()
    by.syrk(X)
    return RAN[-1] if RAN else "torch"


def test_the_quickest_kernel_wins():
    by = products(SLOW, QUICK)
    by.syrk(torch.ones(2, 24, 40))
    assert RAN.count("quick") == 2 + 5 + 2  # check and warm run, five rounds, a run of the layout, the product itself
    assert chosen(by) == "quick"
    RAN.clear()
    X, M = gaussian(2, 24, 40, seed=1).float(), torch.eye(24).expand(2, 24, 24)
    assert torch.equal(by.syrk(X), EAGER.syrk(X))
    assert RAN == ["quick"]
    assert torch.equal(by.sym_mm(M, M), M)
    got = by.sym_addmm(M, M, M, alpha=2.0, beta=-0.5)
    assert torch.equal(got, 1.5 * M)
    assert RAN[-1] == "quick"


@pytest.mark.parametrize(("least", "winner"), [(0.97, "quick"), (0.985, "torch"), (1.5, "torch")])
def test_a_tie_goes_to_torch(least, winner):
    assert chosen(products(SLOW, QUICK, torch=1.0, quick=least)) == winner


def test_a_graph_takes_the_quickest_on_the_device():
    """Python's part of a call is not replayed. The kernel of the graph runs once before, so that it is compiled."""
    by = products(SLOW, QUICK, slow=(5.0, 0.5), quick=(1.0, 1.0))
    by.syrk(torch.ones(2, 24, 40))
    assert RAN[-2:] == ["slow", "quick"]
    assert chosen(by) == "quick"
    by.card.state["capturing"] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen(by) == "slow"
    tied = products(SLOW, QUICK, torch=(1.01, 1.0), slow=(1.0, 3.0), quick=(1.0, 0.99))
    assert chosen(tied) == "torch"
    tied.card.state["capturing"] = True
    assert chosen(tied) == "torch"


def test_the_median_decides():
    """One slow sample, of a clock that changed, is no reason."""
    by = products(QUICK)
    samples = iter([9.0, 1.0, 1.0, 1.0, 9.0])
    real = by.card.seconds

    class Jumping(FakeCard):
        def seconds(self, work):
            usual = real(work)
            return Seconds(next(samples), 1.0) if usual.called == 1.0 else usual

    assert chosen(replace(by, card=Jumping(by.card.seconds_of, by.card.kernels))) == "quick"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("fails", "ValueError: out of shared memory"),
        ("last entry", "wrong result: an error of 0."),
        ("dtype", "not a torch.bfloat16 tensor of shape (2, 24, 24)"),
    ],
)
def test_a_kernel_that_fails_or_errs_is_left_out(fault, words):
    bad = Kernel("bad", fault)
    by = products(bad, QUICK, bad=0.1)
    assert chosen(by, dtype=torch.bfloat16) == "quick"
    [outcome] = by.outcomes(torch.device("cpu")).values()
    assert words in outcome.left_out[repr(bad)]
    assert set(outcome.seconds) == {repr(EAGER), repr(QUICK)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("k", [8, 300])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_that_round_are_not_wrong(k, dtype, transposed):
    """A result that is rounded once is right; a kernel that takes another weight is wrong."""
    x = torch.zeros(3, 40, k, dtype=dtype)
    x, M = (x.mT.contiguous().mT if transposed else x), torch.zeros(3, k, k, dtype=dtype)
    M = M.mT if transposed else M
    weight = torch.ones(3, 1, 1)
    sums = [Call("sym_addmm", (M, M, M), weights) for weights in ((0.3, 2.0), (1.0, weight), (weight, weight[:1]))]
    for call in (Call("syrk", (x,)), Call("sym_mm", (M, M)), *sums):
        tried = call.rehearsed()
        assert tried.kind() == call.kind()
        exact = Call(tried.product, tuple(x.double() for x in tried.tensors), tried.weights).by(EAGER)
        assert not tried.reference().wrong(exact.to(dtype)), call
    for call in sums:
        tried = call.rehearsed()
        assert "wrong result" in tried.reference().wrong(tried.by(Kernel("bad", "beta")))


def test_the_matrices_of_a_trial_commute_and_are_not_alike():
    M = torch.zeros(2, 30, 30, dtype=torch.float16)
    C, A, B = (x.double() for x in Call("sym_addmm", (M, M, M), (2.0, 1.0)).rehearsed().tensors)
    assert torch.equal(A @ B, (A @ B).mT)
    assert torch.equal(A, A.mT)
    assert torch.equal(C, C.mT)
    assert not any(torch.equal(x, y) for x, y in ((A, B), (A, C), (B, C)))
    assert all(0.1 < torch.linalg.matrix_norm(x, 2).max() < 2 for x in (A, B, C))


def test_a_trial_leaves_the_random_numbers_of_torch_alone():
    before = torch.get_rng_state()
    chosen(products(QUICK))
    assert torch.equal(torch.get_rng_state(), before)


def test_classes_of_sizes():
    """One trial serves rows up to a factor of 1.5 and other sizes up to 2, of one dtype, layout and kind of weight."""
    assert [lower(n, 2) for n in (1, 2, 3, 511, 512, 767, 768, 1023, 1024)] == [1, 2, 3, 384, 512, 512, 768, 768, 1024]
    assert [lower(n, 1) for n in (1, 3, 8, 15, 16)] == [1, 2, 8, 8, 16]
    by = products(QUICK)

    def count(work):
        before = by.card.state["trials"]
        work()
        return by.card.state["trials"] - before

    assert count(lambda: chosen(by, 4, 48, 64)) == 1
    assert count(lambda: [chosen(by, 4, 48, 64), chosen(by, 7, 56, 120)]) == 0
    assert count(lambda: [chosen(by, 4, 64, 64), chosen(by, 4, 40, 64), chosen(by, 8, 48, 64)]) == 3
    assert count(lambda: chosen(by, 4, 48, 128)) == 1
    assert count(lambda: chosen(by, 4, 52, 68)) == 0  # rows begin at multiples of 16 bytes
    assert count(lambda: chosen(by, 4, 48, 65)) == 1  # here they do not
    assert count(lambda: chosen(by, 4, 49, 64)) == 0  # nor in the result
    assert count(lambda: chosen(by, 4, 48, 64, torch.float16)) == 1
    assert count(lambda: by.syrk(torch.ones(4, 64, 48).mT)) == 1
    M, weight = torch.eye(48).expand(4, 48, 48).contiguous(), torch.ones(4, 1, 1)
    for alpha, beta in ((1.0, 2.0), (3.0, 2.0), (3.0, weight), (weight, weight)):
        assert count(lambda a=alpha, b=beta: by.sym_addmm(M, M, M, alpha=a, beta=b)) == 1
    assert count(lambda: by.sym_addmm(M, M, M, alpha=5.0, beta=-2.0)) == 0


@pytest.mark.parametrize("weights", [(), (1.0, 2.0), (torch.ones(2, 1, 1), 0.5)])
def test_a_kind_is_read_as_it_is_written(weights):
    M = torch.zeros(2, 8, 8)
    kind = Call("sym_addmm", (M, M, M), weights).kind() if weights else Call("syrk", (M,)).kind()
    assert Kind.read(str(kind)) == kind
    for text in ("", "syrk", "syrk float16 8 a 8 r whole", "1 2 3 4 5 6"):
        assert Kind.read(text) is None


def test_no_trial_where_torch_is_the_answer(monkeypatch):
    """Derivatives, one candidate, nothing to multiply, entries that lie apart, results without symmetry."""
    by = products(QUICK)
    X = torch.ones(2, 4, 6, requires_grad=True)
    by.syrk(X).sum().backward()
    assert X.grad is not None
    Y = torch.ones(2, 4, 12)
    for Z in (torch.ones(0, 4, 6), torch.ones(2, 0, 6), torch.ones(2, 4, 0), Y[..., ::2]):
        assert torch.equal(by.syrk(Z), EAGER.syrk(Z))
    assert torch.equal(by.mm(Y, Y.mT), EAGER.mm(Y, Y.mT))
    assert torch.equal(by.addmm(Y, torch.ones(2, 4, 4), Y, alpha=1.0, beta=2.0), 6 * Y)
    chosen(products())
    assert torch.equal(Quickest().syrk(Y), EAGER.syrk(Y))  # a tensor on a CPU
    assert not RAN
    assert by.card.state["trials"] == 0
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert chosen(by) == "torch"


def test_deterministic_algorithms_take_torch():
    by = products(QUICK)
    torch.use_deterministic_algorithms(True)
    try:
        assert chosen(by) == "torch"
        assert by.card.state["trials"] == 0
    finally:
        torch.use_deterministic_algorithms(False)
    assert chosen(by) == "quick"


def test_nothing_is_timed_or_compiled_while_a_graph_is_captured(folder):
    """A product that ran before is captured as it ran. Its like, of another size, may not be compiled yet."""
    by = products(QUICK, cache=TRIALS)
    by.card.state["capturing"] = True
    with pytest.warns(RuntimeWarning, match=r"no product like syrk float32 2 24 32 .*run the same work once before"):
        assert torch.equal(by.syrk(torch.ones(2, 24, 40)), torch.full((2, 24, 24), 40.0))
    assert not RAN
    assert by.card.state["trials"] == 0
    by.card.state["capturing"] = False
    assert chosen(by) == "quick"  # the graph's choice is not kept
    by.card.state["capturing"] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen(by) == "quick"
    for other in (by, replace(by)):
        with pytest.warns(RuntimeWarning, match="ran before a CUDA graph was captured"):
            assert chosen(other, n=28) == "torch"


def test_without_memory_torch_is_taken():
    by = products(Kernel("large", "no memory"), QUICK)
    with pytest.warns(RuntimeWarning, match="no memory is left to time kernels"):
        by.syrk(torch.ones(2, 24, 40))
    assert not by.outcomes(torch.device("cpu"))
    RAN.clear()
    assert chosen(by) == "torch"  # and not tried again


@dataclass(frozen=True)
class Fussy(Kernel):
    """A kernel that does not compile for matrices of 28 columns."""

    def mm(self, A, B):
        if A.shape[-1] == 28:
            raise ValueError("does not compile")
        return super().mm(A, B)


@pytest.mark.parametrize("seconds", [1.0, (1.0, 3.0), (3.0, 1.0)], ids=["both", "called", "replayed"])
def test_a_winner_that_fails_for_another_call_of_the_kind(seconds):
    """24 and 28 columns share a trial; torch takes the call for which the winner fails, and no other one."""
    by = products(Fussy("quick"), quick=seconds)
    wins = chosen(by, k=24)
    X = torch.ones(2, 24, 28)
    with pytest.warns(RuntimeWarning, match="does not compile.*takes torch's full product"):
        assert torch.equal(by.syrk(X), X @ X.mT)
    assert chosen(by, k=28) == "torch"
    assert chosen(by, k=24) == wins


def test_a_trial_that_torch_itself_fails_is_an_error():
    class Broken(FakeCard):
        def seconds(self, work):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        Quickest(None, Broken(TIMES, (QUICK,))).syrk(torch.ones(2, 24, 40))


def test_outcomes_are_kept_on_disk(folder):
    assert chosen(products(SLOW, QUICK, cache=TRIALS)) == "quick"
    [file] = folder.glob("products-*.json")
    assert json.loads(file.read_text())["body"]["card"] == "a card"
    later = products(SLOW, QUICK, cache=TRIALS, quick=9.0)  # would lose now
    assert chosen(later) == "quick"
    assert later.card.state["trials"] <= 1
    assert RAN == ["quick"]
    # Another product joins the file; another list of candidates is measured again.
    chosen(later, n=96)
    assert len(TRIALS.read("a card")) == 2
    assert chosen(products(QUICK, cache=TRIALS, quick=9.0)) == "torch"
    assert len(TRIALS.read("a card")) == 2
    assert not TRIALS.read("another card")


def measured(folder, kind="kind"):
    outcome = Outcome({repr(EAGER): Seconds(2.0, 2.0), repr(QUICK): Seconds(1.0, 1.0)}, {})
    return TRIALS.measured("a card", kind, lambda found: found.covers((EAGER, QUICK)), lambda: outcome)


def _damaged(content):
    """Files that no process of ours writes: cut off, of another card, with another time, with impossible entries."""
    yield ""
    yield "[]"
    yield '{"body": 1}'
    yield content[: len(content) // 2]
    yield content.replace("a card", "b card")
    yield content.replace("1.0", "1.5")
    yield "[" * 100_000
    body = json.loads(content)["body"]
    whole = body["outcomes"]["kind"]["seconds"]
    for times in ([-1.0, 1.0], [1.0], [1.0, 1.0, 1.0], "ab", 1.0, [1.0, float("nan")], [1, 1], None):
        entry = {"seconds": whole | {repr(EAGER): times}, "left_out": {}}
        made = {"card": "a card", "outcomes": {"kind": entry}}
        yield json.dumps({"sha256": trials._checksum(made), "body": made})


def test_damaged_files_are_measured_again(folder):
    measured(folder)
    [file] = folder.glob("products-*.json")
    whole = file.read_text()
    for text in _damaged(whole):
        file.write_text(text)
        assert not TRIALS.read("a card")
        assert measured(folder).seconds[repr(QUICK)] == (1.0, 1.0)
        assert file.read_text() == whole


def test_without_a_folder_nothing_is_kept(folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setenv("MATFN_CACHE_DIR", str(folder / "file" / "below"))
    assert chosen(products(QUICK, cache=TRIALS)) == "quick"
    assert not TRIALS.read("a card")


def test_processes_that_start_together_take_one_outcome(folder):
    """Otherwise the replicas of a model could take different kernels, and drift apart by rounding."""
    made = []

    def slowly():
        made.append(len(made))
        time.sleep(0.3)  # the others arrive meanwhile
        return Outcome({repr(EAGER): Seconds(2.0, 2.0), repr(QUICK): Seconds(1.0, len(made) + 0.0)}, {})

    with ThreadPoolExecutor(4) as pool:  # a file lock also excludes threads of one process
        found = list(pool.map(lambda _: TRIALS.measured("a card", "kind", lambda outcome: True, slowly), range(4)))
    assert len(made) == 1
    assert all(outcome == found[0] for outcome in found)


def test_a_process_does_not_wait_for_ever(folder, monkeypatch):
    """The other process may itself wait for this one."""
    monkeypatch.setattr(trials, "_WAIT", 0.1)
    held = trials._locked(trials._path("a card"))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(measured, folder).result().seconds[repr(QUICK)] == (1.0, 1.0)
    held.release()
    assert not TRIALS.read("a card")


def test_it_is_a_value(folder):
    assert Quickest() == Quickest(None, Cuda())
    assert repr(Quickest(TRIALS)) == "Quickest()"
    by = products(QUICK, cache=Trials())
    chosen(by)
    copies = pickle.loads(pickle.dumps(Quickest(Trials()))), copy.deepcopy(by), replace(by)
    assert copies == (Quickest(TRIALS), by, by)
    assert by._outcomes
    assert not any(made._outcomes or made._kernels for made in copies)  # they may be for another card
