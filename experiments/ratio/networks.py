"""How ratio.compare trains a network: a method's name as a loss, and the loop."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from robustjax import data, runtime, training
from robustjax.attacks import objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.momentum_pgd import momentum_pgd
from robustjax.attacks.pgd import at_origin, gaussian, pgd
from robustjax.attacks.step_schedule import first_steps, rising
from robustjax.catalog import augmentations, ood_losses
from robustjax.catalog import models as model_names
from robustjax.data import order
from robustjax.data.extra import enriched
from robustjax.data.sources import Split
from robustjax.losses import confidences
from robustjax.losses.sam import asam, sam
from robustjax.models.tiny import tiny
from robustjax.runtime.stopping import Stop
from robustjax.threats import Threat
from robustjax.types import Ascent, Loss, Model, Number, Pair

NAMES = {"plain": "standard", "at": "adversarial", "ceda": "oe"}  # here -> in outlier_methods
HALVED = ("oe", "ceda", "acet")


class Data(NamedTuple):
    """What all networks see: data, outliers to train on, and sets of outliers to judge on."""

    train: Split
    valid: Split
    test: Split
    outliers: Split
    tested: dict[str, Split]
    more: Split | None = None  # pseudo-labelled images to train on beside the labelled


def network(name: str, like: Split, dataset: str) -> Model:
    """Build a network by name for the images of a split."""
    classes, shape = len(like.info.classes), like.image.shape[1:]
    if name == "tiny":
        return tiny(classes=classes, shape=shape)
    return model_names.classifier(name, dataset=dataset, classes=classes, shape=shape)


def loss_at(cfg: Any, model: Model, method: str, classes: int) -> Callable[[Any], Loss]:
    """Build the loss of a method from the number of updates done, which counts where attacks grow."""
    name = NAMES.get(method, method)

    def ascent(eps: Number, steps: int, first: int, t: Any) -> Ascent:
        threat = Threat("l2", eps)
        # Where the divergence from the clean prediction is outlier_surrogate, its slope at the image itself is zero.
        start = gaussian(1e-3) if name.startswith("trades") else at_origin
        settings: Any = {"steps": steps, "step_size": cfg.step, "momentum": 0.9, "start": start}
        if cfg.growing:
            solver = apgd(threat, steps=steps) if cfg.ascent == "apgd" else momentum_pgd(threat, **settings)
            return first_steps(solver, rising(t, first=first, last=steps, over=max(cfg.updates // 2, 1)))
        return apgd(threat, steps=steps) if cfg.ascent == "apgd" else pgd(threat, **settings)

    def at(t: Any) -> Loss:
        inner = ood_losses.loss(
            name,
            model,
            classes=classes,
            around_data=ascent(cfg.eps, cfg.steps, min(1, cfg.steps), t),
            around_outliers=ascent(cfg.outlier_eps, cfg.outlier_steps, min(2, cfg.outlier_steps), t),
            weight=None if name in ood_losses.PLAIN else 1.0,
            penalty=None if name in ood_losses.PLAIN else confidences.kl_from_uniform,
            outlier_surrogate=getattr(confidences, cfg.outlier_surrogate),
            surrogate=getattr(objectives, cfg.surrogate),
            beta=cfg.beta,
        )
        if cfg.flat is not None:
            inner = {"sam": sam, "asam": asam}[cfg.flat](inner, rho=cfg.rho)
        if not (cfg.halved and method in HALVED):
            return inner

        def half(params, state, batch, key):
            value, aside = inner(params, state, batch, key)
            return 0.5 * value, aside

        return half

    return at


class Trainer:
    """Trains networks; one compiled step serves all seeds of a method."""

    def __init__(self, cfg: Any, sets: Data, model: Model, folder: pathlib.Path) -> None:
        self.cfg, self.sets, self.model, self.folder = cfg, sets, model, folder
        self.tx = cfg.optimizer.over(cfg.updates)
        self._updates: dict[str, training.Step] = {}

    def fit(self, method: str, seed: int, stop: Stop) -> training.TrainState | None:
        """Train, going on from a checkpoint if there is one; None if asked to stop before the end."""
        cfg = self.cfg
        if method not in self._updates:
            at = loss_at(cfg, self.model, method, len(self.sets.train.info.classes))
            self._updates[method] = training.scheduled(at, self.tx)
        update, augment = self._updates[method], augmentations.augmentation(cfg.augment, cfg.dataset)
        state = training.start(jax.random.key(seed), self.model, self.tx, ema=cfg.ema)
        with runtime.Checkpoints(self.folder / "training" / f"{method}_{seed}", keep=1) as saved:
            state, begin = saved.restore(state) or (state, 0)
            batches = self._batches(seed, begin, augment)
            bar = runtime.progress(
                batches, start=begin, total=cfg.updates, label=f"{method} {seed}", batch_size=cfg.batch_size
            )
            for i, batch in bar:
                state, metrics = update(state, batch)
                if i % 20 == 0:
                    bar.show(metrics)
                asked = stop.requested and i + 1 < cfg.updates
                if asked or ((i + 1) % cfg.save_every == 0 and i + 1 < cfg.updates):
                    saved.save(i + 1, state)
                if asked:
                    return None
        return state

    def _batches(self, seed: int, start: int, augment: Any) -> Iterator[Pair]:
        cfg, sets = self.cfg, self.sets
        both: dict[str, Any] = {
            "batch_size": cfg.batch_size,
            "seed": seed,
            "start": start,
            "augment": augment,
        }
        if sets.more is None:
            return data.pairs(sets.train, sets.outliers, outlier_augment=augment, **both)
        beside = enriched(sets.train, sets.more, share=cfg.extra_share, **both)
        both["seed"] = order.folded(seed, 1)
        strange = data.stream(sets.outliers, **both)
        return (Pair(batch, other.image) for batch, other in zip(beside, strange, strict=True))
