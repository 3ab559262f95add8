"""What ratio.compare measures of every network, once, and the judge of its counterfactuals."""

import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ratio.networks import Data, Trainer, network
from robustjax import data, evaluation, logit, runtime, training
from robustjax.analysis import counterfactual, frechet
from robustjax.analysis.confidence_curves import rivals_over_radii
from robustjax.attacks import autoattack
from robustjax.bounds.confidence import highest_msp
from robustjax.data import subsets
from robustjax.data.sources import Split
from robustjax.ood.worst_confidence import confidence_over_radii, worst_confidence
from robustjax.runtime.snapshot import in_bytes
from robustjax.runtime.stopping import Stop
from robustjax.threats import Threat
from robustjax.types import Model, frozen

JUDGE_SEED = 1000
GRID = 4  # outliers that are turned into every class
NORMED = 8  # test images for the other norms


class Worker:
    """Trains and measures; every measurement is one compiled program for all networks."""

    def __init__(self, cfg: Any, sets: Data, folder: pathlib.Path) -> None:
        self.cfg, self.sets = cfg, sets
        self.classes = len(sets.train.info.classes)
        self.model = network(cfg.model, sets.train, cfg.dataset)
        self.trainer = Trainer(cfg, sets, self.model, folder)
        ball, around = Threat("l2", cfg.eps), Threat("l2", cfg.outlier_eps)
        suite = autoattack.standard(ball, classes=self.classes)
        if cfg.suite == "short":
            suite = (
                autoattack.apgd_ce(ball, steps=cfg.judge_steps),
                autoattack.apgd_targeted(ball, classes=self.classes, steps=cfg.target_steps),
            )

        def robust(net, keys, x, y):
            return logit.correct(net(autoattack.worst_case(suite)(keys, net, x, y).x), y)

        def surest(net, keys, x, y):
            search = worst_confidence(
                around, net, steps=cfg.sure_steps, restarts=cfg.sure_starts, class_steps=cfg.class_steps
            )
            return search(keys, x).value

        def curve(net, keys, x, y):
            return confidence_over_radii(net, cfg.radii, steps=cfg.curve_steps)(keys, x).value.T

        def rivals(net, keys, x, y):
            own, other = rivals_over_radii(net, y, cfg.radii, steps=cfg.curve_steps)(keys, x)
            return {"own": own.T, "other": other.T}

        def toward(norm: counterfactual.Ball, radii):
            def found(net, keys, x, y):
                best = counterfactual.toward(net, y, radii, norm=norm, steps=cfg.feature_steps)(keys, x)
                images = jnp.moveaxis(best.x, 0, 1)
                return {"image": images, "logits": jnp.moveaxis(jax.lax.map(net, best.x), 0, 1)}

            return found

        self._logits = self._mapped(lambda net, keys, x, y: net(x))
        self._robust, self._surest, self._curve = (self._mapped(f) for f in (robust, surest, curve))
        self._rivals, self._toward = self._mapped(rivals), self._mapped(toward("l2", cfg.feature_radii))
        self._certified = self._mapped(lambda net, keys, x, y: highest_msp(net, around)(x))
        features, largest = sets.train.image[0].size, cfg.feature_radii[-1]
        others: dict[counterfactual.Ball, float] = {
            "l1.5": largest * features ** (1 / 6),
            "linf": min(1.0, largest * features**-0.5),
        }
        self._others = {norm: self._mapped(toward(norm, (0.0, eps))) for norm, eps in others.items()}

    def measured(self, method: str, seed: int, stop: Stop) -> dict[str, np.ndarray] | None:
        """Train a network and measure it; None if asked to stop before the end."""
        state = self.trainer.fit(method, seed, stop)
        if state is None:
            return None
        cfg, sets, own = self.cfg, self.sets, training.for_evaluation(state)
        out = {"logits/valid": self._logits(sets.valid, own), "logits/test": self._logits(sets.test, own)}
        out |= {"label/valid": sets.valid.label, "label/test": sets.test.label}
        out["robust"] = self._robust(sets.test, own)
        for name, split in sets.tested.items():
            runtime.say(f"  {method} {seed}: {name}")
            out[f"logits/{name}"] = self._logits(split, own)
            out[f"worst/{name}"] = self._surest(split, own)
            out[f"curve/{name}"] = self._curve(subsets.first(split, cfg.curve_images), own)
            try:
                out[f"certified/{name}"] = self._certified(split, own)
            except ValueError as error:
                runtime.say(f"  no certificate: {error}")
        for name, value in self._rivals(subsets.first(sets.test, cfg.curve_images), own).items():
            out[f"rivals/{name}"] = value
        for name, split in self.starts(own).items():
            runtime.say(f"  {method} {seed}: counterfactuals from {name}")
            found = self._toward(split, own)
            out |= {f"features/{name}": found["image"].astype(np.float16), f"toward/{name}": found["logits"]}
            out[f"target/{name}"] = split.label
        few = subsets.first(self.starts(own)["test"], NORMED)
        for norm, search in self._others.items():
            found = search(few, own, batch_size=len(few.label))
            out |= {f"features/{norm}": found["image"].astype(np.float16), f"toward/{norm}": found["logits"]}
        leaves = jax.tree.leaves(own)
        return out | {f"weights/{i:04d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}

    def starts(self, own: Any) -> dict[str, Split]:
        """Say where counterfactuals start, and the targets as labels: the first images of each set.

        Test images aim at the class after their own, outliers at the class that they look like at the start, and
        for "all" a few outliers at every class.
        """
        cfg, classes = self.cfg, self.sets.train.info.classes
        names = list(self.sets.tested)
        noise = [n for n in names if n.startswith("noise/")]
        chosen = {"test": self.sets.test} | {
            n: self.sets.tested[n] for n in dict.fromkeys(names[:1] + noise[:1])
        }
        out = {}
        for name, split in chosen.items():
            few = subsets.first(split, cfg.feature_images)
            target = (few.label + 1) % len(classes)
            if name != "test":
                target = self._logits(few, own).argmax(axis=1)
            out[name] = data.of_arrays(few.image, target, name=name, classes=classes)
        grid = np.repeat(self.sets.tested[names[0]].image[:GRID], len(classes), axis=0)
        every = np.tile(np.arange(len(classes)), len(grid) // len(classes))
        return out | {"all": data.of_arrays(grid, every, name="all", classes=classes)}

    def _mapped(self, fn: Callable) -> Callable:
        """Run a function of (network, keys, images, labels) over a split."""

        def one(keys, batch, params, state):
            return fn(frozen(self.model, params, state), keys, batch.image, batch.label)

        run = evaluation.mapped(one)

        def over(split: Split, own: Any, batch_size: int | None = None):
            size = batch_size or min(self.cfg.judge_batch, len(split.label))
            key = jax.random.key(zlib.crc32(split.info.name.encode()))
            return run(key, data.evaluation(split, batch_size=size), *own)

        return over


class Judge:
    """A robust network of another architecture and seed, which has no part in making what it judges."""

    def __init__(self, cfg: Any, sets: Data, folder: pathlib.Path, worker: Worker) -> None:
        self.cfg, self.sets, self.path = cfg, sets, folder / "judge.npz"
        self._trainer = worker.trainer
        if cfg.judge_model != cfg.model:
            model = network(cfg.judge_model, sets.train, cfg.dataset)
            self._trainer = Trainer(cfg, sets, model, folder)
        self.model = self._trainer.model
        self._own: Any = None

    def ready(self, stop: Stop) -> bool:
        """Train it, or read it; False if asked to stop before the end."""
        if not self.path.exists():
            runtime.say(f"the judge: adversarial training of {self.cfg.judge_model}")
            state = self._trainer.fit("at", JUDGE_SEED, stop)
            if state is None:
                return False
            leaves = jax.tree.leaves(training.for_evaluation(state))
            runtime.write_whole(
                self.path, in_bytes({f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(leaves)})
            )
        like = jax.eval_shape(self.model.init, jax.random.key(0))
        with np.load(self.path) as file:
            leaves = [jnp.asarray(file[name]) for name in sorted(file.files)]
        self._own = jax.tree.unflatten(jax.tree.structure(like), leaves)
        params, state = self._own
        self._seen = jax.jit(
            lambda x: (self.model.apply(params, state, x)[0], _deepest(self.model, params, state, x))
        )
        return True

    def looked(self, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Say which counterfactuals it puts into their target class, and how far their features are from the data's.

        `judged/NAME` is (seeds, images, radii), `frechet/NAME` (seeds, radii).
        """
        rows = self.sets.train.image[:5000].astype(np.float32) / 255
        reference = frechet.moments(self._over(rows)[1])
        out = {}
        for key in [k for k in found if k.startswith("target/") and k != "target/all"]:
            name = key.removeprefix("target/")
            images = np.moveaxis(found[f"features/{name}"].astype(np.float32), 2, 1)  # seeds, radii, n, ...
            seen = [[self._over(x) for x in one] for one in images]
            logits = np.array([[z for z, _ in one] for one in seen])
            features = [[f for _, f in one] for one in seen]
            hit = logits.argmax(axis=-1) == found[key][:, None]
            out[f"judged/{name}"] = np.moveaxis(hit, 1, 2)
            out[f"frechet/{name}"] = np.array(
                [[frechet.frechet_distance(frechet.moments(f), reference) for f in one] for one in features]
            )
        return out

    def _over(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [self._seen(jnp.asarray(images[i : i + 500])) for i in range(0, len(images), 500)]
        logits, features = zip(*parts, strict=True)
        return np.concatenate(logits), np.concatenate(features)


def _deepest(model: Model, params: Any, state: Any, x):
    taps = model.features(params, state, x)
    return taps[max(taps)]
