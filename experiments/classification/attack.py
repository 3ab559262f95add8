r"""Attack a classifier with AutoAttack or a suite of your own: its accuracy, image by image, with pictures.

    python -m experiments.classification.attack standard --source.run runs/mnist --eps 0.3 --images 1000
    python -m experiments.classification.attack standard --source.checkpoint wrn.pt \
        --source.architecture wideresnet28_10 --source.normalisation none --source.dataset cifar10 --eps 8/255
    python -m experiments.classification.attack standard --source.function mypackage.net:logits \
        --source.dataset cifar10 --norm l2 --eps 0.5
    python -m experiments.classification.attack curve --source.run runs/cifar10 --eps 16/255 --radii 8

An image counts as robust if no attack broke it, there or at a smaller radius. Each attack takes the images
still standing, and a killed run goes on where it was when started again with the same --out. The folder gets
verdicts.npz and verdicts.json (every image, every attack), report.html and figures/. --given FOLDER goes on
from an earlier report on the same images: more attacks can only lower the number.
"""

import dataclasses
import json
import pathlib
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.classification.attack_report import write_page
from experiments.classification.cases import ATTACKS, BLACK_BOX, listed
from experiments.shared import command_line, network_source
from experiments.shared.fields import Fraction
from robustjax import runtime
from robustjax.attacks import masking_checks
from robustjax.data import Split
from robustjax.evaluation import suite
from robustjax.evaluation.verdicts import Verdicts
from robustjax.runtime import result_files
from robustjax.runtime.attack_progress import survivors
from robustjax.runtime.provenance import digest, made_with, plain
from robustjax.runtime.snapshot import Snapshot
from robustjax.threats import Threat


