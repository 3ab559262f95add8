"""ALOE and AOE: adversarial training on ID images with outlier exposure, attacked or clean."""

from robustjax.losses import batchnorm_modes, confidences
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.batchnorm_modes import BatchNormMode
from robustjax.losses.id_and_ood import check_weight, two_sided
from robustjax.types import Ascent, Attack, Model, Number


def aloe(
    model: Model,
    id_attack: Attack,
    ood_ascent: Ascent,
    *,
    weight: Number = 0.5,
    batchnorm: BatchNormMode = batchnorm_modes.running,
) -> AdversarialLoss:
    """Minimise max_{x'} CE(f(x'), y) + weight max_{z'} CE(U, p(z')): both sides attacked, no clean terms.

    RATIO is the same up to weights, norm and radii. The published attack is linf with eps and step 1/255, 2 steps
    from a uniform start, last iterate, on both sides: `pgd(threat, steps=2, step_size=1 / 255, keep="last")`;
    batches hold 64 ID and 128 OOD images.

    Args:
      model: the classifier; one forward pass serves ID and OOD images.
      id_attack: on ID images, such as `against(pgd(...), objectives.cross_entropy)`.
      ood_ascent: on OOD images, where it maximises the cross-entropy to the uniform distribution.
      weight: of the term on OOD images.
      batchnorm: what both attacks see of the network; the authors' code has `batchnorm_modes.own_batch`.

    Returns:
      A loss over a `Pair`; metrics `risk`, `excess` (nats), `robust_accuracy`, all at
      attacked images.

    Raises:
      ValueError: if a known weight is negative.

    Reference: Chen et al. 2020, arXiv:2003.09711. The authors' random start truncates to no start at all at
      eps 1/255, and their attacks update the running statistics; ours do neither.
    """
    check_weight("aloe", weight)
    return two_sided(
        model, id_attack, ood_ascent, weight=weight, penalty=confidences.ce_to_uniform, batchnorm=batchnorm
    )


def aoe(
    model: Model,
    id_attack: Attack,
    *,
    weight: Number = 0.5,
    batchnorm: BatchNormMode = batchnorm_modes.running,
) -> AdversarialLoss:
    """Minimise max_{x'} CE(f(x'), y) + weight CE(U, p(z)): attacked ID images, clean OOD images.

    Args:
      model, id_attack, weight, batchnorm: as in `aloe`.

    Returns:
      A loss over a `Pair`; metrics as of `aloe`, with those of OOD images at clean images.

    Raises:
      ValueError: if a known weight is negative.

    Reference: Chen et al. 2020, arXiv:2003.09711. The authors' code takes two forward passes, over attacked and
      over clean images of both sides, and one term from each; here one pass over what is trained on.
    """
    check_weight("aoe", weight)
    return two_sided(
        model, id_attack, None, weight=weight, penalty=confidences.ce_to_uniform, batchnorm=batchnorm
    )
