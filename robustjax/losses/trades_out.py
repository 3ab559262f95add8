"""TRADES on ID images with a penalty on OOD images, attacked (ACET) or kept stable too (CEDA)."""

import jax

from robustjax import checks, logit, numerics
from robustjax.attacks import objectives
from robustjax.losses import confidences
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.confidences import Confidence
from robustjax.losses.id_and_ood import check_weight, logits_of
from robustjax.types import Ascent, Model, Number, Pair, frozen


def trades_acet(
    model: Model,
    id_ascent: Ascent,
    ood_ascent: Ascent,
    *,
    beta: Number = 6.0,
    weight: Number = 1.0,
    penalty: Confidence = confidences.kl_from_uniform,
    ood_surrogate: Confidence | None = None,
) -> AdversarialLoss:
    """Minimise 1/2 (CE(f(x), y) + beta KL(p(x) || p(x'))) + weight/2 max_{z'} KL(U || p(z')).

    Args:
      model: the classifier; one forward pass serves clean and attacked ID and OOD images.
      id_ascent: on ID images, where it maximises KL(p(x) || p(.)); must start away from x, where the gradient is zero.
      ood_ascent: on OOD images, where it maximises `ood_surrogate`.
      beta: weight of the divergence on ID images.
      weight: lambda, of the term on OOD images.
      penalty: what must be small around OOD images.
      ood_surrogate: what is maximised there; the penalty by default.

    Returns:
      A loss over a `Pair`; metrics `risk`, `divergence` (nats), `excess`, `accuracy`, `robust_accuracy`.

    Raises:
      ValueError: if a known beta or weight is negative.

    Reference: a baseline in the code of Augustin, Meinke and Hein 2020, arXiv:2003.09461; gradients flow through
      both arguments of KL, as in TRADES.
    """
    check_weight("trades_acet", beta, "beta")
    check_weight("trades_acet", weight)

    def find(params, state, batch: Pair, key):
        checks.batch("trades_acet", batch)
        id_key, ood_key = jax.random.split(key)
        logits_fn = frozen(model, params, state)
        ood = ood_ascent(ood_key, confidences.over(ood_surrogate or penalty, logits_fn), batch.ood).x
        return _farthest(id_ascent, id_key, logits_fn, batch.id.image), ood

    def risk(params, state, batch: Pair, images, key):
        moved, ood = images
        both = numerics.pack(batch.id.image, moved)
        inside, outside, state = logits_of(model, params, state, (both, ood), key)
        value, metrics = _stable(inside, batch, beta)
        excess = penalty(outside).mean()
        return 0.5 * (value + weight * excess), (state, {**metrics, "excess": excess})

    return AdversarialLoss(find, risk)


def trades_ceda(
    model: Model,
    id_ascent: Ascent,
    ood_ascent: Ascent,
    *,
    beta: Number = 6.0,
    ood_beta: Number = 6.0,
    weight: Number = 1.0,
    penalty: Confidence = confidences.kl_from_uniform,
) -> AdversarialLoss:
    """Minimise 1/2 (CE + beta KL(p(x) || p(x'))) + weight/2 (KL(U || p(z)) + ood_beta KL(p(z) || p(z'))).

    On OOD images too the penalty is taken at the clean image and the prediction is kept stable around it.

    Args:
      model, id_ascent, beta, weight: as in `trades_acet`.
      ood_ascent: on OOD images, where it maximises KL(p(z) || p(.)), so that it too must start away from z.
      ood_beta: weight of the divergence on OOD images.
      penalty: what must be small on clean OOD images.

    Returns:
      A loss over a `Pair`; metrics as of `trades_acet`, `excess` on clean OOD images, and `ood_divergence`.

    Raises:
      ValueError: if a known beta, ood_beta or weight is negative.

    Reference: what `tradesceda` in the code of Augustin, Meinke and Hein 2020, arXiv:2003.09461, is named after;
      that code puts ID images where the clean OOD images belong.
    """
    check_weight("trades_ceda", beta, "beta")
    check_weight("trades_ceda", ood_beta, "ood_beta")
    check_weight("trades_ceda", weight)

    def find(params, state, batch: Pair, key):
        checks.batch("trades_ceda", batch)
        id_key, ood_key = jax.random.split(key)
        logits_fn = frozen(model, params, state)
        return (
            _farthest(id_ascent, id_key, logits_fn, batch.id.image),
            _farthest(ood_ascent, ood_key, logits_fn, batch.ood),
        )

    def risk(params, state, batch: Pair, images, key):
        ids = numerics.pack(batch.id.image, images[0])
        oods = numerics.pack(batch.ood, images[1])
        inside, outside, state = logits_of(model, params, state, (ids, oods), key)
        value, metrics = _stable(inside, batch, beta)
        clean, moved = numerics.unpack(outside)
        excess, divergence = penalty(clean).mean(), logit.kl(clean, moved).mean()
        metrics = {**metrics, "excess": excess, "ood_divergence": divergence}
        return 0.5 * (value + weight * (excess + ood_beta * divergence)), (state, metrics)

    return AdversarialLoss(find, risk)


def _farthest(ascent: Ascent, key, logits_fn, x):
    return ascent(key, objectives.kl_from(logits_fn, logits_fn(x)), x).x


def _stable(logits, batch: Pair, beta: Number):
    clean, moved = numerics.unpack(logits)
    label = batch.id.label
    risk, divergence = logit.cross_entropy(clean, label).mean(), logit.kl(clean, moved).mean()
    metrics = {
        "risk": risk,
        "divergence": divergence,
        "accuracy": logit.correct(clean, label).mean(),
        "robust_accuracy": logit.correct(moved, label).mean(),
    }
    return risk + beta * divergence, metrics
