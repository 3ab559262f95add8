"""Measure what each of the CPU's forms of layers gains against plain jax: value, input gradients in a loop, training.

    python -m experiments.benchmarks.cpu_layers paper
    python -m experiments.benchmarks.cpu_layers smoke

A row is one form of `robustjax.models.cpu` at sizes at which networks of this project use it. Three programs are
timed, each with the form and with what jax does by itself: the layer's value; a loop of gradient steps on its input,
which an attack is; and one gradient of its kernel, which training adds. Both sides take turns, so that a noisy machine
disturbs both, and each ratio is the median over turns of plain time over ours: above 1 the form pays. Compile times are
CPU seconds for the loop. Wall-clock time wants a machine with nothing else to do; `--clock cpu` counts the CPU seconds
of all cores instead, which others disturb less, but which do not show that a routine leaves cores idle.
"""

import dataclasses
import datetime
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from experiments.shared import command_line
from experiments.shared.fields import Count
from robustjax.models.cpu import avg_pool, max_pool
from robustjax.models.cpu.by_platform import multiply
from robustjax.models.cpu.convolution import Convolution
from robustjax.models.cpu.patches import Halved
from robustjax.models.cpu.rewritten import with_fast_convolutions
from robustjax.models.cpu.transposed import Doubled
from robustjax.runtime import strict_json


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure the CPU's forms of layers."""

    turns: Count = 11  # of each program; the ratio is their median
    steps: Count = 10  # gradient steps in the loop
    batch_size: Count = 64
    clock: Literal["wall", "cpu"] = "wall"
    seed: int = 0
    out: str | None = None  # a file to append one line of JSON to


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PRESETS = {"paper": Config(), "smoke": Config(turns=1, steps=1, batch_size=2)}
Layer = Callable[[Array, Array], Array]


class Case(NamedTuple):
    """One form: how it is computed here and by jax, and the sizes of what it is given."""

    name: str
    ours: Layer
    plain: Layer
    x: tuple[int, ...]  # without the batch
    kernel: tuple[int, ...]


class Row(NamedTuple):
    """Plain time over ours, for each program, and the seconds that compiling the loop takes."""

    name: str
    value: float
    input_loop: float
    kernel_gradient: float
    compile_ours: float
    compile_plain: float


def convolution(
    name: str, size: int, kernel: tuple[int, ...], *, stride: int = 1, pad: int | None = None
) -> Case:
    """Compare a convolution of square maps with jax's."""
    side = kernel[0] // 2 if pad is None else pad
    form = Convolution((stride, stride), ((side, side), (side, side)))
    return Case(name, lambda x, w: multiply(form, x, w), form.plain, (size, size, kernel[2]), kernel)


def without_planes(size: int, kernel: tuple[int, ...]) -> tuple[Case, Case]:
    """Compare `planes` with jax's own convolution, and with what this project would use in its place."""
    side = kernel[0] // 2
    form, given = Convolution((1, 1), ((side, side), (side, side))), (size, size, kernel[2])

    class WithoutPlanes(Convolution):
        """The same without products over planes of pixels."""

        def _as_product(self, x: Array, kernel: Array) -> Array | None:
            return None

        def along_kernel(self, x: Array, kernel: Array) -> Array:
            return Convolution._in_fast_order(self, x, kernel)

    other = WithoutPlanes(form.strides, form.pads)
    name = f"{'x'.join(map(str, kernel))} at {size}x{size}"
    return (
        Case(f"planes, {name}", lambda x, w: multiply(form, x, w), form.plain, given, kernel),
        Case(
            f"planes against the other forms, {name}",
            lambda x, w: multiply(form, x, w),
            lambda x, w: multiply(other, x, w),
            given,
            kernel,
        ),
    )


def pooling(
    ours: Callable[[Array, int], Array], plain: Callable[..., Array], size: int, channels: int
) -> Case:
    """Compare a pooling of 2x2 windows with flax's; the kernel scales the channels before it."""
    return Case(
        f"{ours.__name__} 2x2, {channels} channels at {size}x{size}",
        lambda x, w: ours(x * w, 2),
        lambda x, w: plain(x * w, (2, 2), (2, 2)),
        (size, size, channels),
        (channels,),
    )


