"""Plain training, with label smoothing as an option."""

from jaxtyping import PRNGKeyArray

from robustjax import checks, logit
from robustjax.types import Batch, Loss, Model, Number, Params, State


def standard(model: Model, *, smoothing: Number = 0.0) -> Loss:
    """Minimise the cross-entropy of clean images.

    Args:
      model: the classifier.
      smoothing: probability mass spread evenly over all classes, in [0, 1].

    Returns:
      A loss over a `Batch`; metrics `accuracy` and `risk` (nats).

    Raises:
      ValueError: if a known smoothing is outside [0, 1].

    Reference: label smoothing: Szegedy et al. 2016, arXiv:1512.00567.
    """
    check_smoothing("standard", smoothing)

    def loss(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        checks.batch("standard", batch, soft=True)
        logits, state = model.apply(params, state, batch.image, train=True, key=key)
        risk = logit.cross_entropy(logits, batch.label, smoothing=smoothing).mean()
        return risk, (state, {"risk": risk, "accuracy": logit.correct(logits, batch.label).mean()})

    return loss


def check_smoothing(name: str, smoothing: Number) -> None:
    """Refuse a smoothing that is known to be outside [0, 1]."""
    checks.number(name, "smoothing", smoothing, least=0, most=1)
