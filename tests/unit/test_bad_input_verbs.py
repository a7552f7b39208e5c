"""Bad input of every verb, `certify`, `explain`, `Recorder`, the methods and their texts: one error, in words."""

import re
import warnings
from functools import partial

import pytest
import torch

import matfn
from loops import looped
from matfn import (
    METHODS,
    DBNewton,
    Exact,
    NewtonSchulz,
    PolarExpress,
    Polynomial,
    Prism,
    Recorder,
    RitzMinimax,
    Tuned,
    ZoloPD,
)
from matfn.methods.resolvents import Resolvents

NAN, INF = float("nan"), float("inf")
EYE = torch.eye(3)
VERBS = {
    "orthogonalize": matfn.orthogonalize,
    "polar": matfn.polar,
    "signm": matfn.signm,
    "sqrtm": matfn.sqrtm,
    "inv_sqrtm": matfn.inv_sqrtm,
    "rootm": partial(matfn.rootm, p=3),
    "inv_rootm": partial(matfn.inv_rootm, p=4),
    "inv": matfn.inv,
    "certify": lambda A, **_: matfn.certify(A, A),
}
ROOTS = ("sqrtm", "inv_sqrtm", "rootm", "inv_rootm")
VALUES = tuple(name for name in VERBS if name != "orthogonalize")  # verbs that look at values
# What only torch, NumPy or Python says.
FOREIGN = re.compile(
    r"Traceback|aten::|linalg\.|LAPACK|at::|not implemented for|Expected (one|all)|unhashable|object has no attribute|"
    r"internal assert|NotImplemented|dispatch|int too large|math domain|maximum recursion|can't convert|must be real"
)


