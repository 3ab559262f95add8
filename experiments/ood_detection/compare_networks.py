"""The networks of ood_detection.compare: trained and attacked, all seeds of a setting at once."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_detection.compare_data import CLASSES, scene
from experiments.ood_detection.compare_report import Cell
from robustjax import logit, optimizers, runtime, training
from robustjax.attacks import compose, objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.pgd import pgd
from robustjax.catalog import ood_losses
from robustjax.losses import confidences
from robustjax.models import small
from robustjax.ood import logit_scores, score_attacks, surrogates
from robustjax.ood.scores import through
from robustjax.runtime.stopping import Stop
from robustjax.threats import Threat
from robustjax.types import Batch, Model, Pair, frozen


def network(cfg: Any) -> Model:
    """Build the network: images to [-1, 1], two hidden layers, He's initial values, the last halved."""
    model = small.mlp(classes=CLASSES, shape=(8, 8, 1), widths=(cfg.width,) * 2, mean=(0.5,), std=(0.5,))

    def init(key):
        params, state = model.init(key)
        keys = iter(jax.random.split(key, len(jax.tree.leaves(params))))

        def drawn(path, leaf):
            if leaf.ndim < 2:
                return jnp.zeros_like(leaf)
            scale = 0.5 if "head" in jax.tree_util.keystr(path) else 1.0
            return scale * (2.0 / leaf.shape[0]) ** 0.5 * jax.random.normal(next(keys), leaf.shape)

        return jax.tree_util.tree_map_with_path(drawn, params), state

    return model._replace(init=init)


class Worker:
    """Trains and attacks; settings that differ in their radius share a program."""

    def __init__(self, cfg: Any) -> None:
        self.cfg, self.model = cfg, network(cfg)
        scenes = [scene(cfg, seed) for seed in range(cfg.seeds)]
        self.data = {name: jnp.asarray(np.stack([s[name] for s in scenes])) for name in scenes[0]}
        self.tx = optimizers.sgd(optimizers.cosine(0.1, cfg.updates), weight_decay=1e-4)
        self._programs: dict[str, Callable] = {}
        self._start = jax.jit(
            jax.vmap(lambda seed: training.start(jax.random.key(seed), self.model, self.tx))
        )
        self._measure = jax.jit(jax.vmap(self._one_seed))

    def fit(self, cell: Cell, stop: Stop) -> training.TrainState | None:
        """Train all seeds of a setting; None if asked to stop before the end."""
        cfg = self.cfg
        if cell.method not in self._programs:
            self._programs[cell.method] = jax.jit(self._trained(cell.method), donate_argnums=0)
        state = self._start(jnp.arange(cfg.seeds))
        some = min(50, cfg.updates)
        images = {"image": self.data["image"], "label": self.data["label"], "outlier": self.data[cell.kind]}
        rounds = -(-cfg.updates // some)
        for _, _ in (bar := runtime.progress(range(rounds), total=rounds, label="train")):
            state, loss = self._programs[cell.method](state, images, jnp.float32(cell.eps))
            bar.show({"loss": loss.mean()})
            if stop.requested:
                return None
        return state

    def measured(self, state: training.TrainState) -> dict[str, np.ndarray]:
        """Attack the score at every radius: arrays that lead with the seeds."""
        keys = jax.random.split(jax.random.key(1), self.cfg.seeds)
        test = (self.data[name] for name in ("test", "test_label", "outside"))
        return {name: np.asarray(value) for name, value in self._measure(state.params, keys, *test).items()}

    def _trained(self, method: str) -> Callable:
        cfg = self.cfg
        chosen: dict[str, Any] = {
            "oe": {},
            "aoe": {},
            "aloe": {},
            "acet": {"penalty": confidences.ce_to_uniform},
        }
        settings = chosen.get(method, {}) | ({"weight": cfg.weight} if method in chosen else {})

        def some(state, images, eps):
            ascent = pgd(Threat("linf", eps), steps=cfg.steps, step_size=2.5 * eps / cfg.steps)
            loss = ood_losses.loss(
                method,
                self.model,
                classes=CLASSES,
                around_data=ascent,
                around_outliers=ascent,
                **settings,
            )
            update = training.step(loss, self.tx)

            def one(state, _):
                first, second = jax.random.split(
                    jax.random.fold_in(jax.random.fold_in(state.key, 7), state.step)
                )
                rows = jax.random.randint(first, (cfg.batch_size,), 0, len(images["label"]))
                odd = jax.random.randint(second, (cfg.outlier_batch_size,), 0, len(images["outlier"]))
                batch = Batch(images["image"][rows], images["label"][rows])
                state, metrics = update(state, Pair(batch, images["outlier"][odd]))
                return state, metrics["loss"]

            state, losses = jax.lax.scan(one, state, length=min(50, cfg.updates))
            return state, losses[-1]

        def all_seeds(state, images, eps):
            return jax.vmap(lambda s, i: some(s, i, eps))(state, images)

        return all_seeds

    def _one_seed(self, params, key, test, label, outside) -> dict[str, Any]:
        logits_fn = frozen(self.model, params, {})
        score = through(logits_fn, logit_scores.msp_margin)
        many = outside.reshape(-1, *outside.shape[2:])
        keys = jax.random.split(key, 3)

        def over(side: Literal["up", "down"], x, surrogates=()):
            push = score_attacks.up if side == "up" else score_attacks.down

            def search_at(eps, warm):
                if surrogates:  # as published, one run with steps of one size
                    return push(self._ascent(eps), score, surrogates=surrogates)
                return push(
                    apgd(Threat("linf", eps), steps=self.cfg.judge_steps),
                    score,
                    restarts=self.cfg.judge_starts,
                )

            search = score_attacks.over_radii(search_at, self.cfg.radii, side=side)
            return search(keys[0] if side == "up" else keys[1], x)

        lowered, raised = over("down", test), over("up", many)

        def fallen(x):
            return -score(x)

        others = {
            "lowered_pgd": over("down", test, [fallen]).value,
            "raised_pgd": over("up", many, [score]).value,
            "lowered_uniform": over("down", test, [surrogates.toward_uniform(logits_fn)]).value,
            "raised_uniform": over("up", many, [objectives.ce_to_uniform(logits_fn)]).value,
            "raised_entropy": over("up", many, [surrogates.certain(logits_fn)]).value,
        }

        def broken(eps):
            attack = compose.against(self._ascent(eps), objectives.cross_entropy)
            return logit.correct(logits_fn(attack(keys[2], logits_fn, test, label).x), label)

        right = jnp.stack([logit.correct(logits_fn(test), label), *(broken(e) for e in self.cfg.radii)])
        shape, shown = outside.shape[:2], jnp.arange(outside.shape[0]) * outside.shape[1]
        return {
            "right": jnp.cumprod(right, axis=0),
            "inside": score(test),
            "outside": score(many).reshape(shape),
            "lowered": lowered.value,
            "raised": raised.value.reshape(-1, *shape),
            **{
                n: v.reshape(len(self.cfg.radii), *(shape if "raised" in n else (-1,)))
                for n, v in others.items()
            },
            "shown": many[shown],
            "shown_raised": raised.x[-1, shown],
        }

    def _ascent(self, eps):
        steps = self.cfg.judge_steps
        return pgd(Threat("linf", eps), steps=steps, step_size=2.5 * eps / steps)
