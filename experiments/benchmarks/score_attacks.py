"""One turn of an attack on a detector's score, both sides, ours and as a loop in PyTorch: the same search."""

import itertools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from robustjax import runtime
from robustjax.attacks.pgd import pgd
from robustjax.numerics import keys_for
from robustjax.ood import logit_scores, score_attacks
from robustjax.ood.scores import scored
from robustjax.threats import Threat


class Turn(NamedTuple):
    """What a turn left.

    Attributes:
      seconds: of both sides.
      parts: of each side.
      above: (n,) for every ID image, the share of OOD images that score below it under attack; the mean is the
        AUROC.
    """

    seconds: float
    parts: dict[str, float]
    above: np.ndarray


def ours(
    network: Any,
    arguments: Any,
    inside: np.ndarray,
    outside: np.ndarray,
    *,
    eps: float,
    steps: int,
    size: int,
) -> Callable[[], Turn]:
    """Push the margin of ID images down and that of OOD images up by PGD, every device its own rows.

    Compiled once for both batches.
    """
    mesh = runtime.data_mesh(jax.devices()[: math.gcd(size, jax.device_count())])
    arguments, rows, all_ = runtime.place(arguments, mesh), PartitionSpec("data"), PartitionSpec()
    ascent = pgd(Threat("linf", eps), steps=steps, step_size=2.5 * eps / steps)

    def side(push: Any) -> Any:
        def found(arguments, keys, x):
            return push(ascent, scored(network(*arguments), logit_scores.msp_margin))(keys, x).value

        specs = {"in_specs": (all_, rows, rows), "out_specs": rows, "check_vma": False}
        return jax.jit(jax.shard_map(found, mesh=mesh, **specs))

    sides = {"down": (side(score_attacks.lowered), inside), "up": (side(score_attacks.raised), outside)}

    seeds = itertools.count()

    def turn() -> Turn:
        parts, value = {}, {}
        keys = keys_for(jax.random.key(next(seeds)), len(inside))
        for name, (search, images) in sides.items():
            began = time.perf_counter()
            value[name] = np.concatenate(
                [
                    np.asarray(search(arguments, keys[some], images[some]))
                    for some in batches(len(images), size)
                ]
            )[: len(images)]
            parts[name] = time.perf_counter() - began
        return Turn(sum(parts.values()), parts, above(value["down"], value["up"]))

    return turn


def theirs(
    net: Any, inside: np.ndarray, outside: np.ndarray, *, eps: float, steps: int, size: int
) -> Callable[[], Turn]:
    """Do the same in eager PyTorch."""
    import torch

    def margin(x: Any) -> Any:
        z = net(x)
        first, top = z.max(dim=1)
        return first - torch.logsumexp(z.scatter(1, top[:, None], -torch.inf), dim=1)

    def maximise(x: Any, sign: float) -> np.ndarray:
        best = sign * margin(x).detach()
        moved = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
        for _ in range(steps):
            moved.requires_grad_()
            value = sign * margin(moved)
            (slope,) = torch.autograd.grad(value.sum(), moved)
            with torch.no_grad():
                best = torch.maximum(best, value)
                moved = moved + 2.5 * eps / steps * slope.sign()
                moved = torch.minimum(torch.maximum(moved, x - eps), x + eps).clamp(0, 1)
        with torch.no_grad():
            return (sign * torch.maximum(best, sign * margin(moved))).numpy()

    seeds = itertools.count()

    def turn() -> Turn:
        torch.manual_seed(next(seeds))
        parts, value = {}, {}
        for name, sign, images in (("down", -1.0, inside), ("up", 1.0, outside)):
            began = time.perf_counter()
            x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
            value[name] = np.concatenate([maximise(part, sign) for part in x.split(size)])
            parts[name] = time.perf_counter() - began
        return Turn(sum(parts.values()), parts, above(value["down"], value["up"]))

    return turn


def batches(count: int, size: int) -> list[np.ndarray]:
    """List the rows of equal batches; the last one repeats the last row."""
    return [np.minimum(np.arange(start, start + size), count - 1) for start in range(0, count, size)]


def above(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Compute for each ID score the share of OOD scores below it, ties counted half."""
    ordered = np.sort(high)
    left, right = (np.searchsorted(ordered, low, side) for side in ("left", "right"))
    return (left + right) / (2 * len(high))
