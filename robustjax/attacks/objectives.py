"""What an adversary maximises: a classifier's logits and a surrogate, closed over into one function of the input.

Each factory takes a `logits_fn` and what the surrogate needs, and returns an `Objective`, Array[b ...] -> Array[b]. It
raises ValueError for what are no logits (b, k) of two classes or more, and for known labels outside 0..k-1.
"""

import jax.numpy as jnp

from robustjax import checks, logit
from robustjax.attacks.signed import signed
from robustjax.types import Labels, Logits, LogitsFn, Number, Objective, SoftLabels


def cross_entropy(logits_fn: LogitsFn, y: Labels | SoftLabels, *, smoothing: Number = 0.0) -> Objective:
    """Give the cross-entropy of the label, -log p_y, or of a soft label, -sum_k y_k log p_k.

    Its gradient vanishes in float32 once the network is very sure; `margin` and `dlr` do not.
    """
    if checks.is_soft(y):
        checks.soft_labels("cross_entropy", y, len(y))
        seen = _seen("cross_entropy", logits_fn)
    else:
        y = _classes("cross_entropy", y)
        seen = _seen("cross_entropy", logits_fn, y)
    return lambda x: logit.cross_entropy(seen(x), y, smoothing=smoothing)


@signed
def margin(logits_fn: LogitsFn, y: Labels) -> Objective:
    """Give the lead of the best other class: max_{j != y} z_j - z_y, positive where x is misclassified."""
    y, seen = _classes("margin", y), _seen("margin", logits_fn, y)
    return lambda x: logit.margin(seen(x), y)


@signed
def probability_margin(logits_fn: LogitsFn, y: Labels) -> Objective:
    """Give the lead of the best other class in probability: max_{j != y} p_j - p_y, in [-1, 1]."""
    y, seen = _classes("probability_margin", y), _seen("probability_margin", logits_fn, y)
    return lambda x: logit.probability_margin(seen(x), y)


@signed
def dlr(logits_fn: LogitsFn, y: Labels) -> Objective:
    """Give the difference of logits ratio; with fewer than three classes the margin."""
    y, seen = _classes("dlr", y), _seen("dlr", logits_fn, y)

    def objective(x):
        logits = seen(x)
        return logit.dlr(logits, y) if logits.shape[-1] >= 3 else logit.margin(logits, y)

    return objective


def targeted_cross_entropy(logits_fn: LogitsFn, target: Labels) -> Objective:
    """Give the log-probability of the target class, log p_t."""
    target = _classes("targeted_cross_entropy", target)
    seen = _seen("targeted_cross_entropy", logits_fn, target)
    return lambda x: -logit.cross_entropy(seen(x), target)


@signed
def targeted_margin(logits_fn: LogitsFn, y: Labels, target: Labels) -> Objective:
    """Give the lead of the target class over the label: z_t - z_y."""
    y, target = _classes("targeted_margin", y), _classes("targeted_margin", target)
    seen = _seen("targeted_margin", logits_fn, y, target)
    return lambda x: logit.targeted_margin(seen(x), y, target)


@signed
def targeted_dlr(logits_fn: LogitsFn, y: Labels, target: Labels) -> Objective:
    """Give the targeted difference of logits ratio; with fewer than four classes z_t - z_y."""
    y, target = _classes("targeted_dlr", y), _classes("targeted_dlr", target)
    seen = _seen("targeted_dlr", logits_fn, y, target)

    def objective(x):
        logits = seen(x)
        if logits.shape[-1] >= 4:
            return logit.targeted_dlr(logits, y, target)
        return logit.targeted_margin(logits, y, target)

    return objective


def kl_from(logits_fn: LogitsFn, reference: Logits) -> Objective:
    """Give the divergence of the prediction from a reference: KL(softmax(reference) || softmax(f(x))).

    Its gradient is zero where both agree, so maximise it from a random start.
    """
    seen = _seen("kl_from", logits_fn)
    return lambda x: logit.kl(reference, seen(x))


def log_confidence(logits_fn: LogitsFn) -> Objective:
    """Give the log-confidence, whichever class it is in: max_k log p_k."""
    seen = _seen("log_confidence", logits_fn)
    return lambda x: logit.log_confidence(seen(x))


def ce_to_uniform(logits_fn: LogitsFn) -> Objective:
    """Give the cross-entropy from the uniform distribution: -mean_k log p_k."""
    seen = _seen("ce_to_uniform", logits_fn)
    return lambda x: logit.ce_to_uniform(seen(x))


def _classes(who: str, y: Labels) -> Labels:
    return jnp.asarray(checks.classes(who, y, len(y)))


def _seen(who: str, logits_fn: LogitsFn, *labels: Labels) -> LogitsFn:
    """Check logits against known labels where they come out of a network; those of 16 bits become float32."""

    def seen(x):
        logits = checks.called(who, "network", logits_fn, x)
        checks.answers(who, logits, *labels)
        return logits.astype(jnp.float32) if jnp.finfo(logits.dtype).bits < 32 else logits

    return seen
