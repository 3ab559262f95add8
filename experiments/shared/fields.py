"""The types of a config's fields: how a value is written on the command line, and the bounds it must keep.

A bound is said once, in the type: `updates: Count = 1000`. `command_line.validate` reads it from there.
"""

from typing import Annotated

from annotated_types import Ge, Gt, Interval
from tyro.constructors import PrimitiveConstructorSpec

from robustjax.data import subsets


def fraction(words: list[str]) -> float:
    """Read a number that may be written as 8/255."""
    top, _, bottom = words[0].partition("/")
    if bottom and float(bottom) == 0:
        raise ValueError(f"{words[0]} divides by zero")
    return float(top) / float(bottom) if bottom else float(top)


Fraction = Annotated[
    float,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|A/B",
        instance_from_str=fraction,
        is_instance=lambda value: isinstance(value, int | float),
        str_from_instance=lambda value: [f"{value:.6g}"],
    ),
]  # a number that may be written as 8/255


class OfImages:
    """The bound of `Images`: what `data.subsets` takes."""

    def problem(self, value: int | str) -> str | None:
        """Say what is wrong, or None."""
        try:
            subsets.rule(value)
        except ValueError as error:
            return str(error).partition("must be ")[2]
        return None


def number_or_rule(words: list[str]) -> int | str:
    """Read N or official:N; what is neither is left for `OfImages` to refuse."""
    return int(words[0]) if words[0].isdecimal() else words[0]


# How many images: N for the stratified subset, or official:N for the first N in official order; see data.subsets.
Images = Annotated[
    int | str,
    OfImages(),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="N|official:N",
        instance_from_str=number_or_rule,
        is_instance=lambda value: isinstance(value, int | str),
        str_from_instance=lambda value: [str(value)],
    ),
]
# The same, or None for all of them. (tyro cannot tell the members of a union in a union apart.)
ImagesOrAll = Annotated[
    int | str | None,
    OfImages(),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="N|official:N|None",
        instance_from_str=lambda words: None if words[0] == "None" else number_or_rule(words),
        is_instance=lambda value: value is None or isinstance(value, int | str),
        str_from_instance=lambda value: [str(value)],
    ),
]


def severities(words: list[str]) -> tuple[int, ...]:
    """Read 1,3,5 or 1 3 5."""
    return tuple(int(word) for given in words for word in given.split(",") if word)


# Severities of corruptions, 1 to 5.
Severities = Annotated[
    tuple[int, ...],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="S,S,...",
        instance_from_str=severities,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    ),
]
Count = Annotated[int, Ge(1)]
CountOrNone = Annotated[int, Ge(0)]  # 0: none at all
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]  # what every random generator here takes
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
PositiveShare = Annotated[float, Interval(gt=0, le=1)]
OpenShare = Annotated[float, Interval(gt=0, lt=1)]  # a share that is neither nothing nor all
Radius = Annotated[Fraction, Ge(0)]
PositiveRadius = Annotated[Fraction, Gt(0)]
