"""Training methods on ID and OOD images by name: the loss, the outputs it needs, and the score that goes with it.

A method takes two ascents, around ID and around OOD images, so that norm, radius, steps and start are the caller's:

    loss = ood_losses.loss("aloe", model, classes=10, id_ascent=pgd(...), ood_ascent=pgd(...))
    step = training.step(loss, tx)                              # over a Pair
    form = ood_losses.form("aloe", classes=10)                  # Logits -> scores, larger on ID images

A loss of your own is one function, given by `--loss my_module:my_loss`; it gets what it has parameters for, by the
names of `LossInputs`:

    def my_loss(model, ood_ascent):
        return acet(model, ood_ascent, weight=2.0)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from robustjax.attacks import compose, objectives
from robustjax.attacks.half_batch import half_batch
from robustjax.catalog.names import built, named
from robustjax.losses import batchnorm_modes, confidences, trades_out
from robustjax.losses.acet import acet
from robustjax.losses.adversarial import adversarial
from robustjax.losses.aloe import aloe, aoe
from robustjax.losses.atom import atom, ntom
from robustjax.losses.batchnorm_modes import BatchNormMode
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

PENALTIES: dict[str, Confidence] = {
    "kl_from_uniform": confidences.kl_from_uniform,
    "ce_to_uniform": confidences.ce_to_uniform,
    "log_confidence": confidences.log_confidence,
    "negative_entropy": confidences.negative_entropy,
    "logit_spread": confidences.logit_spread,
}

BATCHNORM_MODES: dict[str, BatchNormMode] = {
    "running": batchnorm_modes.running,
    "own_batch": batchnorm_modes.own_batch,
    "joint_batch": batchnorm_modes.joint_batch,
}


class LossInputs(NamedTuple):
    """What a loss is built of; each method takes what it needs.

    Attributes:
      model: with the outputs that the method asks for.
      classes: of the ID data.
      id_attack: on ID images, for methods that attack them by a surrogate of the labels.
      id_ascent, ood_ascent: the training attacks around ID and OOD images.
      weight: of the term on OOD images; None for the published one.
      penalty: what must be small on OOD images; None for the published one.
      ood_surrogate: what the attack on OOD images maximises; None for the penalty.
      batchnorm: what attacks see of BatchNorm.
      beta: weight of the divergences of TRADES and its variants.
      axes: of the densities of CCU.
    """

    model: Model
    classes: int
    id_attack: Attack
    id_ascent: Ascent
    ood_ascent: Ascent
    weight: Number | None = None
    penalty: Confidence | None = None
    ood_surrogate: Confidence | None = None
    batchnorm: BatchNormMode = batchnorm_modes.running
    beta: Number = 6.0
    axes: Axes | None = None

    def chosen(self, *names: str) -> dict[str, Any]:
        """Collect the settings that were given, for keywords whose defaults are the published ones."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def _no_reject_classes(classes: int) -> int:
    del classes
    return 0


def _one_reject_class(classes: int) -> int:
    del classes
    return 1


def _msp_margin(classes: int) -> Form:
    del classes
    return logit_scores.msp_margin


def _rejection_margin(classes: int) -> Form:
    return lambda z: reject_scores.rejection_margin(z, classes=classes)


def _rowl_margin(classes: int) -> Form:
    return lambda z: reject_scores.rowl_margin(z, classes=classes)


class Method(NamedTuple):
    """A training method.

    Attributes:
      loss: inputs -> a loss over a `Pair`.
      reject_classes: number of ID classes -> outputs for OOD images, after those of the classes.
      form: number of ID classes -> how its logits are read as a score, in a form that does not saturate.
      weight: the published one of the term on OOD images.
      mines: whether it chooses its OOD images from a pool, now and then.
      uses_ood: whether it sees OOD images at all.
      attacked: what its training attacks, for reports.
    """

    loss: Callable[[LossInputs], Loss]
    reject_classes: Callable[[int], int] = _no_reject_classes
    form: Callable[[int], Form] = _msp_margin
    weight: float = 1.0
    mines: bool = False
    uses_ood: bool = True
    attacked: str = "ID and OOD images"

    def __call__(self, given: LossInputs) -> Loss:
        """Build the loss."""
        return self.loss(given)


