"""Linear heads on frozen activations: what classes a network's features tell apart, whatever it was trained for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax import checks, logit, optimizers
from robustjax.data import order
from robustjax.logistic_regression import Linear, l2, logistic, scaling


def converged(features: np.ndarray, label: np.ndarray, *, classes: int, strength: float = 1.0) -> Linear:
    """Fit logistic regression with an l2 penalty to standardised activations, to convergence.

    Args:
      features: (n, d).
      label: (n,).
      classes: k.
      strength: C, larger means less regularisation.
    Returns:
      A layer that reads the activations as they are.
    Raises:
      ValueError: for activations that are not finite, labels that are no classes, or a class without examples.
    """
    there, known = _checked("linear_head.converged", features, label, classes)
    checks.positive("linear_head.converged", "strength", strength)
    scale = scaling(there)
    return scale.undone(logistic(scale(there), known, penalty=l2, classes=classes, strength=strength))


def rival10(
    features: np.ndarray,
    label: np.ndarray,
    *,
    classes: int,
    epochs: int = 10,
    batch_size: int = 32,
    rate: float = 1e-5,
    weight_decay: float = 1e-4,
    seed: int = 0,
) -> Linear:
    """Train a layer as RIVAL10's authors do: Adam at a small rate for a few epochs, far from convergence.

    Args:
      features: (n, d).
      label: (n,).
      classes: k.
      epochs: over all examples, each in an order of its own; the last batch of one may be smaller.
      batch_size: examples for each update.
      rate, weight_decay: of Adam, coupled as PyTorch's is.
      seed: of initial weights and orders.
    Returns:
      A layer that reads the activations as they are.
    Raises:
      ValueError: as `converged`, or for a setting out of range.

    Reference: Moayeri et al. 2022, arXiv:2201.10766. They keep the epoch that is best on the test images, and feed
      robust networks images without their normalisation; here neither.
    """
    there, known = _checked("linear_head.rival10", features, label, classes)
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        checks.count("linear_head.rival10", name, value)
    for name, value in (("rate", rate), ("weight_decay", weight_decay)):
        checks.number("linear_head.rival10", name, value, least=0)
    checks.seed("linear_head.rival10", seed)
    (count, width), size = there.shape, min(batch_size, len(label))
    steps = -(-count // size)
    rows, kept = np.zeros((epochs, steps * size), np.int32), np.arange(steps * size) < count
    for epoch in range(epochs):
        rows[epoch, :count] = order.permutation(count, seed=seed, epoch=epoch)
    rows = rows.reshape(-1, size)
    weight = np.tile(kept.reshape(steps, size), (epochs, 1)).astype(np.float32)
    bound = width**-0.5
    draw = partial(jax.random.uniform, minval=-bound, maxval=bound)
    one, other = jax.random.split(jax.random.key(seed))
    start = Linear(draw(one, (width, classes)), draw(other, (classes,)))
    return _trained(start, there, known, jnp.asarray(rows), jnp.asarray(weight), rate, weight_decay)


@partial(jax.jit, static_argnums=(5, 6))
def _trained(
    start: Linear,
    features: Array,
    label: Array,
    rows: Array,
    weight: Array,
    rate: float,
    weight_decay: float,
) -> Linear:
    tx = optimizers.adam(rate, weight_decay=weight_decay)

    def risk(layer: dict[str, Array], chosen: Array, weight: Array) -> Array:
        logits = Linear(**layer)(features[chosen])
        return (logit.cross_entropy(logits, label[chosen]) * weight).sum() / weight.sum()

    def update(carry, batch):
        layer, state = carry
        gradient = jax.grad(risk)(layer, *batch)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a number to a whole one
            moved, state = tx.update(gradient, state, layer)
        return (jax.tree.map(jnp.add, layer, moved), state), None

    first = {"weight": start.weight, "bias": start.bias}
    (layer, _), _ = jax.lax.scan(update, (first, tx.init(first)), (rows, weight))
    return Linear(**layer)


def _checked(who: str, features: np.ndarray, label: np.ndarray, classes: int) -> tuple[Array, Array]:
    if np.ndim(features) != 2:
        raise ValueError(f"{who}: features have shape {np.shape(features)}, must be (n, d)")
    checks.finite(who, "features", features)
    known = checks.labels(who, label, count=len(features), classes=classes)
    if absent := [k for k in range(classes) if not (known == k).any()]:
        raise ValueError(f"{who}: class {absent[0]} of {classes} has no example, must have at least one")
    return jnp.asarray(features, jnp.float32), jnp.asarray(known)
