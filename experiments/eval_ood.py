"""Judge detectors of outliers, and attack their scores on both sides.

    python experiments/eval_ood.py standard --runs runs/fashion_aloe --outliers kmnist --out runs/fashion_ood
    python experiments/eval_ood.py atom --source.checkpoint net.pt --source.architecture resnet18
        --source.normalisation cifar10 --source.dataset cifar10 --outliers dtd --out runs/net_ood

Networks are run folders of train_ood.py and train_classifier.py, a PyTorch checkpoint or any function. Every
detector is judged on every set of outliers: clean, with data, outliers or both attacked at every radius, under the
worst of all corruptions (--corruption), and around that (--composition). --certify also proves how sure MSP can get;
--sigma also smooths every score by the median of noisy copies, which proves something of any network, in l2.

The folder holds every score in OpenOOD's form, scores/NETWORK/DETECTOR/CASE/SET.npz with conf, pred and label;
metrics.json; and report.html. Killed at any moment it goes on with the scores that are missing. More networks, sets,
detectors, attacks and radii may join a folder later.
"""

import dataclasses
import pathlib
from functools import partial
from typing import Any, Literal, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
import outlier_attacks
import outlier_detectors
import outlier_runs
import outlier_sets
import outlier_smoothing
import subjects
from outlier_detectors import DETECTORS, Kit
from pages import ood as pages

from robustjax import data, evaluation, runtime
from robustjax.bounds.confidence import highest_msp, lowest_msp
from robustjax.data.sources import Split
from robustjax.numerics import fold
from robustjax.ood.scores import tap
from robustjax.runtime.origin import made_with
from robustjax.runtime.snapshot import in_bytes
from robustjax.smoothing import median
from robustjax.threats import Threat
from robustjax.types import Model, frozen

SHOWN = 8  # images kept with the scores, to be looked at


