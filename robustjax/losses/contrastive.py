"""Contrastive losses: features of two views of an image agree, those of different images do not."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from robustjax import checks
from robustjax.data.augment import Augment
from robustjax.numerics import fold, keys_for, norm
from robustjax.types import Batch, Labels, Loss, Model, Number, Params, PerExample, State

Vectors = Float[Array, "b d"]
SUPCON_TEMPERATURE = 0.07  # of the published code, which scales losses by temperature / this


def nt_xent(first: Vectors, second: Vectors, *, temperature: Number = 0.5) -> PerExample:
    """Cross-entropy of finding the other view of an image among all other views in the batch.

        -log(exp(z_i . z_j / t) / sum_{k != i} exp(z_i . z_k / t)), the mean over both views of each image

    Args:
      first, second: two views, row by row of the same images; scaled to unit length here.
      temperature: t.

    Reference: Chen et al. 2020, arXiv:2002.05709.
    """
    same = jnp.tile(jnp.eye(first.shape[0], dtype=bool), (2, 2))
    return _contrasted(first, second, same, temperature)


def supcon(first: Vectors, second: Vectors, label: Labels, *, temperature: Number = 0.5) -> PerExample:
    """The same, where all views of all images with the same label should be found, on average over them.

    Reference: Khosla et al. 2020, arXiv:2004.11362, the variant with the mean outside the logarithm.
    """
    same = jnp.tile(label[:, None] == label[None, :], (2, 2))
    return _contrasted(first, second, same, temperature)


def contrastive(
    model: Model,
    views: Augment,
    *,
    temperature: Number = 0.5,
    base_temperature: Number | None = None,
    supervised: bool = False,
) -> Loss:
    """Train an encoder on two random views of every image, all in one forward pass.

    Labels as the classes of a plain classifier (SupCE) need nothing of this: train any network with `standard` and
    read its features.

    Args:
      model: an encoder with its head, see `models.selfsup`.
      views: draws a view, (key, images) -> images.
      temperature: of the similarities.
      base_temperature: scale the loss by temperature / base_temperature. The published SSD trains with the code of
        SupCon, whose base is 0.07: at temperature 0.5 its learning rates are for a loss 7.14 times as large.
      supervised: use the labels, SupCon instead of SimCLR.
    Returns:
      A loss over a `Batch`; metric `agreement`, the share of views whose nearest other view is of the same image.

    Reference: Sehwag, Chiang and Mittal 2021, arXiv:2103.12051.
    """
    checks.number("contrastive", "temperature", temperature, above=0)
    if base_temperature is not None:
        checks.number("contrastive", "base_temperature", base_temperature, above=0)
    scale = 1.0 if base_temperature is None else temperature / base_temperature

    def loss(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        checks.batch("contrastive", batch, labelled=supervised)
        count = batch.image.shape[0]
        keys = keys_for(key, count)
        both = jnp.concatenate([views(fold(keys, i), batch.image) for i in range(2)])
        out, state = model.apply(params, state, both, train=True)
        first, second = out[:count], out[count:]
        if supervised:
            each = supcon(first, second, batch.label, temperature=temperature)
        else:
            each = nt_xent(first, second, temperature=temperature)
        return scale * each.mean(), (state, {"agreement": _agreement(first, second)})

    return loss


def _units(x: Vectors) -> Vectors:
    return x / jnp.maximum(norm(x, "l2"), 1e-12)[:, None]


def _similarities(first: Vectors, second: Vectors) -> tuple[Array, Bool[Array, "n n"]]:
    z = _units(jnp.concatenate([first, second]))
    return z @ z.T, ~jnp.eye(len(z), dtype=bool)


def _contrasted(first: Vectors, second: Vectors, same: Bool[Array, "n n"], temperature: Number) -> PerExample:
    similar, other = _similarities(first, second)
    logits = jnp.where(other, similar / temperature, -jnp.inf)
    top = jax.lax.stop_gradient(logits.max(axis=1, keepdims=True))
    log_all = top + jnp.log(jnp.exp(logits - top).sum(axis=1, keepdims=True))
    wanted = same & other
    found = jnp.where(wanted, logits - log_all, 0.0).sum(axis=1) / wanted.sum(axis=1, dtype=jnp.float32)
    return -found.reshape(2, -1).mean(axis=0)


def _agreement(first: Vectors, second: Vectors) -> Array:
    similar, other = _similarities(first, second)
    nearest = jnp.where(other, similar, -jnp.inf).argmax(axis=1)
    count = first.shape[0]
    return (nearest % count == jnp.arange(2 * count) % count).mean(dtype=jnp.float32)
