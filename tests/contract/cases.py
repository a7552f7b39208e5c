"""The members of the suite, read from `METHODS`, `ENGINES` and `TARGETS`, and which of them refuse what."""

import pytest

from matfn import ENGINES, METHODS, DBNewton, Gram, NewtonSchulz, PolarExpress, Prism, Tuned
from matfn.iteration.protocols import Evaluation, Scheduled
from matfn.iteration.target import INV, INV_ROOT, INV_SQRT, POLAR, ROOT, SIGN, SQRT, TARGETS

from .adaptive import Damped

METHOD = {name: kind() for name, kind in METHODS.items()} | {
    "mixed degrees": PolarExpress(degree=(7, 3, 5)),  # degree 9 is refused in bfloat16
    "cubic": PolarExpress(degree=3, steps=8, lower=1e-2, cushion=0, safety=1),
    "eight steps": PolarExpress(steps=8),
    "taylor 7": NewtonSchulz(degree=7, steps=4),
    "taylor 3": NewtonSchulz(degree=3, steps=8),
    "you": Tuned("you"),
    "you6": Tuned("you6"),
    "a schedule": PolarExpress(degree=7, steps=3).schedule(2),
    "adaptive": Damped(),
    "prism, exact fit": Prism(steps=7, sketch="exact"),
    "prism, degree 7, exact fit": Prism(degree=7, steps=6, sketch="exact"),
    "prism, cubic, exact fit": Prism(degree=3, steps=9, sketch="exact"),
    "prism, warm": Prism(steps=8, warm=2, sketch="exact"),
    "db-newton, six steps": DBNewton(steps=6),
}
# Methods that differ from another one by coefficients or by the number of steps, not by the code that runs.
SAME_CODE = {
    "newton-schulz": "polar-express",
    "tuned": "polar-express",
    "mixed degrees": "polar-express",
    "cubic": "polar-express",
    "eight steps": "polar-express",
    "taylor 7": "polar-express",
    "taylor 3": "polar-express",
    "you": "polar-express",
    "you6": "polar-express",
    "a schedule": "polar-express",
    "adaptive": "prism, exact fit",
    "prism, degree 7, exact fit": "prism, exact fit",
    "prism, cubic, exact fit": "prism, exact fit",
    "prism, warm": "prism, exact fit",
    "db-newton": "db-newton, six steps",
}
# One method of each kind of step: a fixed polynomial (polar-express), one fitted by a sketch (prism) or by all of M
# (prism, exact fit), a polynomial magnified in float16 (ritz-minimax), an inverse (db-newton, six steps), a partial
# fraction of one term (qdwh) and of several (zolo-pd), each by QR, Cholesky, complex inverse and LU; a decomposition
# (exact).
REPRESENTATIVE = {name: method for name, method in METHOD.items() if name not in SAME_CODE}
TARGET = {str(t): t for t in TARGETS if t not in (INV_ROOT, ROOT)} | {
    str(t): t for p in (1, 2, 3, 4, 8) for t in (INV_ROOT.with_exponent(p), ROOT.with_exponent(p))
}
# One target of each name: an even and an odd exponent beside p = 1 and p = 2.
TARGET_OF_NAME = [POLAR, SIGN, SQRT, INV_SQRT, INV, INV_ROOT.with_exponent(4), ROOT.with_exponent(3)]
ENGINE = {name: kind() for name, kind in ENGINES.items()} | {
    "gram, never restarted": Gram(restarts=()),
    "gram, restarted once": Gram(restarts=(1,)),
    "gram, restarted twice": Gram(restarts=(1, 2)),
}

# Accurate to the dtype where the matrix is harmless; all other iterations stop where their schedule ends.
ITERATIONS = {name: method for name, method in METHOD.items() if not isinstance(method, Evaluation)}


def refusal(method, target):
    """The message with which the method refuses the target, or None if it takes it.

    A refusal counts if the message names the method, says p, and the documentation of the method says it too.
    """
    if not isinstance(method, Scheduled):
        return None
    try:
        method.schedule(target.p)
    except ValueError as error:
        message = str(error)
        documented = f"{type(method).__doc__} {type(method).schedule.__doc__}"
        assert f"p = {target.p}" in message or f"p={target.p}" in message, message
        assert type(method).__name__.lower() in message.lower(), message
        assert "p = 2" in documented or "made for" in documented, f"undocumented refusal: {message}"
        return message
    return None


def takes(method, target):
    """Whether the method has steps for the exponent of the target; `test_spectrum.test_verb` compares the refusals."""
    if not isinstance(method, Scheduled):
        return True
    try:
        method.schedule(target.p)
    except ValueError:
        return False
    return True


def sketches(method):
    """Whether its steps depend on more than the spectrum of M, so that no scalar map says what it does."""
    return not isinstance(method, Evaluation | Scheduled) and not getattr(method, "invariant", False)


def engines(method, target):
    """The engines that run the method for the target; None for one that evaluates."""
    if isinstance(method, Evaluation):
        return {}
    return {name: engine for name, engine in ENGINE.items() if target.name in engine.targets}


def all_engines_of_polar(method):
    """`engines` with Gram's own restarts and with one; an evaluation has no engine, which the verb knows as None."""
    different = {
        n: e for n, e in engines(method, POLAR).items() if not isinstance(e, Gram) or e.restarts in (None, (1,))
    }
    return different or {"none": None}


def _each(names, rows):
    return pytest.mark.parametrize(names, [pytest.param(*row, id="-".join(ids)) for ids, row in rows])


every_method = pytest.mark.parametrize("method", METHOD.values(), ids=METHOD)
every_iteration = pytest.mark.parametrize("method", ITERATIONS.values(), ids=ITERATIONS)
_OF_A_TARGET = [
    ((name, str(target)), (method, target))
    for name, method in REPRESENTATIVE.items()
    for target in TARGET_OF_NAME
    if takes(method, target)
]
every_function = _each(("method", "target"), _OF_A_TARGET)
every_function_of_the_spectrum = _each(
    ("method", "target"), [(ids, (m, t)) for ids, (m, t) in _OF_A_TARGET if not sketches(m)]
)
every_iterated_function = _each(
    ("method", "target"), [(ids, (m, t)) for ids, (m, t) in _OF_A_TARGET if not isinstance(m, Evaluation)]
)
_OF_POLAR = [
    ((name, engine), (method, e))
    for name, method in REPRESENTATIVE.items()
    for engine, e in all_engines_of_polar(method).items()
]
every_orthogonalization = _each(("method", "engine"), _OF_POLAR)
every_iterated_orthogonalization = _each(
    ("method", "engine"), [(ids, (m, e)) for ids, (m, e) in _OF_POLAR if not isinstance(m, Evaluation)]
)
every_orthogonalization_of_the_spectrum = _each(
    ("method", "engine"), [(ids, (m, e)) for ids, (m, e) in _OF_POLAR if not sketches(m)]
)
