"""Training methods on ID and OOD images by name: the loss, the outputs it needs, and the score that goes with it.

A method takes two ascents, around ID and around OOD images, so that norm, radius, steps and start are the caller's:

    given = ood_losses.LossInputs(model, classes=10, id_ascent=pgd(...), ood_ascent=pgd(...))
    step = training.step(ood_losses.loss("aloe", given), tx)    # over a Pair
    form = ood_losses.form("aloe", classes=10)                  # Logits -> scores, larger on ID images

A loss of your own is one function, given by `--loss my_module:my_loss`; it gets what it has parameters for, by the
names of `LossInputs`:

    def my_loss(model, ood_ascent):
        return acet(model, ood_ascent, weight=2.0)
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from robustjax.attacks import compose, objectives
from robustjax.attacks.half_batch import half_batch
from robustjax.catalog import losses
from robustjax.catalog.names import built, named
from robustjax.data import mixing
from robustjax.losses import batchnorm_modes, confidences, trades_out
from robustjax.losses.acet import acet
from robustjax.losses.aloe import aloe, aoe
from robustjax.losses.atom import atom, ntom
from robustjax.losses.batchnorm_modes import BatchNormMode
from robustjax.losses.ccu import ccu
from robustjax.losses.confidences import Confidence
from robustjax.losses.gaussian_mixture import Axes
from robustjax.losses.mixoe import mixoe
from robustjax.losses.oe import oe
from robustjax.losses.ratio import half_ratio, ratio
from robustjax.losses.rowl import rowl
from robustjax.losses.sofl import sofl
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
    """What a loss may be built of; each gets what it has parameters for, and its own default where a value is None.

    Attributes:
      model: with `outputs(name, classes)` outputs; for "ccu" made by `losses.ccu.mixed`.
      classes: of the ID images.
      id_ascent, ood_ascent: the training attacks around ID and OOD images; unused by methods that keep them clean.
      weight: of the term on OOD images; the published one by default.
      penalty: what must be small on OOD images; the published one by default.
      ood_surrogate: what the attack on OOD images maximises; the penalty by default.
      id_surrogate: what the attack on ID images maximises, such as `attacks.objectives.margin`.
      batchnorm: what attacks see of BatchNorm.
      beta: weight of the divergences of TRADES and its variants.
      axes: of the densities of "ccu".
    """

    model: Model
    classes: int
    id_ascent: Ascent
    ood_ascent: Ascent
    weight: Number | None = None
    penalty: Confidence | None = None
    ood_surrogate: Confidence | None = None
    id_surrogate: compose.Surrogate = objectives.cross_entropy
    batchnorm: BatchNormMode = batchnorm_modes.running
    beta: Number = 6.0
    axes: Axes | None = None

    @property
    def id_attack(self) -> Attack:
        """The training attack on labelled images: `id_ascent` on `id_surrogate`."""
        return compose.against(self.id_ascent, self.id_surrogate)

    def offered(self) -> dict[str, Any]:
        """Name what a factory may ask for; a loss on ID images alone knows their attack by the names of `losses`."""
        given = {name: value for name, value in self._asdict().items() if value is not None}
        id_attack = self.id_attack
        same = {"attack": id_attack, "ascent": self.id_ascent, "ood_beta": self.beta}
        return given | {"id_attack": id_attack} | same


class Method(NamedTuple):
    """A training method.

    Attributes:
      loss: a factory of a loss over a `Pair`, with parameters of `LossInputs.offered`.
      reject_classes: number of ID classes -> outputs for OOD images, after those of the classes.
      form: number of ID classes -> how its logits are read as a score, in a form that does not saturate.
      weight: the published one of the term on OOD images.
      mines: whether it chooses its OOD images from a pool, now and then.
      attacked: what its training attacks, for reports.
    """

    loss: Callable[..., Loss]
    reject_classes: Callable[[int], int] = lambda classes: 0
    form: Callable[[int], Form] = lambda classes: logit_scores.msp_margin
    weight: float = 1.0
    mines: bool = False
    attacked: str = "ID and OOD images"


def _rejection_margin(classes: int) -> Form:
    return lambda z: reject_scores.rejection_margin(z, classes=classes)


def _rowl_margin(classes: int) -> Form:
    return lambda z: reject_scores.rowl_margin(z, classes=classes)


def _on_id(name: str, attacked: str) -> Method:
    """Train by a loss of `catalog.losses` on the ID half of a pair."""
    factory = losses.LOSSES[name]

    @functools.wraps(factory)  # with its parameters
    def on_id(*args: Any, **given: Any) -> Loss:
        inner = factory(*args, **given)

        def loss(params, state, batch: Pair, key):
            return inner(params, state, batch.id, key)

        return loss

    return Method(on_id, attacked=attacked)


def _on_half(factory: Callable[..., Loss]) -> Callable[..., Loss]:
    """Attack every other OOD image."""

    @functools.wraps(factory)
    def on_half(*, ood_ascent: Ascent, **given: Any) -> Loss:
        return factory(ood_ascent=half_batch(ood_ascent), **given)

    return on_half


_REJECT: dict[str, Any] = {"reject_classes": lambda classes: 1, "form": _rejection_margin}

METHODS: dict[str, Method] = {
    "standard": _on_id("standard", "nothing"),
    "adversarial": _on_id("adversarial", "ID images"),
    "trades": _on_id("trades", "ID images"),
    "logitnorm": _on_id("logitnorm", "nothing"),
    "oe": Method(oe, weight=0.5, attacked="nothing"),
    "ceda": Method(functools.partial(oe, weight=1.0, penalty=confidences.log_confidence), attacked="nothing"),
    "mixoe": Method(mixoe, weight=5.0, attacked="nothing"),  # by CutMix
    "mixoe_mixup": Method(functools.partial(mixoe, mixer=mixing.blended()), weight=5.0, attacked="nothing"),
    "acet": Method(acet, attacked="OOD images"),
    # As the comparison of ATOM has it.
    "half_acet": Method(
        _on_half(functools.partial(acet, penalty=confidences.ce_to_uniform)), attacked="every other OOD image"
    ),
    "aoe": Method(aoe, weight=0.5, attacked="ID images"),
    "aloe": Method(aloe, weight=0.5),
    "ratio": Method(ratio),
    "half_ratio": Method(half_ratio),
    "trades_acet": Method(trades_out.trades_acet),
    "trades_ceda": Method(trades_out.trades_ceda),
    "ntom": Method(ntom, **_REJECT, mines=True, attacked="nothing"),
    "atom": Method(_on_half(atom), **_REJECT, mines=True, attacked="every other OOD image"),
    "sofl": Method(
        sofl, lambda classes: 10 if classes >= 100 else 5, _rejection_margin, weight=5.0, attacked="nothing"
    ),
    "rowl": Method(rowl, lambda classes: 1, _rowl_margin),
    "ccu": Method(ccu, attacked="nothing"),
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
    return found if isinstance(found, Method) else Method(found, attacked="what its loss attacks")


def loss(name: str, given: LossInputs) -> Loss:
    """Build the loss of a method over a `Pair`.

    Args:
      name: as in `method`.
      given: what it is built of; it takes what it has parameters for.
    Raises:
      ValueError: for an unknown name, something that the method needs and is not given, or a setting it refuses.
    """
    return built(method(name).loss, given.offered(), flag=f"--loss {name}")


def outputs(name: str, classes: int) -> int:
    """Count the outputs that a method needs: SOFL has 5 reject classes for 10 ID classes, 10 for 100, others 1."""
    return classes + method(name).reject_classes(classes)


def form(name: str, *, classes: int) -> Form:
    """Give the score of a network trained by a method, in the form that does not saturate.

    The log odds of the likeliest class, against rejection for the methods with reject classes.
    """
    return method(name).form(classes)
