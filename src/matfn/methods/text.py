"""Text: methods written as "name:key=value,..."."""

import ast
import difflib
import re
from dataclasses import fields
from typing import Any

from ..errors import shown

__all__ = ["method_from", "spec_of"]

_LONGEST = 1000  # characters
_FRACTION = re.compile(r"([0-9]{1,15})/0*([1-9][0-9]{0,14})")
_COMMA = re.compile(r",(?![^()]*\))")  # a comma outside parentheses


def method_from(text: str, known: dict[str, type]) -> Any:
    """Build the method that `text` describes, such as "polar-express:steps=6"; `known` is {name: class}.

    Raises:
        TypeError: If `text` is no string.
        ValueError: If it is too long or malformed, or names an unknown method or argument.
    """
    if not isinstance(text, str):
        raise TypeError(f'a method is written as text such as "polar-express:steps=6", got {shown(text)}')
    if len(text) > _LONGEST:
        raise ValueError(
            f"the text of a method has at most {_LONGEST} characters, got {shown(text)}: list fewer arguments"
        )
    name, _, arguments = text.strip().partition(":")
    if name not in known:
        raise ValueError(f"unknown method {shown(name)}: {_nearest(name, known)}")
    keywords: dict[str, Any] = {}
    for key, argument in (_pair(part, text) for part in _COMMA.split(arguments) if part.strip()):
        if key in keywords:
            raise ValueError(f"argument {key!r} is given twice in {text!r}: leave one out")
        keywords[key] = argument
    allowed = [f.name for f in fields(known[name])]
    for key in keywords:
        if key not in allowed:
            raise ValueError(f"unknown argument {key!r} of {name} in {text!r}: {_nearest(key, allowed)}")
    return known[name](**keywords)


def spec_of(value: object, known: dict[str, type]) -> str:
    """Write the shortest text that `method_from` parses to `value`."""
    for name, kind in known.items():
        if type(value) is kind:
            changed = {f.name: getattr(value, f.name) for f in fields(kind)}
            for key in list(changed):  # a constructor sets some defaults, so try to omit each field
                rest = {k: v for k, v in changed.items() if k != key}
                changed = rest if _builds(kind, rest, value) else changed
            body = ",".join(f"{k}={str(v).replace(' ', '')}" for k, v in changed.items())
            return f"{name}:{body}" if body else name
    raise ValueError(f"{value!r} is not one of the methods {', '.join(known)}; it has no text form")


def _builds(kind: type, keywords: dict[str, Any], value: object) -> bool:
    try:
        return kind(**keywords) == value
    except (TypeError, ValueError):
        return False


def _pair(part: str, text: str) -> tuple[str, Any]:
    key, equals, value = part.partition("=")
    if not equals or not value.strip():
        raise ValueError(f"expected key=value, got {part.strip()!r} in {text!r}")
    try:
        return key.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: hundreds of signs or brackets
        pass
    if fraction := _FRACTION.fullmatch(value.strip()):  # 1/16
        return key.strip(), int(fraction[1]) / int(fraction[2])
    return key.strip(), value.strip()  # a bare word, such as jordan


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"known are {', '.join(known)}"
