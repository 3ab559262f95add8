"""Read a compiled program's text: its operations with their arithmetic, memory traffic, trip counts and exchanges.

XLA's own `cost_analysis` counts the body of a loop once and is empty on GPUs. The text of a compiled program holds all
that is needed to count anew: operations in the order they run, shapes with their place in memory, and how often each
loop turns.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

BITS = {"pred": 8, "token": 0, "opaque": 0}  # others have their width in their name
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id"),
    *("replica-id", "opt-barrier", "iota", "add-dependency", "domain"),
}  # fmt: skip
EXCHANGES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "reduce-scatter",
    "collective-permute",
    "collective-broadcast",
)
SLICES = ("dynamic-slice", "slice", "gather")
LEAF = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")


class Shape(NamedTuple):
    """An array: element type, dimensions, and whether it lies in memory on the chip's cores, which costs no traffic."""

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool = False

    @property
    def bytes(self) -> float:
        """Count what it holds, without padding."""
        return math.prod(self.dims) * _bits(self.dtype) / 8

    @property
    def traffic(self) -> float:
        """Count its bytes in the device's main memory."""
        return 0.0 if self.on_chip else self.bytes


class Operation(NamedTuple):
    """A line of a program.

    Attributes:
      shapes: of the results, the arrays of nested tuples one after the other.
      inside: the text in parentheses: names of operands, or the value of a constant.
      operands: their names.
      rest: its settings, as text.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    inside: str
    operands: tuple[str, ...]
    rest: str

    @property
    def source(self) -> str:
        """Say which line of the traced program it comes from."""
        return _first(r'op_name="([^"]*)"', self.rest)

    @property
    def cycles(self) -> float:
        """Read the compiler's own estimate; NaN where there is none."""
        return float(_first(r'"estimated_cycles":"(\d+)"', self.rest) or math.nan)

    def called(self) -> list[str]:
        """List the computations that it calls."""
        found = re.findall(
            r"(?:calls|to_apply|body|condition|(?:true|false)_computation)=%?([\w.-]+)", self.rest
        )
        for branches in re.findall(r"branch_computations=\{([^}]*)\}", self.rest):
            found += [name.strip().lstrip("%") for name in branches.split(",")]
        return found


class Computation(NamedTuple):
    """A list of operations by name, in the order they run, and the name of the last."""

    name: str
    operations: Mapping[str, Operation]
    root: str


class Cost(NamedTuple):
    """What an operation costs in one run of the program, over all its turns.

    Attributes:
      operation: the line.
      calls: how often it runs.
      flops: arithmetic of the products in it; 2 for a product and its sum.
      bytes: to and from main memory.
      cycles: the compiler's estimate; NaN where it says nothing.
    """

    operation: Operation
    calls: float
    flops: float
    bytes: float
    cycles: float


