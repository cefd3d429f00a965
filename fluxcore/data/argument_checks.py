"""Numbers that a user passes, as the plain values that a state can hold; every error names the argument."""

import operator
from typing import Any


def integer(value: Any, argument: str) -> int:
    """`value` as an int; integers of NumPy too.

    Raises:
        TypeError: no integer.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"`{argument}` must be an integer, got {value!r} ({type(value).__name__})")
    return number


def whole(value: Any, argument: str, *, low: int, high: int) -> int:
    """`value` as an int within [low, high]; integers of NumPy too.

    Raises:
        TypeError: no integer.
        ValueError: out of range.
    """
    number = integer(value, argument)
    if not low <= number <= high:
        bound = f">= {low}" if number < low else f"<= {high}"
        raise ValueError(f"`{argument}` must be {bound}, got {number}")
    return number


def yes_or_no(value: Any, argument: str) -> bool:
    """`value`, which must be a bool.

    Raises:
        TypeError: something else, such as a word, every one of which would count as True.
    """
    if type(value) is not bool:
        raise TypeError(f"`{argument}` must be True or False, got {value!r} ({type(value).__name__})")
    return value


def real(value: Any, argument: str) -> float:
    """`value` as a float, NaN and infinities too; numbers of NumPy too.

    Raises:
        TypeError: no number.
        ValueError: too large for a float.
    """
    if isinstance(value, str | bytes | bool):
        raise TypeError(f"`{argument}` must be a number, got {value!r} ({type(value).__name__})")
    try:
        return float(value)
    except TypeError:
        raise TypeError(f"`{argument}` must be a number, got {value!r} ({type(value).__name__})") from None
    except OverflowError:
        raise ValueError(f"`{argument}` must be a number that a float can hold, got a larger one") from None
