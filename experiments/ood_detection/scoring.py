"""All scores that `evaluate` judges, clean, attacked, corrupted, smoothed and proved, each kept in a file."""

import dataclasses
import pathlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_detection import score_attacks, smoothed_scores
from experiments.ood_detection.networks import Judged
from robustjax import data, evaluation, runtime
from robustjax.bounds.confidence import highest_msp, lowest_msp
from robustjax.catalog import detectors as outlier_detectors
from robustjax.catalog import outlier_sets
from robustjax.catalog.detectors import DETECTORS, Kit
from robustjax.data import subsets
from robustjax.data.sources import Split
from robustjax.numerics import fold
from robustjax.ood.scores import tap
from robustjax.runtime.snapshot import in_bytes
from robustjax.smoothing.median import certified
from robustjax.threats import Threat
from robustjax.types import Model

SHOWN = 8  # images kept with the scores, to be looked at


class Copies:
    """Corrupted copies of every set, made when first asked for and kept in memory."""

    def __init__(self, cfg: Any, sets: dict[str, Split]) -> None:
        self.cfg, self.sets = cfg, sets
        self.made: dict[str, np.ndarray] = {}

    def of(self, name: str) -> np.ndarray:
        """Return the copies of a set, (95, n, h, w, c)."""
        if name not in self.made:
            cfg = self.cfg
            self.made[name] = score_attacks.corrupted(
                self.sets[name], seed=cfg.seed, batch_size=cfg.batch_size, say=lambda line: None
            )
        return self.made[name]


