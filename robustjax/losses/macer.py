"""MACER: make the certified radius itself large, without attacks."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from robustjax import checks
from robustjax.losses.noise_augmentation import noise_augmented
from robustjax.types import Batch, Labels, Loss, Model, Number, Params, PerExample, State


def macer(
    model: Model,
    *,
    sigma: Number,
    samples: int = 16,
    weight: Number = 12.0,
    gamma: Number = 8.0,
    inverse_temperature: Number = 16.0,
) -> Loss:
    """Minimise -log mean_j p_y(x + noise_j) + weight sigma / 2 max(gamma - xi, 0), the second where y wins.

    xi = Phi^-1(p_1) - Phi^-1(p_2), of the two largest mean probabilities at a low temperature, is twice the certified
    radius in units of sigma.

    Args:
      model: the classifier underneath.
      sigma: standard deviation of the noise, in the units of x.
      samples: of noise for every image.
      weight: of the radius.
      gamma: xi beyond which a larger radius is not rewarded.
      inverse_temperature: of the probabilities that make xi.
    Returns:
      A loss over a `Batch`; metrics `risk` (nats), `radius` (mean soft radius, in the units of x, of images that
      are right) and `accuracy` of the smoothed classifier.
    Raises:
      ValueError: if samples is less than 1.

    Reference: Zhai et al. 2020, arXiv:2001.02378; the defaults are theirs for sigma = 0.25 on CIFAR-10.
    """
    checks.number("macer", "sigma", sigma, above=0)
    checks.count("macer", "samples", samples)
    checks.number("macer", "weight", weight, least=0)
    checks.number("macer", "gamma", gamma)
    checks.number("macer", "inverse_temperature", inverse_temperature, above=0)

    def loss(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        checks.batch("macer", batch)
        draw, inner = jax.random.split(key)
        noisy = noise_augmented(draw, batch.image, sigma=sigma, samples=samples)
        logits, state = model.apply(params, state, noisy, train=True, key=inner)
        each = logits.reshape(-1, samples, logits.shape[-1])
        checks.answers("macer", each[:, 0], batch.label)
        log_p = jax.nn.logsumexp(jax.nn.log_softmax(each), axis=1) - jnp.log(float(samples))
        risk = -jnp.take_along_axis(log_p, batch.label[:, None], axis=1).mean()
        xi, known, right = gap(jax.nn.softmax(inverse_temperature * each).mean(axis=1), batch.label)
        short = jnp.where(known & right & (xi <= gamma), 0.5 * sigma * (gamma - xi), 0.0)
        counted = (known & right).astype(jnp.float32)
        radius = (0.5 * sigma * jnp.where(known, xi, 0.0) * counted).sum() / jnp.maximum(counted.sum(), 1.0)
        metrics = {"risk": risk, "radius": radius, "accuracy": right.mean()}
        return risk + weight * short.mean(), (state, metrics)

    return loss


def gap(p: Array, y: Labels) -> tuple[PerExample, Array, Array]:
    """Measure xi = Phi^-1(p_1) - Phi^-1(p_2); say where it is finite, and where the largest is that of the label."""
    (largest, second), (top, _) = (a.T for a in jax.lax.top_k(p, 2))
    known = (largest < 1.0) & (second > 0.0)
    # Phi^-1 has an infinite slope at 0 and 1, which would reach the gradient even if masked afterwards.
    inside = [jnp.where(known, q, 0.5) for q in (largest, second)]
    return jax.scipy.special.ndtri(inside[0]) - jax.scipy.special.ndtri(inside[1]), known, top == y
