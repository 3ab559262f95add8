"""Training losses of classifiers by name.

A loss is a factory that returns a `types.Loss` over a `Batch`. It gets what it has parameters for, by these names:

    model      the classifier
    attack     (key, logits_fn, x, y) -> Found: the training attack, on cross-entropy
    ascent     (key, objective, x) -> Found: the same search for an objective of the loss's own, such as a divergence
    threat     the ball of the training attack, at the radius of this update
    beta       weight of a second term
    smoothing  of the labels
    sigma      of the noise, for classifiers that are to be smoothed
    progress   share of the warm-up that is done, for what changes while the radius grows

So `--loss module:name` takes a function of yours such as

    def my_loss(model, attack):
        def loss(params, state, batch, key):
            x = attack(key, frozen(model, params, state), batch.image, batch.label).x
            logits, state = model.apply(params, state, x, train=True)
            return logit.cross_entropy(logits, batch.label).mean(), (state, {})
        return loss

and the factories of `robustjax.losses` are entries of the table as they are.
"""

from collections.abc import Callable

from robustjax.attacks import compose, objectives
from robustjax.catalog.names import built, named, parameters
from robustjax.data.mixing import MIXERS
from robustjax.losses.adversarial import adversarial, half_adversarial
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.awp import awp as weight_perturbation
from robustjax.losses.certified import crown_ibp, ibp, sabr
from robustjax.losses.consistency import consistency
from robustjax.losses.fast import fgsm_rs, n_fgsm
from robustjax.losses.free import free
from robustjax.losses.logitnorm import logitnorm
from robustjax.losses.macer import macer
from robustjax.losses.mart import mart
from robustjax.losses.mixed_images import on_mixed_images
from robustjax.losses.smoothadv import smoothadv
from robustjax.losses.smoothmix import smoothmix
from robustjax.losses.stability import augmented, stability
from robustjax.losses.standard import standard
from robustjax.losses.trades import trades
from robustjax.smoothing.noise import white
from robustjax.threats import Threat
from robustjax.types import Ascent, Loss, Model, Number


def _fgsm_rs(model: Model, threat: Threat, smoothing: Number) -> Loss:
    return adversarial(model, compose.against(fgsm_rs(threat), objectives.cross_entropy), smoothing=smoothing)


def _n_fgsm(model: Model, threat: Threat, smoothing: Number) -> Loss:
    return adversarial(model, compose.against(n_fgsm(threat), objectives.cross_entropy), smoothing=smoothing)


def _trades_official(model: Model, ascent: Ascent, beta: Number) -> Loss:
    return trades(model, ascent, beta=beta, compat="official")


def _ibp(model: Model, threat: Threat, progress: Number) -> Loss:
    return ibp(model, threat, clean=1.0 - 0.5 * progress)


def _crown_ibp(model: Model, threat: Threat, progress: Number) -> Loss:
    return crown_ibp(model, threat, clean=1.0 - 0.5 * progress, crown=1.0 - progress)


def _sabr(model: Model, threat: Threat, ascent: Ascent, progress: Number) -> Loss:
    return sabr(model, threat, ascent, clean=1.0 - progress)


def _gaussian(model: Model, sigma: Number, smoothing: Number) -> Loss:
    return augmented(model, white(sigma), smoothing=smoothing)


def _stability(model: Model, sigma: Number, beta: Number) -> Loss:
    return stability(model, white(sigma), weight=beta)


def _smoothadv(model: Model, ascent: Ascent, sigma: Number) -> Loss:
    return smoothadv(model, ascent, sigma=sigma)


def _macer(model: Model, sigma: Number) -> Loss:
    return macer(model, sigma=sigma)


def _consistency(model: Model, sigma: Number) -> Loss:
    return consistency(model, sigma=sigma)


def _smoothmix(model: Model, sigma: Number, progress: Number) -> Loss:
    return smoothmix(model, sigma=sigma, weight=progress)


