"""Scores of networks trained on OOD images: extra reject classes, and CCU's densities.

Each comes as published and as a `*_margin`, an increasing function of it (for ROWL: with the same sign) that does
not saturate, to be ranked and attacked.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.ood.logit_scores import FAR, msp_margin
from robustjax.types import Logits, Number, PerExample


def rejection(logits: Logits, *, classes: int) -> PerExample:
    """Compute minus the probability of all reject classes: the score of SOFL, and with one of them NTOM and ATOM.

    Args:
      logits: (b, classes + r), the reject classes last.
      classes: of the ID data.
    Raises:
      ValueError: if there is no reject class or no other.

    Reference: Mohseni et al. 2020, AAAI (SOFL); Chen et al. 2021, arXiv:2006.15207 (NTOM, ATOM).
    """
    return -jax.nn.sigmoid(-rejection_margin(logits, classes=classes))


def rejection_margin(logits: Logits, *, classes: int) -> PerExample:
    """Compute the log odds against rejection, logsumexp of the classes minus logsumexp of the reject classes."""
    known, reject = _split("rejection", logits, classes)
    return jax.nn.logsumexp(known, axis=-1) - jax.nn.logsumexp(reject, axis=-1)


def rowl(logits: Logits, *, classes: int) -> PerExample:
    """Compute -1 where a reject class has the largest logit and 0 elsewhere: accept from -0.5 on.

    With two values only, its AUROC is (1 + TPR - FPR) / 2; `rowl_margin` says how far it is from either.

    Reference: Sehwag et al. 2019, arXiv:1905.01726, as in Chen et al. 2021, arXiv:2006.15207.
    """
    return jnp.where(rowl_margin(logits, classes=classes) >= 0, 0.0, -1.0)


def rowl_margin(logits: Logits, *, classes: int) -> PerExample:
    """Compute the largest logit of a class minus that of a reject class: accept from 0 on."""
    known, reject = _split("rowl", logits, classes)
    return known.max(axis=-1) - reject.max(axis=-1)


def ccu_posterior(
    logits: Logits, log_inside: PerExample, log_outside: PerExample, *, log_odds: Number = 0.0
) -> Logits:
    """Mix a network with ignorance by two densities: log of [p(x|in) p(y|x) + c p(x|out) / K] / [p(x|in) + c p(x|out)].

    Args:
      logits: of the network (b, k).
      log_inside, log_outside: log densities of x under ID and OOD (b,).
      log_odds: log c, the prior odds of OOD.
    Returns:
      log p(y|x), normalised, (b, k); usable as logits.

    Reference: Meinke and Hein 2020, arXiv:1909.12180.
    """
    ratio = (log_outside + log_odds - log_inside)[:, None]
    known = jax.nn.log_softmax(logits) + jax.nn.log_sigmoid(-ratio)
    return jnp.logaddexp(known, jax.nn.log_sigmoid(ratio) - math.log(logits.shape[-1]))


def ccu_margin(
    logits: Logits, log_inside: PerExample, log_outside: PerExample, *, log_odds: Number = 0.0
) -> PerExample:
    """Compute log(p - 1/K) - log(1 - p) of CCU's largest probability p, which has a slope at both ends.

    Far from ID images p tends to 1/K; there log odds would be flat, and an attack blind.

    Args:
      logits, log_inside, log_outside, log_odds: as in `ccu_posterior`.
    Raises:
      ValueError: with fewer than two classes.
    """
    classes = logits.shape[-1]
    ratio = log_outside + log_odds - log_inside
    margin = msp_margin(logits)
    log_p = -jax.nn.softplus(-margin)
    excess = jnp.maximum(jnp.expm1(log_p + math.log(classes)), 0.0)
    excess = jnp.where(excess > 0, jnp.log(jnp.where(excess > 0, excess, 1.0)), FAR) - math.log(classes)
    near, far = jax.nn.log_sigmoid(-ratio), jax.nn.log_sigmoid(ratio)
    missing = jnp.logaddexp(near + log_p - margin, far + math.log1p(-1.0 / classes))
    return near + excess - missing


def mixture_log_density(
    x: Float[Array, "b ..."], means: Float[Array, "m d"], log_variance: Float[Array, "m"]
) -> PerExample:
    """Compute the log density of an equally weighted mixture of spherical normals.

    Args:
      x: points, flattened to (b, d).
      means: centres; log_variance: one per centre.
    """
    flat = x.reshape(x.shape[0], -1)
    square = jnp.square(flat[:, None, :] - means[None]).sum(axis=-1)
    log_part = -0.5 * (
        square * jnp.exp(-log_variance)[None] + flat.shape[1] * (log_variance + math.log(2 * math.pi))[None]
    )
    return jax.nn.logsumexp(log_part, axis=-1) - math.log(means.shape[0])


def _split(name: str, logits: Logits, classes: int) -> tuple[Float[Array, "b n"], Float[Array, "b r"]]:
    if not 1 <= classes < logits.shape[-1]:
        raise ValueError(
            f"{name}: classes is {classes} of {logits.shape[-1]} logits, must leave at least one on each side"
        )
    return logits[:, :classes], logits[:, classes:]
