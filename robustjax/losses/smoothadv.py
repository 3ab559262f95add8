"""SmoothAdv: adversarial training of the smoothed classifier."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax import checks, logit
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.noise_augmentation import noise_augmented
from robustjax.types import (
    Ascent,
    Batch,
    Inputs,
    Labels,
    LogitsFn,
    Model,
    Number,
    Objective,
    PerExample,
    frozen,
)

Copies = Float[Array, "n ..."]  # noise or noisy images, some for each image


def smoothadv(model: Model, ascent: Ascent, *, sigma: Number, samples: int = 2) -> AdversarialLoss:
    """Attack the mean probability over samples of noise, then minimise the cross-entropy of the attacked samples.

    The attack maximises -log mean_j p_y(x' + noise_j); the noise is drawn once and stays for the risk. With one sample
    it is adversarial training on noisy images.

    Args:
      model: the classifier underneath; the attack sees it frozen, in evaluation mode.
      ascent: such as `pgd(Threat("l2", eps), steps=10, step_size=2 * eps / 10, start=at_origin)`.
      sigma: standard deviation of the noise, in the units of x.
      samples: of noise per image; memory grows with it.
    Returns:
      A loss over a `Batch`; metrics `risk` (nats) and `robust_accuracy`, of the attacked noisy images.
    Raises:
      ValueError: if samples is less than 1.

    Reference: Salman et al. 2019, arXiv:1906.04584. Deviations: where the gradient is zero the published code steps at
      random, here the point stays; it clips to the box before it projects to the ball, `Threat` after it, so that
      points differ where both bind, and all lie in both.
    """
    checks.number("smoothadv", "sigma", sigma, least=0)
    checks.count("smoothadv", "samples", samples)

    def find(params, state, batch: Batch, key) -> Inputs:
        checks.batch("smoothadv", batch)
        search, draw = jax.random.split(key)
        noise = noise_augmented(draw, jnp.zeros_like(batch.image), sigma=sigma, samples=samples)
        risk_of = smoothed_risk(frozen(model, params, state), noise, batch.label, samples)
        return jnp.repeat(ascent(search, risk_of, batch.image).x, samples, axis=0) + noise

    def risk(params, state, batch: Batch, attacked, key):
        label = jnp.repeat(batch.label, samples)
        logits, state = model.apply(params, state, attacked, train=True, key=key)
        value = logit.cross_entropy(logits, label).mean()
        return value, (state, {"risk": value, "robust_accuracy": logit.correct(logits, label).mean()})

    return AdversarialLoss(find, risk)


def smoothed_risk(logits_fn: LogitsFn, noise: Copies, label: Labels, samples: int) -> Objective:
    """Give -log mean_j p_y(x + noise_j), the cross-entropy of the smoothed classifier over samples of the noise.

    Args:
      logits_fn: the classifier underneath.
      noise: `samples` in a row for each image, (b samples, ...).
      label: (b,).
      samples: for each image.
    """
    repeated = jnp.repeat(label, samples)

    def risk_of(x: Inputs) -> PerExample:
        logits = logits_fn(jnp.repeat(x, samples, axis=0) + noise)
        log_p = -logit.cross_entropy(logits, repeated).reshape(-1, samples)
        return jnp.log(float(samples)) - jax.nn.logsumexp(log_p, axis=1)

    return risk_of
