"""Loops inside a test, for cases that take less time than pytest takes to report one."""

import functools
import inspect
from contextlib import contextmanager


@contextmanager
def named(*where):
    """Add to an error inside a loop where the loop was."""
    try:
        yield
    except Exception as error:
        error.add_note("in the loop at: " + ", ".join(str(x) for x in where))
        raise


def looped(names, values):
    """As `pytest.mark.parametrize`, but all values are one test, which shares its fixtures among them.

    Args:
        names: One argument, or a tuple of arguments.
        values: The values, or tuples of values.
    """
    several = isinstance(names, tuple)

    def decorate(test):
        @functools.wraps(test)
        def run(**others):
            for value in values:
                given = dict(zip(names, value, strict=True)) if several else {names: value}
                with named(given):
                    test(**others, **given)

        signature = inspect.signature(test)
        left = [p for name, p in signature.parameters.items() if name not in (names if several else (names,))]
        assert len(left) < len(signature.parameters), f"{test.__name__} has no argument {names}"
        run.__signature__ = signature.replace(parameters=left)
        return run

    return decorate
