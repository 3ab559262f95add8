"""Measure what `robustjax.from_torch` costs beside PyTorch alone: logits, gradients, a loop of gradient steps.

    python -m experiments.benchmarks.torch_adapter cpu
    python -m experiments.benchmarks.torch_adapter smoke

A row is a network at a batch size. Three things are timed for the same module, weights and images: the logits, one
gradient of the cross-entropy with respect to the images, and a loop of gradient steps, which an attack is. On one side
PyTorch runs alone, on the other a compiled program of JAX calls back to it. Both take turns, so that a noisy machine
disturbs both; each ratio is the adapter's time over PyTorch's, so 1 is free: the median over turns, and the smallest
and the largest. Needs PyTorch: pip install -e '.[torch]'.
"""

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import robustjax
from experiments.benchmarks import measured_on
from experiments.benchmarks.config import TORCH_ADAPTER_PRESETS as PRESETS
from experiments.benchmarks.config import TorchAdapterConfig, TorchNetwork
from experiments.shared import command_line
from robustjax import logit, runtime

SHAPES: dict[TorchNetwork, tuple[int, ...]] = {"convnet_small": (28, 28, 1), "resnet18": (32, 32, 3)}


class Row(NamedTuple):
    """What one network takes: PyTorch's milliseconds for an image, and the adapter's time over PyTorch's."""

    network: str
    batch_size: int
    milliseconds: dict[str, float]
    ratio: dict[str, tuple[float, float, float]]  # median over turns, smallest, largest


def main(cfg: TorchAdapterConfig) -> None:
    """Time both sides of every network."""
    if not find_spec("torch"):
        raise ValueError("torch is not installed, must be: pip install -e '.[torch]'")
    rows = []
    for network in cfg.networks:
        for batch_size in cfg.batch_size:
            row = measured(network, batch_size, cfg)
            rows.append(row)
            runtime.say(f"{network}, {batch_size} images: " + told(row))
    packages = measured_on.versions("jax", "torch")
    runtime.say(f"{measured_on.chip()}, {packages}")
    measured_on.append(cfg.out, cfg, packages, results=[row._asdict() for row in rows])


def told(row: Row) -> str:
    """Say a row in words."""
    return "; ".join(
        f"{name} {row.milliseconds[name]:.3g} ms an image in PyTorch, x {median:.2f} ({low:.2f} to {high:.2f}) by the "
        "adapter"
        for name, (median, low, high) in row.ratio.items()
    )


def measured(network: TorchNetwork, batch_size: int, cfg: TorchAdapterConfig) -> Row:
    """Time one network, both sides in turns."""
    rng = np.random.default_rng(cfg.seed)
    x = rng.uniform(size=(batch_size, *SHAPES[network])).astype(np.float32)
    y = rng.integers(10, size=batch_size).astype(np.int32)
    module = built(network, cfg.seed)
    sides = alone(module, x, y, cfg.steps), adapted(module, x, y, cfg.steps)
    milliseconds, ratio = {}, {}
    for name in sides[0]:
        for side in sides:
            side[name]()  # compiles, and fills caches
        clock = time.process_time if cfg.clock == "cpu" else time.perf_counter
        turns = [[_seconds(side[name], clock) for side in sides] for _ in range(cfg.turns)]
        milliseconds[name] = 1000 * statistics.median(one for one, _ in turns) / batch_size
        ratios = [other / one for one, other in turns]
        ratio[name] = statistics.median(ratios), min(ratios), max(ratios)
    return Row(network, batch_size, milliseconds, ratio)


def built(network: TorchNetwork, seed: int) -> Any:
    """Build a module with random weights."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    if network == "convnet_small":
        return nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 100), nn.ReLU(), nn.Linear(100, 10),
        ).eval()  # fmt: skip

    class Block(nn.Module):
        def __init__(self, narrow: int, wide: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(narrow, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(),
                nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide),
            )  # fmt: skip
            self.skip = nn.Identity() if narrow == wide else nn.Conv2d(narrow, wide, 1, stride, bias=False)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + self.skip(x))

    stages = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2),
              (512, 512, 1)]  # fmt: skip
    stem = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)
    return nn.Sequential(*stem, *(Block(*stage) for stage in stages), *head).eval()


def alone(module: Any, x: np.ndarray, y: np.ndarray, steps: int) -> dict[str, Callable[[], Any]]:
    """Build what PyTorch does by itself."""
    import torch

    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(y).long()

    def value() -> Any:
        with torch.no_grad():
            return module(images)

    def slope(z: Any) -> Any:
        z = z.detach().requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(module(z), labels, reduction="sum")
        return torch.autograd.grad(loss, z)[0]

    def loop() -> Any:
        z = images
        for _ in range(steps):
            z = (z + 0.01 * slope(z).sign()).clamp(0, 1)
        return z

    return {"logits": value, "gradient": lambda: slope(images), f"{steps} steps": loop}


def adapted(module: Any, x: np.ndarray, y: np.ndarray, steps: int) -> dict[str, Callable[[], Any]]:
    """Build the same as compiled programs that call back to PyTorch."""
    logits_fn, images, labels = robustjax.from_torch(module), jnp.asarray(x), jnp.asarray(y)
    slope = jax.grad(lambda z: logit.cross_entropy(logits_fn(z), labels).sum())

    def step(_: Any, z: jax.Array) -> jax.Array:
        return jnp.clip(z + 0.01 * jnp.sign(slope(z)), 0, 1)

    programs = {
        "logits": jax.jit(logits_fn),
        "gradient": jax.jit(slope),
        f"{steps} steps": jax.jit(lambda z: lax.fori_loop(0, steps, step, z)),
    }
    return {
        name: lambda program=program: jax.block_until_ready(program(images))
        for name, program in programs.items()
    }


def _seconds(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Run for about 50 ms, at least once, and return seconds per run."""
    began, count = clock(), 0
    while count == 0 or clock() - began < 0.05:
        run()
        count += 1
    return (clock() - began) / count


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
