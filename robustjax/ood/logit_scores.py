"""Scores of logits, Logits -> Array[b], larger on ID images.

Probabilities saturate: in float32 they are exactly 1 on many ID images, which ties scores and leaves an attack
without a slope. So what is bounded comes twice: as published, to be reported, and as an increasing function of
that which neither saturates nor ties, `*_margin` or `*_log`, to be ranked and attacked.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from robustjax import checks, logit
from robustjax.types import Logits, Number, PerExample

FAR = -1e30  # a logarithm to put in the place of -inf where it would turn into NaN


def msp(logits: Logits) -> PerExample:
    """Compute the maximum softmax probability max_k p_k. Reference: Hendrycks and Gimpel 2017, arXiv:1610.02136."""
    return jnp.exp(logit.log_confidence(logits))


def msp_margin(logits: Logits) -> PerExample:
    """Compute log(p / (1 - p)) of p = max_k p_k: the largest logit minus logsumexp of the others.

    Raises:
      ValueError: with fewer than two classes.
    """
    first, top = _top("msp_margin", logits)
    return first - jax.nn.logsumexp(jnp.where(top, -jnp.inf, logits), axis=-1)


def tempered_margin(logits: Logits, *, temperature: Number = 1000.0) -> PerExample:
    """Rank like the maximum of softmax(z / T): T [log(p / (1 - p)) + log(K - 1)].

    It stays of the order of the logits at every T: z_1 - T log mean_{k != 1} exp(z_k / T). With growing T it tends to
    the largest logit minus the mean of the others. At T = 1000 softmax itself is so near to 1 / K that float32
    keeps three digits of what matters.

    Args:
      logits: (b, k).
      temperature: T > 0.
    Raises:
      ValueError: with fewer than two classes or for a known T that is not positive.

    Reference: the score of ODIN without its step; Liang et al. 2018, arXiv:1706.02690.
    """
    _positive("tempered_margin", "temperature", temperature)
    first, top = _top("tempered_margin", logits)
    below = (logits - first[:, None]) / temperature
    others = logits.shape[-1] - 1
    drop = jnp.where(top, 0.0, jnp.expm1(below)).sum(axis=-1) / others
    near = drop > -0.5
    log_mean = jax.nn.logsumexp(jnp.where(top, -jnp.inf, below), axis=-1) - math.log(others)
    return -temperature * jnp.where(near, jnp.log1p(jnp.where(near, drop, 0.0)), log_mean)


def max_logit(logits: Logits) -> PerExample:
    """Compute max_k z_k. Reference: Hendrycks et al. 2022, arXiv:1911.11132."""
    return logits.max(axis=-1)


def energy(logits: Logits, *, temperature: Number = 1.0) -> PerExample:
    """Compute T logsumexp(z / T). Reference: Liu et al. 2020, arXiv:2010.03759.

    Raises:
      ValueError: for a known T that is not positive.
    """
    _positive("energy", "temperature", temperature)
    return logit.energy(logits, temperature=temperature)


def entropy(logits: Logits) -> PerExample:
    """Compute minus the entropy of softmax(z), in nats.

    Raises:
      ValueError: with fewer than two classes.
    """
    return -jnp.exp(-entropy_log(logits))


def entropy_log(logits: Logits) -> PerExample:
    """Compute -log H, which keeps rising where the entropy H has vanished in float32: by one per logit.

    Raises:
      ValueError: with fewer than two classes.
    """
    _, top = _top("entropy_log", logits)
    log_p = jnp.maximum(jax.nn.log_softmax(logits), FAR)
    # The largest p is where -log p is lost to rounding: there it is log(1 + exp(-margin)).
    margin = msp_margin(logits)
    close = margin < 15.0
    surprise = jnp.where(close, jnp.log(jax.nn.softplus(-jnp.where(close, margin, 0.0))), -margin)
    rest = jnp.where(top, -1.0, log_p)
    rest = rest + jnp.log(-rest)
    terms = jnp.where(top, (-jax.nn.softplus(-margin) + surprise)[:, None], rest)
    return -jax.nn.logsumexp(terms, axis=-1)


def gen(logits: Logits, *, gamma: Number = 0.1, top: int | None = None) -> PerExample:
    """Compute minus the generalised entropy, -sum_k p_k^gamma (1 - p_k)^gamma over the likeliest classes.

    Args:
      logits: (b, k).
      gamma: in (0, 1); small ones weigh improbable classes.
      top: how many classes; all by default. The paper takes a tenth of a thousand.
    Raises:
      ValueError: with fewer than two classes, or if top is less than 1 or gamma known and not in (0, 1).

    Reference: Liu, Lochman and Zach 2023, GEN, CVPR.
    """
    return -jnp.exp(-gen_log(logits, gamma=gamma, top=top))


def gen_log(logits: Logits, *, gamma: Number = 0.1, top: int | None = None) -> PerExample:
    """Compute -log of the generalised entropy; see `gen`."""
    checks.number("gen", "gamma", gamma, above=0, below=1)
    if top is not None:
        checks.count("gen", "top", top)
    margin = msp_margin(logits)
    count = min(top or logits.shape[-1], logits.shape[-1])
    log_p, _ = jax.lax.top_k(jax.nn.log_softmax(logits), count)
    # 1 - p of the likeliest class is its odds against it: exact where p has become 1.
    against = jnp.concatenate(
        [log_p[:, :1] - margin[:, None], jnp.log1p(-jnp.exp(jnp.minimum(log_p[:, 1:], -math.log(2.0))))],
        axis=1,
    )
    return -jax.nn.logsumexp(gamma * (log_p + against), axis=-1)


def _top(name: str, logits: Logits) -> tuple[PerExample, Bool[Array, "b k"]]:
    """Give the largest logit and where it is, the first of equals."""
    if logits.shape[-1] < 2:
        raise ValueError(f"{name}: {logits.shape[-1]} classes given, needs at least 2")
    top = jax.nn.one_hot(logits.argmax(axis=-1), logits.shape[-1], dtype=bool)
    return jnp.where(top, logits, -jnp.inf).max(axis=-1), top


def _positive(name: str, setting: str, value: Number) -> None:
    checks.number(name, setting, value, above=0)
