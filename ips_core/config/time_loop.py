"""Evaluate the section [TIME_LOOP] to a list of times."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from ips_core.config.reading import file_names

__all__ = ["arithmetic", "time_points"]

_MOST_CHARACTERS = 200
_TWO: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: math.pow,  # raises OverflowError where operator.pow builds huge ints
}
_ONE: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def arithmetic(text: str) -> float:
    """Return the value of an expression of numbers, ``+ - * / // **`` and parentheses.

    Raise ValueError if the text is anything else, is too long or has no finite value.
    """
    try:
        if len(text) > _MOST_CHARACTERS:
            raise ValueError("it is too long")
        value = _value(ast.parse(text.strip(), mode="eval").body)
    except (ArithmeticError, SyntaxError, ValueError) as error:
        raise ValueError(f"{text!r} is no number: {error}") from None
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no finite number")
    return value


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.BinOp(left, kind, right) if type(kind) in _TWO:
            return _TWO[type(kind)](_value(left), _value(right))
        case ast.UnaryOp(kind, operand) if type(kind) in _ONE:
            return _ONE[type(kind)](_value(operand))
    raise ValueError("expected numbers and + - * / **")


def time_points(section: Mapping[str, Any]) -> list[float]:
    """Return the times of the section [TIME_LOOP].

    MODE = REGULAR gives NSTEP + 1 times from START to FINISH, MODE = EXPLICIT gives VALUES. Raise
    KeyError if a key is missing and ValueError if a value is invalid.
    """
    mode = _get(section, "MODE")
    if mode == "EXPLICIT":
        return [_number("VALUES", word) for word in file_names(_get(section, "VALUES"))]
    if mode != "REGULAR":
        raise ValueError(f"Invalid TIME_LOOP value of MODE = {mode}: expected REGULAR or EXPLICIT")
    finish, start, steps = (
        _number(key, _get(section, key)) for key in ("FINISH", "START", "NSTEP")
    )
    if steps < 1 or steps != int(steps):
        raise ValueError(
            f"Invalid TIME_LOOP value of NSTEP = {section['NSTEP']}: "
            "expected a whole number, at least 1"
        )
    step = (finish - start) / steps
    return [start + step * number for number in range(int(steps) + 1)]


def _get(section: Mapping[str, Any], key: str) -> Any:
    if key not in section:
        raise KeyError(f"[TIME_LOOP] {key} is missing")
    return section[key]


def _number(key: str, value: Any) -> float:
    try:
        return arithmetic(str(value))
    except ValueError as error:
        raise ValueError(f"Invalid TIME_LOOP value of {key} = {value}: {error}") from None
