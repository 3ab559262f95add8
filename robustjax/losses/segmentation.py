"""Training segmenters, plainly and robustly: a class for every pixel, pixels without a known class left out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from robustjax import checks, numerics
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.numerics import divide
from robustjax.types import Ascent, Batch, Images, Loss, Model, Objective, Params, PerExample, State, frozen

IGNORE = 255  # the label of a pixel whose class is not known, such as padding
PixelLogits = Float[Array, "b h w k"]
PixelLabels = Int[Array, "b h w"]


def cross_entropy(logits: PixelLogits, label: PixelLabels) -> PerExample:
    """Average -log p_y over the labelled pixels of each image, in nats; 0 for an image without any."""
    checks.pixel_labels("cross_entropy", label, logits.shape, unknown=IGNORE)
    known = label != IGNORE
    picked = jnp.where(known, label, 0)[..., None]
    each = -jnp.take_along_axis(jax.nn.log_softmax(logits), picked, axis=-1)[..., 0]
    each = jnp.where(label < 0, jnp.nan, each)  # not counted from the last class
    return _mean(each, known)


def accuracy(logits: PixelLogits, label: PixelLabels) -> PerExample:
    """Give the share of the labelled pixels of each image that are right."""
    return _mean((logits.argmax(axis=-1) == label).astype(jnp.float32), label != IGNORE)


def overlaps(logits: PixelLogits, label: PixelLabels) -> tuple[Int[Array, "k"], Int[Array, "k"]]:
    """Count, per class, labelled pixels that are of it and predicted as it, and those that are either.

    Sums over batches, divided, are the intersection over union of each class.
    """
    classes, known = jnp.arange(logits.shape[-1]), (label != IGNORE)[..., None]
    predicted, actual = (a[..., None] == classes[None, None, None] for a in (logits.argmax(axis=-1), label))
    counts = (((predicted & actual) & known), ((predicted | actual) & known))
    return counts[0].sum(axis=(0, 1, 2)), counts[1].sum(axis=(0, 1, 2))


def segmentation(model: Model, *, perturb: Callable[[PRNGKeyArray, Images], Images] | None = None) -> Loss:
    """Minimise the cross-entropy of pixels, of images as they are or randomly perturbed.

    Args:
      model: the segmenter.
      perturb: (key, images) -> images that keeps every pixel's class, such as `learned.perturbed` of a set of lights.
    Returns:
      A loss over a `Batch` whose labels are (b, h, w); metrics `risk` (nats) and `accuracy` (of pixels).
    """

    def loss(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        checks.batch("segmentation", batch, pixels=True)
        draw, inner = jax.random.split(key)
        image = batch.image if perturb is None else jax.lax.stop_gradient(perturb(draw, batch.image))
        logits, state = model.apply(params, state, image, train=True, key=inner)
        risk = cross_entropy(logits, batch.label).mean()
        return risk, (state, {"risk": risk, "accuracy": accuracy(logits, batch.label).mean()})

    return loss


def max_clean_adversarial_segmentation(model: Model, ascent: Ascent) -> AdversarialLoss:
    """Minimise the mean over images of the larger of two losses: of an image, and of what an attack made of it.

    Args:
      model: the segmenter; the attack sees it frozen, in evaluation mode.
      ascent: maximises the mean loss of an image's pixels, such as
        `sets.ascent_through(space, pgd(space.threat, ...))`.
    Returns:
      A loss over a `Batch` whose labels are (b, h, w); metrics `risk` (nats), `accuracy`, `robust_accuracy`.

    Reference: Wong and Kolter 2020, arXiv:2007.08450. Deviation: they take the larger loss of every pixel.
    """

    def find(params, state, batch: Batch, key):
        checks.batch("max_clean_adversarial_segmentation", batch, pixels=True)
        return ascent(key, mean_pixel_loss(frozen(model, params, state), batch.label), batch.image).x

    def risk(params, state, batch: Batch, attacked, key):
        logits, state = model.apply(params, state, numerics.pack(batch.image, attacked), train=True, key=key)
        clean, adversarial = numerics.unpack(logits)
        worse = jnp.maximum(cross_entropy(clean, batch.label), cross_entropy(adversarial, batch.label)).mean()
        metrics = {
            "risk": worse,
            "accuracy": accuracy(clean, batch.label).mean(),
            "robust_accuracy": accuracy(adversarial, batch.label).mean(),
        }
        return worse, (state, metrics)

    return AdversarialLoss(find, risk)


def mean_pixel_loss(logits_fn: Callable[[Images], PixelLogits], label: PixelLabels) -> Objective:
    """Build the objective: the mean cross-entropy over the labelled pixels of each image."""
    return lambda x: cross_entropy(logits_fn(x), label)


def _mean(values: Float[Array, "b h w"], known: Array) -> PerExample:
    total = jnp.where(known, values, 0.0).sum(axis=(1, 2))
    return divide(total, known.sum(axis=(1, 2)).astype(values.dtype))
