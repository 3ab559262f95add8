"""ACET: be accurate on data and unsure in a whole ball around each outlier."""

from robustjax.losses import confidences, views
from robustjax.losses.confidences import Confidence
from robustjax.losses.minmax import MinMax
from robustjax.losses.two_sided import check_weight, two_sided
from robustjax.losses.views import View
from robustjax.types import Ascent, Model, Number


def acet(
    model: Model,
    ascent: Ascent,
    *,
    weight: Number = 1.0,
    penalty: Confidence = confidences.log_confidence,
    climbed: Confidence | None = None,
    view: View = views.running,
) -> MinMax:
    """Minimise CE(f(x), y) + weight max_{z' around z} log max_k p_k(z') for data x and outliers z.

    Published in three forms. 2019: these defaults, on noise (`data.outliers.acet_noise`), linf eps 0.3, 40 steps.
    As a baseline of RATIO: `kl_from_uniform` on natural images, with RATIO's attack. As a baseline of ATOM:
    `ce_to_uniform`, with `every_other(ascent)` so that half of the outliers stay clean, linf eps 8/255, 5 steps of
    2/255.

    Args:
      model: the classifier; the ascent sees it frozen, in evaluation mode, by default.
      ascent: searches around outliers, such as `pgd(Threat("linf", 0.3), steps=40, step_size=0.01)`.
      weight: of the penalty.
      penalty: what must be small around outliers.
      climbed: what the ascent maximises; the penalty by default.
      view: what the ascent sees of the network.

    Returns:
      A loss over a `Pair`; metrics `risk` (nats), `excess` at the attacked outliers,
      `accuracy`.

    Raises:
      ValueError: if a known weight is negative.

    Reference: Hein, Andriushchenko and Bitterwolf 2019, arXiv:1812.05720.
    """
    check_weight("acet", weight)
    return two_sided(model, None, ascent, weight=weight, penalty=penalty, climbed=climbed, view=view)
