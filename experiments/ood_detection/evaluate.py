"""Judge detectors of outliers, and attack their scores on both sides.

    python -m experiments.ood_detection.evaluate standard --runs runs/fashion_aloe --outliers kmnist --out runs/ood
    python -m experiments.ood_detection.evaluate atom --source.checkpoint net.pt --source.architecture resnet18
        --source.normalisation cifar10 --source.dataset cifar10 --outliers dtd --out runs/net_ood

Networks are run folders of ood_detection.train and classification.train, a PyTorch checkpoint or any function. Every
detector is judged on every set of outliers: clean, with data, outliers or both attacked at every radius, under the
worst of all corruptions (--corruption), and around that (--composition). --certify also proves how sure MSP can get;
--sigma also smooths every score by the median of noisy copies, which proves something of any network, in l2.

The folder holds every score in OpenOOD's form, scores/NETWORK/DETECTOR/CASE/SET.npz with conf, pred and label;
metrics.json; and report.html. Killed at any moment it goes on with the scores that are missing. More networks, sets,
detectors, attacks and radii may join a folder later.
"""

import dataclasses
import pathlib
from typing import Literal

from experiments.ood_detection import evaluate_report, score_attacks
from experiments.ood_detection.networks import opened
from experiments.ood_detection.scoring import Copies, Scoring
from experiments.shared import command_line, network_source
from experiments.shared.fields import Fraction
from robustjax import data, runtime
from robustjax.catalog import outlier_sets
from robustjax.catalog.detectors import DETECTORS
from robustjax.data import subsets
from robustjax.runtime.provenance import made_with


@dataclasses.dataclass(frozen=True)
class Config:
    """Judge detectors and attack their scores."""

    runs: tuple[str, ...] = ()  # folders of ood_detection.train or classification.train, on the same data
    source: network_source.Source = network_source.Source()  # a checkpoint or a function instead
    outliers: tuple[str, ...] = ("letters", "noise/uniform")  # to judge on; see catalog.outlier_sets
    detectors: tuple[str, ...] = ("msp",)  # a wrong name lists all
    attacks: tuple[str, ...] = ("adaptive",)  # of adaptive, strong, aloe, atom, atd
    norm: Literal["linf", "l2", "l1"] = "linf"
    radii: tuple[Fraction, ...] = (0.05, 0.1)
    steps: int = 100  # of adaptive and strong
    restarts: int = 1  # random starts of adaptive and strong
    corruption: bool = False  # the worst of 19 corruptions at 5 severities, on both sides
    composition: bool = False  # and the first attack around what they leave, at the largest radius
    certify: bool = False  # interval bounds on MSP
    sigma: float = 0.0  # of the noise of smoothed scores; 0 for none
    smooth_radii: tuple[Fraction, ...] = (
        0.25,
        0.5,
    )  # l2, where smoothed scores are certified and attacked
    copies: int = 1000  # noisy ones of every image
    images: int | None = 500  # test images of data, and of each set of outliers; None for all
    fitted: int = 2000  # training images that detectors are fitted to
    miss: float = 0.05  # share of data that thresholds may reject
    batch_size: int = 250
    resamples: int = 300  # of the bootstrap
    seed: int = 0
    out: str = "runs/eval_ood"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        named = self.source.run or self.source.checkpoint or self.source.function
        if bool(self.runs) == bool(named):
            raise ValueError("--runs and --source: exactly one of them must be given, the networks to judge")
        if named:
            self.source.require()
        for field, known in (("detectors", DETECTORS), ("attacks", score_attacks.KINDS)):
            if unknown := [name for name in getattr(self, field) if name not in known]:
                raise ValueError(f"--{field} has {unknown[0]!r}, must be of {', '.join(known)}")
        if not self.outliers or not self.detectors:
            raise ValueError("--outliers and --detectors are empty, must name at least one each")
        if list(self.radii) != sorted(set(self.radii)) or not all(e > 0 for e in self.radii):
            raise ValueError(f"--radii is {self.radii}, must rise from above 0")
        if self.norm == "linf" and self.radii and self.radii[-1] > 1:
            raise ValueError(f"--radii is {self.radii}, must be at most 1 for images in [0, 1]; write 8/255")
        if self.norm != "linf" and any(kind in score_attacks.PUBLISHED for kind in self.attacks):
            raise ValueError(f"--attacks aloe, atom and atd are linf, --norm is {self.norm}")
        if self.composition and not (self.corruption and self.attacks and self.radii):
            raise ValueError("--composition needs --corruption, an attack and a radius")
        if not 0 <= self.sigma < float("inf") or not all(e > 0 for e in self.smooth_radii):
            raise ValueError(
                f"--sigma is {self.sigma:g} and --smooth-radii {self.smooth_radii}, must be at least 0 and all above 0"
            )
        for name in ("steps", "restarts", "fitted", "batch_size", "resamples", "copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if not 0 < self.miss < 1:
            raise ValueError(f"--miss is {self.miss:g}, must be in (0, 1)")


PRESETS = {
    "standard": Config(),
    "strong": Config(attacks=("strong",), restarts=5),
    "aloe": Config(attacks=("aloe", "adaptive"), radii=(1 / 255,)),
    "atom": Config(attacks=("atom", "adaptive"), radii=(8 / 255,), corruption=True, composition=True),
    "atd": Config(attacks=("atd", "adaptive"), radii=(8 / 255,)),
    "smoke": Config(
        outliers=("letters",), radii=(0.1,), steps=2, images=12, fitted=40, batch_size=12, resamples=10,
        certify=True, sigma=0.2, smooth_radii=(0.1,), copies=40,
    ),
}  # fmt: skip
FREE = ("out", "data_dir", "resamples", "runs", "outliers", "detectors", "attacks", "radii", "corruption",
        "composition", "certify", "batch_size", "smooth_radii")  # fmt: skip


def main(cfg: Config) -> int:
    """Score what is missing, then tell."""
    networks = opened(cfg)
    test = networks[0].test
    sets = {
        "test": test,
        "validation": subsets.first(
            data.load(networks[0].dataset, "validation", data_dir=cfg.data_dir), cfg.images
        ),
        **{
            n: outlier_sets.load(n, test, split="test", data_dir=cfg.data_dir, count=cfg.images)
            for n in cfg.outliers
        },
    }
    with runtime.Run(cfg.out, cfg, may_differ=FREE) as run:
        copies = Copies(cfg, sets)
        total = len(networks) * len(cfg.detectors)
        bar = runtime.progress(
            [(it, name) for it in networks for name in cfg.detectors], total=total, label="detectors"
        )
        for _, (it, name) in bar:
            Scoring(cfg, it, name, run.folder / "scores" / it.name / name, copies).all(sets)
    evaluate_report.tell(cfg, networks, sets, pathlib.Path(cfg.out), made_with())
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
