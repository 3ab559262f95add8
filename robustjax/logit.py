"""Functions of logits, one value per example; losses, objectives and scores are built from them."""

import jax
import jax.numpy as jnp

from robustjax.types import Labels, Logits, Number, PerExample


def cross_entropy(logits: Logits, label: Labels, *, smoothing: Number = 0.0) -> PerExample:
    """Compute -sum_k q_k log p_k with q = (1 - smoothing) onehot(label) + smoothing / K, in nats."""
    log_p = jax.nn.log_softmax(logits)
    own = _pick(log_p, label)
    return -((1.0 - smoothing) * own + smoothing * log_p.mean(axis=-1))


def margin(logits: Logits, label: Labels) -> PerExample:
    """Compute max_{j != y} z_j - z_y: positive exactly where the prediction is wrong (up to ties)."""
    own = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
    return jnp.where(own, -jnp.inf, logits).max(axis=-1) - _pick(logits, label)


def targeted_margin(logits: Logits, label: Labels, target: Labels) -> PerExample:
    """Compute z_t - z_y: positive where the target class beats the true one."""
    return _pick(logits, target) - _pick(logits, label)


def dlr(logits: Logits, label: Labels) -> PerExample:
    """Compute the difference of logits ratio, -(z_y - max_{j != y} z_j) / (z_1st - z_3rd + 1e-12).

    Invariant to shift and scale of the logits, and positive exactly where the prediction is wrong.

    Raises:
      ValueError: with fewer than three classes, where the ratio is undefined.

    Reference: Croce and Hein 2020, arXiv:2003.01690, equation 6.
    """
    if logits.shape[-1] < 3:
        raise ValueError(f"dlr: {logits.shape[-1]} classes given, needs at least 3; use margin")
    top, _ = jax.lax.top_k(logits, 3)
    return margin(logits, label) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(logits: Logits, label: Labels, target: Labels) -> PerExample:
    """Compute -(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2 + 1e-12).

    Raises:
      ValueError: with fewer than four classes, where the ratio is undefined.

    Reference: Croce and Hein 2020, arXiv:2003.01690, equation 7.
    """
    if logits.shape[-1] < 4:
        raise ValueError(
            f"targeted_dlr: {logits.shape[-1]} classes given, needs at least 4; use targeted_margin"
        )
    top, _ = jax.lax.top_k(logits, 4)
    scale = top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12
    return targeted_margin(logits, label, target) / scale


def kl(p: Logits, q: Logits) -> PerExample:
    """Compute KL(softmax(p) || softmax(q)) in nats; gradients flow through both arguments."""
    log_p, log_q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def ce_to_uniform(logits: Logits) -> PerExample:
    """Compute -mean_k log p_k, the cross-entropy to the uniform distribution; its minimum is log K."""
    return -jax.nn.log_softmax(logits).mean(axis=-1)


def log_confidence(logits: Logits) -> PerExample:
    """Compute max_k log p_k."""
    return jax.nn.log_softmax(logits).max(axis=-1)


def entropy(logits: Logits) -> PerExample:
    """Compute the entropy of softmax(logits) in nats."""
    log_p = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_p) * log_p).sum(axis=-1)


def energy(logits: Logits, *, temperature: Number = 1.0) -> PerExample:
    """Compute T logsumexp(z / T): the negative free energy, larger on what the network knows."""
    return temperature * jax.nn.logsumexp(logits / temperature, axis=-1)


def correct(logits: Logits, label: Labels) -> PerExample:
    """Say where the arg-max, lowest index on ties, is the label: 1 or 0; never where a logit is NaN."""
    right = (logits.argmax(axis=-1) == label) & ~jnp.isnan(logits).any(axis=-1)
    return right.astype(jnp.float32)


def _pick(values: Logits, label: Labels) -> PerExample:
    # A one-hot product would turn -inf logits into NaN; a gather does not.
    return jnp.take_along_axis(values, label[:, None], axis=-1)[:, 0]
