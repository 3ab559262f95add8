"""KL matching: the divergence of a prediction from the typical prediction of the nearest class."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.ood.logit_scores import FAR
from robustjax.types import Logits, PerExample


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Matching:
    """Logarithms of the typical predictions: a form of logits."""

    log_typical: Float[Array, "c k"]

    def __call__(self, logits: Logits) -> PerExample:
        """Compute -min_c KL(p || d_c)."""
        log_p = jnp.maximum(jax.nn.log_softmax(logits), FAR)
        p = jnp.exp(log_p)
        cross = jnp.matmul(p, self.log_typical.T, precision="highest")
        return (cross - (p * log_p).sum(axis=1, keepdims=True)).max(axis=1)


def kl_matching(logits: np.ndarray) -> Matching:
    """Average the predictions for validation images by predicted class: d_c; the score is -min_c KL(p || d_c).

    It saturates where p does: an attack needs a surrogate there, such as `logit_scores.msp_margin`.

    Args:
      logits: of validation images (n, k). A class that is never predicted has no typical prediction.
    Returns:
      A form: logits (b, k) -> scores (b,), at most 0.
    Raises:
      ValueError: if logits are not finite or have fewer than two classes.

    Reference: Hendrycks et al. 2022, arXiv:1911.11132. Probabilities are kept above 1e-30 in float64, where OpenOOD's
      logarithm would be infinite.
    """
    z = checks.rows("kl_matching", "logits", logits)
    if z.shape[1] < 2:
        raise ValueError(f"kl_matching: {z.shape[1]} classes given, needs at least 2")
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    predicted = p.argmax(axis=1)
    typical = np.stack([p[predicted == c].mean(axis=0) for c in np.unique(predicted)])
    return Matching(jnp.asarray(np.log(np.maximum(typical, 1e-30)), jnp.float32))