def _on_id(build: Callable[[LossInputs], Loss], attacked: str) -> Method:
    """Train on the ID half of a pair."""

    def on_id(given: LossInputs) -> Loss:
        inner = build(given)

        def loss(params, state, batch: Pair, key):
            return inner(params, state, batch.id, key)

        return loss

    return Method(on_id, uses_ood=False, attacked=attacked)


def _ccu(given: LossInputs) -> Loss:
    if given.axes is None:
        raise ValueError("loss: axes is None, must be given for ccu")
    return ccu(given.model, given.axes)


def _ceda(given: LossInputs) -> Loss:
    published = {"weight": 1.0, "penalty": confidences.log_confidence}
    return oe(given.model, **published | given.chosen("weight", "penalty"))


def _half_acet(given: LossInputs) -> Loss:
    settings: dict[str, Any] = {"penalty": confidences.ce_to_uniform}
    settings |= given.chosen("weight", "penalty", "ood_surrogate")
    return acet(given.model, half_batch(given.ood_ascent), batchnorm=given.batchnorm, **settings)


def _acet(given: LossInputs) -> Loss:
    settings = given.chosen("weight", "penalty", "ood_surrogate")
    return acet(given.model, given.ood_ascent, batchnorm=given.batchnorm, **settings)


def _aoe(given: LossInputs) -> Loss:
    return aoe(given.model, given.id_attack, batchnorm=given.batchnorm, **given.chosen("weight"))


def _aloe(given: LossInputs) -> Loss:
    settings = given.chosen("weight")
    return aloe(given.model, given.id_attack, given.ood_ascent, batchnorm=given.batchnorm, **settings)


def _ratio(given: LossInputs) -> Loss:
    settings = given.chosen("weight", "penalty", "ood_surrogate")
    return ratio(given.model, given.id_attack, given.ood_ascent, batchnorm=given.batchnorm, **settings)


def _half_ratio(given: LossInputs) -> Loss:
    settings = given.chosen("weight", "penalty", "ood_surrogate")
    return half_ratio(given.model, given.id_attack, given.ood_ascent, batchnorm=given.batchnorm, **settings)


def _trades_acet(given: LossInputs) -> Loss:
    settings = given.chosen("weight", "penalty", "ood_surrogate")
    return trades_out.trades_acet(given.model, given.id_ascent, given.ood_ascent, beta=given.beta, **settings)


def _trades_ceda(given: LossInputs) -> Loss:
    settings: dict[str, Any] = {"beta": given.beta, "ood_beta": given.beta}
    settings |= given.chosen("weight", "penalty")
    return trades_out.trades_ceda(given.model, given.id_ascent, given.ood_ascent, **settings)


def _ntom(given: LossInputs) -> Loss:
    return ntom(given.model, **given.chosen("weight"))


def _atom(given: LossInputs) -> Loss:
    settings = given.chosen("weight")
    return atom(given.model, half_batch(given.ood_ascent), batchnorm=given.batchnorm, **settings)


