"""What ratio.compare and ratio.evaluate measure of networks: attacks, curves, and counterfactuals."""

import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ratio.config import HARDEST, Measured
from experiments.ratio.networks import Sets
from experiments.ratio.results import APART
from robustjax import data, evaluation, logit, runtime
from robustjax.analysis import counterfactual, frechet
from robustjax.analysis.confidence_curves import class_probabilities_over_radii
from robustjax.attacks import autoattack
from robustjax.bounds.confidence import highest_msp
from robustjax.data import subsets
from robustjax.data.sources import Split
from robustjax.numerics import in_float32
from robustjax.ood.worst_confidence import confidence_over_radii, worst_confidence
from robustjax.threats import Threat
from robustjax.types import Images, Model, Network, frozen

Arrays = dict[str, np.ndarray]
ALL_CLASSES = 4  # OOD images that are turned into every class
HARDEST_IMAGES = 4  # test images that are turned into their own class and into the likeliest other
OTHER_NORMS = 8  # test images for counterfactuals in l1.5 and linf
REFERENCE = 5000  # training images whose features the Frechet distance compares with


class Evaluation:
    """Measures networks of one architecture; every measurement is one compiled program for all of them.

    Args:
      model: the architecture.
      cfg: how many images and steps.
      sets: the images.
      threat: around ID images, of the attacks on accuracy.
      ood_threat: around OOD images, of the searches for high confidence.
    """

    def __init__(
        self, model: Model, cfg: Measured, sets: Sets, *, threat: Threat, ood_threat: Threat
    ) -> None:
        self.model, self.cfg, self.sets = model, cfg, sets
        classes = len(sets.train.info.classes)
        suite = autoattack.standard(threat, classes=classes)
        if cfg.suite == "short":
            suite = (
                autoattack.apgd_ce(threat, classes=classes, steps=cfg.apgd_steps),
                autoattack.apgd_targeted(threat, classes=classes, steps=cfg.targeted_steps),
            )

        def robust(net, keys, x, y):
            return logit.correct(net(autoattack.worst_case(suite)(keys, net, x, y).x), y)

        def worst_case(net, keys, x, y):
            search = worst_confidence(
                ood_threat,
                net,
                steps=cfg.confidence_steps,
                restarts=cfg.confidence_restarts,
                class_steps=cfg.class_steps,
            )
            return search(keys, x).value

        def confidence_curve(net, keys, x, y):
            return confidence_over_radii(net, cfg.radii, steps=cfg.curve_steps)(keys, x).value.T

        def class_curves(net, keys, x, y):
            found = class_probabilities_over_radii(net, y, cfg.radii, steps=cfg.curve_steps)(keys, x)
            return {"true": found.true.T, "other": found.other.T}

        def toward(norm: counterfactual.BallNorm, radii):
            def search(net, keys, x, y):
                best = counterfactual.toward(net, y, radii, norm=norm, steps=cfg.counterfactual_steps)(
                    keys, x
                )
                images = jnp.moveaxis(best.x, 0, 1)
                return {"image": images, "logits": jnp.moveaxis(jax.lax.map(net, best.x), 0, 1)}

            return search

        self._logits = self._compiled(lambda net, keys, x, y: net(x))
        self._robust, self._worst_case = self._compiled(robust), self._compiled(worst_case)
        self._certified = self._compiled(lambda net, keys, x, y: highest_msp(net, ood_threat)(x))
        self._confidence_curve = self._compiled(confidence_curve)
        self._class_curves = self._compiled(class_curves)
        self._counterfactuals = self._compiled(toward("l2", cfg.counterfactual_radii))
        # Balls of other norms, as large as the largest l2 ball along the diagonal.
        features, largest = sets.train.image[0].size, cfg.counterfactual_radii[-1]
        other_radii: dict[counterfactual.BallNorm, float] = {
            "l1.5": largest * features ** (1 / 6),
            "linf": min(1.0, largest * features**-0.5),
        }
        self._other_norms = {
            norm: self._compiled(toward(norm, (0.0, radius))) for norm, radius in other_radii.items()
        }

    def measure(self, network: Network) -> Arrays:
        """Measure a network.

        Returns:
          logits/SPLIT and label/SPLIT of valid and test; logits/OOD of every OOD set.
          robust: (n,) whether a test image is still classified correctly under attack.
          worst_case/OOD: (n,) the highest log odds of the largest probability found around each image.
          certified/OOD: (n,) an upper bound of the log of that probability, where interval bounds exist.
          confidence_curve/OOD: (n, radii) the log odds over radii.
          class_curve/true, class_curve/other: (n, radii) probabilities around test images under attack.
          counterfactual/START: (n, radii, h, w, c); counterfactual_logits/START: (n, radii, k); target/START: (n,).
        """
        cfg, sets = self.cfg, self.sets
        out = {
            "logits/valid": self._logits(sets.valid, network),
            "logits/test": self._logits(sets.test, network),
        }
        out |= {"label/valid": sets.valid.label, "label/test": sets.test.label}
        out["robust"] = self._robust(sets.test, network)
        for name, split in sets.test_ood_sets.items():
            runtime.say(f"  {network.title}: {name}")
            out[f"logits/{name}"] = self._logits(split, network)
            out[f"worst_case/{name}"] = self._worst_case(split, network)
            few = subsets.subset(split, cfg.curve_images)
            out[f"confidence_curve/{name}"] = self._confidence_curve(few, network)
            try:
                out[f"certified/{name}"] = self._certified(split, network)
            except ValueError as error:
                runtime.say(f"  no certificate: {error}")
        few = subsets.subset(sets.test, cfg.curve_images)
        for name, value in self._class_curves(few, network).items():
            out[f"class_curve/{name}"] = value
        starts = self.counterfactual_starts(network)
        for name, split in starts.items():
            runtime.say(f"  {network.title}: counterfactuals from {name}")
            size = min(cfg.evaluation_batch_size, len(starts["test"].label))  # one program for all starts
            out |= _named(name, self._counterfactuals(split, network, size))
            out[f"target/{name}"] = split.label
        few = subsets.subset(starts["test"], f"official:{OTHER_NORMS}")
        for norm, search in self._other_norms.items():
            out |= _named(norm, search(few, network, batch_size=len(few.label)))
        return out

    def counterfactual_starts(self, network: Network) -> dict[str, Split]:
        """Choose where counterfactuals start, and their target classes as labels: the first images of each set.

        The target of a test image is the class after its own, that of an OOD image the class predicted at the start.
        For "all" a few OOD images have every class as target. `hardest` gives the last start, the paper's first figure.
        """
        sets, classes = self.sets, self.sets.train.info.classes
        names = list(sets.test_ood_sets)
        noise = [n for n in names if n.startswith("noise/")]
        chosen = {"test": sets.test} | {
            n: sets.test_ood_sets[n] for n in dict.fromkeys(names[:1] + noise[:1])
        }
        out = {}
        for name, split in chosen.items():
            few = subsets.subset(split, self.cfg.counterfactual_images)
            target = (few.label + 1) % len(classes)
            if name != "test":
                target = self._logits(few, network).argmax(axis=1)
            out[name] = data.of_arrays(few.image, target, name=name, classes=classes)
        few = jnp.asarray(sets.test_ood_sets[names[0]].image[:ALL_CLASSES])
        start, target = counterfactual.to_all_classes(few, len(classes))
        out["all"] = data.of_arrays(np.asarray(start), np.asarray(target), name="all", classes=classes)
        out[HARDEST] = hardest(sets.test, self._logits(sets.test, network), classes)
        return out

    def _compiled(self, fn: Callable) -> Callable:
        """Compile a function of (network, keys, images, labels) for any split and any weights."""

        def one(keys, batch, params, state):
            return fn(frozen(self.model, params, state), keys, batch.image, batch.label)

        run = evaluation.mapped(one)

        def over(split: Split, network: Network, batch_size: int | None = None):
            size = batch_size or min(self.cfg.evaluation_batch_size, len(split.label))
            key = jax.random.key(zlib.crc32(split.info.name.encode()))
            return run(key, data.evaluation(split, batch_size=size), network.params, network.state)

        return over


