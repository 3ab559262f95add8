"""What an adversary maximises: a classifier's logits and a surrogate, closed over into one function of the input.

Each factory takes a `logits_fn` and what the surrogate needs, and returns an `Objective`, Array[b ...] -> Array[b].
"""

from robustjax import logit
from robustjax.types import Labels, Logits, LogitsFn, Number, Objective


def cross_entropy(logits_fn: LogitsFn, y: Labels, *, smoothing: Number = 0.0) -> Objective:
    """Wish for a small probability of the label, as -log p_y.

    Its gradient vanishes in float32 once the network is very sure; `margin` and `dlr` do not.
    """
    return lambda x: logit.cross_entropy(logits_fn(x), y, smoothing=smoothing)


def margin(logits_fn: LogitsFn, y: Labels) -> Objective:
    """Wish for another class to lead: max_{j != y} z_j - z_y, positive where the label has lost."""
    return lambda x: logit.margin(logits_fn(x), y)


def dlr(logits_fn: LogitsFn, y: Labels) -> Objective:
    """Wish for a large difference of logits ratio; with fewer than three classes for a large margin."""

    def objective(x):
        logits = logits_fn(x)
        return logit.dlr(logits, y) if logits.shape[-1] >= 3 else logit.margin(logits, y)

    return objective


def targeted_cross_entropy(logits_fn: LogitsFn, target: Labels) -> Objective:
    """Wish for the target class, as log p_t."""
    return lambda x: -logit.cross_entropy(logits_fn(x), target)


def targeted_margin(logits_fn: LogitsFn, y: Labels, target: Labels) -> Objective:
    """Wish for the target class to beat the label: z_t - z_y."""
    return lambda x: logit.targeted_margin(logits_fn(x), y, target)


def targeted_dlr(logits_fn: LogitsFn, y: Labels, target: Labels) -> Objective:
    """Wish for a large targeted difference of logits ratio; with fewer than four classes for z_t - z_y."""

    def objective(x):
        logits = logits_fn(x)
        if logits.shape[-1] >= 4:
            return logit.targeted_dlr(logits, y, target)
        return logit.targeted_margin(logits, y, target)

    return objective


def kl_from(logits_fn: LogitsFn, reference: Logits) -> Objective:
    """Wish for a prediction far from a reference: KL(softmax(reference) || softmax(f(x))).

    Its gradient is zero where both agree, so climb it from a random start.
    """
    return lambda x: logit.kl(reference, logits_fn(x))


def log_confidence(logits_fn: LogitsFn) -> Objective:
    """Wish for a confident prediction, whichever: max_k log p_k."""
    return lambda x: logit.log_confidence(logits_fn(x))


def ce_to_uniform(logits_fn: LogitsFn) -> Objective:
    """Wish for a prediction far from uniform: -mean_k log p_k."""
    return lambda x: logit.ce_to_uniform(logits_fn(x))
