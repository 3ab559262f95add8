"""Logistic regression to convergence, with an l1 or l2 penalty: linear probes, refitted last layers, sums of scores."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.types import Labels, Logits, Number, PerExample


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Linear:
    """Features (n, d) to logits: features @ weight + bias."""

    weight: Float[Array, "d k"]
    bias: Float[Array, "k"]

    def __call__(self, features: Float[Array, "n d"]) -> Logits:
        """Compute the logits."""
        return features @ self.weight + self.bias[None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Scaling:
    """Mean and standard deviation of each feature."""

    mean: Float[Array, "d"]
    std: Float[Array, "d"]

    def __call__(self, features: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Standardise features."""
        return (features - self.mean[None]) / self.std[None]

    def undone(self, linear: Linear) -> Linear:
        """Let a layer that was fitted to standardised features read them as they are."""
        weight = linear.weight / self.std[:, None]
        return Linear(weight, linear.bias - self.mean @ weight)


def scaling(features: Float[Array, "n d"]) -> Scaling:
    """Measure features; those that never change are left as they are."""
    std = features.std(axis=0)
    return Scaling(features.mean(axis=0), jnp.where(std > 1e-8 * jnp.abs(features).max(axis=0), std, 1.0))


def l1(w: Array, length: Number) -> Array:
    """Step towards a small |W|_1: move every weight by a length towards 0, and not past it."""
    return jnp.sign(w) * jnp.maximum(jnp.abs(w) - length, 0.0)


def l2(w: Array, length: Number) -> Array:
    """Step towards a small |W|_2^2 / 2."""
    return w / (1.0 + length)


def logistic(
    features: Float[Array, "n d"],
    label: Labels,
    *,
    penalty: Callable[[Array, Number], Array],
    classes: int,
    strength: Number = 1.0,
    weight: PerExample | None = None,
    steps: int = 5000,
    tolerance: float = 1e-6,
) -> Linear:
    """Minimise penalty(W) + C sum_i w_i CE(W f_i + b, y_i); the bias goes free.

    Args:
      features: standardised, or of similar sizes.
      label: (n,).
      penalty: `l1`, or `l2`.
      classes: k.
      strength: C, as scikit-learn has it: larger means less regularisation.
      weight: w_i, how much each example counts; 0 leaves it out. 1 by default.
      steps: the largest number of steps.
      tolerance: stop when no parameter moves by more than this.
    Raises:
      ValueError: for labels that are known and not whole numbers from 0 to k-1, one for each example.

    Reference: FISTA, Beck and Teboulle 2009, with the gradient restart of O'Donoghue and Candes,
      arXiv:1204.3982.
    """
    label = checks.classes("logistic", label, features.shape[0])
    if checks.known(label) is not None:
        checks.labels("logistic", label, count=features.shape[0], classes=classes)
    return _minimised(features, jnp.asarray(label), penalty, classes, strength, weight, steps, tolerance)


@partial(jax.jit, static_argnums=(2, 3, 6, 7))
def _minimised(
    features: Float[Array, "n d"],
    label: Labels,
    penalty: Callable[[Array, Number], Array],
    classes: int,
    strength: Number,
    weight: PerExample | None,
    steps: int,
    tolerance: float,
) -> Linear:
    weight = jnp.ones(features.shape[0]) if weight is None else weight
    # Divided by C times the number of examples, so that all numbers stay near 1.
    share = weight / jnp.maximum(weight.sum(), 1e-30)
    length = 1.0 / (strength * jnp.maximum(weight.sum(), 1e-30))
    target = jax.nn.one_hot(label, classes, dtype=features.dtype)
    ones = jnp.ones((features.shape[0], 1), features.dtype)
    whole = jnp.concatenate([features, ones], axis=1)
    # The Hessian of the cross-entropy in the logits is at most 1/2.
    curvature = 0.5 * jnp.linalg.eigvalsh((whole * share[:, None]).T @ whole)[-1]
    step = 1.0 / jnp.maximum(curvature, 1e-30)

    def descend(w: Array) -> Array:
        error = jax.nn.softmax(whole @ w) - target
        moved = w - step * (whole.T @ (share[:, None] * error))
        return jnp.concatenate([penalty(moved[:-1], step * length), moved[-1:]])

    def body(carry):
        w, ahead, t, i, _ = carry
        new = descend(ahead)
        restart = ((ahead - new) * (new - w)).sum() > 0
        t = jnp.where(restart, 1.0, t)
        later = 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * t * t))
        momentum = jnp.where(restart, 0.0, (t - 1.0) / later)
        return new, new + momentum * (new - w), later, i + 1, jnp.abs(new - ahead).max()

    def going(carry):
        return (carry[3] < steps) & (carry[4] > tolerance)

    start = jnp.zeros((whole.shape[1], classes), features.dtype)
    w, *_ = jax.lax.while_loop(going, body, (start, start, jnp.ones(()), jnp.int32(0), jnp.full((), jnp.inf)))
    return Linear(w[:-1], w[-1])
