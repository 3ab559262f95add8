"""Outlier exposure, also known as CEDA: be accurate on ID images and unsure on clean OOD images."""

from robustjax.losses import confidences
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.confidences import Confidence
from robustjax.losses.id_and_ood import check_weight, two_sided
from robustjax.types import Model, Number


def oe(
    model: Model, *, weight: Number = 0.5, penalty: Confidence = confidences.kl_from_uniform
) -> AdversarialLoss:
    """Minimise CE(f(x), y) + weight KL(U || p(z)) for ID images x and OOD images z.

    The same function has several names, by its settings: OE has weight 0.5 and natural images as OOD images; CEDA of
    2019 has weight 1, `log_confidence` as the penalty and noise as OOD images (`data.ood_images.acet_noise`); CEDA as
    a baseline of RATIO has weight 1 and natural images.

    Args:
      model: the classifier; one forward pass serves ID and OOD images.
      weight: of the penalty; OE was published with batches of 128 ID and 256 OOD images.
      penalty: what must be small on OOD images.

    Returns:
      A loss over a `Pair`; metrics `risk` (nats), `excess`, `accuracy`.

    Raises:
      ValueError: if a known weight is negative.

    Reference: Hendrycks, Mazeika and Dietterich 2019, arXiv:1812.04606, up to the constant log K; Hein,
      Andriushchenko and Bitterwolf 2019, arXiv:1812.05720 (CEDA).
    """
    check_weight("oe", weight)
    return two_sided(model, weight=weight, penalty=penalty)
