"""All scores of one detector of one network: which are missing, and how they are made."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_detection.config import EvaluateConfig, file_name
from robustjax import checks, data, runtime
from robustjax.attacks.flags import Flag
from robustjax.catalog import ood_losses, ood_sets
from robustjax.catalog.score_attacks import NamedAttack, score_attack
from robustjax.catalog.scores import DETECTORS, detector, tunable
from robustjax.data import subsets
from robustjax.data.sources import Split
from robustjax.evaluation import score_cases, score_checks, score_suite, scores
from robustjax.evaluation.detector_search import Validation, in_words, search
from robustjax.evaluation.score_suite import ScoreResults
from robustjax.evaluation.scores import Scorer, Scores, Side
from robustjax.ood.detectors import Detector
from robustjax.runtime import result_files, strict_json
from robustjax.runtime.attack_progress import attack_progress
from robustjax.runtime.provenance import digest, plain
from robustjax.runtime.snapshot import Snapshot
from robustjax.threats import Threat
from robustjax.types import Network

SHOWN = 8  # images kept with the scores, to be looked at
LOOKED_AT = 32  # images of each side that the gradient-masking checks see


class Images(NamedTuple):
    """The images of an evaluation.

    Attributes:
      dataset: the ID data.
      test: their test images.
      validation: held-out ones, which thresholds are calibrated on; None where there are test images only.
      ood: OOD sets by name.
      no_training: why no detector can be fitted; "" if one can.
      fit_sets: load the training and validation images that detectors are fitted to.
      search_ood: OOD validation images that settings are chosen on; None where none are.
      shifted: further ID sets by name, under a covariate shift.
    """

    dataset: str
    test: Split
    validation: Split | None
    ood: dict[str, Split]
    no_training: str
    fit_sets: Callable[[], tuple[Split, Split]]
    search_ood: Split | None = None
    shifted: Mapping[str, Split] = MappingProxyType({})

    @property
    def sets(self) -> dict[str, Split]:
        """All of them by name."""
        held_out = {} if self.validation is None else {"validation": self.validation}
        return {"test": self.test, **held_out, **self.shifted, **self.ood}

    @property
    def tests(self) -> dict[str, Split]:
        """What is tested on, by name."""
        return {"test": self.test, **self.shifted, **self.ood}


def load(cfg: EvaluateConfig, dataset: str, test: Split) -> Images:
    """Load what is there beside the test images."""

    def part(name: str, count: subsets.Wanted) -> tuple[Split | None, str]:
        try:
            return subsets.subset(
                data.load(dataset, name, data_dir=cfg.data_dir, size=cfg.source.size), count
            ), ""
        except ValueError as error:
            return None, str(error)

    validation, why = part("validation", cfg.images)
    fits = any(detector(name).fit is not None for name in cfg.detectors)
    if fits and not why:
        _, why = part("train", cfg.fit_images)
    ood = {
        n: ood_sets.load(n, test, split="test", data_dir=cfg.data_dir, count=cfg.images) for n in cfg.ood_sets
    }
    search_ood = None
    if cfg.search:
        search_ood = ood_sets.load(
            cfg.search_ood, test, split="validation", data_dir=cfg.data_dir, count=cfg.search_images
        )

    def fit_sets() -> tuple[Split, Split]:
        held_out = cfg.search_images if cfg.search else max(2, cfg.fit_images // 4)
        train, validation = (
            subsets.subset(data.load(dataset, part, data_dir=cfg.data_dir, size=cfg.source.size), count)
            for part, count in (("train", cfg.fit_images), ("validation", held_out))
        )
        return train, validation

    return Images(dataset, test, validation, ood, why, fit_sets, search_ood)


def require(cfg: EvaluateConfig, networks: list[Network], images: Images) -> None:
    """Refuse detectors that cannot be had, before any is run.

    Raises:
      ValueError: in one line, if one is fitted to training images that are not there, reads activations that a network
        does not give, or gives anything but one number an image.
    """
    for name in cfg.detectors:
        one = detector(name)
        if one.fit is not None and images.no_training:
            without = ", ".join(n for n, other in DETECTORS.items() if other.fit is None)
            raise ValueError(
                f"--detectors {name} is fitted to training and validation images ({images.no_training}); {without} "
                "need none"
            )
        for network in networks:
            try:
                scores.require(network, one, images.test.image.shape[1:])
            except ValueError as error:
                raise ValueError(f"--detectors {name}: {error}") from None
            if one.fit is None:
                built = scores.DetectorOn(
                    network.model, one, len(images.test.info.classes), _form(network, images)
                )
                score = built(network.params, network.state, ()).score
                checks.score(
                    f"--detectors {name}", score, np.zeros((3, *images.test.image.shape[1:]), np.float32)
                )


def same_network(run: runtime.Run, network: Network, test: Split) -> None:
    """Keep what a network answers on some images; refuse another network of the same name in this folder.

    Raises:
      ValueError: if the answers differ from those that are kept.
    """
    few = jnp.asarray(test.image[:16], jnp.float32) / 255
    now = np.asarray(jax.jit(network.logits_fn)(few))
    kept = run.cached(f"networks/{network.title}", lambda: {"logits": now})["logits"]
    if kept.shape != now.shape or not np.allclose(kept, now, rtol=1e-2, atol=1e-2, equal_nan=True):
        raise ValueError(
            f"{run.folder} holds scores of another network named {network.title}, or on other images; choose another "
            "--out"
        )


class Corrupted:
    """Corrupted copies of every set, made when first asked for and kept in memory for the next detector."""

    def __init__(self, cfg: EvaluateConfig, sets: Mapping[str, Split]) -> None:
        self.cfg, self.sets = cfg, sets
        self.made: dict[str, np.ndarray] = {}

    def of(self, name: str) -> np.ndarray:
        """Return the copies of a set, (5 names, n, h, w, c)."""
        if name not in self.made:
            self.made[name] = scores.corrupted_copies(
                self.sets[name],
                self.cfg.corruption_names,
                seed=self.cfg.seed,
                batch_size=self.cfg.batch_size,
            )
        return self.made[name]


class Scoring:
    """All scores of one detector of one network, each case and set in a file of its own."""

    def __init__(
        self,
        cfg: EvaluateConfig,
        run: runtime.Run,
        images: Images,
        network: Network,
        name: str,
        corrupted: Corrupted,
        *,
        like: "Scoring | None" = None,
    ) -> None:
        """Take the settings and the fit of `like`, if given: those of the same detector on other images."""
        self.like = like
        self.cfg, self.run, self.images, self.network, self.corrupted = cfg, run, images, network, corrupted
        self.name, self.place = name, f"{network.title}/{file_name(name)}"
        self.detector, self.certifies = detector(name), cfg.certify and name == "msp"
        self._scorer: Scorer | None = None
        self._suites: dict[str, Callable[..., ScoreResults]] = {}
        self.mesh = runtime.data_mesh()

    def all(self) -> None:
        """Make the files that are missing."""
        cfg, keep, sets = self.cfg, self._keep, self.images.sets
        for name, split in sets.items():
            keep("clean", name, lambda s=split: self.scorer.clean(s))
        attacked = {name: split for name, split in sets.items() if name != "validation"}
        for attack in cfg.attacks:
            self._attacked(attack, attacked)
        for name, split in attacked.items():
            side: Side = "ood" if name in cfg.ood_sets else "id"
            if cfg.corruption:
                keep("corruption", name, lambda s=split, n=name, d=side: self._worst_corruption(n, s, d))
            for eps in cfg.radii if self.certifies else ():
                threat = Threat(cfg.norm, eps)
                case = f"certified_{eps:.4g}"
                keep(case, name, lambda s=split, t=threat, d=side: self.scorer.certified(s, t, side=d))
            if cfg.sigma:
                self._smoothed(name, split, side)
        if cfg.composition:
            self._composition(attacked)

    @property
    def scorer(self) -> Scorer:
        """The detector, fitted when it is first needed."""
        if self._scorer is None and self.like is not None:
            self._scorer = self.like.scorer
        if self._scorer is None:
            cfg = self.cfg
            chosen, fitted = self._chosen()
            self._scorer = Scorer(
                self.network,
                chosen,
                classes=len(self.images.test.info.classes),
                form=_form(self.network, self.images),
                fitted=fitted,
                batch_size=cfg.batch_size,
                seed=cfg.seed,
            )
        return self._scorer

    def flags(self) -> dict[str, list[Flag]]:
        """Look for masked gradients: in the results of every attack, and by small attacks on a few images."""
        cfg, found = self.cfg, {}
        if not (cfg.masking_checks and cfg.radii):
            return {}
        for attack in cfg.attacks:
            if score_attack(attack).published:
                continue
            curve = [self._results(cfg.attack_case(attack, eps)) for eps in cfg.radii]
            if any(one is None for one in curve):
                continue
            known = [one for one in curve if one is not None]
            found[attack] = [*score_checks.from_results(known[-1]), score_checks.over_radii(known)]
        kept = self.run.folder / f"attacks/{self.place}/masking_checks_{self._settings('few')}.json"
        if not kept.exists():
            test, ood = self.images.test.image, list(self.images.ood.values())
            each = -(-LOOKED_AT // len(ood))
            parts = [test[:LOOKED_AT], *(split.image[:each] for split in ood)]
            few = np.concatenate(parts).astype(np.float32) / 255
            score = self.scorer.system(*self.scorer.arguments).score
            seen = score_checks.checks(
                jax.random.key(cfg.seed),
                score,
                few,
                np.arange(len(few)) < len(parts[0]),
                Threat(cfg.norm, cfg.radii[-1]),
                steps=min(cfg.steps, 50),
            )
            strict_json.write(kept, [plain(flag) for flag in seen])
        found["a few images"] = [Flag(**one) for one in json.loads(kept.read_text())]
        return found

    def _chosen(self) -> tuple[Detector, Any]:
        """Give the detector and what it is fitted to; of a search, that with the settings that were chosen."""
        one = self.detector
        wanted = tunable(self.name, self.cfg.grids) if self.cfg.search else None
        if wanted is None and one.fit is None:
            return one, ()
        train, held_out = self.images.fit_sets()
        noise = ood_sets.load("noise/permuted", held_out, split="validation")
        batch_size = self.cfg.batch_size
        if wanted is not None:
            kept = self.run.folder / f"searches/{self.place}.json"
            if not kept.exists():
                assert self.images.search_ood is not None
                found = search(
                    self.network,
                    wanted.make,
                    wanted.grid,
                    Validation(train, held_out, noise, self.images.search_ood),
                    self.images.tests,
                    by="fpr" if self.cfg.grids == "aloe" else "auroc",
                    batch_size=batch_size,
                )
                runtime.say(in_words(self.name, found))
                facts = {"chosen": found.best._asdict(), "tried": [t._asdict() for t in found.tried]}
                strict_json.write(kept, facts)
                return found.detector, found.fitted
            one = wanted.make(**json.loads(kept.read_text())["chosen"]["settings"])
        return one, scores.fit(self.network, one, train, held_out, noise, batch_size=batch_size)

    def _attacked(self, attack: str, sets: Mapping[str, Split]) -> None:
        """Attack at rising radii; what was found in a smaller ball lies in the larger one."""
        published, smaller = score_attack(attack).published, None
        for eps in self.cfg.radii:
            case = self.cfg.attack_case(attack, eps)
            smaller = self._case(case, attack, eps, sets, given=None if published else smaller)

    def _case(
        self,
        case: str,
        attack: str,
        eps: float,
        sets: Mapping[str, Split],
        *,
        given: ScoreResults | None = None,
    ) -> ScoreResults:
        """Attack the sets that are missing in a case, both sides in the same batches, and keep what was found."""
        numbers = score_suite.numbered({name: len(split.label) for name, split in sets.items()})
        results = self._results(case)
        missing = [n for n in sets if results is None or not np.isin(numbers[n], results.index).all()]
        if missing:
            made = self._run(case, attack, eps, {n: sets[n] for n in missing}, numbers, given)
            results = made if results is None else score_suite.merge([results, made])
            about = {"network": self.network.about, "detector": self.name, "attack": attack, "eps": eps}
            result_files.write_arrays(self._folder(case), results, about)
        assert results is not None
        for name, split in sets.items():
            part = results.part(numbers[name])
            self._keep(case, name, lambda p=part: _scores(p))
            del split
        return results

    def _run(
        self,
        case: str,
        attack: str,
        eps: float,
        sets: Mapping[str, Split],
        numbers: Mapping[str, np.ndarray],
        given: ScoreResults | None,
    ) -> ScoreResults:
        cfg, scorer, mesh = self.cfg, self.scorer, self.mesh
        if attack not in self._suites:
            named = score_attack(attack)
            self._suites[attack] = score_suite.score_suite(
                scorer.system,
                self._cases(named),
                batch_size=cfg.batch_size,
                smallest=min(32, cfg.batch_size),
                sharding=runtime.over_data(mesh) if mesh.size > 1 else None,
                compete=not named.published,
            )
        index = np.concatenate([numbers[n] for n in sets])
        settings = self._settings(case, *sets)
        folder = self._folder(case)
        folder.mkdir(parents=True, exist_ok=True)
        memory = Snapshot(folder / f"progress_{settings}.npz")
        found = self._suites[attack](
            jax.random.key(cfg.seed),
            np.concatenate([split.image for split in sets.values()]),
            np.concatenate([np.full(len(split.label), n not in cfg.ood_sets) for n, split in sets.items()]),
            Threat(cfg.norm, eps),
            *(runtime.place(scorer.arguments, mesh) if mesh.size > 1 else scorer.arguments),
            index=index,
            given=None if given is None else given.part(index),
            memory=memory,
            progress=attack_progress(counts="under attack"),
        )
        memory.remove()
        return found

    def _cases(self, named: NamedAttack) -> score_cases.Chosen:
        system, shape = self.scorer.system, (1, *self.images.test.image.shape[1:])
        logits = jax.eval_shape(self.network.logits_fn, jax.ShapeDtypeStruct(shape, jnp.float32))
        return score_cases.Chosen(
            named.cases,
            logits.shape[-1],
            system.detector.surrogate is not None,
            self.cfg.steps,
            self.cfg.restarts,
        )

    def _worst_corruption(self, name: str, split: Split, side: Side) -> Scores:
        return self.scorer.corrupted(split, list(self.corrupted.of(name)), side=side)

    def _composition(self, sets: Mapping[str, Split]) -> None:
        """Attack around what corruptions leave."""
        cfg = self.cfg
        attack, eps = cfg.attacks[0], cfg.radii[-1]
        case, around = f"composition_{eps:.4g}", {}
        if all((self.run.folder / f"{self._file(case, name)}.npz").exists() for name in sets):
            return
        for name, split in sets.items():
            side: Side = "ood" if name in cfg.ood_sets else "id"
            image = np.rint(255 * self._worst_corruption(name, split, side)["image"]).astype(np.uint8)
            around[name] = dataclasses.replace(split, image=image)
        self._case(case, attack, eps, around)

    def _smoothed(self, name: str, split: Split, side: Side) -> None:
        """Smooth the score, and attack it so."""
        cfg = self.cfg
        noise = {"sigma": cfg.sigma, "samples": cfg.samples}
        self._keep("smoothed", name, lambda: self.scorer.smoothed(split, **noise))
        for eps in cfg.smooth_radii:

            def make(eps: float = eps) -> Scores:
                found = self.scorer.smoothed_attacked(split, eps, **noise, steps=cfg.steps, side=side)
                found["image"] = found["image"][:SHOWN]
                del found["samples"]  # of points that may not be kept
                with np.load(self.run.folder / f"{self._file('smoothed', name)}.npz") as file:
                    return scores.worse(found, dict(file), side=side)

            self._keep(f"smoothed_{eps:.4g}", name, make)

    def _keep(self, case: str, name: str, make: Callable[[], Scores]) -> None:
        """Make the scores of a set in a case and keep them, if they are missing."""

        def whole() -> Scores:
            found = make()
            found["image"] = found["image"][:SHOWN]
            split = self.images.sets[name]
            label = np.full(len(split.label), -1) if name in self.cfg.ood_sets else split.label
            return found | {"label": label.astype(np.int64)}

        self.run.cached(self._file(case, name), whole)

    def _results(self, case: str) -> ScoreResults | None:
        folder = self._folder(case)
        return (
            result_files.read_arrays(folder, ScoreResults)[0] if (folder / "results.npz").exists() else None
        )

    def _settings(self, *more: str) -> str:
        """Hash what progress and checks depend on beside arrays: attacks' settings, the network and the detector."""
        cfg = self.cfg
        settings = {"norm": cfg.norm, "radii": list(cfg.radii), "steps": cfg.steps, "restarts": cfg.restarts}
        return digest({**settings, "network": self.network.about, "detector": self.name, "more": list(more)})

    def _folder(self, case: str) -> pathlib.Path:
        return self.run.folder / f"attacks/{self.place}/{case}"

    def _file(self, case: str, name: str) -> str:
        return f"scores/{self.place}/{case}/{file_name(name)}"


def _scores(part: ScoreResults) -> Scores:
    return {"conf": part.worst, "pred": part.prediction, "confidence": part.confidence, "image": part.x}


def _form(network: Network, images: Images) -> Any:
    return ood_losses.form(network.about["method"], classes=len(images.test.info.classes))