@dataclasses.dataclass(frozen=True)
class Config:
    """Judge detectors and attack their scores."""

    runs: tuple[str, ...] = ()  # folders of train_ood.py or train_classifier.py, on the same data
    source: subjects.Source = subjects.Source()  # a checkpoint or a function instead
    outliers: tuple[str, ...] = ("letters", "noise/uniform")  # to judge on; see outlier_sets.py
    detectors: tuple[str, ...] = ("msp",)  # a wrong name lists all
    attacks: tuple[str, ...] = ("adaptive",)  # of adaptive, strong, aloe, atom, atd
    norm: Literal["linf", "l2", "l1"] = "linf"
    radii: tuple[common.Fraction, ...] = (0.05, 0.1)
    steps: int = 100  # of adaptive and strong
    times: int = 1  # random starts of adaptive and strong
    corruption: bool = False  # the worst of 19 corruptions at 5 severities, on both sides
    composition: bool = False  # and the first attack around what they leave, at the largest radius
    certify: bool = False  # interval bounds on MSP
    sigma: float = 0.0  # of the noise of smoothed scores; 0 for none
    smooth_radii: tuple[common.Fraction, ...] = (
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
            self.source.check()
        for field, known in (("detectors", DETECTORS), ("attacks", outlier_attacks.KINDS)):
            if unknown := [name for name in getattr(self, field) if name not in known]:
                raise ValueError(f"--{field} has {unknown[0]!r}, must be of {', '.join(known)}")
        if not self.outliers or not self.detectors:
            raise ValueError("--outliers and --detectors are empty, must name at least one each")
        if list(self.radii) != sorted(set(self.radii)) or not all(e > 0 for e in self.radii):
            raise ValueError(f"--radii is {self.radii}, must rise from above 0")
        if self.norm == "linf" and self.radii and self.radii[-1] > 1:
            raise ValueError(f"--radii is {self.radii}, must be at most 1 for images in [0, 1]; write 8/255")
        if self.norm != "linf" and any(kind in outlier_attacks.PUBLISHED for kind in self.attacks):
            raise ValueError(f"--attacks aloe, atom and atd are linf, --norm is {self.norm}")
        if self.composition and not (self.corruption and self.attacks and self.radii):
            raise ValueError("--composition needs --corruption, an attack and a radius")
        if not 0 <= self.sigma < float("inf") or not all(e > 0 for e in self.smooth_radii):
            raise ValueError(
                f"--sigma is {self.sigma:g} and --smooth-radii {self.smooth_radii}, must be at least 0 and all above 0"
            )
        for name in ("steps", "times", "fitted", "batch_size", "resamples", "copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if not 0 < self.miss < 1:
            raise ValueError(f"--miss is {self.miss:g}, must be in (0, 1)")


PRESETS = {
    "standard": Config(),
    "strong": Config(attacks=("strong",), times=5),
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


class Judged(NamedTuple):
    """A network to judge.

    Attributes:
      name: of its folder of scores.
      model: None where it is a function, which has no inner activations.
      arguments: parameters and state, or nothing.
      logits: (*arguments) -> logits function.
      method: how it was trained.
      test: the data set's test images.
      dataset: where training images come from.
      about: what identifies it.
    """

    name: str
    model: Model | None
    arguments: tuple[Any, ...]
    logits: Any
    method: str
    test: Split
    dataset: str
    about: dict[str, Any]


def main(cfg: Config) -> int:
    """Score what is missing, then tell."""
    networks = opened(cfg)
    test = networks[0].test
    sets = {
        "test": test,
        "validation": common.first(
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
    pages.tell(cfg, networks, sets, pathlib.Path(cfg.out), made_with())
    return 0


def opened(cfg: Config) -> list[Judged]:
    """Open the networks to judge, which must share their data."""
    if not cfg.runs:
        it = subjects.opened(cfg.source, cfg.images, cfg.seed)
        model = None
        if cfg.source.checkpoint:
            model = subjects.imported(cfg.source, it.test).model
        elif cfg.source.run:
            return opened(dataclasses.replace(cfg, runs=(cfg.source.run,), source=subjects.Source()))
        name = pathlib.Path(cfg.source.checkpoint or cfg.source.function or "").stem.replace(":", ".")
        set_name = cfg.source.dataset or ""
        return [Judged(name, model, it.arguments, it.network, "standard", it.test, set_name, it.about)]
    found: list[Judged] = []
    for folder in cfg.runs:
        it = outlier_runs.opened(folder, data_dir=cfg.data_dir)
        dataset = it.config["dataset"]
        if found and dataset != found[0].dataset:
            raise ValueError(f"--runs {folder} is on {dataset}, must be on {found[0].dataset} as the others")
        test = found[0].test if found else common.first(
            data.load(dataset, "test", data_dir=cfg.data_dir or it.config["data_dir"]), cfg.images
        )  # fmt: skip
        about = {"run": folder, "model": it.config["model"], "loss": it.config["loss"], "checkpoint": it.step}
        name = pathlib.Path(folder).name
        if name in [other.name for other in found]:
            raise ValueError(f"--runs has two folders named {name}, must differ in their last part")
        found.append(
            Judged(
                name,
                it.model,
                (it.params, it.state),
                partial(frozen, it.model),
                it.method,
                test,
                dataset,
                about,
            )
        )
    return found


class Copies:
    """Corrupted copies of every set, made when first asked for and kept in memory."""

    def __init__(self, cfg: Config, sets: dict[str, Split]) -> None:
        self.cfg, self.sets = cfg, sets
        self.made: dict[str, np.ndarray] = {}

    def of(self, name: str) -> np.ndarray:
        """Return the copies of a set, (95, n, h, w, c)."""
        if name not in self.made:
            cfg = self.cfg
            self.made[name] = outlier_attacks.corrupted(
                self.sets[name], seed=cfg.seed, batch_size=cfg.batch_size, say=lambda line: None
            )
        return self.made[name]


class Scoring:
    """All scores of one detector of one network, each case and set in a file of its own."""

    def __init__(self, cfg: Config, it: Judged, detector: str, folder: pathlib.Path, copies: Copies) -> None:
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
                        before=None if kind in outlier_attacks.PUBLISHED else before, down=inside,
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
        found = outlier_attacks.sides(
            kind, kit, score, around and around(kit), norm=cfg.norm, eps=eps, steps=cfg.steps, times=cfg.times
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
        return found | {"conf": median.certified(found["copies"], radius=0.0, sigma=self.cfg.sigma).value}

    def _copied(self, keys, batch, given):
        kit = self._kit(given)
        scores = outlier_smoothing.draws(self.how.build(kit), self.cfg.sigma, self.cfg.copies)
        return self._result(kit, batch.image, jnp.zeros(len(batch.image))) | {
            "copies": scores(keys, batch.image)
        }

    def _moved(self, inside, keys, batch, given, eps):
        cfg = self.cfg
        score = self.how.build(self._kit(given))
        attack = outlier_smoothing.moved(score, cfg.sigma, eps, down=inside, steps=cfg.steps)
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
                common.first(data.load(it.dataset, part, data_dir=cfg.data_dir), count)
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


if __name__ == "__main__":
    common.script(main, PRESETS, __doc__)