def refused(call, *words):
    """The message of the error, a ValueError, TypeError or IndexError in the words of matfn and contains `words`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own of nested and quantized tensors
        with pytest.raises((ValueError, TypeError, IndexError)) as caught:
            call()
    message = str(caught.value)
    assert not FOREIGN.search(message), message
    assert len(message) < 600, message
    assert len(message.split()) > 2, message
    for word in words:
        assert re.search(word, message), (word, message)
    return message


def fake():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(3, 3)


def quantized():
    return torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8)


TENSORS = {
    "text": (lambda: "eye", "takes a torch.Tensor .* got str"),
    "None": (lambda: None, "takes a torch.Tensor .* got NoneType"),
    "list": (lambda: [[1.0, 0.0], [0.0, 1.0]], "got list: convert with torch.as_tensor"),
    "numpy": (lambda: torch.eye(3).numpy(), "got ndarray: convert with torch.as_tensor"),
    "number": (lambda: 1.0, "got float"),
    "class": (lambda: torch.Tensor, "got _TensorMeta|got type"),
    "integers": (lambda: torch.eye(3).long(), r"got torch.int64: convert with A.to\(torch.float32\)"),
    "bools": (lambda: torch.eye(3).bool(), "got torch.bool"),
    "float8": (lambda: torch.eye(3).to(torch.float8_e4m3fn), "got torch.float8_e4m3fn"),
    "complex": (lambda: torch.eye(3) + 1j, "complex matrices are not supported"),
    "sparse": (lambda: torch.eye(3).to_sparse(), r"got layout torch.sparse_coo: convert with A.to_dense\(\)"),
    "csr": (lambda: torch.eye(3).to_sparse_csr(), r"torch.sparse_csr: convert with A.to_dense\(\)"),
    "quantized": (quantized, r"got torch.qint8: convert with A.dequantize\(\)"),
    "nested": (lambda: torch.nested.nested_tensor([torch.eye(2), torch.eye(3)]), r"nested tensor: .*A.unbind\(\)"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=torch.jagged),
        r"nested tensor: .*A.unbind\(\)",
    ),
    "0-d": (lambda: torch.tensor(1.0), r"got shape \(\)"),
    "vector": (lambda: torch.ones(3), r"got shape \(3,\): give a vector a second axis"),
}


@pytest.mark.parametrize("name", VERBS)
def test_what_is_no_matrix(name):
    for what, (made, words) in TENSORS.items():
        if what == "jagged" and name != "orthogonalize":
            continue
        message = refused(lambda made=made: VERBS[name](made()), f"^{name} takes", words)
        assert what == "class" or "got" in message or "not supported" in message


@pytest.mark.parametrize("name", VALUES)
def test_tensors_without_values(name):
    refused(lambda: VERBS[name](torch.empty(3, 3, device="meta")), f"^{name} looks at the values .* a meta tensor")
    refused(lambda: VERBS[name](fake()), f"^{name} takes a fake tensor within its mode")
    assert matfn.orthogonalize(torch.empty(3, 4, device="meta")).shape == (3, 4)


def test_fake_tensors_outside_their_mode():
    refused(lambda: matfn.orthogonalize(fake()), "^orthogonalize takes a fake tensor within its mode")


def test_ridges_without_values():
    nested = torch.nested.nested_tensor([torch.ones(1)])
    for ridge in (torch.tensor(1.0, device="meta"), nested, fake()):
        refused(lambda ridge=ridge: matfn.inv(EYE, ridge=ridge), "^inv: ridge must be .* dense real tensor with values")


def test_degrees_that_amplify_rounding_beyond_the_dtype():
    """The advice fits the dtype."""
    steep = Polynomial((1.0, *(1e10 * (-1.0) ** k for k in range(1, 4))))
    for dtype, words in ((torch.float32, r"Pass A.to\(torch.float64\)"), (torch.float64, "Take lower degrees")):
        factor = 1.0 if dtype == torch.float32 else 1e10
        row = Polynomial(tuple(factor * c for c in steep.coefficients))
        schedule = matfn.Schedule((row,), 2, 1e-3, "steep")
        refused(partial(matfn.orthogonalize, EYE.to(dtype), method=schedule), "^orthogonalize: .*amplifies", words)


@pytest.mark.parametrize("name", [n for n in VERBS if n != "certify"])
def test_a_tolerance_beyond_the_dtype_names_the_verb(name):
    refused(lambda: VERBS[name](EYE, method=RitzMinimax(tol=1e-9)), rf"^{name}.*: tol=1e-09 is out of reach in torch.f")


@pytest.mark.parametrize(
    "arguments", [dict(of="root", p="4"), dict(of="inv_root", p=1000), dict(of="cosm"), dict(p=3), dict(only="all")]
)
def test_certify_names_itself(arguments):
    refused(lambda: matfn.certify(EYE, EYE, **arguments), "^certify: ")


@pytest.mark.parametrize("name", VALUES)
def test_values_that_are_not_finite(name):
    for value in (NAN, INF, -INF):
        A = EYE.repeat(2, 2, 1, 1)
        A[1, 0, 2, 1] = value
        refused(
            lambda A=A: VERBS[name](A), f"^{name} takes finite matrices, but 1 of 36 .* index \\(1, 0, 2, 1\\): mend"
        )


@pytest.mark.parametrize("name", [n for n in VERBS if n not in ("orthogonalize", "polar", "certify")])
def test_matrices_that_are_not_square(name):
    refused(lambda: VERBS[name](torch.ones(2, 3)), rf"^{name} takes square matrices .* got shape \(2, 3\)")
    assert VERBS[name](torch.ones(0, 0)).shape == (0, 0)


@pytest.mark.parametrize("name", ROOTS)
def test_matrices_that_are_not_symmetric(name):
    A = torch.stack([EYE, torch.tensor([[1.0, 5, 0], [0, 1, 0], [0, 0, 1]])])
    refused(lambda: VERBS[name](A), rf"^{name} takes symmetric .* matrix 1 of 2 .*A\^\(1/2\) B A\^\(1/2\)")
    almost = EYE + 1e-4 * torch.tensor([[0.0, 1, 0], [0, 0, 0], [0, 0, 0]])
    refused(lambda: VERBS[name](almost), rf"^{name} takes symmetric .* pass \(A \+ A.mT\) / 2$")


@pytest.mark.parametrize("name", ROOTS)
def test_matrices_that_are_not_definite(name):
    A = torch.stack([EYE, EYE, -EYE])
    for method in (None, NewtonSchulz()):
        refused(
            lambda method=method: VERBS[name](A, method=method), name, "matrix 2 of 3 is -1 of the largest.*add ridge"
        )


def test_float64_is_never_advised_to_take_float64():
    A = torch.diag(torch.tensor([1.0, 1e-20], dtype=torch.float64))
    for name in ("inv_sqrtm", "inv_rootm"):
        for method in (None, NewtonSchulz(steps=40)):
            assert "float64" not in refused(lambda name=name, m=method: VERBS[name](A, method=m), name, "ridge")
            assert "float64" in refused(lambda name=name, m=method: VERBS[name](A.float(), method=m), name, "ridge")
    message = refused(lambda: matfn.polar(A, method=RitzMinimax(tol=1.01e-16)), "out of reach in torch.float64")
    assert not message.endswith("float64")


@pytest.mark.parametrize("name", ["inv", "signm"])
def test_the_singular_matrix_of_a_batch_is_named(name):
    A = torch.stack([EYE, EYE, torch.zeros(3, 3), EYE])
    refused(lambda: VERBS[name](A), name, "matrix 2 of 4 is singular to working precision")
    nilpotent = torch.tensor([[0.0, 1, 0], [0, 0, 1], [0, 0, 0]])
    refused(lambda: VERBS[name](torch.stack([EYE, nilpotent])), name, "matrix 1 of 2")


def test_exact_names_the_matrix_with_nan():
    A = torch.stack([EYE, EYE, NAN * EYE])
    for target in ("orthogonalize",):
        refused(lambda: matfn.orthogonalize(A, method=Exact()), f"{target} by Exact.* matrix 2 of 3 has NaN")


OVERFLOWS = {
    "inverse in float16": (lambda: matfn.inv((EYE * 1e-5).half()), "inv: .* overflows torch.float16"),
    "by steps": (
        lambda: matfn.inv((EYE * 1e-5).half(), method=NewtonSchulz(steps=20)),
        "inv: .* overflows torch.float16",
    ),
    "p = 1": (lambda: matfn.inv_rootm((EYE * 1e-5).half(), 1), "inv_rootm: .* overflows torch.float16"),
    "float32": (
        lambda: matfn.inv(EYE * 1e-39),
        "inv: .* overflows torch.float32: the largest number is 3.4e\\+38; pass",
    ),
    "float32 by steps": (
        lambda: matfn.inv(EYE * 1e-39, method=NewtonSchulz(steps=20)),
        "inv: .* overflows torch.float32",
    ),
    "bfloat16": (lambda: matfn.inv((EYE * 1e-39).bfloat16()), "inv: .* overflows torch.bfloat16"),
    "float64": (lambda: matfn.inv(EYE.double() * 1e-310), "inv: .* overflows torch.float64.*; scale A$"),
    "H": (lambda: matfn.polar(torch.full((2, 1), 6e4).half()), "polar: .* overflows torch.float16"),
    "H in float32": (lambda: matfn.polar(torch.full((2, 1), 3e38)), "polar: .* overflows torch.float32"),
}


@pytest.mark.parametrize("case", OVERFLOWS)
def test_results_that_overflow_are_not_returned(case):
    call, words = OVERFLOWS[case]
    refused(call, words)


def test_the_matrix_whose_result_overflows_is_named():
    refused(lambda: matfn.inv(torch.stack([EYE, EYE * 1e-39, EYE])), "result of matrix 1 of 3")


@pytest.mark.parametrize("name", ["rootm", "inv_rootm"])
@looped("p", [0, -1, 2.0, 1.5, True, None, "2", NAN, INF, 10**9, 10**400, [2], torch.tensor(2)])
def test_exponents(name, p):
    refused(lambda: getattr(matfn, name)(EYE, p), f"^{name}: p must be a positive integer, got .* at most 256")
    refused(lambda: matfn.explain((3, 3), name, p=p), "p")
    of = "root" if name == "rootm" else "inv_root"
    refused(lambda: matfn.certify(EYE, EYE, of=of, p=p), "p")


@pytest.mark.parametrize("name", [n for n in VERBS if n != "certify"])
def test_methods_that_are_none(name):
    A = EYE
    refused(lambda: VERBS[name](A, method="polar-express"), rf"^{name}: .*text 'polar-express': write matfn.method\(")
    refused(
        lambda: VERBS[name](A, method=PolarExpress), rf"^{name}: .*got the class PolarExpress: write PolarExpress\(\)"
    )
    for method in (5, object(), {"steps": 3}, ()):
        refused(lambda method=method: VERBS[name](A, method=method), f"^{name}: .* is no method")
    for generator in (0, "seed"):
        refused(lambda g=generator: VERBS[name](A, generator=g), f"^{name}: generator must be a torch.Generator")


@pytest.mark.parametrize("name", ["rootm", "inv_rootm", "inv"])
def test_methods_for_another_exponent(name):
    for method in (Tuned(), matfn.QDWH(), ZoloPD(), PolarExpress().schedule(2)):
        refused(lambda method=method: VERBS[name](EYE, method=method), f"^{name}", "p = [134]")


def test_signs_by_ritz_minimax():
    A = torch.tensor([[1.0, 5], [0, -2]])
    refused(
        lambda: matfn.signm(torch.stack([torch.eye(2), A]), method=RitzMinimax()), "signm by RitzMinimax.*matrix 1 of 2"
    )


ARGUMENTS = {
    "side": (lambda: matfn.polar(EYE, "up"), 'side must be "right"'),
    "side list": (lambda: matfn.polar(EYE, ["right"]), 'side must be "right"'),
    "factor": (lambda: matfn.polar(EYE, factor="full"), 'factor must be "range" or "complete"'),
    "engine": (lambda: matfn.orthogonalize(EYE, engine="gram"), "^orthogonalize: engine must be a value"),
    "precision": (
        lambda: matfn.orthogonalize(EYE, precision="bf16"),
        "^orthogonalize: precision must be torch.float16",
    ),
    "precision int": (
        lambda: matfn.orthogonalize(EYE, precision=torch.int8),
        "^orthogonalize: precision must be torch.float16",
    ),
    "products": (lambda: matfn.orthogonalize(EYE, products="eager"), "^orthogonalize: products must be a value"),
    "relative": (lambda: matfn.inv(EYE, ridge=1.0, relative=1), "relative must be True"),
    "of": (lambda: matfn.certify(EYE, EYE, of="polr"), "of must be one of polar, .*got 'polr'"),
    "of list": (lambda: matfn.certify(EYE, EYE, of=["polar"]), "of must be one of"),
    "of None": (lambda: matfn.certify(EYE, EYE, of=None), "of must be one of"),
    "p of polar": (lambda: matfn.certify(EYE, EYE, p=2), "polar has no exponent"),
    "p missing": (lambda: matfn.certify(EYE, EYE, of="root"), "needs the exponent"),
    "only": (lambda: matfn.certify(EYE, EYE, only="all"), "only must be"),
    "only list": (lambda: matfn.certify(EYE, EYE, only=[]), "only must be"),
    "exact": (lambda: matfn.certify(EYE, EYE, exact="yes"), "exact must be True or False"),
    "generator": (lambda: matfn.certify(EYE, EYE, generator=1), "^certify: generator must be a torch.Generator"),
    "shapes": (lambda: matfn.certify(EYE, torch.ones(2, 3)), r"got X \(3, 3\) and U \(2, 3\)"),
    "empty": (lambda: matfn.certify(torch.ones(0, 3), torch.ones(0, 3)), "nonempty"),
    "U": (lambda: matfn.certify(EYE, [1.0]), "certify takes a torch.Tensor"),
    "not square": (lambda: matfn.certify(torch.ones(2, 3), torch.ones(2, 3), of="inv"), "certify takes square"),
    "verb": (lambda: matfn.explain((3, 3), "orthogonalise"), "verb must be one of"),
    "verb type": (lambda: matfn.explain((3, 3), 5), "verb must be one of"),
    "shape": (lambda: matfn.explain((3,)), "a shape such as"),
    "shape negative": (lambda: matfn.explain((3, -1)), "a shape such as"),
    "shape huge": (lambda: matfn.explain((10**30, 3)), "a shape such as"),
    "shape bool": (lambda: matfn.explain((True, 3)), "a shape such as"),
    "shape text": (lambda: matfn.explain("3x3"), "a shape such as"),
    "dtype": (lambda: matfn.explain((3, 3), dtype=torch.int8), "dtype must be one of"),
    "dtype text": (lambda: matfn.explain((3, 3), dtype="float32"), "dtype must be one of"),
    "device": (lambda: matfn.explain((3, 3), device="gpu9"), "device must be"),
    "device type": (lambda: matfn.explain((3, 3), device=1.5), "device must be"),
    "option": (lambda: matfn.explain((3, 3), steps=3), r"got \['steps'\]"),
    "explain p": (lambda: matfn.explain((3, 3), p=2), "no exponent"),
    "explain ridge": (lambda: matfn.explain((3, 3), "shampoo", ridge="a"), "ridge must be"),
    "explain ridge nan": (lambda: matfn.explain((3, 3), "shampoo", ridge=NAN), "ridge must be"),
    "explain method": (lambda: matfn.explain((3, 3), method="exact"), "write matfn.method"),
    "recorder text": (lambda: Recorder("exact"), "write matfn.method"),
    "recorder class": (lambda: Recorder(NewtonSchulz), r"write NewtonSchulz\(\)"),
    "recorder exact": (lambda: Recorder(Exact()), "no steps to record"),
    "recorder None": (lambda: Recorder(None), "got None"),
    "recorder index": (lambda: recorded().schedule_of(7), "1 matrices, got index=7"),
    "recorder index text": (lambda: recorded().schedule_of("a"), "index must be an integer"),
    "recorder lower": (lambda: recorded().schedule_of(0, lower=2.0), "lower must be"),
    "spec": (lambda: matfn.spec(5), "no text form"),
    "schedule": (lambda: matfn.Schedule((), 2, 1e-3, "none"), "at least one step"),
    "polynomial": (lambda: matfn.Polynomial((1.0,)), "at least the coefficients"),
    "fraction": (lambda: matfn.PartialFraction(1.0, (1.0,), ()), "as many shifts as weights"),
}


def recorded():
    recorder = Recorder(Prism(steps=2))
    matfn.orthogonalize(EYE, method=recorder)
    return recorder


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(case):
    call, words = ARGUMENTS[case]
    refused(call, words)


BAD = {
    "count": [0, -1, 2.0, True, "5", None, [5], NAN, 100_000, 10**400],
    "degree": [0, 1, 2, 4, -3, 5.0, True, "5", [5], NAN, 99, 10**400],
    "number": [-1, 10**400, NAN, INF, -INF, True, "a", [1.0], 1j],
    "word": ["x", 5, [], {}],
}
CONSTRUCTORS = {
    (PolarExpress, "degree"): [*BAD["degree"], (), (5, 4), (5, 99), None],
    (PolarExpress, "steps"): [b for b in BAD["count"] if b is not None],
    (PolarExpress, "lower"): [*BAD["number"], 0, 1, None],
    (PolarExpress, "cushion"): BAD["number"],
    (PolarExpress, "safety"): [*BAD["number"], 0.5, None],
    (PolarExpress, "norm"): BAD["word"],
    (PolarExpress, "deflation"): [*BAD["number"], 0.9, None],
    (NewtonSchulz, "degree"): [*BAD["degree"], None, (5, 5)],
    (NewtonSchulz, "steps"): BAD["count"],
    (Prism, "degree"): BAD["degree"],
    (Prism, "steps"): BAD["count"],
    (Prism, "sketch"): [b for b in BAD["count"] if b != "5"] + ["all"],
    (Prism, "interval"): [
        (),
        (1,),
        (2, 1),
        (0, 1),
        (-1, 1),
        (1, INF),
        (NAN, 1),
        ("a", "b"),
        5,
        [0.5, 1.0],
        (True, True),
    ],
    (Prism, "warm"): [b for b in BAD["count"] if b != 0],
    (Prism, "draw"): BAD["word"],
    (RitzMinimax, "degree"): [*BAD["degree"], (), (5, 4), 15],
    (RitzMinimax, "steps"): [b for b in BAD["count"] if b is not None],
    (RitzMinimax, "tol"): [*BAD["number"], 0, 1],
    (RitzMinimax, "sketch"): BAD["count"],
    (RitzMinimax, "krylov"): [*BAD["count"], 1],
    (RitzMinimax, "every"): BAD["count"],
    (DBNewton, "steps"): BAD["count"],
    (DBNewton, "sketch"): [b for b in BAD["count"] if b != "5"],
    (Tuned, "name"): BAD["word"],
    (Tuned, "steps"): [b for b in BAD["count"] if b is not None],
    (matfn.QDWH, "lower"): [*BAD["number"], 0, 1, 1e-30],
    (matfn.QDWH, "tolerance"): [*BAD["number"], 0, 1, None],
    (ZoloPD, "r"): [0, 9, -1, 2.0, True, "3", [3], NAN, 10**400],
    (ZoloPD, "lower"): [*BAD["number"], 0, 1],
    (Exact, "singular"): BAD["word"],
}


@pytest.mark.parametrize(("method", "field"), CONSTRUCTORS, ids=[f"{m.__name__}.{f}" for m, f in CONSTRUCTORS])
def test_constructors(method, field):
    """The message names the argument and what was given, shortened."""
    for value in CONSTRUCTORS[method, field]:
        word = "tuning" if field == "name" else f"{field}|{method.__name__}"
        refused(lambda value=value: method(**{field: value}), word)


def test_resolvents():
    for p, lower, error in (
        (0, 0.1, 0.1),
        (2, 0.0, 0.1),
        (2, NAN, 0.1),
        (2, 0.1, 0.0),
        (2.5, 0.1, 0.1),
        ("a", 0.1, 0.1),
    ):
        refused(lambda p=p, lower=lower, error=error: Resolvents(p, lower, error), "p|lower|error")
    for p, lower, error in ((10**9, 0.1, 0.1), (2, "a", 0.1), (2, 0.1, None), (True, 0.1, 0.1)):
        refused(lambda p=p, lower=lower, error=error: Resolvents(p, lower, error), "p|lower|error")


def test_steps_that_would_take_minutes():
    for degree, steps in ((21, 1000), (9, 1000), (21, 41)):
        refused(lambda degree=degree, steps=steps: PolarExpress(degree, steps), "minutes .* fewer steps")
    refused(lambda: PolarExpress((21,) * 50), "minutes")
    assert PolarExpress(steps=1000).steps == 1000


@pytest.mark.parametrize("name", [n for n in METHODS if hasattr(METHODS[n], "schedule")])
@looped("p", [0, -1, 2.0, True, None, "2", NAN, 1000, 10**9, 10**400])
def test_exponents_of_schedules(name, p):
    refused(lambda: METHODS[name]().schedule(p), "p must be a positive integer, got")


TEXTS = {
    "": "unknown method ''",
    " ": "unknown method ''",
    "polar_express": "did you mean 'polar-express'",
    "nothing:steps=3": "unknown method 'nothing'",
    "polar-express:": None,
    "polar-express:steps": "expected key=value",
    "polar-express:=3": "unknown argument",
    "polar-express:steps=3=4": "steps must be",
    "polar-express:steps=3,steps=3": "given twice",
    "polar-express:steps=-1": "steps must be",
    "polar-express:steps=100000": "steps must be .* at most 1000",
    "polar-express:steps=1e3": "steps must be",
    "polar-express:degree=99": "degree must be .* at most 21",
    "polar-express:degree=(5,": "degree must be",
    "polar-express:lower=3e999999999": "lower must be",
    "polar-express:lower=1/0": "lower must be",
    "polar-express:lower=\uff13e999999999": "lower must be",
    "polar-express:lower=1/3e99": "lower must be",
    "polar-express:lower=" + "9" * 400: "lower must be .* characters",
    "polar-express:lower=0." + "9" * 400: "lower must be",
    "polar-express:lower=" + "9" * 5000: "at most 1000 characters",
    "polar-express:lower=" + "-" * 900 + "1": "lower must be",
    "polar-express:lower=" + "-" * 50_000 + "1": "at most 1000 characters",
    "polar-express:lower=" + "[" * 900: "lower must be",
    "polar-express:lower=" + "(" * 20_000: "at most 1000 characters",
    "polar-express:lower=__import__('os')": "lower must be",
    "polar-express:lower=None": "lower must be",
    "tuned:name=\x00": "unknown tuning",
    "exact:singular=ignore": "singular must be",
    "zolo-pd:r=9": "r must be",
    "\ud800": "unknown method",
    "x" * 5000: "at most 1000 characters",
}


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_texts(text):
    if TEXTS[text] is None:
        assert matfn.method(text) == PolarExpress()
    else:
        refused(lambda: matfn.method(text), TEXTS[text])


@looped("text", [None, 5, b"exact", ["exact"], PolarExpress()])
def test_what_is_no_text(text):
    refused(lambda: matfn.method(text), "a method is written as text")
