"""SmoothMix: less certain on the way to where the smoothed classifier is wrong."""

import jax
import jax.numpy as jnp

from robustjax import checks, logit
from robustjax.attacks.pgd import pgd
from robustjax.attacks.starts import at_origin
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.noise_augmentation import noise_augmented
from robustjax.losses.smoothadv import Copies, smoothed_risk
from robustjax.numerics import per_example
from robustjax.threats import Threat
from robustjax.types import Batch, Inputs, Model, Number, frozen


def smoothmix(
    model: Model,
    *,
    sigma: Number,
    samples: int = 2,
    steps: int = 8,
    step_size: float = 1.0,
    weight: Number = 1.0,
    lower: float = 0.0,
    upper: float = 1.0,
) -> AdversarialLoss:
    """Minimise mean_j CE(f(x_j), y) + weight mean_j KL(q || p(m_j)), where the smoothed classifier is right.

    m = (1 - s) x + s x' with s uniform in [0, 1/2] lies on the way to x', which `steps` normalised gradient steps on
    the smoothed cross-entropy reach from x within the box, however far. q = (1 - s) p + s / K has the mean p of the
    probabilities of the noisy copies x_j. All copies of an image, and all steps, share their noise.

    Args:
      model: the classifier underneath; the search sees it frozen, in evaluation mode.
      sigma: standard deviation of the noise, in the units of x.
      samples: noisy copies of an image.
      steps: of the search.
      step_size: l2 length of a step, in the units of x.
      weight: of the second term; the paper raises it from 0 over the first tenth of the epochs.
      lower, upper: the box of the search; of latents it has no end.
    Returns:
      A loss over a `Batch`; metrics `risk`, `mixture_risk` (nats) and `accuracy`, of noisy copies.
    Raises:
      ValueError: if a known sigma or weight is negative, or a number is out of range.

    Reference: Jeong et al. 2021, arXiv:2111.09277, without one-step adversaries in the place of x.
      As in the authors' code gradients flow through q.
    """
    for name, value in (("sigma", sigma), ("weight", weight)):
        checks.number("smoothmix", name, value, least=0)
    checks.count("smoothmix", "samples", samples)
    # No ball binds: so many steps cannot go further.
    reach = Threat("l2", steps * step_size, lower, upper)
    away = pgd(reach, steps=steps, step_size=step_size, start=at_origin, keep="last")

    def find(params, state, batch: Batch, key) -> tuple[Inputs, Copies]:
        checks.batch("smoothmix", batch)
        search, draw = jax.random.split(key)
        noise = noise_augmented(draw, jnp.zeros_like(batch.image), sigma=sigma, samples=samples)
        objective = smoothed_risk(frozen(model, params, state), noise, batch.label, samples)
        return away(search, objective, batch.image).x, noise

    def risk(params, state, batch: Batch, attacked: tuple[Inputs, Copies], key):
        far, noise = attacked
        drawing, first, second = jax.random.split(key, 3)
        label = jnp.repeat(batch.label, samples)
        logits, state = model.apply(
            params, state, jnp.repeat(batch.image, samples, axis=0) + noise, train=True, key=first
        )
        value = logit.cross_entropy(logits, label).mean()
        mean = jnp.exp(logit.log_softmax(logits)).reshape(-1, samples, logits.shape[-1]).mean(axis=1)
        share = per_example(jax.random.uniform(drawing, batch.label.shape, maxval=0.5), batch.image)
        between = (1.0 - share) * batch.image + share * far
        mixed, state = model.apply(
            params, state, jnp.repeat(between, samples, axis=0) + noise, train=True, key=second
        )
        part = share.reshape(-1, 1)
        target = jnp.log((1.0 - part) * mean + part / mean.shape[-1])
        divergence = logit.kl(jnp.repeat(target, samples, axis=0), mixed)
        right = jnp.repeat((mean.argmax(axis=-1) == batch.label).astype(jnp.float32), samples)
        mixture_risk = (right * divergence).mean()
        metrics = {
            "risk": value,
            "mixture_risk": mixture_risk,
            "accuracy": logit.correct(logits, label).mean(),
        }
        return value + weight * mixture_risk, (state, metrics)

    return AdversarialLoss(find, risk)
