"""Train and evaluate the networks of a setting of tradeoffs.compare, all its seeds at once."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from experiments.tradeoffs.config import CompareConfig, Setting
from robustjax import runtime, training
from robustjax.analysis import last_layer, reliance
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.data import order, planted, rebalance
from robustjax.data.scenes import Scenes
from robustjax.losses.adversarial import adversarial
from robustjax.losses.group_dro import GroupBatch, adversarial_group_dro, group_dro, weighted
from robustjax.losses.standard import standard
from robustjax.models.small import strided
from robustjax.runtime.pytree_files import named
from robustjax.runtime.stopping import Stop
from robustjax.threats import Threat
from robustjax.types import Images, Params, State

NOISE_LEVELS = (0.125, 0.25, 0.375, 0.5)  # standard deviations of the noise behind RFS
ATTACKED = ("original", "mixed_same", "mixed_rand")


class Programs(NamedTuple):
    """Compiled functions over all seeds: (seeds) -> state, and (state, batch, rows, eps) -> (state, metrics)."""

    start: Callable[[Array], training.TrainState]
    update: Callable[..., tuple[training.TrainState, Mapping[str, Array]]]


class Trainer:
    """Trains and evaluates networks of one number of classes; settings that differ in their radius share programs."""

    def __init__(self, cfg: CompareConfig, classes: int, source: planted.Source) -> None:
        self.cfg, self.source = cfg, source
        shape, grey = (cfg.size, cfg.size, 3), (0.5, 0.5, 0.5)
        self.model = strided(classes=classes, shape=shape, mean=grey, std=(0.25, 0.25, 0.25))
        attack = cfg.evaluation.worst_case(cfg.evaluation.eps)
        self._measure = reliance.measurement(self.model, attack, levels=NOISE_LEVELS, attacked=ATTACKED)
        self._logits = jax.jit(jax.vmap(lambda p, s, x: self.model.apply(p, s, x)[0]))
        self._features = jax.jit(jax.vmap(self._deepest))
        self._programs: dict[tuple[bool, bool, str, int], Programs] = {}

    def results(self, setting: Setting, stop: Stop) -> dict[str, np.ndarray] | None:
        """Train and evaluate; None if asked to stop before training ended."""
        state = self.train(setting, stop)
        return None if state is None else self.evaluate(setting, state)

    def train(self, setting: Setting, stop: Stop) -> training.TrainState | None:
        """Train; None if asked to stop before the end."""
        cfg = self.cfg
        count = cfg.images * 4 // 3 if setting.task == "binary" else cfg.images
        sets = self._scenes(setting, "train", count)
        label, group = (jnp.asarray(np.stack([getattr(s, n) for s in sets])) for n in ("label", "group"))
        batch = GroupBatch(jnp.asarray(_images(sets)), label, group)
        rows = [np.arange(count)] * cfg.seeds
        if setting.method == "group_dro":
            rows = [rebalance.oversampled(s.group, seed=i) for i, s in enumerate(sets)]
        if setting.method == "jtt":
            first = self._fit(setting._replace(method="erm"), batch, rows, 2, stop)
            if first is None:
                return None
            guess = self._logits(first.params, first.state, batch.image).argmax(axis=-1)
            rows = [rebalance.upweighted(wrong, 20) for wrong in np.asarray(guess != label)]
        return self._fit(setting, batch, rows, cfg.epochs, stop)

    def evaluate(self, setting: Setting, state: training.TrainState) -> dict[str, np.ndarray]:
        """Measure what trained networks rely on, per test image; with their weights."""
        params, inner = state.params, state.state.network if setting.method == "group_dro" else state.state
        sets: dict[str, list[Scenes]] = {
            variant: self._scenes(setting, "test", self.cfg.test, variant) for variant in planted.VARIANTS
        }
        found = self._measure(jax.random.key(1), params, inner, sets)
        if setting.task == "binary":
            found |= self._refitted(setting, params, inner, sets)
        return found | {f"weights/{name}": np.asarray(leaf) for name, leaf in named(params).items()}

    def _scenes(
        self, setting: Setting, split: planted.Split, count: int, variant: planted.Variant = "original"
    ) -> list[Scenes]:
        """Make scenes, one set for each seed."""
        recipe = self.cfg.recipe(setting)
        return [
            planted.planted(recipe, self.source, split=split, count=count, seed=seed, variant=variant)
            for seed in range(self.cfg.seeds)
        ]

    def _fit(
        self, setting: Setting, batch: GroupBatch, rows: Sequence[np.ndarray], epochs: int, stop: Stop
    ) -> training.TrainState | None:
        cfg = self.cfg
        updates = max(1, round(epochs * batch.label.shape[1] / cfg.batch_size))
        kind = (setting.method == "group_dro", bool(setting.eps), setting.norm, updates)
        if kind not in self._programs:
            self._programs[kind] = self._compiled(setting, updates)
        program = self._programs[kind]

        def update(state: training.TrainState, chosen: np.ndarray):
            state, metrics = program.update(state, batch, chosen, jnp.float32(setting.eps))
            return state, {"loss": metrics["loss"].mean()}

        # A setting takes a minute, so one that was stopped begins anew.
        fitted = runtime.fit(
            update,
            program.start(jnp.arange(cfg.seeds)),
            lambda begin, _: itertools.islice(_rows(rows, cfg.batch_size), begin, None),
            total=updates,
            stop=stop,
            batch_size=cfg.batch_size * cfg.seeds,
        )
        return None if fitted.exit_code else fitted.state

    def _compiled(self, setting: Setting, updates: int) -> Programs:
        """Compile the start and the update of all seeds, for any radius."""
        steps, by_group = self.cfg.steps, setting.method == "group_dro"
        model = weighted(self.model, groups=4) if by_group else self.model
        tx = optax.adamw(optax.cosine_onecycle_schedule(max(updates, 4), self.cfg.rate), weight_decay=1e-4)

        def start(seed: Array) -> training.TrainState:
            return training.start(jax.random.key(seed), model, tx)

        def update(state: training.TrainState, batch: GroupBatch, rows: Array, eps: Array):
            def loss_at(t: Array):
                if not setting.eps:
                    return group_dro(model) if by_group else standard(model)
                # A radius of full size from the start can leave a network that always says the same.
                radius = eps * jnp.minimum(2.0 * t.astype(jnp.float32) / updates, 1.0)
                threat = Threat(setting.norm, radius)
                ascent = pgd(threat, steps=steps, step_size=2.5 * radius / steps, keep="last")
                attack = compose.against(ascent, objectives.cross_entropy)
                return (adversarial_group_dro if by_group else adversarial)(model, attack)

            def one(state: training.TrainState, batch: GroupBatch, rows: Array):
                return training.scheduled(loss_at, tx)(state, jax.tree.map(lambda a: a[rows], batch))

            return jax.vmap(one)(state, batch, rows)

        return Programs(jax.jit(jax.vmap(start)), jax.jit(update, donate_argnums=0))

    def _deepest(self, params: Params, state: State, x: Images) -> Array:
        features = self.model.features(params, state, x)
        return features[max(features)]

    def _refitted(
        self, setting: Setting, params: Params, state: State, sets: Mapping[str, list[Scenes]]
    ) -> dict[str, np.ndarray]:
        """Refit the last layer of every seed on validation images without the shortcut, and predict again."""
        cfg = self.cfg
        train = self._scenes(setting, "train", cfg.images)
        validation = self._scenes(setting, "validation", max(cfg.test // 2, 40), "mixed_rand")
        variants = ("mixed_same", "mixed_other")
        features = [
            np.asarray(self._features(params, state, jnp.asarray(_images(scenes))))
            for scenes in (train, validation, *(sets[variant] for variant in variants))
        ]
        out: dict[str, list[Any]] = {f"refit/{variant}": [] for variant in variants}
        for seed, (known, held_out, *test) in enumerate(zip(*features, strict=True)):
            valid = validation[seed]
            layer = last_layer.dfr(known, held_out, valid.label, valid.group, classes=2, seed=seed).layer
            for variant, read in zip(variants, test, strict=True):
                guess = layer(jnp.asarray(read)).argmax(axis=-1)
                out[f"refit/{variant}"].append(np.asarray(guess, np.int16))
        return {name: np.stack(found) for name, found in out.items()}


def _images(sets: Sequence[Scenes]) -> np.ndarray:
    """Read all images, (seeds, n, h, w, c)."""
    return np.stack([s.image(np.arange(len(s))) for s in sets])


def _rows(among: Sequence[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    """Yield the rows of every seed's next batch, (seeds, b), over shuffled epochs without end."""
    for first in itertools.count(0, batch_size):
        at = np.arange(first, first + batch_size)
        chosen = [rows[order.rows(len(rows), at, seed=seed)] for seed, rows in enumerate(among)]
        yield np.stack(chosen).astype(np.int32)
