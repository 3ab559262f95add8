"""SOFL: several classes for OOD images, which the network chooses among itself."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from robustjax import checks, logit, numerics
from robustjax.losses.id_and_ood import check_weight, logits_of
from robustjax.types import Labels, Logits, Loss, Model, Number, Pair, Params, PerExample, State


def sofl(model: Model, *, classes: int, weight: Number = 5.0) -> Loss:
    """Minimise CE(f(x), y) + weight CE(f(z), t) for a network of K classes and some more for OOD images.

    t is the class predicted for z if it is one of those for OOD images, otherwise one of them at random. This is
    the second of two stages; the first trains the same network on ID images alone, by `standard`. As published each
    stage has 100 epochs and a new optimiser, whose rate starts at 0.1 again: `optimizers.in_stages`.

    Args:
      model: the classifier of K + R outputs; one forward pass serves ID and OOD images.
      classes: K, the number of ID classes; the paper has R = 5 more for 10 of them and 10 for 100.
      weight: of the term on OOD images; batches hold five times as many OOD as ID images.

    Returns:
      A loss over a `Pair`; metrics `risk`, `excess` (the cross-entropy of OOD images; nats), `accuracy` and `rejected`
      (share of the OOD images predicted to be one).

    Raises:
      ValueError: if classes is below 1 or a known weight is negative; when traced, if the network has no more.

    Reference: Mohseni et al. 2020, Self-Supervised Learning for Generalizable Out-of-Distribution Detection, AAAI,
      with the settings of Chen et al. 2021, arXiv:2006.15207.
    """
    checks.count("sofl", "classes", classes)
    check_weight("sofl", weight)

    def loss(params: Params, state: State, batch: Pair, key: PRNGKeyArray):
        checks.batch("sofl", batch)
        drawn, forward = jax.random.split(key)
        images = (batch.id.image, batch.ood)
        inside, outside, state = logits_of(model, params, state, images, forward)
        target = pseudo_labels(drawn, outside, classes=classes)
        risk = logit.cross_entropy(inside, batch.id.label).mean()
        excess = logit.cross_entropy(outside, target).mean()
        metrics = {
            "risk": risk,
            "excess": excess,
            "accuracy": logit.correct(inside, batch.id.label).mean(),
            "rejected": (outside.argmax(axis=-1) >= classes).astype(jnp.float32).mean(),
        }
        return risk + weight * excess, (state, metrics)

    return loss


def pseudo_labels(key: PRNGKeyArray, logits: Logits, *, classes: int) -> Labels:
    """Label OOD images by the class predicted, or by a random one of those from `classes` on.

    Raises:
      ValueError: if the logits have no more than `classes` columns.
    """
    if logits.shape[-1] <= classes:
        raise ValueError(
            f"pseudo_labels: the network has {logits.shape[-1]} outputs, must have more than classes={classes}"
        )
    draw = jax.vmap(lambda k: jax.random.randint(k, (), classes, logits.shape[-1]))
    predicted = logits.argmax(axis=-1).astype(jnp.int32)
    return jnp.where(predicted >= classes, predicted, draw(numerics.keys_for(key, logits.shape[0])))


def acceptance(logits: Logits, *, classes: int) -> PerExample:
    """Compute the log odds of being ID, sum_{k < K} p_k : sum_{k >= K} p_k, larger for ID."""
    inside = jax.nn.logsumexp(logits[..., :classes], axis=-1)
    return inside - jax.nn.logsumexp(logits[..., classes:], axis=-1)