class Scoring:
    """All scores of one detector of one network, each case and set in a file of its own."""

    def __init__(self, cfg: Any, it: Judged, detector: str, folder: pathlib.Path, copies: Copies) -> None:
        self.cfg, self.it, self.folder, self.copies = cfg, it, folder, copies
        self.how = DETECTORS[detector]
        self.certifies = cfg.certify and detector == "msp"
        if self.how.fit is not None and it.model is None:
            raise ValueError(f"--detectors {detector} reads inner activations, which a function has not")
        self.headed = self.how.headed
        self.names = self._taps()
        self._fitted: Any = None
        self._clean = evaluation.mapped(self._scored)

    def all(self, sets: dict[str, Split]) -> None:
        """Make the files that are missing."""
        cfg = self.cfg
        for name, split in sets.items():
            inside = name in ("test", "validation")
            self._keep("clean", name, split, lambda s=split: self._run(self._clean, s))
            if name == "validation":
                continue
            for kind in cfg.attacks:
                attack, before = evaluation.mapped(partial(self._attacked, kind, inside)), "clean"
                for eps in cfg.radii:
                    case = f"{kind}_{eps:.4g}"
                    self._keep(
                        case, name, split, lambda s=split, a=attack, e=eps: self._run(a, s, jnp.float32(e)),
                        # What was found in a smaller ball lies in this one.
                        before=None if kind in score_attacks.PUBLISHED else before, down=inside,
                    )  # fmt: skip
                    before = case
            if cfg.corruption:
                self._keep("corruption", name, split, lambda s=split, n=name, d=inside: self._worst(n, s, d))
            if cfg.composition:
                self._keep(
                    f"composition_{cfg.radii[-1]:.4g}", name, split,
                    lambda s=split, n=name, d=inside: self._around(n, s, d), before="corruption", down=inside,
                )  # fmt: skip
            if self.certifies:
                for eps in cfg.radii:
                    prove = evaluation.mapped(partial(self._certified, inside))
                    self._keep(
                        f"certified_{eps:.4g}", name, split,
                        lambda s=split, p=prove, e=eps: self._run(p, s, jnp.float32(e)),
                    )  # fmt: skip
            if cfg.sigma:
                self._smoothed(name, split, inside)

    # --- files ----------------------------------------------------------------------------------------

    def _keep(
        self, case: str, name: str, split: Split, make, *, before: str | None = None, down: bool = False
    ):
        path = self.folder / case / f"{name.replace('/', '_').replace(':', '_')}.npz"
        if path.exists():
            return
        found = make()
        if before is not None:
            with np.load(self.folder / before / path.name) as file:
                old = dict(file)
            worse = found["conf"] >= old["conf"] if down else found["conf"] <= old["conf"]
            found["image"] = np.where(worse[:SHOWN, None, None, None], old["image"], found["image"][:SHOWN])
            found |= {n: np.where(worse, old[n], found[n]) for n in ("conf", "pred")}
            found.pop("copies", None)  # of points that may not have been kept
        label = split.label if name in ("test", "validation") else np.full(len(split.label), -1)
        arrays = {**found, "image": found["image"][:SHOWN], "label": label.astype(np.int64)}
        runtime.write_whole(path, in_bytes(arrays, compressed=True))

    def _run(self, measure, split: Split, *rest: Any) -> dict[str, np.ndarray]:
        batches = data.evaluation(split, batch_size=min(self.cfg.batch_size, len(split.label)))
        return measure(jax.random.key(self.cfg.seed), batches, (self.it.arguments, self.fitted), *rest)

    # --- what is computed, per example ----------------------------------------------------------------

    def _kit(self, given) -> Kit:
        arguments, fitted = given
        model, it = self.it.model, self.it
        taps = head = None
        if model is not None:
            params, state = arguments
            taps = partial(_activations, model, params, state, self.names)
            if self.headed:
                head = (params["head"]["kernel"], params["head"]["bias"])
        classes = len(it.test.info.classes)
        return Kit(it.logits(*arguments), taps, head, it.method, classes, fitted)

    def _result(self, kit: Kit, x, conf):
        pred = kit.logits_fn(x)[:, : kit.classes].argmax(axis=-1).astype(jnp.int32)
        return {"conf": conf, "pred": pred, "image": x}

    def _scored(self, keys, batch, given):
        del keys
        kit = self._kit(given)
        return self._result(kit, batch.image, self.how.build(kit)(batch.image))

    def _attacked(self, kind, inside, keys, batch, given, eps):
        cfg, kit = self.cfg, self._kit(given)
        score, around = self.how.build(kit), self.how.around
        found = score_attacks.sides(
            kind,
            kit,
            score,
            around and around(kit),
            norm=cfg.norm,
            eps=eps,
            steps=cfg.steps,
            restarts=cfg.restarts,
        )
        search = found.down if inside else found.up
        if search is None:
            return self._result(kit, batch.image, score(batch.image))
        moved = search(keys, batch.image)
        return self._result(kit, moved.x, moved.value)

    def _certified(self, inside, keys, batch, given, eps):
        del keys
        kit = self._kit(given)
        bound = (lowest_msp if inside else highest_msp)(kit.logits_fn, Threat(self.cfg.norm, eps))
        return self._result(kit, batch.image, bound(batch.image))

    # --- smoothing ------------------------------------------------------------------------------------

    def _smoothed(self, name: str, split: Split, inside: bool) -> None:
        copies, attack = evaluation.mapped(self._copied), evaluation.mapped(partial(self._moved, inside))
        self._keep("smoothed", name, split, lambda: self._medians(self._run(copies, split)))
        for eps in self.cfg.smooth_radii:
            self._keep(
                f"smoothed_{eps:.4g}", name, split,
                lambda e=eps: self._medians(self._run(attack, split, jnp.float32(e))),
                before="smoothed", down=inside,
            )  # fmt: skip

    def _medians(self, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return found | {"conf": certified(found["copies"], radius=0.0, sigma=self.cfg.sigma).value}

    def _copied(self, keys, batch, given):
        kit = self._kit(given)
        scores = smoothed_scores.draws(self.how.build(kit), self.cfg.sigma, self.cfg.copies)
        return self._result(kit, batch.image, jnp.zeros(len(batch.image))) | {
            "copies": scores(keys, batch.image)
        }

    def _moved(self, inside, keys, batch, given, eps):
        cfg = self.cfg
        score = self.how.build(self._kit(given))
        attack = smoothed_scores.moved(score, cfg.sigma, eps, down=inside, steps=cfg.steps)
        batch = batch._replace(image=attack(fold(keys, 1), batch.image))
        return self._copied(keys, batch, given)

    # --- corruption -----------------------------------------------------------------------------------

    def _worst(self, name: str, split: Split, down: bool) -> dict[str, np.ndarray]:
        best = self._run(self._clean, split)
        for copy in self.copies.of(name):
            moved = self._run(self._clean, dataclasses.replace(split, image=copy))
            worse = moved["conf"] < best["conf"] if down else moved["conf"] > best["conf"]
            for part, value in moved.items():
                best[part] = np.where(worse.reshape(-1, *[1] * (value.ndim - 1)), value, best[part])
        return best

    def _around(self, name: str, split: Split, down: bool) -> dict[str, np.ndarray]:
        images = np.rint(255 * self._worst(name, split, down)["image"]).astype(np.uint8)
        attack = evaluation.mapped(partial(self._attacked, self.cfg.attacks[0], down))
        return self._run(attack, dataclasses.replace(split, image=images), jnp.float32(self.cfg.radii[-1]))

    # --- fitting --------------------------------------------------------------------------------------

    def _taps(self) -> tuple[str, ...]:
        if self.it.model is None:
            return ()
        x = jax.ShapeDtypeStruct((2, *self.it.test.image.shape[1:]), jnp.float32)
        names = tuple(jax.eval_shape(self.it.model.features, *self.it.arguments, x))
        params = self.it.arguments[0]
        if self.headed and not (isinstance(params, dict) and "head" in params):
            raise ValueError(
                f"the last layer of {self.it.name} cannot be told apart: no parameters named head"
            )
        return names

    @property
    def fitted(self) -> Any:
        """What the detector was fitted to; () where it needs nothing."""
        if self.how.fit is None:
            return ()
        if self._fitted is None:
            cfg, it = self.cfg, self.it
            train, held = (
                subsets.first(data.load(it.dataset, part, data_dir=cfg.data_dir), count)
                for part, count in (("train", cfg.fitted), ("validation", max(2, cfg.fitted // 4)))
            )
            noise = outlier_sets.load("noise/permuted", held, split="validation")
            taps = [self._activations(split) for split in (train, held, noise)]
            params = it.arguments[0]
            head = (params["head"]["kernel"], params["head"]["bias"]) if self.headed else None
            self._fitted = self.how.fit(outlier_detectors.Seen(taps[0], train.label, taps[1], taps[2], head))
        return self._fitted

    def _activations(self, split: Split) -> dict[str, np.ndarray]:
        def read(keys, batch, given):
            del keys
            taps = self._kit(given).taps
            assert taps is not None
            return taps(batch.image)

        batches = data.evaluation(split, batch_size=min(self.cfg.batch_size, len(split.label)))
        return evaluation.mapped(read)(jax.random.key(0), batches, (self.it.arguments, ()))


def _activations(model: Model, params: Any, state: Any, names: tuple[str, ...], x: Any) -> dict[str, Any]:
    return {name: tap(model, params, state, name)(x) for name in names}
