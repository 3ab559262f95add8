"""The trainings of ood_detection.compare and the attacks on them, all seeds of a setting at once, and their data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_detection.config import CompareConfig, Setting
from robustjax import data, logit, optimizers, runtime, training
from robustjax.attacks import apgd, compose, objectives, pgd
from robustjax.attacks.square import square
from robustjax.catalog import ood_losses
from robustjax.losses import confidences
from robustjax.models import small
from robustjax.ood import logit_scores, score_attacks, surrogates
from robustjax.ood.scores import scored
from robustjax.runtime.stopping import Stop
from robustjax.threats import Threat
from robustjax.types import Batch, Model, Pair, frozen

SETS = ("digits 8 and 9", "flipped", "uniform noise", "permuted", "stripes")
CLASSES = 6


# --- networks -----------------------------------------------------------------------------------------


def network(cfg: CompareConfig) -> Model:
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


class Trainer:
    """Trains and attacks all seeds of a setting at once; settings that differ in their radius share a program."""

    def __init__(self, cfg: CompareConfig) -> None:
        self.cfg, self.model = cfg, network(cfg)
        seeds = [images_of(cfg, seed) for seed in range(cfg.seeds)]
        self.data = {name: jnp.asarray(np.stack([one[name] for one in seeds])) for name in seeds[0]}
        self.tx = optimizers.sgd(optimizers.cosine(0.1, cfg.updates), weight_decay=1e-4)
        self._programs: dict[str, Callable] = {}
        self._start = jax.jit(
            jax.vmap(lambda seed: training.start(jax.random.key(seed), self.model, self.tx))
        )
        self._measure = jax.jit(jax.vmap(self._one_seed))

    def fit(self, setting: Setting, stop: Stop) -> training.TrainState | None:
        """Train all seeds of a setting; None if asked to stop before the end."""
        cfg = self.cfg
        if setting.method not in self._programs:
            self._programs[setting.method] = jax.jit(self._trained(setting.method), donate_argnums=0)
        some = min(50, cfg.updates)
        images = {"image": self.data["image"], "label": self.data["label"], "ood": self.data[setting.ood]}
        rounds = -(-cfg.updates // some)

        def update(state: training.TrainState, _: int) -> tuple[training.TrainState, dict[str, jax.Array]]:
            state, loss = self._programs[setting.method](state, images, jnp.float32(setting.eps))
            return state, {"loss": loss.mean()}

        fitted = runtime.fit(
            update, self._start(jnp.arange(cfg.seeds)), lambda begin, _: range(begin, rounds),
            total=rounds, stop=stop, record_every=1,
        )  # fmt: skip
        return None if fitted.exit_code else fitted.state

    def attacked(self, state: training.TrainState) -> dict[str, np.ndarray]:
        """Attack the score at every radius: arrays that lead with the seeds."""
        keys = jax.random.split(jax.random.key(1), self.cfg.seeds)
        test = (self.data[name] for name in ("test", "test_label", "outside"))
        return {name: np.asarray(value) for name, value in self._measure(state.params, keys, *test).items()}

    def _trained(self, method: str) -> Callable:
        cfg = self.cfg

        def some(state, images, eps):
            ascent = pgd(Threat("linf", eps), steps=cfg.steps, step_size=2.5 * eps / cfg.steps)
            given = ood_losses.LossInputs(self.model, CLASSES, ascent, ascent, weight=cfg.weight)
            if method == "acet":
                given = given._replace(penalty=confidences.ce_to_uniform)
            update = training.step(ood_losses.loss(method, given), self.tx)

            def one(state, _):
                first, second = jax.random.split(
                    jax.random.fold_in(jax.random.fold_in(state.key, 7), state.step)
                )
                rows = jax.random.randint(first, (cfg.batch_size,), 0, len(images["label"]))
                odd = jax.random.randint(second, (cfg.ood_batch_size,), 0, len(images["ood"]))
                batch = Batch(images["image"][rows], images["label"][rows])
                state, metrics = update(state, Pair(batch, images["ood"][odd]))
                return state, metrics["loss"]

            state, losses = jax.lax.scan(one, state, length=min(50, cfg.updates))
            return state, losses[-1]

        def all_seeds(state, images, eps):
            return jax.vmap(lambda s, i: some(s, i, eps))(state, images)

        return all_seeds

    def _one_seed(self, params, key, test, label, outside) -> dict[str, Any]:
        logits_fn = frozen(self.model, params, {})
        score = scored(logits_fn, logit_scores.msp_margin)
        many = outside.reshape(-1, *outside.shape[2:])
        keys = jax.random.split(key, 3)

        def over(direction: score_attacks.Direction, x, surrogates=()):
            attack = score_attacks.raised if direction == "raise" else score_attacks.lowered

            def search_at(eps, warm):
                if surrogates:  # as published, one run with steps of one size
                    return attack(self._ascent(eps), score, surrogates=surrogates)
                threat = Threat("linf", eps)
                by_gradient = attack(
                    apgd(threat, steps=self.cfg.evaluation_steps),
                    score,
                    restarts=self.cfg.evaluation_restarts,
                )
                # Gradients of a score that was trained against attacks may vanish.
                blind = attack(square(threat, queries=self.cfg.queries), score)
                worst = score_attacks.highest if direction == "raise" else score_attacks.lowest
                return worst(by_gradient, blind)

            search = score_attacks.over_radii(search_at, self.cfg.radii, direction=direction)
            return search(keys[0] if direction == "raise" else keys[1], x)

        lowered, raised = over("lower", test), over("raise", many)

        def negative(x):
            return -score(x)

        others = {
            "lowered_pgd": over("lower", test, [negative]).value,
            "raised_pgd": over("raise", many, [score]).value,
            "lowered_uniform": over("lower", test, [surrogates.toward_uniform(logits_fn)]).value,
            "raised_uniform": over("raise", many, [objectives.ce_to_uniform(logits_fn)]).value,
            "raised_entropy": over("raise", many, [surrogates.certain(logits_fn)]).value,
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
        steps = self.cfg.evaluation_steps
        return pgd(Threat("linf", eps), steps=steps, step_size=2.5 * eps / steps)


# --- data ---------------------------------------------------------------------------------------------


def images_of(cfg: CompareConfig, seed: int) -> dict[str, np.ndarray]:
    """Make the data of a seed: digits 0 to 5 in two parts, OOD images to train on, OOD images to test on."""
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
    count = cfg.ood_images
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