LOSSES: dict[str, Callable[..., Loss]] = {
    "standard": standard,
    "adversarial": adversarial,
    "half_adversarial": half_adversarial,
    "trades": trades,
    "trades_official": _trades_official,  # with the three forward passes of the authors
    "mart": mart,
    "fgsm_rs": _fgsm_rs,
    "n_fgsm": _n_fgsm,
    "ibp": _ibp,  # certified training: kappa falls from 1 to 1/2 during the warm-up
    "crown_ibp": _crown_ibp,  # likewise, and from lines to intervals
    "sabr": _sabr,  # small boxes of 0.4 of the radius; kappa falls from 1 to 0
    "logitnorm": logitnorm,
    "gaussian": _gaussian,  # classifiers to be smoothed by noise of standard deviation sigma
    "stability": _stability,
    "smoothadv": _smoothadv,
    "macer": _macer,
    "consistency": _consistency,
    "smoothmix": _smoothmix,  # its second term grows during the warm-up
    "free": free,  # needs its own optimiser and every batch several times, see losses.free
}


# Those that take the soft labels of mixed images.
TAKE_SOFT_LABELS = (
    "standard", "adversarial", "half_adversarial", "trades", "trades_official", "fgsm_rs", "n_fgsm", "logitnorm",
)  # fmt: skip


def takes(name: str, parameter: str) -> bool:
    """Tell whether a loss has a parameter, such as "smoothing".

    Raises:
      ValueError: if there is no such loss.
    """
    return parameter in parameters(named(LOSSES, name, flag="--loss"), flag="--loss")


def training_loss(
    name: str,
    model: Model,
    *,
    threat: Threat,
    ascent: Ascent,
    beta: Number = 6.0,
    smoothing: Number = 0.0,
    progress: Number = 1.0,
    sigma: Number = 0.25,
    awp: float = 0.0,
    mix: str | None = None,
    mix_alpha: Number = 1.0,
    classes: int | None = None,
) -> Loss:
    """Build a training loss by name.

    Args:
      name: a key of `LOSSES`, or `module:name` of a factory as described above.
      model, threat, ascent, beta, smoothing, progress, sigma: what is offered to it; `attack` is the ascent on
        cross-entropy.
      awp: relative size of an adversarial weight perturbation around the loss, 0 for none.
      mix: "cutmix" or "mixup": train on images mixed with their neighbours in the batch.
      mix_alpha: of the Beta distribution of their shares.
      classes: how many there are; needed with `mix`.
    Raises:
      ValueError: in one line, if there is no such loss, it needs something else, or awp is given with a loss that
        does not attack before it takes the risk, or mix with a loss of the table that takes no soft labels.
    """
    if mix is not None:
        if mix not in MIXERS or classes is None:
            raise ValueError(f"--mix is {mix!r}, must be of {', '.join(MIXERS)}, with the number of classes")
        if name in LOSSES and name not in TAKE_SOFT_LABELS:
            raise ValueError(
                f"--mix is {mix}, must be none with --loss {name}: of the losses here "
                f"{', '.join(TAKE_SOFT_LABELS)} take soft labels"
            )
    offered = {
        "model": model,
        "attack": compose.against(ascent, objectives.cross_entropy),
        "ascent": ascent,
        "threat": threat,
        "beta": beta,
        "smoothing": smoothing,
        "progress": progress,
        "sigma": sigma,
    }
    loss = built(named(LOSSES, name, flag="--loss"), offered, flag=f"--loss {name}")
    if not awp:
        return (
            loss if mix is None else on_mixed_images(loss, MIXERS[mix](alpha=mix_alpha), classes=classes or 0)
        )
    if not isinstance(loss, AdversarialLoss):
        raise ValueError(
            f"--awp is {awp:g}, must be 0 with --loss {name}, which is no AdversarialLoss: it attacks nothing first"
        )
    perturbed = weight_perturbation(loss, gamma=awp)
    return (
        perturbed
        if mix is None
        else on_mixed_images(perturbed, MIXERS[mix](alpha=mix_alpha), classes=classes or 0)
    )
