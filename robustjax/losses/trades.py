"""TRADES: clean accuracy plus stability of the prediction."""

from robustjax import checks, logit
from robustjax.attacks import objectives
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.types import Ascent, Batch, Model, Number, frozen


def trades(model: Model, ascent: Ascent, *, beta: Number = 6.0) -> AdversarialLoss:
    """Minimise CE(f(x), y) + beta KL(p(x) || p(x')), where x' maximises that divergence.

    Args:
      model: the classifier; the ascent maximises KL(p(x) || p(.)) of the frozen network.
      ascent: must start away from x, where the gradient is zero; the paper starts at
        `pgd.gaussian(0.001)`, the default of `pgd` is uniform in the threat.
      beta: weight of the divergence, 1 / lambda in the paper.

    Returns:
      A loss over a `Batch`; metrics `risk`, `divergence` (nats), `accuracy`, `robust_accuracy`.

    Raises:
      ValueError: if a known beta is negative.

    Reference: Zhang et al. 2019, arXiv:1901.08573, equation 5, as in the authors' training: gradients flow
      through both arguments of KL, and clean and attacked images take separate forward passes, in this order,
      each updating the BatchNorm statistics.
    """
    checks.number("trades", "beta", beta, least=0)

    def find(params, state, batch: Batch, key):
        checks.batch("trades", batch)
        logits_fn = frozen(model, params, state)
        return ascent(key, objectives.kl_from(logits_fn, logits_fn(batch.image)), batch.image).x

    def risk(params, state, batch: Batch, attacked, key):
        clean, state = model.apply(params, state, batch.image, train=True, key=key)
        moved, state = model.apply(params, state, attacked, train=True, key=key)
        natural = logit.cross_entropy(clean, batch.label).mean()
        divergence = logit.kl(clean, moved).mean()
        metrics = {
            "risk": natural,
            "divergence": divergence,
            "accuracy": logit.correct(clean, batch.label).mean(),
            "robust_accuracy": logit.correct(moved, batch.label).mean(),
        }
        return natural + beta * divergence, (state, metrics)

    return AdversarialLoss(find, risk)
