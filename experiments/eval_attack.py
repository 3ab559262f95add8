r"""Attack a classifier with AutoAttack or a suite of your own: its accuracy, image by image, with pictures.

    python experiments/eval_attack.py standard --source.run runs/mnist --eps 0.3 --images 1000
    python experiments/eval_attack.py standard --source.checkpoint wrn.pt --source.architecture wideresnet28_10 \
        --source.normalisation none --source.dataset cifar10 --eps 8/255
    python experiments/eval_attack.py standard --source.function mypackage.net:logits --source.dataset cifar10 \
        --norm l2 --eps 0.5
    python experiments/eval_attack.py curve --source.run runs/cifar10 --eps 16/255 --radii 8

An image counts as robust if no attack broke it, there or at a smaller radius. Each attack takes the images
still standing, and a killed run goes on where it was when started again with the same --out. The folder gets
verdicts.npz and verdicts.json (every image, every attack), report.html and figures/. --given FOLDER goes on
from an earlier report on the same images: more attacks can only lower the number.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import common
import jax
import jax.numpy as jnp
import numpy as np
import subjects

from robustjax import logit, runtime
from robustjax.attacks import autoattack, health
from robustjax.attacks.autoattack import Trial
from robustjax.attacks.carlini_wagner import carlini_wagner
from robustjax.attacks.ddn import ddn
from robustjax.attacks.deepfool import deepfool
from robustjax.attacks.fab import leads
from robustjax.attacks.fmn import fmn
from robustjax.attacks.spsa import spsa
from robustjax.attacks.steady import steady
from robustjax.data import Split
from robustjax.evaluation import suite
from robustjax.evaluation.verdicts import BROKEN, Verdicts
from robustjax.runtime import figures, grids, ledger
from robustjax.runtime.origin import digest, made_with, plain
from robustjax.runtime.report import Report
from robustjax.runtime.snapshot import Snapshot
from robustjax.runtime.survivors import survivors
from robustjax.threats import Threat
from robustjax.types import Labels, Logits, PerExample


@dataclasses.dataclass(frozen=True)
class Config:
    """Attack a classifier."""

    source: subjects.Source = subjects.Source()
    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: common.Fraction = 0.3  # radius, in units of images in [0, 1]
    radii: int = 1  # points of a curve, evenly up to --eps
    suite: Literal["standard", "plus", "rand", "custom"] = "standard"
    attacks: tuple[
        str, ...
    ] = ()  # of a custom suite, in this order; --help lists none, a wrong name lists all
    steps: int = 100  # of the attacks of a custom suite
    step: common.Fraction = 0.1  # of pgd in a custom suite, as a share of eps
    restarts: int = 1  # of the attacks of a custom suite
    queries: int = 5000  # of square in a custom suite
    compat: Literal["official"] | None = None  # as the authors' code does it, quirks included
    every: bool = (
        False  # run every attack on all images classified correctly, not only on those still standing
    )
    given: str | None = None  # folder of an earlier report on the same images to go on from
    images: int | None = 1000  # the first so many test images, None for all
    share: str | None = (
        None  # "2/8" takes the second of eight parts of the images; merge_reports.py joins them
    )
    batch_size: int = 512  # rows on all devices together
    health: bool = True  # look for signs that the attacks cannot be believed
    seed: int = 0
    out: str | None = (
        None  # where to write; by default a folder named by suite and radius in the run's folder
    )

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        self.source.check()
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


def _pgd(name: str, loss: Callable[..., Any]) -> Callable[[Threat, int, Config], Trial]:
    def build(threat: Threat, classes: int, cfg: Config) -> Trial:
        del classes
        solver = steady(threat, steps=cfg.steps, step_size=cfg.step * threat.eps)
        return Trial(name, solver, lambda z, y, _: loss(z, y), restarts=cfg.restarts)

    return build


def _cross_entropy(logits: Logits, label: Labels, _: Labels) -> PerExample:
    return logit.cross_entropy(logits, label)


def _margin(logits: Logits, label: Labels, _: Labels) -> PerExample:
    return logit.margin(logits, label)


ATTACKS: dict[str, Callable[[Threat, int, Config], Trial]] = {
    "apgd-ce": lambda t, k, c: autoattack.apgd_ce(t, steps=c.steps, restarts=c.restarts, compat=c.compat),
    "apgd-dlr": lambda t, k, c: autoattack.apgd_dlr(
        t, classes=k, steps=c.steps, restarts=c.restarts, compat=c.compat
    ),
    "apgd-t": lambda t, k, c: autoattack.apgd_targeted(
        t, classes=k, steps=c.steps, restarts=c.restarts, compat=c.compat
    ),
    "fab": lambda t, k, c: autoattack.fab_untargeted(t, classes=k, steps=c.steps, restarts=c.restarts),
    "fab-t": lambda t, k, c: autoattack.fab_targeted(t, classes=k, steps=c.steps, restarts=c.restarts),
    "square": lambda t, k, c: autoattack.random_search(t, queries=c.queries, compat=c.compat),
    "pgd-ce": _pgd("pgd-ce", logit.cross_entropy),
    "pgd-margin": _pgd("pgd-margin", logit.margin),
    "pgd-dlr": _pgd("pgd-dlr", logit.dlr),
    "deepfool": lambda t, k, c: Trial(
        "deepfool", deepfool(t, steps=c.steps), lambda z, y, _: leads(z, y), passes=k + 1
    ),
    "ddn": lambda t, k, c: Trial("ddn", ddn(t, steps=c.steps), _cross_entropy),
    "fmn": lambda t, k, c: Trial("fmn", fmn(t, steps=c.steps), _margin),
    "cw": lambda t, k, c: Trial("cw", carlini_wagner(t, searches=5, steps=c.steps), _margin),
    "spsa": lambda t, k, c: Trial(
        "spsa", spsa(t, steps=c.steps, step_size=c.step * t.eps), _margin, passes=257
    ),
}
BLACK_BOX = ("square", "spsa")

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
    it = subjects.opened(cfg.source, cfg.images, cfg.seed)
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
    for i, eps in enumerate(np.linspace(0, cfg.eps, cfg.radii + 1)[1:]):
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
    for row in ledger.rows(curve[-1]):
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
            for e, v in zip(radii_of(cfg), curve, strict=True)
        ],
        "flags": [plain(flag) for flag in flags],
        "made_with": made_with(),
    }
    ledger.write(out, curve[-1], about)
    runtime.say(f"report: {write_page(cfg, it, test, curve, flags, out)}")
    for left in out.glob("progress_*.npz"):
        left.unlink()


def radii_of(cfg: Config) -> np.ndarray:
    """List the radii of the curve."""
    return np.linspace(0, cfg.eps, cfg.radii + 1)[1:]


def listed(threat: Threat, *, classes: int, cfg: Config) -> tuple[Trial, ...]:
    """List the attacks of the suite."""
    if cfg.suite == "custom":
        return tuple(ATTACKS[name](threat, classes, cfg) for name in cfg.attacks)
    version = {"standard": autoattack.standard, "plus": autoattack.plus, "rand": autoattack.rand}[cfg.suite]
    return version(threat, classes=classes, compat=cfg.compat)


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
    report, about = ledger.read(cfg.given)
    for name in ("subject", "norm"):
        if about.get(name) != json.loads(json.dumps(subject[name])):
            raise ValueError(f"--given {cfg.given} has {name} {about.get(name)}, must have {subject[name]}")
    if about["eps"] > cfg.eps:
        raise ValueError(f"--given {cfg.given} is at radius {about['eps']:g}, must be at most {cfg.eps:g}")
    return report


def checked(cfg: Config, it: subjects.Subject, test: Split, report: Verdicts) -> tuple[health.Flag, ...]:
    """Look for signs that the attacks cannot be believed, on the first images classified correctly."""
    found = health.from_outcomes(report.attacks, report.outcome, report.margin, black_box=BLACK_BOX)
    if not cfg.health:
        return tuple(found)
    rows = np.flatnonzero(report.clean == report.label)[:64]
    if len(rows) == 0:
        return tuple(found)
    x, y = jnp.asarray(test.image[rows].astype(np.float32) / 255), jnp.asarray(test.label[rows])
    threat = Threat(cfg.norm, cfg.eps)
    return (
        *health.checks(jax.random.key(cfg.seed), it.network(*it.arguments), x, y, threat),
        *found,
    )


def write_page(
    cfg: Config,
    it: subjects.Subject,
    test: Split,
    curve: list[Verdicts],
    flags: tuple[health.Flag, ...],
    out: pathlib.Path,
) -> pathlib.Path:
    """Write the page a person reads."""
    report, names = curve[-1], test.info.classes
    page = Report(f"{it.title} under attack", cfg)
    robust = report.accuracy()[-1][1]
    page.text(
        f"Robust accuracy {100 * robust.value:.1f} % ({100 * robust.low:.1f} to {100 * robust.high:.1f}) in "
        f"{cfg.norm} at radius {cfg.eps:.4g}: the share of {len(report.label)} test images of {test.info.name} that "
        "no attack broke."
    )
    page.table(
        ledger.rows(report),
        caption="Accuracy after each attack, worst case over those so far; exact 95 % binomial intervals. Each "
        + (
            "attack ran on all images classified correctly."
            if cfg.every
            else "attack ran on what was still standing."
        ),
    )
    if cfg.radii > 1:
        ends = [v.accuracy()[-1][1] for v in curve]
        clean = curve[0].accuracy()[0][1]
        columns = ([100 * getattr(e, n) for e in (clean, *ends)] for n in ("value", "low", "high"))
        line = tuple(np.array(column) for column in columns)
        picture = figures.curves(
            np.array([0.0, *radii_of(cfg)]),
            {"accuracy under attack": line},
            xlabel=f"{cfg.norm} radius",
            ylabel="accuracy, %",
            limits=(0, 102),
        )
        page.picture(picture, caption="Accuracy over the radius, with 95 % intervals.", name="curve")

    page.section("Signs that the attacks cannot be believed")
    raised = [flag for flag in flags if flag.raised]
    page.text(
        f"{len(raised)} of {len(flags)} checks raise a flag; a robustness number with flags is an upper bound that "
        "another attack may well lower."
        if raised
        else f"None of {len(flags)} checks raises a flag."
    )
    if flags:
        page.table(health.rows(flags))

    page.section("Attacked images")
    for number, attack in enumerate(report.attacks):
        rows = np.flatnonzero(report.broken_by == number)[:8]
        if len(rows):
            captions = [f"{names[report.label[i]]} → {names[report.prediction[i]]}" for i in rows]
            drawn = grids.attacked(
                test.image[rows].astype(np.float32) / 255, report.x[rows], captions=captions
            )
            broken = int((report.outcome[number] == BROKEN).sum())
            page.picture(
                drawn,
                caption=f"The first {len(rows)} of {broken} images that {attack} broke.",
                name=f"broken_{attack}",
            )
    near = np.flatnonzero(report.standing)
    near = near[np.argsort(-report.value[near], kind="stable")][:8]
    if len(near):
        captions = [f"{names[report.label[i]]}, margin {-report.value[i]:.2g}" for i in near]
        drawn = grids.attacked(test.image[near].astype(np.float32) / 255, report.x[near], captions=captions)
        page.picture(
            drawn,
            caption="The images still standing that came nearest to breaking: strongest points found and how far "
            "the logit of the label leads there.",
            name="nearest",
        )
    trials = listed(Threat(cfg.norm, cfg.eps), classes=len(names), cfg=cfg)
    notes = [f" ({t.note})" if t.note else "" for t in trials]
    page.scope(
        attacked=[f"{it.title}, {len(test.label)} test images: {json.dumps(it.about)}"],
        attacks=[
            f"{t.name}: {t.solver.length} iterations, {t.runs} run{'s' if t.runs > 1 else ''} per image{note}"
            for t, note in zip(trials, notes, strict=True)
        ],
        not_attacked=[
            "other norms and larger radii",
            "anything adaptive to a defence that transforms, detects or rejects inputs",
            *([] if any(t.name == "square" for t in trials) else ["without gradients"]),
        ],
    )
    return page.write(out / "report.html")


if __name__ == "__main__":
    common.script(main, PRESETS, __doc__)
