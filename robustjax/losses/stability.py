"""Training on random perturbations, of pixels or of a learned set: on them alone, or to be stable under them."""

from collections.abc import Callable

import jax
from jaxtyping import PRNGKeyArray

from robustjax import checks, logit, numerics
from robustjax.losses.standard import check_smoothing
from robustjax.types import Batch, Images, Loss, Model, Number, Params, State

Perturb = Callable[
    [PRNGKeyArray, Images], Images
]  # such as smoothing.noise.white, perturbations.learned.noisy


def augmented(model: Model, perturb: Perturb, *, smoothing: Number = 0.0) -> Loss:
    """Minimise the cross-entropy of perturbed images alone.

    With noise of standard deviation sigma it is how classifiers to be smoothed are trained, in pixels or latents.

    Args:
      model: the classifier.
      perturb: (key, images) -> images, drawn anew at every step; no gradient flows through it.
      smoothing: probability mass spread evenly over all classes, in [0, 1].
    Returns:
      A loss over a `Batch`; metrics `risk` (nats) and `accuracy`, on perturbed images.
    Raises:
      ValueError: if a known smoothing is outside [0, 1].

    Reference: Gaussian noise: Cohen, Rosenfeld and Kolter 2019, arXiv:1902.02918; learned sets: Wong and Kolter 2020,
      arXiv:2007.08450.
    """
    check_smoothing("augmented", smoothing)

    def loss(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        checks.batch("augmented", batch)
        draw, inner = jax.random.split(key)
        perturbed = jax.lax.stop_gradient(perturb(draw, batch.image))
        logits, state = model.apply(params, state, perturbed, train=True, key=inner)
        risk = logit.cross_entropy(logits, batch.label, smoothing=smoothing).mean()
        return risk, (state, {"risk": risk, "accuracy": logit.correct(logits, batch.label).mean()})

    return loss


def stability(model: Model, perturb: Perturb, *, weight: Number = 1.0) -> Loss:
    """Minimise CE(f(x), y) + weight KL(f(x) || f(perturbed x)), both from one forward pass.

    Args:
      model: the classifier.
      perturb: as in `augmented`.
      weight: of the divergence.
    Returns:
      A loss over a `Batch`; metrics `risk`, `drift` (nats) and `accuracy` on clean images.
    Raises:
      ValueError: if a known weight is negative.

    Reference: Zheng et al. 2016, arXiv:1604.04326; for certification Li et al. 2019, arXiv:1809.03113.
    """
    checks.number("stability", "weight", weight, least=0)

    def loss(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        checks.batch("stability", batch)
        draw, inner = jax.random.split(key)
        perturbed = jax.lax.stop_gradient(perturb(draw, batch.image))
        logits, state = model.apply(
            params, state, numerics.pack(batch.image, perturbed), train=True, key=inner
        )
        clean, noisy = numerics.unpack(logits)
        risk = logit.cross_entropy(clean, batch.label).mean()
        drift = logit.kl(clean, noisy).mean()
        accuracy = logit.correct(clean, batch.label).mean()
        return risk + weight * drift, (state, {"risk": risk, "drift": drift, "accuracy": accuracy})

    return loss
