"""Mixer outlier exposure: unsure in proportion to how much of an image is an OOD image."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from robustjax import checks, logit
from robustjax.data.mixing import Mixer, pasted, soft
from robustjax.losses.id_and_ood import check_weight
from robustjax.types import Loss, Model, Number, Pair, Params, State


def mixoe(model: Model, *, mixer: Mixer | None = None, weight: Number = 5.0) -> Loss:
    """Minimise CE(f(x), y) + weight CE(f(m), s onehot(y) + (1 - s) / K) for mixtures m of ID images and OOD images.

    Args:
      model: the classifier; ID images and mixtures take separate forward passes, as in the authors' training.
      mixer: of an ID image, whose share is s, with an OOD image: `data.mixing.pasted()`, the default, pastes a window
        of the OOD image, `blended()` averages.
      weight: of the second term.

    Returns:
      A loss over a `Pair` with at least as many OOD images as ID images, of which the first are used; metrics `risk`
      (nats), `mixture_risk`, `accuracy`.

    Raises:
      ValueError: if a known weight is negative; called, if there are fewer OOD images than ID images.

    Reference: Zhang et al. 2023, arXiv:2106.03917, equations 2 to 5; a share is drawn for each image, the authors
      draw one for a batch.
    """
    check_weight("mixoe", weight)
    mix = pasted() if mixer is None else mixer

    def loss(params: Params, state: State, batch: Pair, key: PRNGKeyArray):
        checks.batch("mixoe", batch)
        image, label = batch.id
        if len(batch.ood) < len(image):
            raise ValueError(
                f"mixoe: {len(batch.ood)} OOD images beside {len(image)} ID images, must be at least as many"
            )
        drawing, first, second = jax.random.split(key, 3)
        both, share = mix(drawing, image, batch.ood[: len(image)])
        logits, state = model.apply(params, state, image, train=True, key=first)
        between, state = model.apply(params, state, both, train=True, key=second)
        own, k = share[:, None], logits.shape[-1]
        target = own * soft(label, k) + (1.0 - own) / jnp.float32(k)
        risk = logit.cross_entropy(logits, label).mean()
        mixture_risk = logit.cross_entropy(between, target).mean()
        metrics = {
            "risk": risk,
            "mixture_risk": mixture_risk,
            "accuracy": logit.correct(logits, label).mean(),
        }
        return risk + weight * mixture_risk, (state, metrics)

    return loss
