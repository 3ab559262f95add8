"""Consistency: predictions of noisy copies of an image that agree, for large certified radii without attacks."""

from typing import Literal

import jax
import jax.numpy as jnp

from robustjax import checks, logit
from robustjax.losses.noise_augmentation import noise_augmented
from robustjax.types import Batch, Loss, Model, Number


def consistency(
    model: Model,
    *,
    sigma: Number,
    samples: int = 2,
    weight: Number = 10.0,
    entropy_weight: Number = 0.5,
    compat: Literal["official"] | None = None,
) -> Loss:
    """Minimise mean_j CE(f(x_j), y) + weight mean_j KL(p || p_j) + entropy_weight H(p) over noisy copies x_j.

    p_j are the probabilities of a copy, and p is their mean.

    Args:
      model: the classifier underneath.
      sigma: standard deviation of the noise, in the units of x.
      samples: noisy copies of an image, at least two.
      weight: of the divergence.
      entropy_weight: of the entropy of the mean.
      compat: "official" takes weight for both, and the entropy of softmax(p) in the place of H(p), as the authors' code
        does and their numbers were made.
    Returns:
      A loss over a `Batch`; metrics `risk`, `divergence`, `entropy` (nats) and `accuracy`, of noisy copies.
    Raises:
      ValueError: if a known sigma or weight is negative, samples is less than 2, or compat is unknown.

    Reference: Jeong and Shin 2020, arXiv:2006.04062.
    """
    for name, value in (("sigma", sigma), ("weight", weight), ("entropy_weight", entropy_weight)):
        checks.number("consistency", name, value, least=0)
    checks.count("consistency", "samples", samples, least=2)
    if compat not in (None, "official"):
        raise ValueError(f"consistency: compat is {compat!r}, must be None or 'official'")

    def loss(params, state, batch: Batch, key):
        checks.batch("consistency", batch)
        draw, inner = jax.random.split(key)
        noisy = noise_augmented(draw, batch.image, sigma=sigma, samples=samples)
        logits, state = model.apply(params, state, noisy, train=True, key=inner)
        label = jnp.repeat(batch.label, samples)
        risk = logit.cross_entropy(logits, label).mean()
        log_p = logit.log_softmax(logits)
        log_mean = jax.nn.logsumexp(log_p.reshape(-1, samples, log_p.shape[-1]), axis=1) - jnp.log(
            float(samples)
        )
        divergence = logit.kl(jnp.repeat(log_mean, samples, axis=0), log_p).mean()
        unsure = logit.entropy(jnp.exp(log_mean) if compat else log_mean).mean()
        value = risk + weight * divergence + (weight if compat else entropy_weight) * unsure
        metrics = {
            "risk": risk,
            "divergence": divergence,
            "entropy": unsure,
            "accuracy": logit.correct(logits, label).mean(),
        }
        return value, (state, metrics)

    return loss
