"""Does exposure to attacked outliers make a detector robust? Six trainings on the embedded digits, in minutes.

    python experiments/aloe.py digits --out runs/aloe

Digits 0 to 5 are the data. Networks are trained plainly (MSP), with outliers (OE), adversarially (ADV), on attacked
data and clean outliers (AOE), on clean data and attacked outliers (ACET), and with both attacked (ALOE), three
seeds at once and at three radii; then their score is attacked on both sides, on five kinds of outliers that none
was trained on, by the score itself and by what the papers climb in its place. A second comparison has near
outliers only: 6 and 7 to train on, 8 and 9 to be told from 0 to 5.

The folder keeps every finished setting under cells/; start again with the same --out and only what is missing is
computed. report.html and results.json say what was expected and whether it holds.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import common
import jax
import jax.numpy as jnp
import numpy as np
import outlier_methods
from pages import ood_digits as pages
from pages.ood_digits import Cell

from robustjax import data, logit, optimizers, runtime, training
from robustjax.attacks import compose, objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.pgd import pgd
from robustjax.losses import confidences
from robustjax.models import small
from robustjax.ood import logit_scores, robust, surrogates
from robustjax.ood.scores import through
from robustjax.runtime.origin import made_with, plain
from robustjax.runtime.snapshot import in_bytes
from robustjax.runtime.stopping import Stop, stopping
from robustjax.threats import Threat
from robustjax.types import Batch, Model, Pair, frozen

SETS = ("digits 8 and 9", "flipped", "uniform noise", "permuted", "stripes")
CLASSES = 6


@dataclasses.dataclass(frozen=True)
class Config:
    """Train six ways, over radii and seeds, and attack the score on both sides."""

    radii: tuple[common.Fraction, ...] = (0.05, 0.10, 0.15)  # linf, of training and of the attacks
    near: common.Fraction = 0.10  # radius of the comparison with near outliers only, one of --radii
    seeds: int = 3
    updates: int = 1500
    batch_size: int = 64
    outlier_batch_size: int = 128
    weight: float = 0.5  # of the outliers' term
    steps: int = 5  # of the training attack, each of 2.5 eps / steps
    judge_steps: int = 40  # of the attacks on the score
    judge_starts: int = 3  # of APGD on the score itself
    outliers: int = 300  # test outliers of each kind
    width: int = 128  # of both hidden layers
    resamples: int = 300  # of the bootstrap
    out: str = "runs/aloe"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse numbers that cannot be meant, before any work."""
        for name in (
            "seeds",
            "updates",
            "batch_size",
            "outlier_batch_size",
            "steps",
            "judge_steps",
            "judge_starts",
            "outliers",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if not self.radii or list(self.radii) != sorted(set(self.radii)) or not 0 < self.radii[0] <= 1:
            raise ValueError(f"--radii is {self.radii}, must rise from above 0")
        if self.near not in self.radii:
            raise ValueError(f"--near is {self.near:g}, must be one of --radii {self.radii}")


PRESETS = {
    "digits": Config(),
    "smoke": Config(
        radii=(0.05, 0.1),
        seeds=2,
        updates=4,
        steps=1,
        judge_steps=2,
        judge_starts=1,
        outliers=20,
        width=8,
        resamples=10,
    ),
}
MAY_DIFFER = ("out", "data_dir", "resamples")


def grid(cfg: Config) -> list[Cell]:
    """List what to train, each setting once; what sees no attack is trained at radius 0."""
    cells = [Cell("far", method, 0.0) for method in ("standard", "oe")]
    cells += [Cell("far", m, e) for e in reversed(cfg.radii) for m in ("adversarial", "aoe", "acet", "aloe")]
    cells += [Cell("near", "oe", 0.0)]
    cells += [Cell("near", method, cfg.near) for method in ("aoe", "acet", "aloe")]
    return cells


def main(cfg: Config) -> int:
    """Train and attack what is missing, then tell."""
    cells, worker = grid(cfg), Worker(cfg)
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, stopping() as stop:
        paths = {cell: run.folder / "cells" / f"{cell.name}.npz" for cell in cells}
        for i, (cell, path) in enumerate(paths.items()):
            if path.exists():
                continue
            runtime.say(f"setting {i + 1} of {len(cells)}: {cell.name}")
            state = worker.fit(cell, stop)
            if state is None:
                runtime.say("stopped; the same command goes on with this setting")
                return stop.exit_code
            runtime.write_whole(path, in_bytes(worker.measured(state), compressed=True))
    arrays = {}
    for cell, path in paths.items():
        with np.load(path) as file:
            arrays[cell] = dict(file)
    results = pages.Results(arrays, SETS, tuple(cfg.radii), cfg.near, cfg.resamples)
    facts = {"made_with": made_with(), "config": plain(cfg), **results.facts()}
    runtime.write_whole(pathlib.Path(cfg.out) / "results.json", json.dumps(facts, indent=1) + "\n")
    for line in results.lines():
        runtime.say(line)
    runtime.say(f"report: {pages.page(cfg, results).write(pathlib.Path(cfg.out) / 'report.html')}")
    return 0


# --- data ---------------------------------------------------------------------------------------------


def scene(cfg: Config, seed: int) -> dict[str, np.ndarray]:
    """Make the data of a seed: digits 0 to 5 in two parts, outliers to train on, outliers to test on."""
    parts = [data.load("digits", split, data_dir=cfg.data_dir) for split in ("train", "validation", "test")]
    index, image, label = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("index", "image", "label")
    )
    image, label = (a[np.argsort(index)] for a in (image.astype(np.float32) / 255, label))
    rng = np.random.default_rng(seed)
    ours = rng.permutation(np.flatnonzero(label < CLASSES))
    train, test = np.split(ours, [round(0.7 * len(ours))])
    near = image[(label == 6) | (label == 7)]
    scrambled = permuted(rng, image[rng.choice(train, 300)])
    noise = rng.uniform(size=(300, 8, 8, 1)).astype(np.float32)
    noise[100:] = stretched(boxed(noise[100:]))
    count = cfg.outliers
    outside = (
        image[(label == 8) | (label == 9)],
        image[test][:, ::-1],
        rng.uniform(size=(count, 8, 8, 1)).astype(np.float32),
        permuted(rng, image[test]),
        stripes(rng, count),
    )
    return {
        "image": image[train],
        "label": label[train].astype(np.int32),
        "far": np.concatenate([near, scrambled, noise]),
        "near": near,
        "test": image[test],
        "test_label": label[test].astype(np.int32),
        "outside": np.stack([images[np.arange(count) % len(images)] for images in outside]),
    }


