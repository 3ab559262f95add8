"""How ratio.compare trains a network: the images, the loss of a method, and the loop."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from experiments.ratio.config import Config, Measured, Method
from robustjax import data, runtime, training
from robustjax.attacks import apgd, objectives, pgd, pgd_solver
from robustjax.attacks.starts import at_origin, gaussian_start
from robustjax.attacks.step_schedule import first_steps, rising
from robustjax.catalog import augmentations, models, ood_losses, ood_sets
from robustjax.data import order, subsets
from robustjax.data.extra import enriched
from robustjax.data.sources import Split
from robustjax.losses import confidences
from robustjax.losses.sam import asam, sam
from robustjax.models.small import tiny
from robustjax.runtime.stopping import Stop
from robustjax.threats import Threat
from robustjax.types import Ascent, Loss, Model, Pair

LOSSES = {
    "plain": "standard",
    "at": "adversarial",
    "ceda": "oe",
}  # methods that catalog.ood_losses calls otherwise
HALF_WEIGHTS = ("oe", "ceda", "acet")  # methods that may weigh their terms by 1/2


class Sets(NamedTuple):
    """The images that all networks are trained and evaluated on.

    Attributes:
      train, valid, test: in distribution; `valid` is held out and chooses temperatures.
      ood: OOD images to train on; None where nothing is trained.
      test_ood_sets: OOD images to evaluate on, by name of the set.
      extra: pseudo-labelled images to train on beside the labelled ones.
    """

    train: Split
    valid: Split
    test: Split
    ood: Split | None
    test_ood_sets: dict[str, Split]
    extra: Split | None = None


def load_sets(cfg: Config) -> Sets:
    """Load the images."""
    place = cfg.data_dir
    train, valid, test = (
        data.load(cfg.dataset, split, data_dir=place) for split in ("train", "validation", "test")
    )
    return Sets(
        train,
        subsets.subset(valid, cfg.images),
        subsets.subset(test, cfg.images),
        ood_sets.counted_mixture(cfg.ood_counts, train, data_dir=place),
        test_sets(cfg, test),
        data.load(cfg.extra, "train", data_dir=place) if cfg.extra else None,
    )


def test_sets(cfg: Measured, test: Split) -> dict[str, Split]:
    """Load the OOD sets to evaluate on."""
    return {
        name: ood_sets.load(name, test, split="test", count=cfg.ood_images, data_dir=cfg.data_dir)
        for name in cfg.test_ood_sets
    }


def classifier(name: str, dataset: str, *, classes: int, shape: tuple[int, ...]) -> Model:
    """Build a network by name for the images of a data set."""
    if name == "tiny":
        return tiny(classes=classes, shape=shape)
    return models.classifier(name, dataset=dataset, classes=classes, shape=shape)


def training_loss(
    method: Method, model: Model, cfg: Config, *, classes: int, threat: Threat, ood_threat: Threat
) -> Callable[[Array], Loss]:
    """Build the loss of a method, as a function of the number of updates done: attacks may take ever more steps.

    Args:
      method: its name.
      model: the network.
      cfg: steps, surrogates and weights.
      classes: of the ID images.
      threat: of the attack on ID images.
      ood_threat: of the attack on OOD images.
    """
    name = LOSSES.get(method, method)

    def ascent(threat: Threat, steps: int, first: int, update: Array) -> Ascent:
        # TRADES maximises the divergence from the clean prediction, whose slope at the image itself is zero.
        start = gaussian_start(1e-3) if name.startswith("trades") else at_origin
        momentum: dict[str, Any] = {"step_size": cfg.step_size, "momentum": 0.9, "start": start}
        if cfg.step_schedule == "constant":
            return apgd(threat, steps=steps) if cfg.ascent == "apgd" else pgd(threat, steps=steps, **momentum)
        solver = (
            apgd(threat, steps=steps) if cfg.ascent == "apgd" else pgd_solver(threat, steps=steps, **momentum)
        )
        over = max(cfg.updates // 2, 1)
        return first_steps(solver, rising(update, first=min(first, steps), last=steps, over=over))

    def loss_at(update: Array) -> Loss:
        given = ood_losses.LossInputs(
            model,
            classes,
            id_ascent=ascent(threat, cfg.steps, 1, update),
            ood_ascent=ascent(ood_threat, cfg.ood_steps, 2, update),
            weight=1.0,
            penalty=confidences.kl_from_uniform,
            ood_surrogate=getattr(confidences, cfg.ood_surrogate),
            id_surrogate=getattr(objectives, cfg.surrogate),
            beta=cfg.beta,
        )
        loss = ood_losses.loss(name, given)
        if cfg.sharpness is not None:
            loss = {"sam": sam, "asam": asam}[cfg.sharpness](loss, rho=cfg.rho)
        return _halved(loss) if cfg.half_weights and method in HALF_WEIGHTS else loss

    return loss_at


def training_step(method: Method, model: Model, cfg: Config, *, classes: int) -> training.Step:
    """Build the compiled update of a method, within the radii of training."""
    threat, ood_threat = (Threat("l2", eps) for eps in cfg.training_radii)
    loss = training_loss(method, model, cfg, classes=classes, threat=threat, ood_threat=ood_threat)
    return training.scheduled(loss, cfg.optimizer.over(cfg.updates))


def _halved(loss: Loss) -> Loss:
    def half(params, state, batch, key):
        value, aside = loss(params, state, batch, key)
        return 0.5 * value, aside

    return half


def train(
    update: training.Step,
    model: Model,
    cfg: Config,
    sets: Sets,
    *,
    seed: int,
    folder: pathlib.Path,
    stop: Stop,
    label: str,
) -> runtime.Fitted:
    """Train a network, from its newest checkpoint on if there is one."""
    state = training.start(jax.random.key(seed), model, cfg.optimizer.over(cfg.updates), ema=cfg.ema)
    with runtime.Checkpoints(folder, keep=1) as saved:
        return runtime.fit(
            update,
            state,
            lambda start, _: batches(cfg, sets, seed=seed, start=start),
            total=cfg.updates,
            saved=saved,
            stop=stop,
            save_every=cfg.save_every,
            label=label,
            batch_size=cfg.batch_size,
        )


def batches(cfg: Config, sets: Sets, *, seed: int, start: int = 0) -> Iterator[Pair]:
    """Yield ID batches beside OOD batches, from an update on."""
    augment = augmentations.augmentation(cfg.augment, cfg.dataset)
    assert sets.ood is not None
    if sets.extra is None:
        return data.pairs(
            sets.train, sets.ood, batch_size=cfg.batch_size, seed=seed, start=start,
            augment=augment, ood_augment=augment,
        )  # fmt: skip
    labelled = enriched(
        sets.train, sets.extra, share=cfg.extra_share, batch_size=cfg.batch_size, seed=seed, start=start,
        augment=augment,
    )  # fmt: skip
    ood = data.stream(
        sets.ood, batch_size=cfg.batch_size, seed=order.folded(seed, 1), start=start, augment=augment
    )
    return (Pair(batch, other.image) for batch, other in zip(labelled, ood, strict=True))
