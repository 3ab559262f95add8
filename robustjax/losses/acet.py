"""ACET: be accurate on ID images and unsure in a whole ball around each OOD image."""

from robustjax.losses import batchnorm_modes, confidences
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.batchnorm_modes import BatchNormMode
from robustjax.losses.confidences import Confidence
from robustjax.losses.id_and_ood import check_weight, two_sided
from robustjax.types import Ascent, Model, Number


def acet(
    model: Model,
    ood_ascent: Ascent,
    *,
    weight: Number = 1.0,
    penalty: Confidence = confidences.log_confidence,
    ood_surrogate: Confidence | None = None,
    batchnorm: BatchNormMode = batchnorm_modes.running,
) -> AdversarialLoss:
    """Minimise CE(f(x), y) + weight max_{z' around z} log max_k p_k(z') for ID images x and OOD images z.

    Published in three forms. 2019: these defaults, on noise (`data.ood_images.acet_noise`), linf eps 0.3, 40 steps.
    As a baseline of RATIO: `kl_from_uniform` on natural images, with RATIO's attack. As a baseline of ATOM:
    `ce_to_uniform`, with `half_batch(ood_ascent)` so that half of the OOD images stay clean, linf eps 8/255, 5 steps of
    2/255.

    Args:
      model: the classifier; the ascent sees it frozen, in evaluation mode, by default.
      ood_ascent: searches around OOD images, such as `pgd(Threat("linf", 0.3), steps=40, step_size=0.01)`.
      weight: of the penalty.
      penalty: what must be small around OOD images.
      ood_surrogate: what the ascent maximises; the penalty by default.
      batchnorm: what the ascent sees of the network.

    Returns:
      A loss over a `Pair`; metrics `risk` (nats), `excess` at the attacked OOD images,
      `accuracy`.

    Raises:
      ValueError: if a known weight is negative.

    Reference: Hein, Andriushchenko and Bitterwolf 2019, arXiv:1812.05720.
    """
    check_weight("acet", weight)
    return two_sided(
        model,
        None,
        ood_ascent,
        weight=weight,
        penalty=penalty,
        ood_surrogate=ood_surrogate,
        batchnorm=batchnorm,
    )