class Program:
    """A compiled program, read from its text."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        self.unknown_trips: list[str] = []  # loops whose count the text does not tell; they count once
        for first, lines in _blocks(text):
            name = _first(r"^(?:ENTRY\s+)?%?([\w.-]+)", first)
            found = {one.name: (one, line) for line in lines if (one := _operation(line)) is not None}
            root = next((name for name, (_, line) in found.items() if line.lstrip().startswith("ROOT ")), "")
            self.computations[name] = Computation(name, {key: one for key, (one, _) in found.items()}, root)
            if first.startswith("ENTRY"):
                self.entry = name
        if not self.entry:
            raise ValueError("Program: the text has no ENTRY, must be that of a compiled program")

    def costs(self) -> list[Cost]:
        """List what every operation that is scheduled by itself costs."""
        return list(self._costs(self.entry, 1.0))

    def _costs(self, name: str, times: float) -> Iterator[Cost]:
        here = self.computations[name]
        for one in here.operations.values():
            if one.opcode == "while":
                turns = self.trips(one)
                for part in one.called():
                    yield from self._costs(part, times * turns)
            elif one.opcode == "call":
                yield from self._costs(one.called()[0], times)
            elif one.opcode == "conditional":
                # The dearest branch.
                branches = [list(self._costs(part, times)) for part in one.called()]
                yield from max(branches, key=lambda costs: sum(c.flops + c.bytes for c in costs))
            elif one.opcode not in FREE and not one.opcode.endswith(("-done", "-update")):
                flops, traffic = self.flops(one, here), self.traffic(one, here)
                yield Cost(one, times, times * flops, times * traffic, times * one.cycles)

    def trips(self, loop: Operation) -> float:
        """Read how often a loop turns: as the compiler says, or from a condition that compares with a constant."""
        if known := _first(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return float(known)
        condition = self.computations[_first(r"condition=%?([\w.-]+)", loop.rest)]
        inner = [self.computations[name] for one in condition.operations.values() for name in one.called()]
        lines = [one for part in (condition, *inner) for one in part.operations.values()]
        compared = [one for one in lines if one.opcode == "compare" and "direction=LT" in one.rest]
        limits = [int(one.inside) for one in lines if one.opcode == "constant" and one.inside.isdigit()]
        if len(compared) == len(limits) == 1:
            return float(limits[0])
        self.unknown_trips.append(loop.name)
        return 1.0

    def flops(self, one: Operation, where: Computation) -> float:
        """Count the products of an operation and their sums, also those within what it calls."""
        if one.opcode == "dot":
            left = where.operations[one.operands[0]].shapes[0].dims
            over = [int(i) for i in _first(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest).split(",") if i]
            return 2.0 * math.prod(one.shapes[0].dims) * math.prod(left[i] for i in over)
        if one.opcode == "convolution":
            return convolution_flops(
                one, *(where.operations[name].shapes[0].dims for name in one.operands[:2])
            )
        if by_cudnn(one):
            return cudnn_flops(one, *(where.operations[name].shapes[0].dims for name in one.operands[:2]))
        return sum(self._flops_of(name) for name in one.called()) if one.opcode in CALLING else 0.0

    @functools.cache  # noqa: B019  a program lives as long as its page
    def _flops_of(self, name: str) -> float:
        where = self.computations[name]
        return sum(self.flops(one, where) for one in where.operations.values())

    def products(
        self, one: Operation, where: Computation
    ) -> list[tuple[Operation, float, tuple[Shape, ...]]]:
        """List the products within an operation: the line, its arithmetic, the shapes of both factors."""
        if one.opcode in ("dot", "convolution") or by_cudnn(one):
            factors = tuple(where.operations[name].shapes[0] for name in one.operands[:2])
            return [(one, self.flops(one, where), factors)]
        if one.opcode not in CALLING:
            return []
        parts = (self.computations[name] for name in one.called())
        return [
            found
            for part in parts
            for line in part.operations.values()
            for found in self.products(line, part)
        ]

    def where(self, one: Operation) -> Computation:
        """Find the computation that an operation stands in."""
        return next(part for part in self.computations.values() if part.operations.get(one.name) is one)

    def origin(self, name: str, user: Operation) -> str:
        """Say in which type an operand was before it was moved or converted to another."""
        where = self.where(user)
        line = where.operations[name]
        while line.opcode in ("transpose", "reshape", "reverse", "bitcast", "copy", "convert"):
            line = where.operations[line.operands[0]]
        return line.shapes[0].dtype

    def traffic(self, one: Operation, where: Computation) -> float:
        """Count the bytes that an operation reads from and writes to main memory: each operand and result once.

        Of an operand of which only slices are read, these count; where a slice is written into an array in its place,
        that slice does.
        """
        if one.opcode in SLICES:
            return sum(shape.traffic for shape in one.shapes) + _least(one.shapes, where, one.operands[:1])
        if one.opcode == "dynamic-update-slice":
            return 2 * sum(shape.traffic for shape in where.operations[one.operands[1]].shapes)
        if one.opcode.endswith("-start"):
            return self._of_start(one, where)
        read = [where.operations[name] for name in one.operands if name in where.operations]
        if one.opcode != "fusion":
            return sum(s.traffic for line in (*read, one) for s in line.shapes)
        inner = self.computations[one.called()[0]]
        numbered = {int(o.inside): o for o in inner.operations.values() if o.opcode == "parameter"}
        total = 0.0
        for i, operand in enumerate(read):
            parameter = numbered.get(i)
            whole = sum(shape.traffic for shape in operand.shapes)
            total += whole if parameter is None else min(whole, self._read(parameter, inner, whole))
        return total + sum(self._written(name, shape, inner) for name, shape in self._results(inner, one))

    def _of_start(self, one: Operation, where: Computation) -> float:
        read = [s for name in one.operands for s in where.operations[name].shapes]
        if one.opcode.startswith(EXCHANGES):
            return 2 * sum(shape.traffic for shape in read)
        # The result holds what is written, what is read again, and a number to wait on.
        written = [shape for shape in one.shapes if shape.dims and shape not in read] or read
        count = sum(shape.bytes for shape in written)
        return sum(count for side in (read, written) if not all(shape.on_chip for shape in side))

    def _users(self, name: str, where: Computation) -> list[Operation]:
        return [one for one in where.operations.values() if name in one.operands]

    def _read(self, parameter: Operation, where: Computation, whole: float) -> float:
        """Count what is read of a fusion's parameter."""
        users = self._users(parameter.name, where)
        total = 0.0
        for one in users:
            if one.opcode in SLICES and one.operands[0] == parameter.name:
                total += sum(shape.bytes for shape in one.shapes)
            elif one.opcode == "dynamic-update-slice" and one.operands[0] == parameter.name:
                total += 0.0  # written in its place
            elif one.opcode == "bitcast":
                total += self._read(one, where, whole)
            else:
                return whole
        return total

    def _results(self, where: Computation, one: Operation) -> list[tuple[str, Shape]]:
        root = where.operations[where.root]
        names = root.operands if root.opcode == "tuple" else (root.name,)
        return (
            list(zip(names, one.shapes, strict=False))
            if len(names) == len(one.shapes)
            else [(root.name, shape) for shape in one.shapes]
        )

    def _written(self, name: str, shape: Shape, where: Computation) -> float:
        line = where.operations[name]
        while line.opcode == "bitcast":
            line = where.operations[line.operands[0]]
        if line.opcode == "dynamic-update-slice":
            return min(shape.traffic, sum(s.bytes for s in where.operations[line.operands[1]].shapes))
        return shape.traffic


