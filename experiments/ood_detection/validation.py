"""Validation of ood_detection.train: classes and scores on ID and OOD images that were not trained on."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from experiments.ood_detection.config import TrainConfig, ascent
from robustjax import data, evaluation, logit, training
from robustjax.attacks.square import square
from robustjax.catalog import ood_losses, ood_sets
from robustjax.data import subsets
from robustjax.data.sources import SPLITS, Split
from robustjax.ood import metrics
from robustjax.ood.score_attacks import highest, lowered, lowest, raised
from robustjax.ood.scores import scored
from robustjax.threats import Threat
from robustjax.types import Model, frozen

QUERIES = 200  # of Square beside PGD: gradients of a score that is trained against attacks may vanish


class ValidationData(NamedTuple):
    """ID images, and OOD images of the sets trained on; None where nothing of them is held out."""

    id_images: Split
    ood_images: Split | None


def load(cfg: TrainConfig) -> ValidationData:
    """Load validation images."""
    ours = subsets.subset(data.load(cfg.dataset, "validation", data_dir=cfg.data_dir), cfg.images)
    # A set given with its part is trained on as a whole: nothing of it is held out.
    names = [name for name in cfg.ood_sets if name.partition(":")[2] not in SPLITS]
    if not names:
        return ValidationData(ours, None)
    count = -(-len(ours.label) // len(names))
    parts = [ood_sets.load(n, ours, split="validation", data_dir=cfg.data_dir, count=count) for n in names]
    image = np.concatenate([p.image for p in parts])
    return ValidationData(ours, data.of_arrays(image, np.zeros(len(image), np.int32), name="ood"))


def validation(
    cfg: TrainConfig, held_out: ValidationData, model: Model, *, classes: int, rows: NamedSharding
) -> Callable[[training.TrainState], dict[str, float]]:
    """Compile the validation: accuracies, and AUROC of the method's own score, both sides attacked."""
    form = ood_losses.form(cfg.loss, classes=classes)
    attack = cfg.evaluation.worst_case(cfg.evaluation.eps)
    search = ascent(cfg.evaluation, cfg.evaluation.eps)
    blind = square(Threat(cfg.evaluation.norm, cfg.evaluation.eps), queries=QUERIES)
    size, key = cfg.batch_size + cfg.ood_batch_size, jax.random.key(cfg.seed)

    def on_id(keys, batch, params, state):
        logits_fn = frozen(model, params, state)
        score = scored(logits_fn, form)
        point = attack(keys, logits_fn, batch.image, batch.label).x
        right = logit.correct(logits_fn(batch.image), batch.label)
        robust = right * logit.correct(logits_fn(point), batch.label)
        attacked = lowest(lowered(search, score), lowered(blind, score))(keys, batch.image).value
        return {"right": right, "robust": robust, "clean": score(batch.image), "attacked": attacked}

    def on_ood(keys, batch, params, state):
        score = scored(frozen(model, params, state), form)
        attacked = highest(raised(search, score), raised(blind, score))(keys, batch.image).value
        return {"clean": score(batch.image), "attacked": attacked}

    measure_id, measure_ood = evaluation.mapped(on_id), evaluation.mapped(on_ood)

    def validate(state: training.TrainState) -> dict[str, float]:
        weights = training.for_evaluation(state)
        batches = data.evaluation(held_out.id_images, batch_size=size, sharding=rows)
        ours = measure_id(key, batches, *weights)
        found = {"valid_accuracy": float(ours["right"].mean()), "valid_robust": float(ours["robust"].mean())}
        if held_out.ood_images is not None:
            batches = data.evaluation(held_out.ood_images, batch_size=size, sharding=rows)
            theirs = measure_ood(key, batches, *weights)
            found["valid_auroc"] = metrics.auroc(ours["clean"], theirs["clean"])
            found["valid_auroc_both"] = metrics.auroc(ours["attacked"], theirs["attacked"])
        return found

    return validate


class Attacked(NamedTuple):
    """Some OOD images, to be looked at: clean and attacked, and their scores."""

    clean: np.ndarray
    attacked: np.ndarray
    clean_score: np.ndarray
    attacked_score: np.ndarray


def attacked(
    cfg: TrainConfig, model: Model, state: training.TrainState, shown: Split, *, classes: int
) -> Attacked:
    """Raise the scores of some OOD images."""
    logits_fn = frozen(model, *training.for_evaluation(state))
    score = scored(logits_fn, ood_losses.form(cfg.loss, classes=classes))
    x = jnp.asarray(shown.image, jnp.float32) / 255
    search = jax.jit(raised(ascent(cfg.evaluation, cfg.evaluation.eps), score))
    found = search(jax.random.key(cfg.seed), x)
    return Attacked(*(np.asarray(a) for a in (x, found.x, score(x), found.value)))
