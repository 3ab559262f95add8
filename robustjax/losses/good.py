"""GOOD: accuracy on ID images, and a certificate of low confidence in a ball around each OOD image."""

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from robustjax import checks, logit
from robustjax.bounds.confidence import log_confidence, widest
from robustjax.bounds.enclosure import differences_for_training
from robustjax.losses.id_and_ood import check_weight
from robustjax.threats import Threat
from robustjax.types import Images, Logits, Loss, Model, Number, Pair, Params, State


def good(model: Model, threat: Threat, *, weight: Number = 1.0, quantile: Number = 1.0) -> Loss:
    """Minimise CE(f(x), y) + weight mean log(1 + u(z)^2 / 2) for ID images x and OOD images z.

    u(z) is the certified upper bound on the largest difference of two logits in the ball around z; it bounds the
    log confidence by u - log K, and the logarithm keeps the loss in range while bounds are still wide. Of each
    batch the OOD images of the least u, a share of `quantile`, are certified; for the others, which may look like
    ID images, u is the largest difference at z itself.

    Both the radius and the weight are to be grown from 0, and may be traced: `training.scheduled(lambda t: good(model,
    Threat("linf", 0.3 * ramp(t)), weight=ramp(t)), tx)` with `ramp = lambda t: jnp.minimum(t / 5000, 1.0)`.

    Args:
      model: a network that `bounds` can bound; OOD images are seen in evaluation mode.
      threat: the ball around OOD images; the paper has linf, eps 0.3 on MNIST, 0.03 on SVHN, 0.01 on CIFAR-10.
      weight: kappa.
      quantile: share of the OOD images to certify, in [0, 1]; 1 is GOOD_100, 0 certifies none.

    Returns:
      A loss over a `Pair`; metrics `risk` (nats), `excess` (the mean of the logarithm), `accuracy`, and
      `certified`: the mean upper bound on the OOD images' log confidence in the threat.

    Raises:
      ValueError: if a known weight is negative or quantile is outside [0, 1].

    Reference: Bitterwolf, Meinke and Hein 2020, arXiv:2007.03797. There the radius and weight grow together with
      a learning rate of its own schedule, which is left to the caller. ID and OOD images do not share a forward
      pass: bounds need fixed BatchNorm statistics, and the paper's networks have none.
    """
    check_weight("good", weight)
    checks.number("good", "quantile", quantile, least=0, most=1)

    def loss(params: Params, state: State, batch: Pair, key: PRNGKeyArray):
        checks.batch("good", batch)

        def logits_fn(z: Images) -> Logits:
            return model.apply(params, state, z)[0]

        logits, after = model.apply(params, state, batch.id.image, train=True, key=key)
        risk = logit.cross_entropy(logits, batch.id.label).mean()
        between = differences_for_training(logits_fn, threat, batch.ood)
        bound = widest(between)
        count = round(float(quantile) * len(bound))
        if count < len(bound):
            at = logits_fn(batch.ood)
            place = jnp.argsort(jnp.argsort(bound))
            bound = jnp.where(place < count, bound, at.max(axis=-1) - at.min(axis=-1))
        excess = jnp.log1p(0.5 * jnp.square(bound)).mean()
        metrics = {
            "risk": risk,
            "excess": excess,
            "accuracy": logit.correct(logits, batch.id.label).mean(),
            "certified": log_confidence(between).high.mean(),
        }
        return risk + weight * excess, (after, metrics)

    return loss