def hardest(test: Split, logits: np.ndarray, classes: tuple[str, ...]) -> Split:
    """Choose the test images whose class is furthest below another; each twice: with its class, and with that other.

    Those are images that the network gets wrong, where there are some.
    """
    own = np.arange(len(classes)) == test.label[:, None]
    rival = np.where(own, -np.inf, logits)
    margin = np.where(own, logits, -np.inf).max(axis=1) - rival.max(axis=1)
    chosen = np.argsort(margin, kind="stable")[:HARDEST_IMAGES]
    target = np.stack([test.label[chosen], rival[chosen].argmax(axis=1)], axis=1)
    return data.of_arrays(
        np.repeat(test.image[chosen], 2, axis=0), target.reshape(-1), name=HARDEST, classes=classes
    )


def _named(name: str, found: Arrays) -> Arrays:
    # Half the bytes; what is lost is far below a grey level.
    image = found["image"].astype(np.float16)
    return {f"counterfactual/{name}": image, f"counterfactual_logits/{name}": found["logits"]}


def counterfactual_evaluation(network: Network, sets: Sets) -> Callable[[Arrays], Arrays]:
    """Build the evaluation of counterfactuals by another network, which had no part in making them.

    Args:
      network: a robust one: a second plain network is fooled by what fools the first.
      sets: their training images are the reference of the Frechet distance.
    Returns:
      measured arrays -> agreement/START (n, radii), whether the network predicts the target class, and
      frechet/START (radii,), the Frechet distance of its features from those of training images.
    """

    @jax.jit
    @in_float32
    def outputs(x: Images):
        taps = network.model.features(network.params, network.state, x)
        return network.model.apply(network.params, network.state, x)[0], taps[max(taps)]

    def over(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [outputs(jnp.asarray(images[i : i + 500])) for i in range(0, len(images), 500)]
        logits, features = zip(*parts, strict=True)
        return np.concatenate(logits), np.concatenate(features)

    known = subsets.subset(sets.train, REFERENCE).image.astype(np.float32) / 255
    reference = frechet.moments(over(known)[1])

    def evaluate(measured: Arrays) -> Arrays:
        out = {}
        for key in [k for k in measured if k.startswith("target/")]:
            name = key.removeprefix("target/")
            if name in APART:
                continue
            images = np.moveaxis(measured[f"counterfactual/{name}"].astype(np.float32), 1, 0)
            logits, features = zip(*(over(at_radius) for at_radius in images), strict=True)
            out[f"agreement/{name}"] = (np.array(logits).argmax(axis=-1) == measured[key]).T
            out[f"frechet/{name}"] = np.array(
                [frechet.frechet_distance(frechet.moments(f), reference) for f in features]
            )
        return out

    return evaluate
