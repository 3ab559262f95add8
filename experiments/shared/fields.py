"""The types of a config's fields: how a value is written on the command line, and the bounds it must keep.

A bound is said once, in the type: `updates: Count = 1000`. `command_line.validate` reads it from there.
"""

from typing import Annotated

from annotated_types import Ge, Gt, Interval
from tyro.constructors import PrimitiveConstructorSpec


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

Count = Annotated[int, Ge(1)]
CountOrNone = Annotated[int, Ge(0)]  # 0: none at all
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
PositiveShare = Annotated[float, Interval(gt=0, le=1)]
OpenShare = Annotated[float, Interval(gt=0, lt=1)]  # a share that is neither nothing nor all
Radius = Annotated[Fraction, Ge(0)]
PositiveRadius = Annotated[Fraction, Gt(0)]
