"""TRADES: clean accuracy plus stability of the prediction."""

from typing import Literal

from robustjax import checks, logit
from robustjax.attacks import objectives
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.types import Ascent, Batch, Model, Number, frozen


def trades(
    model: Model, ascent: Ascent, *, beta: Number = 6.0, compat: Literal["official"] | None = None
) -> AdversarialLoss:
    """Minimise CE(f(x), y) + beta KL(p(x) || p(x')), where x' maximises that divergence.

    Args:
      model: the classifier; the ascent maximises KL(p(x) || p(.)) of the frozen network.
      ascent: must start away from x, where the gradient is zero; the paper starts at
        `pgd.gaussian(0.001)`, the default of `pgd` is uniform in the threat.
      beta: weight of the divergence, 1 / lambda in the paper.
      compat: "official" runs the clean images once more after the attacked ones, as the authors' training does: three
        updates of the BatchNorm statistics, two of them by clean images. Without dropout nothing else changes.

    Returns:
      A loss over a `Batch`; metrics `risk`, `divergence` (nats), `accuracy`, `robust_accuracy`.

    Raises:
      ValueError: if a known beta is negative, or compat is unknown.

    Reference: Zhang et al. 2019, arXiv:1901.08573, equation 5. As in the authors' training gradients flow through both
      arguments of KL, and clean and attacked images take separate forward passes in train mode. The authors take three,
      clean, attacked, clean; here the first of them serves both terms, unless compat says otherwise. In l2 the authors
      clip to the box before they project to the ball, `Threat` after it: both points lie in both.
    """
    checks.number("trades", "beta", beta, least=0)
    if compat not in (None, "official"):
        raise ValueError(f"trades: compat is {compat!r}, must be None or 'official'")

    def find(params, state, batch: Batch, key):
        checks.batch("trades", batch, soft=True)
        logits_fn = frozen(model, params, state)
        return ascent(key, objectives.kl_from(logits_fn, logits_fn(batch.image)), batch.image).x

    def risk(params, state, batch: Batch, attacked, key):
        clean, state = model.apply(params, state, batch.image, train=True, key=key)
        moved, state = model.apply(params, state, attacked, train=True, key=key)
        stable = clean
        if compat == "official":
            stable, state = model.apply(params, state, batch.image, train=True, key=key)
        natural = logit.cross_entropy(clean, batch.label).mean()
        divergence = logit.kl(stable, moved).mean()
        metrics = {
            "risk": natural,
            "divergence": divergence,
            "accuracy": logit.correct(clean, batch.label).mean(),
            "robust_accuracy": logit.correct(moved, batch.label).mean(),
        }
        return natural + beta * divergence, (state, metrics)

    return AdversarialLoss(find, risk)
