"""Validation for ood_detection.train: classes and scores on data and outliers that were not trained on."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared.settings import PGD
from robustjax import data, evaluation, logit, training
from robustjax.attacks import compose
from robustjax.attacks.pgd import pgd
from robustjax.catalog import ood_losses, outlier_sets
from robustjax.data import subsets
from robustjax.data.sources import Split
from robustjax.ood import metrics, score_attacks
from robustjax.ood.scores import through
from robustjax.threats import Threat
from robustjax.types import Ascent, Model, frozen

SHARES = {"valid_accuracy": "right", "valid_robust": "robust"}


def climber(attack: PGD, eps: jax.Array | float, iterate: Literal["last", "best"] = "best") -> Ascent:
    """Build the ascent of a config at a radius."""
    ascent = pgd(Threat(attack.norm, eps), steps=attack.steps, step_size=attack.step * eps, keep=iterate)
    return compose.restarts(ascent, attack.restarts) if attack.restarts > 1 else ascent


class Held:
    """Validation data, and outliers of the same sets that were not trained on."""

    def __init__(self, cfg: Any) -> None:
        self.data = subsets.first(data.load(cfg.dataset, "validation", data_dir=cfg.data_dir), cfg.images)
        # A set given with its part is trained on as a whole: nothing of it is held out.
        names = [name for name in cfg.outliers if ":" not in name]
        self.outliers = None
        if names:
            count = -(-len(self.data.label) // len(names))
            parts = [
                outlier_sets.load(n, self.data, split="validation", data_dir=cfg.data_dir, count=count)
                for n in names
            ]
            image = np.concatenate([p.image for p in parts])
            self.outliers = data.of_arrays(image, np.zeros(len(image), np.int32), name="outliers")

    def judges(self, cfg: Any, model: Model, classes: int) -> Callable[..., dict[str, float]]:
        """Compile the validation: accuracies, and AUROC of the method's own score, both sides attacked."""
        form, attack = (
            ood_losses.form(cfg.loss, classes=classes),
            cfg.judge.worst_case(cfg.judge.eps),
        )
        ascent = climber(cfg.judge, cfg.judge.eps)

        def inside(keys, batch, params, state):
            logits_fn = frozen(model, params, state)
            score = through(logits_fn, form)
            point = attack(keys, logits_fn, batch.image, batch.label).x
            right = logit.correct(logits_fn(batch.image), batch.label)
            broken = logit.correct(logits_fn(point), batch.label)
            lowered = score_attacks.down(ascent, score)(keys, batch.image).value
            return {"right": right, "robust": right * broken, "s": score(batch.image), "moved": lowered}

        def outside(keys, batch, params, state):
            score = through(frozen(model, params, state), form)
            return {
                "s": score(batch.image),
                "moved": score_attacks.up(ascent, score)(keys, batch.image).value,
            }

        measure = evaluation.mapped(inside), evaluation.mapped(outside)

        def validate(state: training.TrainState, rows: Any) -> dict[str, float]:
            key, best = jax.random.key(cfg.seed), training.for_evaluation(state)
            size = cfg.batch_size + cfg.outlier_batch_size
            ours = measure[0](key, data.evaluation(self.data, batch_size=size, sharding=rows), *best)
            found = {name: float(ours[key].mean()) for name, key in SHARES.items()}
            if self.outliers is not None:
                theirs = measure[1](
                    key, data.evaluation(self.outliers, batch_size=size, sharding=rows), *best
                )
                found["valid_auroc"] = metrics.auroc(ours["s"], theirs["s"])
                found["valid_auroc_both"] = metrics.auroc(ours["moved"], theirs["moved"])
            return found

        return validate

    def pictured(self, cfg: Any, model: Model, classes: int, state: training.TrainState, shown: Split):
        """Attack some outliers, to be looked at: images before and after, and their scores."""
        score = through(
            frozen(model, *training.for_evaluation(state)), ood_losses.form(cfg.loss, classes=classes)
        )
        x = jnp.asarray(shown.image, jnp.float32) / 255
        found = jax.jit(score_attacks.up(climber(cfg.judge, cfg.judge.eps), score))(
            jax.random.key(cfg.seed), x
        )
        return (np.asarray(x), np.asarray(found.x)), (np.asarray(score(x)), np.asarray(found.value))