def permuted(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Shuffle the pixels of every image on its own."""
    return rng.permuted(images.reshape(len(images), -1), axis=1).reshape(images.shape)


def boxed(images: np.ndarray) -> np.ndarray:
    """Blur with a box of 2 x 2 pixels, around the border."""
    return sum(np.roll(images, (i, j), (1, 2)) for i in (0, 1) for j in (0, 1)) / 4  # pyright: ignore


def stretched(images: np.ndarray) -> np.ndarray:
    """Stretch the values of every image to [0, 1]."""
    low, high = images.min((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
    return (images - low) / (high - low)


def stripes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw black and white stripes and chequers: floor((a i + c j) / q) mod 2."""
    a, c, q = (rng.integers(low, high, (count, 1, 1)) for low, high in ((0, 3), (1, 3), (1, 4)))
    row, column = np.arange(8)[:, None], np.arange(8)
    return (((a * row + c * column) // q) % 2).astype(np.float32)[..., None]


# --- training and attacking, all seeds at once --------------------------------------------------------


def network(cfg: Config) -> Model:
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

    def __init__(self, cfg: Config) -> None:
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
            loss = outlier_methods.loss(
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

        def over(side: Literal["up", "down"], x, climbing=()):
            push = robust.up if side == "up" else robust.down

            def search_at(eps, warm):
                if climbing:  # as published, one run with steps of one size
                    return push(self._ascent(eps), score, climbing=climbing)
                return push(
                    apgd(Threat("linf", eps), steps=self.cfg.judge_steps), score, times=self.cfg.judge_starts
                )

            search = robust.over_radii(search_at, self.cfg.radii, side=side)
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


if __name__ == "__main__":
    common.script(main, PRESETS, __doc__)
