"""Training and measuring a setting of tradeoffs.compare, all its seeds at once."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.tradeoffs.cells import Cell
from robustjax import runtime, training
from robustjax.analysis import last_layer, reliance
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.data import order, planted, rebalance
from robustjax.data.scenes import Scenes
from robustjax.losses.adversarial import adversarial
from robustjax.losses.group_dro import GroupBatch, adversarial_group_dro, group_dro, weighted
from robustjax.losses.standard import standard
from robustjax.models.strided import strided
from robustjax.runtime.pytree_files import named
from robustjax.runtime.stopping import Stop
from robustjax.threats import Threat

LEVELS = (0.125, 0.25, 0.375, 0.5)  # standard deviations of the noise behind RFS
ATTACKED = ("original", "mixed_same", "mixed_rand")


def recipe_of(cfg: Any, cell: Cell) -> planted.Recipe:
    """Say how the scenes of a setting are made."""
    scale, noise = cell.background
    return planted.Recipe(
        size=cfg.size,
        digit=cfg.digit,
        task=cell.task,
        correlation=cell.correlation,
        spurious_scale=scale,
        noise=noise,
    )


class Worker:
    """Trains and measures networks of some classes; settings that differ in their radius share a program."""

    def __init__(self, cfg: Any, classes: int, source: planted.Source) -> None:
        self.cfg, self.source = cfg, source
        shape, grey = (cfg.size, cfg.size, 3), (0.5, 0.5, 0.5)
        self.model = strided(classes=classes, shape=shape, mean=grey, std=(0.25, 0.25, 0.25))
        judge = cfg.judge.worst_case(cfg.judge.eps)
        self._measure = reliance.measurement(self.model, judge, levels=LEVELS, attacked=ATTACKED)
        self._logits = jax.jit(jax.vmap(lambda p, s, x: self.model.apply(p, s, x)[0]))
        self._features = jax.jit(jax.vmap(self._deepest))
        self._programs: dict[Any, tuple[Callable, Callable]] = {}

    def scenes(self, cell: Cell, split: planted.Split, count: int, variant: planted.Variant = "original"):
        """Make scenes, one set for each seed."""
        recipe = recipe_of(self.cfg, cell)
        return [
            planted.planted(recipe, self.source, split=split, count=count, seed=s, variant=variant)
            for s in range(self.cfg.seeds)
        ]

    def fit(self, cell: Cell, stop: Stop) -> training.TrainState | None:
        """Train; None if asked to stop before the end."""
        cfg = self.cfg
        count = cfg.images * 4 // 3 if cell.task == "binary" else cfg.images
        sets = self.scenes(cell, "train", count)
        label, group = (jnp.asarray(np.stack([getattr(s, n) for s in sets])) for n in ("label", "group"))
        batch = GroupBatch(jnp.asarray(images(sets)), label, group)
        plan = [np.arange(count)] * cfg.seeds
        if cell.method == "group_dro":
            plan = [rebalance.evened(s.group, seed=i) for i, s in enumerate(sets)]
        if cell.method == "jtt":
            first = self._run(cell._replace(method="plain"), batch, plan, 2, stop)
            if first is None:
                return None
            guess = self._logits(first.params, first.state, batch.image).argmax(axis=-1)
            plan = [rebalance.upweighted(w, 20) for w in np.asarray(guess != label)]
        return self._run(cell, batch, plan, cfg.epochs, stop)

    def measured(self, cell: Cell, state: training.TrainState) -> dict[str, np.ndarray]:
        """Measure trained networks, and keep their weights."""
        params, inner = state.params, state.state.network if cell.method == "group_dro" else state.state
        sets = {v: self.scenes(cell, "test", self.cfg.test, v) for v in planted.VARIANTS}
        found = self._measure(jax.random.key(1), params, inner, sets)
        if cell.task == "binary":
            found |= self._refitted(cell, params, inner, sets)
        return found | {f"weights/{name}": np.asarray(leaf) for name, leaf in named(params).items()}

    def _run(
        self, cell: Cell, batch: GroupBatch, plan: Sequence[np.ndarray], epochs: int, stop: Stop
    ) -> training.TrainState | None:
        cfg = self.cfg
        updates = max(1, round(epochs * batch.label.shape[1] / cfg.batch_size))
        kind = (cell.method == "group_dro", bool(cell.eps), cell.norm, updates)
        if kind not in self._programs:
            self._programs[kind] = self._compiled(cell, updates)
        start, update = self._programs[kind]
        state = start(jnp.arange(cfg.seeds))
        bar = runtime.progress(
            rows_of(plan, cfg.batch_size),
            total=updates,
            label="train",
            batch_size=cfg.batch_size * cfg.seeds,
        )
        for i, rows in bar:
            state, metrics = update(state, batch, rows, jnp.float32(cell.eps))
            if i % 20 == 0:
                bar.show({"loss": metrics["loss"].mean()})
            if stop.requested:
                return None
        return state

    def _compiled(self, cell: Cell, updates: int) -> tuple[Callable, Callable]:
        """Compile the start and the update of all seeds, for any radius."""
        steps, worst = self.cfg.steps, cell.method == "group_dro"
        model = weighted(self.model, groups=4) if worst else self.model
        tx = optax.adamw(optax.cosine_onecycle_schedule(max(updates, 4), self.cfg.rate), weight_decay=1e-4)

        def start(seed):
            return training.start(jax.random.key(seed), model, tx)

        def all_seeds(state, batch, rows, eps):
            def loss_at(t):
                if not cell.eps:
                    return group_dro(model) if worst else standard(model)
                # A radius of full size from the start can leave a network that always says the same.
                radius = eps * jnp.minimum(2.0 * t.astype(jnp.float32) / updates, 1.0)
                threat = Threat(cell.norm, radius)  # pyright: ignore[reportArgumentType]
                ascent = pgd(threat, steps=steps, step_size=2.5 * radius / steps, keep="last")
                attack = compose.against(ascent, objectives.cross_entropy)
                return (adversarial_group_dro if worst else adversarial)(model, attack)

            def one(state, batch, rows):
                return training.scheduled(loss_at, tx)(state, jax.tree.map(lambda a: a[rows], batch))

            return jax.vmap(one)(state, batch, rows)

        return jax.jit(jax.vmap(start)), jax.jit(all_seeds, donate_argnums=0)

    def _deepest(self, params, state, x):
        taps = self.model.features(params, state, x)
        return taps[max(taps)]

    def _refitted(self, cell: Cell, params, state, sets) -> dict[str, np.ndarray]:
        """Refit the last layer of every seed on validation scenes without the shortcut, and predict again."""
        cfg = self.cfg
        train = self.scenes(cell, "train", cfg.images)
        valid = self.scenes(cell, "validation", max(cfg.test // 2, 40), "mixed_rand")
        names = ("mixed_same", "mixed_other")
        read = [
            np.asarray(self._features(params, state, jnp.asarray(images(s))))
            for s in (train, valid, *(sets[name] for name in names))
        ]
        out = {f"refit/{name}": [] for name in names}
        for s, (known, held, *test) in enumerate(zip(*read, strict=True)):
            layer = last_layer.dfr(known, held, valid[s].label, valid[s].group, classes=2, seed=s).layer
            for name, features in zip(names, test, strict=True):
                out[f"refit/{name}"].append(
                    np.asarray(layer(jnp.asarray(features)).argmax(axis=-1), np.int16)
                )
        return {name: np.stack(rows) for name, rows in out.items()}


def images(sets: Sequence[Scenes]) -> np.ndarray:
    """Read all images, (seeds, n, h, w, c)."""
    return np.stack([s.image(np.arange(len(s))) for s in sets])


def rows_of(plan: Sequence[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    """Yield the rows of every seed's next batch, (seeds, b), over shuffled epochs without end."""
    for first in itertools.count(0, batch_size):
        at = np.arange(first, first + batch_size)
        yield np.stack([p[order.rows(len(p), at, seed=s)] for s, p in enumerate(plan)]).astype(np.int32)
