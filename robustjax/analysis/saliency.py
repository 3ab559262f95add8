"""Whether the pixels that a classifier's answer hangs on are those of the object."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.numerics import divide
from robustjax.types import Images, Labels, LogitsFn, PerExample


class Alignment(NamedTuple):
    """How well a map of importance fits a mask, per example.

    Attributes:
      overlap: intersection over union of the mask and as many of the most important pixels.
      energy: share of the squared importance that lies on the object; its area's share means chance.
      density: mean importance on the object minus that elsewhere, importance scaled to a maximum of 1.
    """

    overlap: PerExample
    energy: PerExample
    density: PerExample


def gradient(logits_fn: LogitsFn, x: Images, y: Labels) -> Float[Array, "b h w"]:
    """Map |d logit_y / dx|, the largest over channels."""
    y = checks.classes("saliency.gradient", y, len(x))

    def own(z: Images) -> Array:
        logits = checks.called("saliency.gradient", "network", logits_fn, z)
        checks.answers("saliency.gradient", logits, y)
        return jnp.take_along_axis(logits, y[:, None], axis=-1).sum()

    return jnp.abs(jax.grad(own)(x)).max(axis=-1)


def alignment(importance: Float[Array, "b h w"], mask: Float[Array, "b h w"]) -> Alignment:
    """Compare maps of importance, not negative, with masks; soft masks count as object from 1/2.

    Where the mask is empty, all is 0.
    """
    flat = importance.reshape(importance.shape[0], -1)
    inside = (mask >= 0.5).reshape(flat.shape)
    on = inside.astype(flat.dtype)
    area = inside.sum(axis=1, keepdims=True)
    rank = jnp.argsort(jnp.argsort(-flat, axis=1, stable=True), axis=1)
    top = rank < area
    overlap = divide(_total(top & inside), _total(top | inside))
    scaled = divide(flat, flat.max(axis=1, keepdims=True))
    energy = divide(_total(jnp.square(scaled) * on), _total(jnp.square(scaled)))
    density = divide(_total(scaled * on), _total(on)) - divide(_total(scaled * (1.0 - on)), _total(1.0 - on))
    return Alignment(overlap, energy, jnp.where(area[:, 0] > 0, density, 0.0))


def _total(values: Array) -> PerExample:
    return values.astype(jnp.float32).sum(axis=1)
