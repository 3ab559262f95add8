"""Evaluate detectors of OOD images, and attack their scores on both sides.

    python -m experiments.ood_detection.evaluate standard --runs runs/fashion_aloe --ood-sets kmnist --out runs/eval_ood
    python -m experiments.ood_detection.evaluate atom --source.checkpoint net.pt --source.architecture resnet18
        --source.normalisation cifar10 --source.dataset cifar10 --ood-sets dtd --out runs/net_ood

Networks are run folders of ood_detection.train and classification.train, a PyTorch checkpoint or any function. Every
detector is evaluated on every OOD set: clean, with ID images, OOD images or both attacked at every radius, under the
worst of all corruptions (--corruption), and around that (--composition). --certify also bounds MSP over each radius;
--sigma also smooths every score by the median of noisy copies, which certifies any network in l2.

The folder holds every score in OpenOOD's form, scores/NETWORK/DETECTOR/CASE/SET.npz with conf, pred and label;
metrics.json; and report.html. Killed at any moment it goes on with the scores that are missing. More networks, sets,
detectors, attacks and radii may join a folder later.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from experiments.ood_detection import evaluate_report
from experiments.ood_detection.config import EVALUATE_PRESETS as PRESETS
from experiments.ood_detection.config import EvaluateConfig, file_name
from experiments.ood_detection.evaluate_results import Sets
from experiments.ood_detection.networks import Evaluated, evaluated
from experiments.shared import command_line
from robustjax import data, runtime
from robustjax.catalog import ood_losses, ood_sets
from robustjax.catalog.score_attacks import score_attack
from robustjax.catalog.scores import detector
from robustjax.data import subsets
from robustjax.data.sources import Split
from robustjax.evaluation import scores
from robustjax.evaluation.scores import AttackAt, Scorer, Scores, Side
from robustjax.runtime.provenance import made_with
from robustjax.threats import Threat
from robustjax.types import Network

SHOWN = 8  # images kept with the scores, to be looked at
MAY_DIFFER = (
    "out", "data_dir", "resamples", "runs", "ood_sets", "detectors", "attacks", "radii", "corruption",
    "composition", "certify", "batch_size", "smooth_radii",
)  # fmt: skip


def main(cfg: EvaluateConfig) -> int:
    """Compute the scores that are missing, then the metrics and the report."""
    # --- networks and data ---
    it = evaluated(cfg)
    held_out = subsets.first(data.load(it.dataset, "validation", data_dir=cfg.data_dir), cfg.images)
    ood = {
        n: ood_sets.load(n, it.test, split="test", data_dir=cfg.data_dir, count=cfg.images)
        for n in cfg.ood_sets
    }
    sets = {"test": it.test, "validation": held_out, **ood}

    # --- scores ---
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run:
        corrupted = Corrupted(cfg, sets)
        jobs = [(network, name) for network in it.networks for name in cfg.detectors]
        for _, (network, name) in runtime.progress(jobs, total=len(jobs), label="detectors"):
            Scoring(cfg, run, it, network, name, corrupted).all(sets)

    # --- metrics and report ---
    evaluate_report.write(cfg, it.networks, sets, pathlib.Path(cfg.out), made_with())
    return 0


class Corrupted:
    """Corrupted copies of every set, made when first asked for and kept in memory for the next detector."""

    def __init__(self, cfg: EvaluateConfig, sets: Sets) -> None:
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
        it: Evaluated,
        network: Network,
        name: str,
        corrupted: Corrupted,
    ) -> None:
        self.cfg, self.run, self.it, self.network, self.corrupted = cfg, run, it, network, corrupted
        self.folder = f"scores/{network.title}/{file_name(name)}"
        self.detector, self.certifies = detector(name), cfg.certify and name == "msp"
        self.attacks = {name: self._attack(name) for name in cfg.attacks}
        self._scorer: Scorer | None = None

    def all(self, sets: Sets) -> None:
        """Make the files that are missing."""
        cfg, keep = self.cfg, self._keep
        for name, split in sets.items():
            side: Side = "ood" if name in cfg.ood_sets else "id"
            keep("clean", name, split, lambda s=split: self.scorer.clean(s))
            if name == "validation":
                continue
            for attack in cfg.attacks:
                self._attacked(attack, name, split, side)
            if cfg.corruption:
                keep(
                    "corruption", name, split, lambda s=split, n=name, d=side: self._worst_corruption(n, s, d)
                )
            if cfg.composition:
                self._composition(name, split, side)
            for eps in cfg.radii if self.certifies else ():
                threat = Threat(cfg.norm, eps)
                case = f"certified_{eps:.4g}"
                keep(case, name, split, lambda s=split, t=threat, d=side: self.scorer.certified(s, t, side=d))
            if cfg.sigma:
                self._smoothed(name, split, side)

    @property
    def scorer(self) -> Scorer:
        """The detector, fitted when it is first needed."""
        if self._scorer is None:
            cfg, classes = self.cfg, len(self.it.test.info.classes)
            self._scorer = Scorer(
                self.network,
                self.detector,
                classes=classes,
                form=ood_losses.form(self.network.about["method"], classes=classes),
                fitted=self._fitted(),
                batch_size=cfg.batch_size,
                seed=cfg.seed,
            )
        return self._scorer

    def _fitted(self):
        if self.detector.fit is None:
            return ()
        cfg = self.cfg
        train, held_out = (
            subsets.first(data.load(self.it.dataset, part, data_dir=cfg.data_dir), count)
            for part, count in (("train", cfg.fit_images), ("validation", max(2, cfg.fit_images // 4)))
        )
        noise = ood_sets.load("noise/permuted", held_out, split="validation")
        return scores.fit(self.network, self.detector, train, held_out, noise, batch_size=cfg.batch_size)

    def _attack(self, name: str) -> AttackAt:
        attack, cfg = score_attack(name), self.cfg
        return lambda threat, built: attack.build(threat, built, steps=cfg.steps, restarts=cfg.restarts)

    def _attacked(self, attack: str, name: str, split: Split, side: Side) -> None:
        """Attack at rising radii; what was found in a smaller ball lies in the larger one."""
        cfg, smaller = self.cfg, "clean"
        for eps in cfg.radii:
            case, threat = cfg.attack_case(attack, eps), Threat(cfg.norm, eps)
            self._keep(
                case,
                name,
                split,
                lambda t=threat: self.scorer.attacked(split, self.attacks[attack], t, side=side),
                unless_worse=None if score_attack(attack).published else smaller,
                side=side,
            )
            smaller = case

    def _worst_corruption(self, name: str, split: Split, side: Side) -> Scores:
        return self.scorer.corrupted(split, list(self.corrupted.of(name)), side=side)

    def _composition(self, name: str, split: Split, side: Side) -> None:
        """Attack around what corruptions leave."""
        attack, threat = self.attacks[self.cfg.attacks[0]], Threat(self.cfg.norm, self.cfg.radii[-1])

        def make() -> Scores:
            image = np.rint(255 * self._worst_corruption(name, split, side)["image"]).astype(np.uint8)
            around = dataclasses.replace(split, image=image)
            return self.scorer.attacked(around, attack, threat, side=side)

        case = f"composition_{threat.eps:.4g}"
        self._keep(case, name, split, make, unless_worse="corruption", side=side)

    def _smoothed(self, name: str, split: Split, side: Side) -> None:
        """Smooth the score, and attack it so."""
        cfg = self.cfg
        noise = {"sigma": cfg.sigma, "samples": cfg.samples}
        self._keep("smoothed", name, split, lambda: self.scorer.smoothed(split, **noise))
        for eps in cfg.smooth_radii:
            self._keep(
                f"smoothed_{eps:.4g}",
                name,
                split,
                lambda e=eps: self.scorer.smoothed_attacked(split, e, **noise, steps=cfg.steps, side=side),
                unless_worse="smoothed",
                side=side,
            )

    def _keep(
        self,
        case: str,
        name: str,
        split: Split,
        make: Callable[[], Scores],
        *,
        unless_worse: str | None = None,
        side: Side = "id",
    ) -> None:
        """Make the scores of a set in a case and keep them, if they are missing.

        Args:
          case, name, split: the case, and the set with its images.
          make: computes them.
          unless_worse: a case whose scores are kept instead wherever they are as bad for the detector.
          side: what "worse" means.
        """

        def whole() -> Scores:
            found = make()
            found["image"] = found["image"][:SHOWN]
            if unless_worse is not None:
                found.pop("samples", None)  # of points that may not be kept
                with np.load(self.run.folder / f"{self._file(unless_worse, name)}.npz") as file:
                    found = scores.worse(found, dict(file), side=side)
            label = np.full(len(split.label), -1) if name in self.cfg.ood_sets else split.label
            return found | {"label": label.astype(np.int64)}

        self.run.cached(self._file(case, name), whole)

    def _file(self, case: str, name: str) -> str:
        return f"{self.folder}/{case}/{file_name(name)}"


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