CUDNN = '"__cudnn$conv'
CALLING = ("fusion", "call", "while", "conditional", "async-start", "map", "reduce", "custom-call")


class Exchange(NamedTuple):
    """What devices exchange in one run: a kind of collective operation, its element type, bytes and calls."""

    kind: str
    dtype: str
    bytes: float
    calls: float


def exchanges(program: Program, costs: list[Cost]) -> list[Exchange]:
    """Add up collective operations by kind and element type: the bytes that each device gives."""
    total: dict[tuple[str, str], list[float]] = {}
    for cost in costs:
        lines = [cost.operation, *(_lines(program, cost.operation))]
        for one in lines:
            kind = next((k for k in EXCHANGES if one.opcode in (k, f"{k}-start")), None)
            if kind is None:
                continue
            where = program.where(one)
            for name in one.operands:
                for shape in where.operations[name].shapes:
                    found = total.setdefault((kind, shape.dtype), [0.0, 0.0])
                    found[0] += cost.calls * shape.bytes
            found = total.setdefault((kind, where.operations[one.operands[0]].shapes[0].dtype), [0.0, 0.0])
            found[1] += cost.calls
    return [Exchange(kind, dtype, *values) for (kind, dtype), values in sorted(total.items())]


def _lines(program: Program, one: Operation) -> Iterator[Operation]:
    if one.opcode not in ("fusion", "async-start"):
        return
    for name in one.called():
        for line in program.computations[name].operations.values():
            yield line
            yield from _lines(program, line)


def by_cudnn(one: Operation) -> bool:
    """Say whether a line calls cuDNN for a convolution, as XLA's programs for NVIDIA's GPUs do."""
    return one.opcode == "custom-call" and CUDNN in one.rest


