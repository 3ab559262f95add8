"""From a compiled program's text and a chip's peaks: the least time that a call can take, and what to look at."""

import math
from typing import NamedTuple

from experiments.benchmarks import hlo_text, profiles
from experiments.benchmarks.chips import Topology
from experiments.benchmarks.compiling import Compiled
from experiments.benchmarks.hlo_text import Cost, Exchange, Program

LARGE = 0.01  # share of the arithmetic from which a product counts as large
SEEN = 0.8  # share of the arithmetic asked for that is to be seen in the compiled program
ROUNDED = 0.05  # share of the arithmetic from which rounded factors are told
NESTED = 0.05  # share of the time from which nested products are told
DOMINATES = 0.1  # share of the time from which copies are told
COPIES = ("copy", "transpose", "copy-start", "bitcast-convert")


class Row(NamedTuple):
    """What the operations of one kind in one layer take at least, in one call."""

    what: str
    seconds: float
    calls: float
    limit: str  # "arithmetic", "memory" or "compiler", whichever says more


class Bound(NamedTuple):
    """The bound on one program.

    Attributes:
      seconds: per operation the larger of arithmetic and bytes over the chip's peaks, times how often it runs.
      by_compiler: seconds by the compiler's own cycles; NaN where it tells none. Neither knows of waiting.
      flops: of products, one device.
      share: of the chip's peak, at the larger of the two.
      peak: bytes of memory; largest: about how many images would fill the device, by proportion.
      rows: the dearest operations, by layer.
      exchanges: of one call.
      warnings: sentences.
    """

    seconds: float
    by_compiler: float
    flops: float
    share: float
    peak: float
    largest: int
    rows: list[Row]
    exchanges: list[Exchange]
    warnings: list[str]

    @property
    def least(self) -> float:
        """Take the larger bound."""
        return self.seconds if math.isnan(self.by_compiler) else max(self.seconds, self.by_compiler)


def bound(made: Compiled, where: Topology) -> Bound:
    """Bound the time of one call."""
    program, chip = Program(made.text), where.chip
    costs = program.costs()
    arithmetic = [cost.flops / chip.flops for cost in costs]
    memory = [cost.bytes / chip.bandwidth for cost in costs]
    cycles = [cost.cycles / chip.clock if chip.clock else math.nan for cost in costs]
    told = [one for one in cycles if not math.isnan(one)]
    seconds, by_compiler = sum(map(max, arithmetic, memory)), sum(told) if told else math.nan
    flops = sum(cost.flops for cost in costs)
    found = Bound(
        seconds,
        by_compiler,
        flops,
        0.0,
        made.peak,
        _largest(made, where),
        [],
        hlo_text.exchanges(program, costs),
        [],
    )
    each = [
        max(a, m, 0.0 if math.isnan(c) else c) for a, m, c in zip(arithmetic, memory, cycles, strict=True)
    ]
    limits = [
        max((a, "arithmetic"), (m, "memory"), (0.0 if math.isnan(c) else c, "compiler"))[1]
        for a, m, c in zip(arithmetic, memory, cycles, strict=True)
    ]
    return found._replace(
        share=flops / chip.flops / found.least if found.least else 0.0,
        rows=_rows(made.text, costs, each, limits),
        warnings=[
            *_fits(made, where),
            *_arithmetic(made.asked, flops, where.chips),
            *_warnings(program, costs, each, flops, found.exchanges),
        ],
    )


def _rows(text: str, costs: list[Cost], seconds: list[float], limits: list[str]) -> list[Row]:
    source, total = profiles.sources(text), {}
    for cost, spent, limit in zip(costs, seconds, limits, strict=True):
        what = source.get(cost.operation.name, profiles.REST)
        found = total.setdefault(what, [0.0, 0.0, {}])
        found[0] += spent
        found[1] += cost.calls
        found[2][limit] = found[2].get(limit, 0.0) + spent
    rows = [Row(what, spent, calls, max(by, key=by.get)) for what, (spent, calls, by) in total.items()]
    return sorted(rows, key=lambda row: -row.seconds)


def _largest(made: Compiled, where: Topology) -> int:
    """Guess how many images fit: what is there besides arguments grows with the batch."""
    held = made.memory
    fixed, grows = held["arguments"] + held["code"], held["temporaries"] + held["outputs"] - held["aliased"]
    return int(made.images * max(where.chip.memory - fixed, 0.0) / grows) if grows > 0 else made.images


def _fits(made: Compiled, where: Topology) -> list[str]:
    if made.peak <= where.chip.memory:
        return []
    return [
        f"does not fit: {made.peak / 1e9:.1f} GB on each chip, which has {where.chip.memory / 1e9:.1f} GB"
    ]


def _warnings(
    program: Program, costs: list[Cost], seconds: list[float], flops: float, exchanges: list[Exchange]
) -> list[str]:
    nested, copied, total = 0.0, 0.0, sum(seconds)
    for cost, spent in zip(costs, seconds, strict=True):
        where = program.where(cost.operation)
        inside = program.products(cost.operation, where)
        large = [one for one in inside if cost.calls * one[1] >= LARGE * flops]
        nested += spent if len(large) > 1 else 0.0
        copied += spent if cost.operation.opcode in COPIES or cost.operation.name.startswith(COPIES) else 0.0
    found = []
    if nested > NESTED * total:
        found.append(
            f"{100 * nested / total:.0f} % of the time is in operations with two large products, one of which may be "
            "computed again for every tile of the other"
        )
    if copied > DOMINATES * total:
        found.append(f"{100 * copied / total:.0f} % of the time goes into copies to other layouts")
    found += [
        f"{one.kind} of {one.bytes / 1e6:.1f} MB {one.dtype}: devices wait for each other's examples"
        for one in exchanges
        if one.kind in ("all-gather", "all-to-all")
    ]
    found += [
        f"loop {name} turns an unknown number of times, and counts once" for name in program.unknown_trips
    ]
    return found


def _arithmetic(asked: str, flops: float, devices: int) -> list[str]:
    """Compare with what was asked for: is all of it seen, and is float32 asked for in full?"""
    program, total, rounded = Program(asked), 0.0, 0.0
    for cost in program.costs():
        where = program.where(cost.operation)
        for line, count, factors in program.products(cost.operation, where):
            wide = [name for name, f in zip(line.operands, factors, strict=False) if f.dtype == "f32"]
            exact = all(program.origin(name, line) != "f32" for name in wide)  # such as gradients of kernels
            in_full = exact or "operand_precision={highest" in line.rest
            total += cost.calls * count
            rounded += 0.0 if in_full else cost.calls * count
    found = []
    if flops * devices < SEEN * total:
        found.append(
            f"only {100 * flops * devices / total:.0f} % of the arithmetic asked for is seen in the compiled program, "
            "such as where it calls cuDNN: the bound is too low"
        )
    if rounded > ROUNDED * total:
        share = f"{100 * rounded / total:.0f} %"
        found.append(f"{share} of the arithmetic rounds float32 factors (TPUs to bfloat16, GPUs to TF32)")
    return found
