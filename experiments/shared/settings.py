"""Groups of settings that several scripts share, and what they build: attacks, optimisers, processes."""

import dataclasses
from typing import Literal

import optax

from experiments.shared.fields import (
    Count,
    CountOrNone,
    NonNegative,
    OpenShare,
    Positive,
    PositiveRadius,
    Radius,
    Share,
)
from robustjax import optimizers, runtime
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.threats import Threat
from robustjax.types import Ascent, Attack, Number


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Several processes, each started with the same command; found by itself on Slurm, Cloud TPU and Kubernetes."""

    coordinator: str | None = None  # host:port of process 0
    processes: int | None = None
    process_id: int | None = None

    def join(self, enabled: bool) -> None:
        """Join the other processes, if asked to, before anything touches a device; keep compiled programs."""
        runtime.distributed(enabled, self.coordinator, self.processes, self.process_id)
        runtime.cache_compiled()


@dataclasses.dataclass(frozen=True)
class PGD:
    """Projected gradient ascent."""

    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Radius = 0.1  # in units of images in [0, 1]
    steps: CountOrNone = 10
    step: PositiveRadius = 0.25  # length of one step, as a share of eps
    restarts: Count = 1

    def check(self, prefix: str = "") -> None:
        """Refuse a radius that was meant for images in 0..255."""
        if self.eps > 1 and self.norm == "linf":
            raise ValueError(
                f"--{prefix}eps is {self.eps:g}, must be at most 1 for images in [0, 1]; write 8/255"
            )

    def worst_case(self, eps: Number) -> Attack:
        """Build the evaluation attack at a radius: the worst of PGD on three objectives, each with restarts.

        Cross-entropy alone overrates networks whose gradients vanish when they are sure; the margin and the
        difference of logits ratio do not depend on how sure they are.
        """
        ascent = pgd(Threat(self.norm, eps), steps=self.steps, step_size=self.step * eps)
        repeated = compose.restarts(ascent, self.restarts, chunk_size=1)
        surrogates = (objectives.cross_entropy, objectives.margin, objectives.dlr)
        return compose.worst_of(*(compose.against(repeated, surrogate) for surrogate in surrogates))

    def of_training(self, eps: Number) -> Ascent:
        """Build the training adversary at a radius: its last point, or the worst of several starts."""
        ascent = pgd(Threat(self.norm, eps), steps=self.steps, step_size=self.step * eps, keep="last")
        return compose.restarts(ascent, self.restarts) if self.restarts > 1 else ascent

    def in_words(self) -> str:
        """Say what `worst_case` runs."""
        return (
            f"PGD in {self.norm}, {self.steps} steps of {self.step:g} eps, {self.restarts} random "
            f"start{'s' if self.restarts > 1 else ''}, on cross-entropy, margin and DLR; worst case per image"
        )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Stochastic gradient descent or Adam, with a schedule over the whole run."""

    name: Literal["sgd", "adam"] = "sgd"
    rate: Positive = 0.1  # at its peak, per update
    schedule: Literal["constant", "piecewise", "cosine", "one_cycle"] = "one_cycle"
    drops: tuple[OpenShare, ...] = (
        0.5,
        0.75,
    )  # shares of the run after which piecewise divides the rate by 10
    momentum: Share = 0.9
    weight_decay: NonNegative = 5e-4

    def rates(self, updates: int) -> optax.Schedule:
        """Build the schedule of the rate: the number of updates done -> rate of the next."""
        return {
            "constant": lambda: optax.constant_schedule(self.rate),
            "piecewise": lambda: optimizers.piecewise(self.rate, updates, at=self.drops),
            "cosine": lambda: optimizers.cosine(self.rate, updates),
            "one_cycle": lambda: optimizers.one_cycle(self.rate, updates),
        }[self.schedule]()

    def over(self, updates: int) -> optax.GradientTransformation:
        """Build the optimiser, its schedule stretched over the updates of a run."""
        rate = self.rates(updates)
        if self.name == "adam":
            return optimizers.adam(rate, weight_decay=self.weight_decay)
        return optimizers.sgd(rate, momentum=self.momentum, weight_decay=self.weight_decay)


def after_epochs(*epochs: int, of: int) -> tuple[float, ...]:
    """Turn the epochs after which a published rate drops into shares of its run, as `Optimizer.drops` has them."""
    return tuple(epoch / of for epoch in epochs)