def cases() -> list[Case]:
    """List the forms, each with sizes from the networks that use it."""
    many, doubled = _forms(Halved()), _forms(Doubled())
    return [
        convolution("3x3, 32 to 32 at 16x16", 16, (3, 3, 32, 32)),
        convolution("3x3, 64 to 64 at 32x32", 32, (3, 3, 64, 64)),
        convolution("3x3, 64 to 64 at 16x16", 16, (3, 3, 64, 64)),
        convolution("3x3, 256 to 256 at 4x4", 4, (3, 3, 256, 256)),
        convolution("3x3, stride 2, 64 to 128 at 16x16", 16, (3, 3, 64, 128), stride=2),
        convolution("5x5, one input channel to 32 at 28x28", 28, (5, 5, 1, 32)),
        convolution("5x5, 32 to 64 at 14x14", 14, (5, 5, 32, 64)),
        convolution("1x1 as a product, 64 to 128 at 16x16", 16, (1, 1, 64, 128), pad=0),
        convolution("4x4 to one pixel as a product, 64 to 64", 2, (4, 4, 64, 64), stride=2, pad=1),
        convolution("4x4 blocks, stride 2, 1 to 16 at 28x28", 28, (4, 4, 1, 16), stride=2, pad=1),
        convolution("4x4 blocks, stride 2, 16 to 32 at 14x14", 14, (4, 4, 16, 32), stride=2, pad=1),
        *without_planes(28, (3, 3, 1, 8)),
        *without_planes(28, (5, 5, 1, 4)),
        *without_planes(28, (3, 3, 3, 3)),
        *without_planes(32, (3, 3, 3, 64)),
        *without_planes(16, (3, 3, 32, 1)),
        Case("doubled 4x4, 32 to 16 at 8x8", *doubled, (8, 8, 32), (4, 4, 32, 16)),
        Case("doubled 3x3, 64 to 32 at 14x14", *doubled, (14, 14, 64), (3, 3, 64, 32)),
        Case("halved, 24 to 48 at 8x8, one kernel", *many, (8, 8, 24), (3, 3, 24, 48)),
        Case(
            "halved, 24 to 48 at 8x8, eight kernels",
            jax.vmap(many[0], (None, 0)),
            jax.vmap(many[1], (None, 0)),
            (8, 8, 24),
            (8, 3, 3, 24, 48),
        ),
        Case(
            "a ResNet-8 in plain jax at 32x32, rewritten",
            lambda x, w: with_fast_convolutions(partial(_resnet, w))(x),
            lambda x, w: _resnet(w, x),
            (32, 32, 3),
            (3, 3, 3, 16),
        ),
        pooling(max_pool, nn.max_pool, 28, 32),
        pooling(avg_pool, nn.avg_pool, 16, 64),
    ]


def _forms(product: Any) -> tuple[Layer, Layer]:
    return lambda x, w: multiply(product, x, w), product.plain


def _resnet(first: Array, x: Array) -> Array:
    """Compute a residual network of three blocks as somebody may write it, with jax's convolutions."""

    def convolved(x: Array, kernel: Array, stride: int = 1) -> Array:
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def kernel(number: int, side: int, into: int, out: int) -> Array:
        drawn = jax.random.normal(jax.random.key(number), (side, side, into, out))
        return drawn * (2 / (side * side * into)) ** 0.5

    x, into = jax.nn.relu(convolved(x, first)), first.shape[-1]
    for block, (out, stride) in enumerate(((16, 1), (32, 2), (64, 2))):
        y = jax.nn.relu(convolved(x, kernel(3 * block, 3, into, out), stride))
        y = convolved(y, kernel(3 * block + 1, 3, out, out))
        x = jax.nn.relu(y + convolved(x, kernel(3 * block + 2, 1, into, out), stride))
        into = out
    return x.mean(axis=(1, 2))


def programs(layer: Layer, steps: int) -> dict[str, Callable[..., Any]]:
    """Build the three programs that are timed."""

    def total(x: Array, kernel: Array) -> Array:
        return jnp.square(layer(x, kernel)).mean()

    def loop(x: Array, kernel: Array) -> Array:
        slope = jax.grad(total)
        return lax.fori_loop(0, steps, lambda _, z: x + 0.1 * jnp.sign(slope(z, kernel)), x)

    return {"value": layer, "input_loop": loop, "kernel_gradient": jax.grad(total, 1)}


def measured(case: Case, cfg: Config) -> Row:
    """Time both sides of one case, in turns."""
    one, two = jax.random.split(jax.random.key(cfg.seed))
    x = jax.random.uniform(one, (cfg.batch_size, *case.x))
    kernel = jax.random.normal(two, case.kernel) * 0.1
    sides = [programs(layer, cfg.steps) for layer in (case.ours, case.plain)]
    ratios, compiling = {}, {}
    for name in sides[0]:
        compiled = []
        for side in sides:
            began = time.process_time()
            compiled.append(jax.jit(side[name]).lower(x, kernel).compile())
            compiling.setdefault(name, []).append(time.process_time() - began)
        taken = [[_seconds(CLOCKS[cfg.clock], run, x, kernel) for run in compiled] for _ in range(cfg.turns)]
        ratios[name] = statistics.median(plain / ours for ours, plain in taken)
    return Row(
        case.name, **ratios, compile_ours=compiling["input_loop"][0], compile_plain=compiling["input_loop"][1]
    )


def _seconds(clock: Callable[[], float], run: Callable[..., Any], x: Array, kernel: Array) -> float:
    """Run for about 20 ms, at least once after a first run that does not count, and return seconds per run."""
    jax.block_until_ready(run(x, kernel))
    began, count = clock(), 0
    while count == 0 or clock() - began < 0.02:
        jax.block_until_ready(run(x, kernel))
        count += 1
    return (clock() - began) / count


def main(cfg: Config) -> None:
    """Measure all forms and print a table."""
    rows = []
    print("| form | value | input gradients in a loop | kernel gradient | compile, ours (s) | plain (s) |")
    print("|---|---|---|---|---|---|")
    for case in cases():
        row = measured(case, cfg)
        times = " | ".join(f"{ratio:.2f}" for ratio in row[1:4])
        print(f"| {row.name} | {times} | {row.compile_ours:.2f} | {row.compile_plain:.2f} |", flush=True)
        rows.append(row._asdict())
    if cfg.out is not None:
        line = {
            "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "jax": jax.__version__,
            "cores": os.cpu_count(),
            "config": dataclasses.asdict(cfg),
            "results": rows,
        }
        strict_json.append(cfg.out, line)


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
