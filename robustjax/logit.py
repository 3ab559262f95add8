"""Functions of logits, one value per example; losses, objectives and scores are built from them.

Infinite logits are limits of finite ones: a class at -inf (masked) has probability 0, classes at inf share all of it,
and where all are equal, whatever they are, so are their probabilities. NaN stays NaN.

Labels that are known are checked. Inside jit one outside 0..k-1 gives NaN: it is never read as another class.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from robustjax import checks
from robustjax.types import Labels, Logits, Number, PerExample, SoftLabels


def log_softmax(logits: Logits) -> Logits:
    """Compute log p_k = z_k - logsumexp(z), also where logits are infinite."""
    largest = logits.max(axis=-1, keepdims=True)
    among = jnp.where(logits == largest, 0.0, -jnp.inf).astype(logits.dtype)
    return jax.nn.log_softmax(jnp.where(jnp.isinf(largest), among, logits))


def cross_entropy(logits: Logits, label: Labels | SoftLabels, *, smoothing: Number = 0.0) -> PerExample:
    """Compute -sum_k q_k log p_k with q = (1 - smoothing) onehot(label) + smoothing / K, in nats.

    Of a soft label, a distribution over the classes, q = (1 - smoothing) label + smoothing / K. With smoothing it is
    infinite where a class is masked.
    """
    if checks.is_soft(label):
        checks.answers("cross_entropy", logits)
        checks.soft_labels("cross_entropy", label, len(logits), classes=logits.shape[-1])
        log_p = log_softmax(logits)
        own = _times(label, log_p).sum(axis=-1)
        return -(_times(1.0 - smoothing, own) + _times(smoothing, log_p.mean(axis=-1)))
    checks.answers("cross_entropy", logits, label)
    log_p = log_softmax(logits)
    return -(_times(1.0 - smoothing, _pick(log_p, label)) + _times(smoothing, log_p.mean(axis=-1)))


def prediction(logits: Logits) -> Labels:
    """Name the class of the largest logit; -1, no label, where one is NaN or infinity, or all are minus infinity."""
    logits = logits.astype(jnp.float32)
    unsound = (jnp.isnan(logits) | (logits == jnp.inf)).any(axis=-1) | (logits == -jnp.inf).all(axis=-1)
    return jnp.where(unsound, -1, logits.argmax(axis=-1).astype(jnp.int32))


def margin(logits: Logits, label: Labels) -> PerExample:
    """Compute max_{j != y} z_j - z_y: positive exactly where the prediction is wrong (up to ties)."""
    checks.answers("margin", logits, label)
    own = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
    return _minus(jnp.where(own, -jnp.inf, logits).max(axis=-1), _pick(logits, label))


def probability_margin(logits: Logits, label: Labels) -> PerExample:
    """Compute max_{j != y} p_j - p_y, in [-1, 1]: positive exactly where the prediction is wrong (up to ties).

    Reference: Xie et al. 2024, arXiv:2411.15210.
    """
    checks.answers("probability_margin", logits, label)
    return margin(jnp.exp(log_softmax(logits)), label)


def targeted_margin(logits: Logits, label: Labels, target: Labels) -> PerExample:
    """Compute z_t - z_y: positive where the target class beats the true one."""
    checks.answers("targeted_margin", logits, label, target)
    return _minus(_pick(logits, target), _pick(logits, label))


def dlr(logits: Logits, label: Labels) -> PerExample:
    """Compute the difference of logits ratio, -(z_y - max_{j != y} z_j) / (z_1st - z_3rd + 1e-12).

    Invariant to shift and scale of the logits, and positive exactly where the prediction is wrong. Where all but two
    classes are masked it is the margin.

    Raises:
      ValueError: with fewer than three classes, where the ratio is undefined.

    Reference: Croce and Hein 2020, arXiv:2003.01690, equation 6.
    """
    if logits.shape[-1] < 3:
        raise ValueError(f"dlr: {logits.shape[-1]} classes given, needs at least 3; use margin")
    top, _ = jax.lax.top_k(logits, 3)
    return _over(margin(logits, label), top[:, 0], top[:, 2])


def targeted_dlr(logits: Logits, label: Labels, target: Labels) -> PerExample:
    """Compute -(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2 + 1e-12).

    Where all but three classes are masked it is the targeted margin.

    Raises:
      ValueError: with fewer than four classes, where the ratio is undefined.

    Reference: Croce and Hein 2020, arXiv:2003.01690, equation 7.
    """
    if logits.shape[-1] < 4:
        raise ValueError(
            f"targeted_dlr: {logits.shape[-1]} classes given, needs at least 4; use targeted_margin"
        )
    top, _ = jax.lax.top_k(logits, 4)
    return _over(targeted_margin(logits, label, target), top[:, 0], 0.5 * (top[:, 2] + top[:, 3]))


def kl(p: Logits, q: Logits) -> PerExample:
    """Compute KL(softmax(p) || softmax(q)) in nats; gradients flow through both arguments."""
    log_p, log_q = log_softmax(p), log_softmax(q)
    # 0 log 0 = 0: what is impossible under p adds nothing.
    possible = log_p != -jnp.inf
    gap = jnp.where(possible, log_p, 0.0) - jnp.where(possible, log_q, 0.0)
    return jnp.where(possible, jnp.exp(log_p) * gap, 0.0).sum(axis=-1)


def ce_to_uniform(logits: Logits) -> PerExample:
    """Compute -mean_k log p_k, the cross-entropy to the uniform distribution; its minimum is log K."""
    return -log_softmax(logits).mean(axis=-1)


def log_confidence(logits: Logits) -> PerExample:
    """Compute max_k log p_k."""
    return log_softmax(logits).max(axis=-1)


def entropy(logits: Logits) -> PerExample:
    """Compute the entropy of softmax(logits) in nats."""
    log_p = log_softmax(logits)
    return -(jnp.exp(log_p) * jnp.where(log_p == -jnp.inf, 0.0, log_p)).sum(axis=-1)


def energy(logits: Logits, *, temperature: Number = 1.0) -> PerExample:
    """Compute T logsumexp(z / T): the negative free energy, larger on what the network knows."""
    largest = jax.lax.stop_gradient(logits.max(axis=-1))
    known = ~jnp.isinf(largest)
    finite = jnp.where(known[..., None], logits, 0.0)
    return jnp.where(known, temperature * jax.nn.logsumexp(finite / temperature, axis=-1), largest)


def correct(logits: Logits, label: Labels | SoftLabels) -> PerExample:
    """Say where the arg-max, lowest index on ties, is the label: 1 or 0; never where a logit is NaN.

    A soft label counts as its likeliest class.
    """
    if logits.ndim == 2 and checks.is_soft(label):
        checks.soft_labels("correct", label, len(logits), classes=logits.shape[-1])
        label = label.argmax(axis=-1)
    if logits.ndim == 2:
        checks.answers("correct", logits, label)
    right = (logits.argmax(axis=-1) == label) & ~jnp.isnan(logits).any(axis=-1)
    return right.astype(jnp.float32)


def _pick(values: Logits, label: Labels) -> PerExample:
    # A one-hot product would turn -inf logits into NaN; a gather does not.
    picked = jnp.take_along_axis(values, label[:, None], axis=-1)[:, 0]  # NaN above the last class
    return jnp.where(label < 0, jnp.nan, picked)  # which would count from the last class


def _minus(a: Array, b: Array) -> Array:
    """Subtract, with 0 between equal infinities."""
    same = (a == b) & jnp.isinf(a)
    return jnp.where(same, 0.0, a) - jnp.where(same, 0.0, b)


def _times(share: Number | Array, value: Array) -> Array:
    """Multiply, with 0 where the share is 0 and the value infinite."""
    return share * jnp.where((jnp.asarray(share) == 0.0) & jnp.isinf(value), 0.0, value)


def _over(numerator: Array, first: Array, later: Array) -> Array:
    """Divide by first - later + 1e-12; where one of them is infinite, by 1."""
    known = jnp.isfinite(numerator) & jnp.isfinite(first) & jnp.isfinite(later)
    scale = jnp.where(known, first, 0.0) - jnp.where(known, later, 0.0) + 1e-12
    return numerator / jnp.where(known, scale, 1.0)