def cudnn_flops(one: Operation, first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Count a convolution by cuDNN, or a gradient of one: as many as the convolution itself has.

    The window and the meaning of dimensions are those of the convolution, also for gradients.
    """
    result = one.shapes[0].dims
    if f"{CUDNN}BackwardInput" in one.rest:  # of the result's gradient and the kernel
        return convolution_flops(one, result, second, first)
    if f"{CUDNN}BackwardFilter" in one.rest:  # of the images and the result's gradient
        return convolution_flops(one, first, result, second)
    return convolution_flops(one, first, second)


def convolution_flops(
    one: Operation, lhs: tuple[int, ...], rhs: tuple[int, ...], result: tuple[int, ...] | None = None
) -> float:
    """Count a convolution: 2 for every product of a pixel, not of padding or of holes between pixels, and its sum.

    Args:
      one: the line.
      lhs, rhs: shapes of the images and the kernel.
      result: shape of what they make; by default that of the line.
    """
    labels = _first(r"dim_labels=(\S+?)(?:,|$)", one.rest)
    left, rest = labels.split("_")
    right, out = rest.split("->")
    window = dict(re.findall(r"(\w+)=(\S+)", _first(r"window=\{([^}]*)\}", one.rest)))
    spatial = [i for i in range(len(left)) if str(i) in left]
    size = [rhs[right.index(str(i))] for i in spatial]
    steps = _numbers(window.get("stride"), 1, len(spatial))
    pads = (
        [int(side.split("_")[0]) for side in window["pad"].split("x")]
        if "pad" in window
        else [0] * len(spatial)
    )
    holes, spread = (_numbers(window.get(k), 1, len(spatial)) for k in ("lhs_dilate", "rhs_dilate"))
    result = result or one.shapes[0].dims
    total = 2.0 * result[out.index("b")] * result[out.index("f")] * rhs[right.index("i")]
    for n, i in enumerate(spatial):
        long, wide = lhs[left.index(str(i))], result[out.index(str(i))]
        total *= _meetings(long, size[n], wide, steps[n], pads[n], holes[n], spread[n])
    return total


@functools.cache
def _meetings(long: int, size: int, wide: int, step: int, pad: int, hole: int, spread: int) -> int:
    """Count the pairs of a place in the result and a tap of the kernel that meet on a pixel."""
    count = 0
    for place in range(wide):
        for tap in range(size):
            at = place * step + tap * spread - pad
            count += 0 <= at <= (long - 1) * hole and at % hole == 0
    return count


def _numbers(text: str | None, default: int, count: int) -> list[int]:
    return [default] * count if text is None else [int(n) for n in text.split("x")]


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Cut a text into computations: the first line, and those of its operations."""
    first, lines = "", []
    for line in text.splitlines():
        if first and line.startswith("}"):
            yield first, lines
            first = ""
        elif first:
            lines.append(line)
        elif line.endswith("{") and not line.startswith(("HloModule", " ")):
            first, lines = line, []


def _operation(line: str) -> Operation | None:
    match = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = ", line)
    if match is None:
        return None
    line = re.sub(r"/\*.*?\*/", "", line[match.end() :])
    end = _closing(line, 0) + 1 if line.startswith("(") else line.index(" ")
    kind, line = line[:end], line[end:].strip()
    opening = line.index("(")
    closing = _closing(line, opening)
    inside = line[opening + 1 : closing]
    shapes = tuple(_shape(*found) for found in LEAF.findall(kind))
    names = tuple(part.split()[-1].lstrip("%") for part in inside.split(", ") if part.strip())
    return Operation(match[1], line[:opening], shapes, inside, names, line[closing + 1 :])


def _closing(text: str, opening: int) -> int:
    """Find the parenthesis that closes the one at a place."""
    depth = 0
    for i in range(opening, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"Program: a parenthesis is not closed in {text[opening : opening + 60]!r}")


def _shape(dtype: str, dims: str, layout: str) -> Shape:
    sides = tuple(int(side.lstrip("<=")) for side in dims.split(",") if side)
    return Shape(dtype, sides, bool(re.search(r"S\([1-9]\d*\)", layout)))


def _bits(dtype: str) -> int:
    if dtype in BITS:
        return BITS[dtype]
    return int(_first(r"(\d+)", dtype) or 0)


def _least(shapes: tuple[Shape, ...], where: Computation, names: tuple[str, ...]) -> float:
    """Count slices as read from arrays in main memory."""
    read = [shape for name in names for shape in where.operations[name].shapes]
    return 0.0 if all(shape.on_chip for shape in read) else sum(shape.bytes for shape in shapes)


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""
