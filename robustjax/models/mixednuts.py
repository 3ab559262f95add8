"""MixedNUTS: mix the decision of an accurate network with the sharpened probabilities of a robust one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models.ensemble import ensemble
from robustjax.types import Logits, Model

TOP = 250  # logits that mean and variance are of, the largest
MAPPED = (
    0.1  # of the robust network's weight in what gradients are of: the share of its sharpened probabilities
)


class Sharpening(NamedTuple):
    """A map of the robust network's logits: scale sign(u) |u|^power, with u = gelu(z + shift).

    z are the logits minus their mean, over their standard deviation, both of the 250 largest.

    Attributes:
      scale, power, shift: as above.
    """

    scale: float
    power: float
    shift: float

    def __call__(self, logits: Logits) -> Logits:
        """Map logits, in float32."""
        largest = logits if logits.shape[1] <= TOP else jax.lax.top_k(logits, TOP)[0]
        mean = largest.mean(axis=1, keepdims=True)
        variance = largest.var(axis=1, keepdims=True, ddof=1)
        u = jax.nn.gelu((logits - mean) / jnp.sqrt(variance + 1e-8) + self.shift, approximate=False)
        return self.scale * jnp.sign(u) * jnp.abs(u) ** self.power


def mixednuts(
    accurate: Model, robust: Model, *, sharpening: Sharpening, alpha: float, gradient_alpha: float
) -> Model:
    """Build the mixture whose logits are log((1 - alpha) h + alpha q).

    h is 1 at the class that the accurate network chooses and 0 elsewhere, q the softmax of the robust network's
    sharpened logits. The gradient of h is zero and that of q vanishes, so an attack would be blind. As the authors'
    own evaluation does, gradients are those of a smooth mixture of both networks' plain probabilities p and r,
    log((1 - a) p + 0.9 a r + 0.1 a q) with a = `gradient_alpha`. Parameters and state are dictionaries: "0" of the
    accurate, "1" of the robust network.

    Args:
      accurate, robust: networks with the same classes.
      sharpening: of the robust network's logits.
      alpha: weight of the robust network, within (0, 1).
      gradient_alpha: its weight in what gradients are of, within (0, 1).
    Raises:
      ValueError: for weights outside (0, 1), or a power below 1, whose slope at 0 is infinite.

    Reference: Bai et al. 2024, arXiv:2402.02263. RobustBench's class has the same logits.
    """
    if not 0 < alpha < 1 or not 0 < gradient_alpha < 1:
        raise ValueError(
            f"mixednuts: alpha and gradient_alpha are {alpha} and {gradient_alpha}, must be within (0, 1)"
        )
    if sharpening.power < 1:
        raise ValueError(f"mixednuts: power is {sharpening.power}, must be at least 1")
    members = {"0": accurate, "1": robust}
    together = ensemble([accurate, robust])  # for parameters and state

    def apply(params, state, x, *, train=False, key=None):
        keys = [None] * 2 if key is None else jax.random.split(key, 2)
        runs = [
            member.apply(params[name], state[name], x, train=train, key=k)
            for (name, member), k in zip(members.items(), keys, strict=True)
        ]
        (chosen, after), (steady, after_too) = runs
        return mixed(chosen, steady, sharpening, alpha, gradient_alpha), {"0": after, "1": after_too}

    def features(params, state, x) -> dict[str, Array]:
        taps = [member.features(params[name], state[name], x) for name, member in members.items()]
        return {"stage0": jnp.concatenate([of[max(of)] for of in taps], axis=-1)}

    return Model(together.init, apply, features)


def mixed(
    accurate: Float[Array, "b k"],
    robust: Float[Array, "b k"],
    sharpening: Sharpening,
    alpha: float,
    gradient_alpha: float,
) -> Logits:
    """Mix the logits of both networks; value and gradient as in `mixednuts`."""
    sharp = jax.nn.log_softmax(sharpening(robust))
    first = jax.nn.one_hot(accurate.argmax(axis=1), accurate.shape[1]) > 0
    # Both branches are finite: their gradients are never taken.
    value = jnp.log(alpha) + sharp
    value = jnp.where(first, jnp.logaddexp(jnp.log1p(-alpha), value), value)
    parts = (
        jnp.log1p(-gradient_alpha) + jax.nn.log_softmax(accurate),
        jnp.log((1 - MAPPED) * gradient_alpha) + jax.nn.log_softmax(robust),
        jnp.log(MAPPED * gradient_alpha) + sharp,
    )
    smooth = jax.nn.logsumexp(jnp.stack(parts), axis=0)
    return jax.lax.stop_gradient(value) + (smooth - jax.lax.stop_gradient(smooth))
