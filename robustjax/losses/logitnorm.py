"""Logit normalisation: cross-entropy of the direction of the logits alone, against overconfidence."""

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from robustjax import checks, logit
from robustjax.types import Batch, Logits, Loss, Model, Number, Params, State


def logitnorm(model: Model, *, temperature: Number = 0.04) -> Loss:
    """Minimise CE(z / (temperature ||z||_2), y) for the logits z.

    The network's norm can then not grow to be more certain. Test images are scored by the logits as they are: MSP is
    the score that it was published with.

    Args:
      model: the classifier.
      temperature: tau; 0.04 was published for CIFAR-10.

    Returns:
      A loss over a `Batch`; metrics `risk` (nats, of the normalised logits) and `accuracy`.

    Raises:
      ValueError: if a known temperature is not positive.

    Reference: Wei et al. 2022, arXiv:2205.09310, equation 3, with 1e-7 added to the norm as in the authors' code.
    """
    checks.number("logitnorm", "temperature", temperature, above=0)

    def loss(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        checks.batch("logitnorm", batch, soft=True)
        logits, state = model.apply(params, state, batch.image, train=True, key=key)
        risk = logit.cross_entropy(normalised(logits) / temperature, batch.label).mean()
        return risk, (state, {"risk": risk, "accuracy": logit.correct(logits, batch.label).mean()})

    return loss


def normalised(logits: Logits) -> Logits:
    """Divide logits by their l2 norm plus 1e-7."""
    square = (logits**2).sum(axis=-1, keepdims=True)
    # The root has no gradient at 0: there the norm is the constant 0.
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return logits / (norm + 1e-7)