@dataclasses.dataclass(frozen=True)
class Config:
    """Attack a classifier."""

    source: network_source.Source = network_source.Source()
    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Fraction = 0.3  # radius, in units of images in [0, 1]
    radii: int = 1  # points of a curve, evenly up to --eps
    suite: Literal["standard", "plus", "rand", "custom"] = "standard"
    attacks: tuple[
        str, ...
    ] = ()  # of a custom suite, in this order; --help lists none, a wrong name lists all
    steps: int = 100  # of the attacks of a custom suite
    step: Fraction = 0.1  # of pgd in a custom suite, as a share of eps
    restarts: int = 1  # of the attacks of a custom suite
    queries: int = 5000  # of square in a custom suite
    compat: Literal["official"] | None = None  # as the authors' code does it, quirks included
    every: bool = (
        False  # run every attack on all images classified correctly, not only on those still standing
    )
    given: str | None = None  # folder of an earlier report on the same images to go on from
    images: int | None = 1000  # the first so many test images, None for all
    share: str | None = (
        None  # "2/8" takes the second of eight parts of the images; classification.merge_reports joins them
    )
    batch_size: int = 512  # rows on all devices together
    health: bool = True  # look for signs that the attacks cannot be believed
    seed: int = 0
    out: str | None = (
        None  # where to write; by default a folder named by suite and radius in the run's folder
    )

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        self.source.require()
        if not self.eps >= 0 or (self.norm == "linf" and self.eps > 1):
            bound = "between 0 and 1" if self.norm == "linf" else "at least 0"
            raise ValueError(f"--eps is {self.eps:g}, must be {bound} for images in [0, 1]; write 8/255")
        for name in ("radii", "steps", "restarts", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if (self.suite == "custom") != bool(self.attacks):
            raise ValueError("--attacks must be given with --suite custom, and only then")
        if unknown := [name for name in self.attacks if name not in ATTACKS]:
            raise ValueError(f"--attacks has {unknown[0]!r}, must be of {', '.join(ATTACKS)}")
        if not self.out and not self.source.run:
            raise ValueError("--out is missing, must be given unless a run folder is judged")
        if self.radii > 1 and self.given:
            raise ValueError("--radii above 1 and --given cannot be combined, must be one of them")
        part(self.share, 1)

    def grid(self) -> np.ndarray:
        """List the radii of the curve."""
        return np.linspace(0, self.eps, self.radii + 1)[1:]


_PGD = ("pgd-ce", "pgd-margin", "pgd-dlr")
PRESETS = {
    "standard": Config(),
    "plus": Config(suite="plus"),
    "rand": Config(suite="rand"),
    "pgd": Config(suite="custom", attacks=_PGD, steps=100, step=0.03, restarts=10),
    "curve": Config(suite="custom", attacks=("apgd-ce", "apgd-t"), radii=10),
    "smoke": Config(
        suite="custom",
        attacks=("pgd-margin", "apgd-t", "square"),
        eps=0.1,
        steps=3,
        step=0.5,
        queries=10,
        radii=2,
        images=40,
        batch_size=32,
        health=False,
    ),
}


def main(cfg: Config) -> None:
    """Attack, check, tabulate, draw."""
    runtime.one_device_per_core()
    it = network_source.opened(cfg.source, cfg.images, cfg.seed)
    test = part(cfg.share, len(it.test.label), it.test)
    name = f"{cfg.suite}_{cfg.norm}_{cfg.eps:.4g}"
    out = pathlib.Path(cfg.out or pathlib.Path(cfg.source.run or "") / "attack" / name)
    out.mkdir(parents=True, exist_ok=True)
    classes, key = len(test.info.classes), jax.random.key(cfg.seed)
    trials = partial(listed, classes=classes, cfg=cfg)
    subject = {"subject": it.about, "data": plain(test.info), "norm": cfg.norm}

    # --- attack ---
    mesh = runtime.data_mesh()
    rows = runtime.over_data(mesh) if mesh.size > 1 else None
    arguments = runtime.place(it.arguments, mesh) if rows else it.arguments
    evaluate = suite.over(it.network, trials, verdict=it.verdict, batch_size=cfg.batch_size, sharding=rows)
    report = earlier(cfg, subject)
    curve: list[Verdicts] = []
    for i, eps in enumerate(cfg.grid()):
        threat = Threat(cfg.norm, float(eps))
        # The settings of an attack are not in the arrays that a snapshot is checked by.
        settings = digest({"config": plain(cfg), **subject}, ("config.out", "config.batch_size"))
        memory = Snapshot(out / f"progress_{settings}_{i}.npz")
        if cfg.radii > 1:
            runtime.say(f"{cfg.norm} radius {eps:.4g}")
        report = evaluate(
            key, test.image, test.label, threat, *arguments,
            index=test.index, given=report, every=cfg.every, memory=memory, watch=survivors(),
        )  # fmt: skip
        curve.append(report)
    flags = checked(cfg, it, test, curve[-1])

    # --- tell ---
    for row in result_files.rows(curve[-1]):
        runtime.say(f"{row['after']:>10}  {row['accuracy %']:6.2f} %  ({row['95 % interval']})")
    for flag in flags:
        if flag.raised:
            runtime.say(f"warning: {flag.name}: {flag.says}")
    about = {
        **subject,
        "eps": cfg.eps,
        "config": plain(cfg),
        "trials": [
            {"name": t.name, "runs": t.runs, "note": t.note} for t in trials(Threat(cfg.norm, cfg.eps))
        ],
        "curve": [
            {"eps": float(e), "robust": float(v.standing.mean())}
            for e, v in zip(cfg.grid(), curve, strict=True)
        ],
        "flags": [plain(flag) for flag in flags],
        "made_with": made_with(),
    }
    result_files.write(out, curve[-1], about)
    runtime.say(f"report: {write_page(cfg, it, test, curve, flags, out)}")
    for left in out.glob("progress_*.npz"):
        left.unlink()


def part(share: str | None, count: int, split: Split | None = None) -> Any:
    """Take a part of the images, named as "2/8"; without a split only check the name."""
    number, _, parts = (share or "1/1").partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise ValueError(f"--share is {share!r}, must be like 2/8: the second of eight parts")
    if split is None:
        return None
    edges = np.linspace(0, count, int(parts) + 1).astype(int)
    rows = slice(edges[int(number) - 1], edges[int(number)])
    return dataclasses.replace(
        split, image=split.image[rows], label=split.label[rows], index=split.index[rows]
    )


def earlier(cfg: Config, subject: dict[str, Any]) -> Verdicts | None:
    """Read the report to go on from, and refuse one about something else or at a larger radius."""
    if not cfg.given:
        return None
    report, about = result_files.read(cfg.given)
    for name in ("subject", "norm"):
        if about.get(name) != json.loads(json.dumps(subject[name])):
            raise ValueError(f"--given {cfg.given} has {name} {about.get(name)}, must have {subject[name]}")
    if about["eps"] > cfg.eps:
        raise ValueError(f"--given {cfg.given} is at radius {about['eps']:g}, must be at most {cfg.eps:g}")
    return report


def checked(
    cfg: Config, it: network_source.Subject, test: Split, report: Verdicts
) -> tuple[masking_checks.Flag, ...]:
    """Look for signs that the attacks cannot be believed, on the first images classified correctly."""
    found = masking_checks.from_outcomes(report.attacks, report.outcome, report.margin, black_box=BLACK_BOX)
    if not cfg.health:
        return tuple(found)
    rows = np.flatnonzero(report.clean == report.label)[:64]
    if len(rows) == 0:
        return tuple(found)
    x, y = jnp.asarray(test.image[rows].astype(np.float32) / 255), jnp.asarray(test.label[rows])
    threat = Threat(cfg.norm, cfg.eps)
    return (
        *masking_checks.checks(jax.random.key(cfg.seed), it.network(*it.arguments), x, y, threat),
        *found,
    )


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
