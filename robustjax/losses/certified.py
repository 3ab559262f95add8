"""Certified training: minimise an upper bound of the worst-case cross-entropy in a ball, by IBP, CROWN-IBP or SABR."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from robustjax import checks, logit
from robustjax.attacks import objectives
from robustjax.bounds.enclosure import differences_for_training
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.threats import Threat
from robustjax.types import (
    Ascent,
    Batch,
    Labels,
    LogitsFn,
    Loss,
    Model,
    Number,
    Params,
    PerExample,
    State,
    frozen,
)


def ibp(model: Model, threat: Threat, *, clean: Number = 0.5) -> Loss:
    """Minimise clean CE(f(x), y) + (1 - clean) times the cross-entropy that interval bounds allow in the ball.

    The radius is to be grown from 0 and `clean` to fall from 1, over tens of epochs; both may be traced.

    Args:
      model: a network that `bounds` can bound; bounds see BatchNorm in evaluation mode.
      threat: the ball around the images.
      clean: kappa, the share of the clean loss, in [0, 1].
    Returns:
      A loss over a `Batch`; metrics `risk` (nats: the bound), `accuracy`, and `certified_accuracy`: the share of the
      batch for which the bounds exclude every other class.
    Raises:
      ValueError: if a known share is outside [0, 1].

    Reference: Gowal et al. 2018, arXiv:1810.12715, equation 12; there kappa falls from 1 to 0.5. The last affine layer
      is bounded for each difference of logits, as there.
    """
    checks.number("ibp", "clean", clean, least=0, most=1)

    def loss(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        checks.batch("ibp", batch)
        bound = differences_for_training(_trained(model, params, state), threat, batch.image)
        return _total(model, params, state, batch, key, bound, clean)

    return loss


def crown_ibp(model: Model, threat: Threat, *, clean: Number = 0.5, crown: Number = 1.0) -> Loss:
    """Minimise as `ibp`, with bounds that are `crown` parts CROWN-IBP's and 1 - crown parts intervals.

    CROWN-IBP's are tighter at the start, intervals cheaper and better to train on at the end: let `crown` fall from 1
    to 0 while the radius grows.

    Args:
      model, threat, clean: as in `ibp`.
      crown: beta, in [0, 1].
    Returns:
      A loss as `ibp`'s.
    Raises:
      ValueError: if a known share is outside [0, 1].

    Reference: Zhang et al. 2020, arXiv:1906.06316, equation 13. Intervals bound the hidden layers, lines the outputs.
    """
    checks.number("crown_ibp", "clean", clean, least=0, most=1)
    checks.number("crown_ibp", "crown", crown, least=0, most=1)

    def loss(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        checks.batch("crown_ibp", batch)
        network = _trained(model, params, state)
        bound = differences_for_training(network, threat, batch.image)
        if not checks.is_zero(crown):
            lines = differences_for_training(network, threat, batch.image, method="crown-ibp")
            bound = crown * lines + (1.0 - crown) * bound
        return _total(model, params, state, batch, key, bound, clean)

    return loss


def sabr(
    model: Model, threat: Threat, ascent: Ascent, *, clean: Number = 0.0, share: Number = 0.4
) -> AdversarialLoss:
    """Minimise the bound in a small box, which an attack places where the loss is large in the ball.

    The box has `share` times the radius; its centre is what `ascent` finds, moved into the ball of the rest of the
    radius, so that box and ball end together. A small share trains more accurate networks, a large one such as are
    easier to certify.

    Args:
      model, clean: as in `ibp`.
      threat: the ball; linf.
      ascent: (key, objective, x) -> Found, such as `pgd(threat, ...)`; it ascends the cross-entropy.
      share: lambda, in (0, 1].
    Returns:
      An adversarial loss over a `Batch`; metrics as `ibp`'s, of the small boxes: `certified_accuracy` is no certificate
      for the ball.
    Raises:
      ValueError: for another norm, or a known share outside its range.

    Reference: Mueller et al. 2023, arXiv:2210.04871, algorithm 2; lambda is 0.4 for MNIST at 0.1 and 0.6 at 0.3, 0.1
      for CIFAR-10 at 2/255 and 0.7 at 8/255.
    """
    checks.number("sabr", "clean", clean, least=0, most=1)
    checks.setting("sabr", "share", share, above=0, most=1)
    if threat.norm != "linf":
        raise ValueError(f"sabr: norm is {threat.norm!r}, must be 'linf', whose balls are boxes")
    inner, box = (dataclasses.replace(threat, eps=part * threat.eps) for part in (1.0 - share, share))

    def find(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        checks.batch("sabr", batch)
        objective = objectives.cross_entropy(frozen(model, params, state), batch.label)
        return inner.project(ascent(key, objective, batch.image).x, batch.image)

    def risk(params: Params, state: State, batch: Batch, attacked: Array, key: PRNGKeyArray):
        bound = differences_for_training(_trained(model, params, state), box, attacked)
        return _total(model, params, state, batch, key, bound, clean)

    return AdversarialLoss(find, risk)


def worst_cross_entropy(between: Float[Array, "b k k"], label: Labels) -> PerExample:
    """Bound -log p_y = log sum_k exp(z_k - z_y) from above by bounds on differences of logits.

    Args:
      between: from `bounds.enclosure.differences`: entry [k, j] is at least z_k - z_j.
      label: the classes y.
    """
    return jax.nn.logsumexp(_above(between, label), axis=1)


def _trained(model: Model, params: Params, state: State) -> LogitsFn:
    """See the network in evaluation mode, with gradients to its weights."""
    return lambda z: model.apply(params, state, z)[0]


def _above(between: Float[Array, "b k k"], label: Labels) -> Float[Array, "b k"]:
    return jnp.take_along_axis(between, label[:, None, None], axis=2)[:, :, 0]


def _total(
    model: Model,
    params: Params,
    state: State,
    batch: Batch,
    key: PRNGKeyArray,
    bound: Float[Array, "b k k"],
    clean: Number,
):
    logits, after = model.apply(params, state, batch.image, train=True, key=key)
    worst = worst_cross_entropy(bound, batch.label).mean()
    above = _above(bound, batch.label)
    other = jnp.arange(above.shape[1])[None, :] != batch.label[:, None]
    metrics = {
        "risk": worst,
        "accuracy": logit.correct(logits, batch.label).mean(),
        "certified_accuracy": (jnp.where(other, above, -jnp.inf).max(axis=1) < 0).mean(),
    }
    value = clean * logit.cross_entropy(logits, batch.label).mean() + (1.0 - clean) * worst
    return value, (after, metrics)
