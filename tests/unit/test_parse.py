"""Methods as text, and back."""

import pytest

import matfn
from matfn import METHODS, Exact, NewtonSchulz, PolarExpress, Tuned

TEXTS = {
    "polar-express": PolarExpress(),
    "polar-express:steps=6,lower=1e-4": PolarExpress(steps=6, lower=1e-4),
    "polar-express:degree=(9,9,5)": PolarExpress(degree=(9, 9, 5)),
    "polar-express:degree=3,cushion=0,safety=1": PolarExpress(degree=3, cushion=0, safety=1),
    "newton-schulz:degree=7,steps=3": NewtonSchulz(degree=7, steps=3),
    "tuned": Tuned(),
    "tuned:name=you6": Tuned("you6"),
    "tuned:name=jordan,steps=8": Tuned("jordan", 8),
    "exact": Exact(),
}


@pytest.mark.parametrize(("text", "value"), TEXTS.items(), ids=TEXTS)
def test_text_and_value(text, value):
    assert matfn.method(text) == value
    assert matfn.method(matfn.spec(value)) == value
    assert matfn.method(f"  {text} ") == value


@pytest.mark.parametrize("name", METHODS)
def test_the_default_of_every_method_is_its_name(name):
    """Fields at their defaults are left out, also those that the constructor settles."""
    value = METHODS[name]()
    assert matfn.spec(value) == name
    assert matfn.method(name) == value


def test_the_text_is_the_shortest():
    assert matfn.spec(PolarExpress(degree=(9, 9, 5))) == "polar-express:degree=(9,9,5)"
    assert matfn.spec(PolarExpress(steps=7)) == "polar-express:steps=7"
    assert matfn.spec(Tuned("you")) == "tuned:name=you"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("polar-exprss", "did you mean 'polar-express'.*newton-schulz"),
        ("", "unknown method ''"),
        ("polar-express:step=3", "unknown argument 'step'.*did you mean 'steps'"),
        ("polar-express:steps", "expected key=value, got 'steps'"),
        ("polar-express:steps=", "expected key=value"),
        ("polar-express:steps=3,steps=4", "'steps' is given twice"),
        ("polar-express:steps=0", "steps must be"),
        ("tuned:name=jordon", "unknown tuning 'jordon'"),
        ("exact:steps=3", "unknown argument 'steps'"),
    ],
)
def test_errors(text, message):
    with pytest.raises(ValueError, match=message):
        matfn.method(text)


def test_what_has_no_text():
    with pytest.raises(ValueError, match="no text form"):
        matfn.spec(PolarExpress().schedule(2))


def test_nothing_is_evaluated():
    with pytest.raises(ValueError, match=r"name|tuning"):
        matfn.method("tuned:name=__import__('os').getcwd()")