METHODS: dict[str, Method] = {
    "standard": _on_id(lambda given: standard(given.model), "nothing"),
    "adversarial": _on_id(lambda given: adversarial(given.model, given.id_attack), "ID images"),
    "trades": _on_id(lambda given: trades(given.model, given.id_ascent, beta=given.beta), "ID images"),
    "oe": Method(
        lambda given: oe(given.model, **given.chosen("weight", "penalty")), weight=0.5, attacked="nothing"
    ),
    "ceda": Method(_ceda, attacked="nothing"),
    "acet": Method(_acet, attacked="OOD images"),
    "half_acet": Method(_half_acet, attacked="every other OOD image"),
    "aoe": Method(_aoe, weight=0.5, attacked="ID images"),
    "aloe": Method(_aloe, weight=0.5),
    "ratio": Method(_ratio),
    "half_ratio": Method(_half_ratio),
    "trades_acet": Method(_trades_acet),
    "trades_ceda": Method(_trades_ceda),
    "ntom": Method(_ntom, _one_reject_class, _rejection_margin, mines=True, attacked="nothing"),
    "atom": Method(_atom, _one_reject_class, _rejection_margin, mines=True, attacked="every other OOD image"),
    "sofl": Method(
        lambda given: sofl(given.model, classes=given.classes, **given.chosen("weight")),
        lambda classes: 10 if classes >= 100 else 5,
        _rejection_margin,
        weight=5.0,
        attacked="nothing",
    ),
    "rowl": Method(
        lambda given: rowl(given.model, given.id_ascent, **given.chosen("weight")),
        _one_reject_class,
        _rowl_margin,
    ),
    "ccu": Method(_ccu, attacked="nothing"),
}


def method(name: str, *, flag: str = "--loss") -> Method:
    """Find a method by name.

    Args:
      name: of the table; or `module:name` of a function with parameters of `LossInputs`, or of a `Method`.
      flag: what the name was given to, for the error.
    Raises:
      ValueError: in one line, if there is no such method, or nothing to import.
    """
    found = named(METHODS, name, flag=flag)
    if isinstance(found, Method):
        return found
    return Method(
        lambda given: built(found, given.chosen(*given._fields), flag=flag), attacked="what its loss attacks"
    )


def loss(
    name: str,
    model: Model,
    *,
    classes: int,
    id_ascent: Ascent,
    ood_ascent: Ascent,
    weight: Number | None = None,
    penalty: Confidence | None = None,
    ood_surrogate: Confidence | None = None,
    id_surrogate: compose.Surrogate = objectives.cross_entropy,
    beta: Number = 6.0,
    batchnorm: BatchNormMode = batchnorm_modes.running,
    axes: Axes | None = None,
) -> Loss:
    """Build the loss of a method over a `Pair`.

    Args:
      name: as in `method`. "half_acet" is ACET as ATOM's comparison has it, with every other OOD image attacked.
      model: with `outputs(name, classes)` outputs; for "ccu" made by `losses.ccu.mixed`.
      classes: of the ID data.
      id_ascent: the training attack on ID images; unused by methods that keep them clean.
      ood_ascent: the one on OOD images; unused by methods that keep them clean.
      weight: of the term on OOD images; the published one by default.
      penalty: what must be small on OOD images, where the method has a choice; the published one by default.
      ood_surrogate: what the attack on OOD images maximises, where the method has a choice; the penalty by default.
      id_surrogate: what the attack on ID images maximises, such as `attacks.objectives.margin`.
      beta: weight of the divergences of TRADES and its variants.
      batchnorm: what attacks see of BatchNorm, in methods that let one choose.
      axes: of the densities of "ccu".
    Raises:
      ValueError: for an unknown name, or a setting that the method refuses.
    """
    id_attack = compose.against(id_ascent, id_surrogate)
    return method(name).loss(
        LossInputs(
            model,
            classes,
            id_attack,
            id_ascent,
            ood_ascent,
            weight,
            penalty,
            ood_surrogate,
            batchnorm,
            beta,
            axes,
        )
    )


def outputs(name: str, classes: int) -> int:
    """Count the outputs that a method needs: SOFL has 5 reject classes for 10 ID classes, 10 for 100, others 1."""
    return classes + method(name).reject_classes(classes)


def form(name: str, *, classes: int) -> Form:
    """Give the score of a network trained by a method, in the form that does not saturate.

    The log odds of the likeliest class, against rejection for the methods with reject classes.
    """
    return method(name).form(classes)
