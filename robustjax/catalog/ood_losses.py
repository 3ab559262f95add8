"""The training methods on data and outliers by name: the loss, the outputs it needs, and the score that goes with it.

A method takes two ascents, around data and around outliers, so that norm, radius, steps and start are the caller's:

    loss = outlier_methods.loss("aloe", model, classes=10, around_data=pgd(...), around_outliers=pgd(...))
    step = training.step(loss, tx)                                   # over a Pair
    margin = outlier_methods.form("aloe", classes=10)                # Logits -> scores, larger on data
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

from robustjax.attacks import compose, objectives
from robustjax.attacks.half_batch import half_batch
from robustjax.losses import confidences, trades_out
from robustjax.losses.acet import acet
from robustjax.losses.adversarial import adversarial
from robustjax.losses.aloe import aloe, aoe
from robustjax.losses.atom import atom, ntom
from robustjax.losses.batchnorm_modes import BatchNormMode, running
from robustjax.losses.ccu import ccu
from robustjax.losses.confidences import Confidence
from robustjax.losses.gaussian_mixture import Axes
from robustjax.losses.oe import oe
from robustjax.losses.ratio import half_ratio, ratio
from robustjax.losses.rowl import rowl
from robustjax.losses.sofl import sofl
from robustjax.losses.standard import standard
from robustjax.losses.trades import trades
from robustjax.ood import logit_scores, reject_scores
from robustjax.ood.scores import Form
from robustjax.types import Ascent, Attack, Loss, Model, Number, Pair

Method = Literal[
    "standard", "adversarial", "trades", "oe", "ceda", "acet", "half_acet", "aoe", "aloe", "ratio", "half_ratio",
    "trades_acet", "trades_ceda", "ntom", "atom", "sofl", "rowl", "ccu",
]  # fmt: skip
METHODS: tuple[str, ...] = get_args(Method)
REJECTING = ("ntom", "atom", "sofl", "rowl")  # with outputs for outliers
MINED = ("ntom", "atom")  # choose their outliers from a pool
PLAIN = ("standard", "adversarial", "trades")  # see no outliers
PUBLISHED = {"oe": 0.5, "aoe": 0.5, "aloe": 0.5, "sofl": 5.0}  # weights other than 1
PENALTIES: dict[str, Confidence] = {
    "kl_from_uniform": confidences.kl_from_uniform,
    "ce_to_uniform": confidences.ce_to_uniform,
    "log_confidence": confidences.log_confidence,
    "negative_entropy": confidences.negative_entropy,
    "logit_spread": confidences.logit_spread,
}


class Asked(NamedTuple):
    """What a method may use; each takes what it needs."""

    model: Model
    classes: int
    attack: Attack
    around_data: Ascent
    around_outliers: Ascent
    weight: dict[str, Any]  # empty for the published weight
    penalty: dict[str, Any]  # empty for the published one
    batchnorm: BatchNormMode
    beta: Number
    axes: Axes | None


def _over_data(build: Callable[[Asked], Loss]) -> Callable[[Asked], Loss]:
    def built(it: Asked) -> Loss:
        inner = build(it)

        def loss(params, state, batch: Pair, key):
            return inner(params, state, batch.data, key)

        return loss

    return built


def _mixed_with_densities(it: Asked) -> Loss:
    if it.axes is None:
        raise ValueError("loss: axes is None, must be given for ccu")
    return ccu(it.model, it.axes)


LOSSES: dict[str, Callable[[Asked], Loss]] = {
    "standard": _over_data(lambda it: standard(it.model)),
    "adversarial": _over_data(lambda it: adversarial(it.model, it.attack)),
    "trades": _over_data(lambda it: trades(it.model, it.around_data, beta=it.beta)),
    "oe": lambda it: oe(it.model, **it.weight, **it.penalty),
    "ceda": lambda it: oe(
        it.model, **{"weight": 1.0, "penalty": confidences.log_confidence, **it.weight, **it.penalty}
    ),
    "acet": lambda it: acet(
        it.model, it.around_outliers, batchnorm=it.batchnorm, **it.weight, **it.penalty
    ),
    "half_acet": lambda it: acet(
        it.model,
        half_batch(it.around_outliers),
        batchnorm=it.batchnorm,
        **{"penalty": confidences.ce_to_uniform, **it.weight, **it.penalty},
    ),
    "aoe": lambda it: aoe(it.model, it.attack, batchnorm=it.batchnorm, **it.weight),
    "aloe": lambda it: aloe(it.model, it.attack, it.around_outliers, batchnorm=it.batchnorm, **it.weight),
    "ratio": lambda it: ratio(
        it.model, it.attack, it.around_outliers, batchnorm=it.batchnorm, **it.weight, **it.penalty
    ),
    "half_ratio": lambda it: half_ratio(
        it.model, it.attack, it.around_outliers, batchnorm=it.batchnorm, **it.weight, **it.penalty
    ),
    "trades_acet": lambda it: trades_out.trades_acet(
        it.model, it.around_data, it.around_outliers, beta=it.beta, **it.weight, **it.penalty
    ),
    "trades_ceda": lambda it: trades_out.trades_ceda(
        it.model, it.around_data, it.around_outliers, beta=it.beta, outlier_beta=it.beta, **it.weight, **it.penalty
    ),
    "ntom": lambda it: ntom(it.model, **it.weight),
    "atom": lambda it: atom(it.model, half_batch(it.around_outliers), batchnorm=it.batchnorm, **it.weight),
    "sofl": lambda it: sofl(it.model, classes=it.classes, **it.weight),
    "rowl": lambda it: rowl(it.model, it.around_data, **it.weight),
    "ccu": _mixed_with_densities,
}  # fmt: skip


def loss(
    name: str,
    model: Model,
    *,
    classes: int,
    around_data: Ascent,
    around_outliers: Ascent,
    weight: Number | None = None,
    penalty: Confidence | None = None,
    outlier_surrogate: Confidence | None = None,
    surrogate: compose.Surrogate = objectives.cross_entropy,
    beta: Number = 6.0,
    batchnorm: BatchNormMode = running,
    axes: Axes | None = None,
) -> Loss:
    """Build the loss of a method over a `Pair`.

    Args:
      name: one of `METHODS`. "half_acet" is ACET as ATOM's comparison has it, with every other outlier attacked.
      model: with `outputs(name, classes)` outputs; for "ccu" made by `losses.ccu.mixed`.
      classes: of the data.
      around_data: the training attack on data; unused by methods that keep data clean.
      around_outliers: the one on outliers; unused by methods that keep outliers clean.
      weight: of the outliers' term; the published one by default.
      penalty: what must be small on outliers, where the method has a choice; the published one by default.
      outlier_surrogate: what the attack on outliers maximises, where the method has a choice; the penalty by default.
      surrogate: what the attack on data maximises, such as `attacks.objectives.margin`.
      beta: weight of the divergences of TRADES and its variants.
      batchnorm: what attacks see of BatchNorm, in methods that let one choose.
      axes: of the densities of "ccu".
    Raises:
      ValueError: for an unknown name, or a setting that the method refuses.
    """
    _check("loss", name)
    surrogates: dict[str, Any] = {} if penalty is None else {"penalty": penalty}
    if outlier_surrogate is not None and name in ("acet", "half_acet", "ratio", "half_ratio", "trades_acet"):
        surrogates["outlier_surrogate"] = outlier_surrogate
    return LOSSES[name](
        Asked(
            model,
            classes,
            compose.against(around_data, surrogate),
            around_data,
            around_outliers,
            {} if weight is None else {"weight": weight},
            surrogates,
            batchnorm,
            beta,
            axes,
        )
    )


def outputs(name: str, classes: int) -> int:
    """Count the outputs that a method needs: SOFL has 5 reject classes for 10 of the data, 10 for 100, others 1."""
    _check("outputs", name)
    if name == "sofl":
        return classes + (10 if classes >= 100 else 5)
    return classes + (name in REJECTING)


def form(name: str, *, classes: int) -> Form:
    """Give the score of a network trained by a method, in the form that does not saturate.

    The log odds of the likeliest class, against rejection for the methods with reject classes.
    """
    _check("form", name)
    if name == "rowl":
        return lambda z: reject_scores.rowl_margin(z, classes=classes)
    if name in REJECTING:
        return lambda z: reject_scores.rejection_margin(z, classes=classes)
    return logit_scores.msp_margin


def _check(who: str, name: str) -> None:
    if name not in METHODS:
        raise ValueError(f"{who}: method is {name!r}, must be one of {', '.join(METHODS)}")
