"""Monte Carlo dropout in front of the last layer: the mean prediction of several thinned networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.ood.logit_scores import msp_margin
from robustjax.ood.scores import Features
from robustjax.types import Logits, PerExample


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Thinned:
    """A last layer and masks of features: a form of features."""

    kernel: Float[Array, "d k"]
    bias: Float[Array, "k"]
    masks: Float[Array, "m d"]

    def __call__(self, features: Features) -> PerExample:
        """Compute the log odds of the class that is likeliest on average."""
        return msp_margin(
            averaged(jnp.einsum("bd,md,dk->mbk", features, self.masks, self.kernel) + self.bias[None, None])
        )


def dropout(
    kernel: np.ndarray, bias: np.ndarray, *, share: float = 0.5, samples: int = 5, seed: int = 0
) -> Thinned:
    """Drop features at random in front of the last layer, several times; score by the mean prediction.

    The masks are drawn once, the same for every image: the score is a function of the image, so that an attack sees
    what is evaluated, and does not depend on the batch.

    Args:
      kernel, bias: of the last layer.
      share: of the features that each mask drops, in [0, 1); the others are divided by what stays.
      samples: masks.
      seed: of the masks.
    Raises:
      ValueError: if shapes do not fit, a value is not finite, or a setting is out of range.

    Reference: Gal and Ghahramani 2016, arXiv:1506.02142; share, samples and place as in OpenOOD. That averages logits,
      which a linear layer turns into the logits of the mean mask; here probabilities are averaged, as in the paper.
    """
    w, b = checks.last_layer("dropout", len(np.atleast_1d(np.asarray(kernel))), kernel, bias)
    checks.number("dropout", "share", share, least=0, below=1)
    checks.count("dropout", "samples", samples)
    checks.seed("dropout", seed)
    kept = np.random.default_rng(seed).random((samples, len(w))) >= share
    return Thinned(*(jnp.asarray(a, jnp.float32) for a in (w, b, kept / (1 - share))))


def averaged(logits: Float[Array, "m b k"]) -> Logits:
    """Give the logarithm of the mean prediction of several networks, as logits."""
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(logits.shape[0])
