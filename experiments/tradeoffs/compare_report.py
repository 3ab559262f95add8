"""The report of tradeoffs.compare: three findings, what was expected, and all numbers."""

from collections.abc import Sequence
from typing import Any

from experiments.tradeoffs.config import HIGH_CONTRAST, LOW_CONTRAST, CompareConfig, Setting
from experiments.tradeoffs.pretrained import Measured
from experiments.tradeoffs.results import Arrays, Results, claims, curve, with_interval
from robustjax import runtime
from robustjax.analysis.linear.measures import measures
from robustjax.analysis.linear.minimiser import minimise
from robustjax.analysis.linear.pair import pair
from robustjax.analysis.linear.theorems import irrepresentable
from robustjax.analysis.measures import MEASURES, estimate
from robustjax.runtime.report import Report
from robustjax.runtime.subplots import Subplot, subplot_grid

FRONTIER = ("clean", "robust", "worst", "rfs")
WITHOUT_BACKGROUNDS = ("clean", "robust", "worst_class", "rfs")  # where the background is not known
CORNER = "Linf radii are shown at the l2 norm of the corner of their ball."


def comparison(cfg: CompareConfig, results: Results, examples: bytes, images: str) -> Report:
    """Write the report for a reader who has not read the papers; `images` says which were evaluated."""
    report = Report("What adversarial training does to shortcuts", cfg)
    report.text(
        "A network can recognise a digit by its shape, or take a shortcut: here every digit lies on a texture that "
        "mostly belongs to its class. Adversarial training hardens a network against small changes of its input. Does "
        "it then look more at the digit, or more at the background? Real digits, artificial backgrounds, "
        f"{cfg.seeds} networks for every setting; shades are 95 % bootstrap intervals over networks and test images."
    )
    report.text(f"Images: {images}.")
    report.picture(
        examples,
        name="examples",
        caption="What the networks see: the same test digits on their own textures, on random ones, and the texture "
        "alone; above a high-contrast background, below a low-contrast one.",
    )
    findings = [finding(results) for finding in (_radii, _correlations, _groups)]
    for number, (sentence, picture, caption) in enumerate((f for f in findings if f), 1):
        report.section(f"{number}. {sentence}")
        report.picture(picture, caption=caption, name=f"picture{number}")
    report.section("What was expected, and what was found")
    rows = [claim.row(results) for claim in claims(results)]
    for row in rows:
        runtime.say(f"{row['outcome']:>15}: {row['claim']}: {row['found']}, expected {row['expected']}")
    report.table(
        rows,
        caption="Differences of accuracies, averaged over networks. The outcome compares the average with what was "
        "expected; where the interval contains the bound, another run may differ.",
    )
    report.section("The same question in the linear theory")
    report.text(
        "With one core and one spurious feature and a linf budget, training relies on the spurious feature exactly "
        "if its scale times its correlation exceeds the core's scale (the irrepresentable condition, a value above "
        "1), at every radius; standard training never does. A feature of large scale is used and one of small scale "
        "is not, as above; which side of 1 a texture lies on cannot be read off its pixels: the two backgrounds only "
        "bracket it."
    )
    report.table(
        _linear(results.correlation),
        caption=f"Correlation {results.correlation:g}, as in the pictures over radii; share of the variance of the "
        "prediction that is due to the spurious feature, from the exact minimisers. tradeoffs.theory draws more.",
    )
    report.section("Accuracy, robustness, worst group and sensitivity over the radius")
    for name, background in (("high", HIGH_CONTRAST), ("low", LOW_CONTRAST)):
        subplots = [
            Subplot(m.title, results.over_radii(background, key), "radius of training in l2", m.unit)
            for key, m in ((key, MEASURES[key]) for key in FRONTIER)
        ]
        report.picture(
            subplot_grid(subplots, across=2),
            name=f"frontier_{name}",
            caption=f"The {name}-contrast background. {CORNER} Foreground sensitivity (RFS) is high where noise on "
            "the digit hurts more than noise on the background. It depends both on where a network looks and on how "
            "much noise it tolerates, so it is not to be read alone.",
        )
    report.section("All settings")
    report.table(
        [_row(setting, arrays) for setting, arrays in results.settings.items()],
        caption="Averages over networks and test images. The worst group is a class on its own or on another "
        "background, in each network by itself; refitted: the last layer fitted again on scenes without the shortcut.",
    )
    report.scope(
        **_scope(
            cfg,
            [f"{len(results.settings)} settings of a small convolutional network, {cfg.seeds} seeds each"],
        )
    )
    return report


def of_pretrained(cfg: CompareConfig, found: Sequence[Measured]) -> Report:
    """Write the report on networks out of run folders and checkpoints."""
    report = Report("What these networks rely on", cfg)
    report.text("Each network is evaluated on the test images of its own data set.")
    report.text(f"Images: {'; '.join(dict.fromkeys(network.images for network in found))}.")
    rows = []
    for network in found:
        known = [m for m in (*WITHOUT_BACKGROUNDS, "overlap") if MEASURES[m].known(network.arrays)]
        rows.append(
            {
                "network": network.name,
                "training": f"{network.norm} {network.eps:.4g}" if network.eps else "clean images",
            }
            | {
                MEASURES[m].title: with_interval(
                    estimate([(1, network.arrays, MEASURES[m])], resamples=cfg.resamples)
                )
                for m in known
            }
        )
    report.table(rows, caption="Means with 95 % bootstrap intervals over test images.")
    norms = list(dict.fromkeys(network.norm for network in found))
    subplots = []
    for measure in (MEASURES[m] for m in WITHOUT_BACKGROUNDS):
        if not all(measure.known(network.arrays) for network in found):
            continue
        lines = {}
        for norm in norms:
            points = [(n.eps, n.arrays) for n in found if n.norm == norm or not n.eps]
            lines[f"{norm} training"] = curve(sorted(points, key=lambda p: p[0]), measure, cfg.resamples)
        subplots.append(Subplot(measure.title, lines, "radius of training", measure.unit))
    report.picture(
        subplot_grid(subplots, across=2),
        name="frontier",
        caption="Over the radius of training; 0 is training on clean images.",
    )
    report.scope(**_scope(cfg, [network.name for network in found]))
    return report


def _linear(correlation: float) -> list[dict[str, Any]]:
    rows = []
    for scale in (0.5, 1.0, 1.5, 2.0, 3.0):
        model = pair(b=scale, rho=min(correlation, 0.999), sigma=0.5)
        value = float(irrepresentable(model)[0])
        shares = {
            f"share at radius {eps:g}": float(
                measures(model, minimise(model, eps, "linf").theta).variance_share
            )
            for eps in (0.0, 0.1, 0.3)
        }
        relies = "relies on it" if value > 1 else "does not"
        rows.append({"spurious / core scale": scale, "condition": value, "theorem": relies, **shares})
    return rows


def _radii(results: Results) -> tuple[str, bytes, str]:
    changes = {}
    for background in (HIGH_CONTRAST, LOW_CONTRAST):
        clean = results.multi(background)
        top = results.largest(results.multi(background, "linf")) or results.largest(clean)
        changes[background] = results.change(top, clean, "gap") if top else "is not known to change"
    subplots = [
        Subplot(
            f"{name}-contrast background",
            results.over_radii(background, "gap"),
            "radius of training in l2",
            "accuracy lost",
        )
        for name, background in (("High", HIGH_CONTRAST), ("Low", LOW_CONTRAST))
    ]
    return (
        f"Adversarial training at large radii {changes[HIGH_CONTRAST]} the reliance on a high-contrast background; it "
        f"{changes[LOW_CONTRAST]} that on a low-contrast one.",
        subplot_grid(subplots, across=2),
        f"How much accuracy is lost when backgrounds no longer match; at 0 the background does not matter. {CORNER}",
    )


def _correlations(results: Results) -> tuple[str, bytes, str] | None:
    subplots = []
    known = sorted(
        s.correlation for s in results.settings if s == results.correlated(s.correlation, results.radius)
    )
    if len(known) < 2:
        return None
    for name, radius in (("Standard training", 0.0), ("Adversarial training", results.radius)):
        points = [(c, results.correlated(c, radius)) for c in known]
        lines = {
            "backgrounds as in training": results.curve(points, "robust"),
            "random backgrounds": results.curve(points, "robust_rand"),
        }
        subplots.append(Subplot(name, lines, "correlation in training", "accuracy under attack", (0, 1)))
    # With a perfect shortcut nothing else is trained at all, so the comparison stops short of 1.
    ends = [results.correlated(c, results.radius) for c in (max([c for c in known if c < 1]), known[0])]
    kept, lost = (results.change(ends[0], ends[1], m) for m in ("robust", "robust_rand"))
    return (
        f"A shortcut {kept} the robustness of adversarially trained networks while it lasts, and {lost} it once it "
        "breaks.",
        subplot_grid(subplots, across=2),
        "Accuracy under attack of networks trained with more or less of a shortcut, on clean images and at l2 "
        f"{results.radius:g}.",
    )


def _groups(results: Results) -> tuple[str, bytes, str] | None:
    last = results.largest(results.binary())
    if last is None:
        return None
    points = [(eps, results.binary("l2", eps)) for eps in (0.0, *results.radii(results.binary()))]
    lines = {
        "as trained": results.curve(points, "worst"),
        "last layer refitted": results.curve(points, "refit"),
    }
    back = results.estimate((1, last, "refit"), (-1, last, "worst"))
    restores = "restores" if back.low > 0 else "does not clearly restore"
    return (
        f"Refitting the last layer on a few images without the shortcut {restores} the accuracy on the worst group "
        "that adversarial training lost.",
        subplot_grid(
            [Subplot("Worst group of two classes", lines, "l2 radius of training", "accuracy", (0, 1))]
        ),
        "Accuracy on the worst combination of class and background: is the digit lost from the features, or ignored?",
    )


def _row(setting: Setting, arrays: Arrays) -> dict[str, Any]:
    facts = {
        "task": setting.task,
        "background": setting.background.scale,
        "correlation": setting.correlation,
        "method": setting.method,
        "radius": f"{setting.norm} {setting.eps:.4g}" if setting.eps else "clean images",
    }
    return facts | {m.title: f"{m.of(arrays):.3f}" if m.known(arrays) else None for m in MEASURES.values()}


def _scope(cfg: CompareConfig, attacked: list[str]) -> dict[str, list[str]]:
    return {
        "attacked": attacked,
        "attacks": [f"{cfg.evaluation.in_words()}, radius {cfg.evaluation.eps:g}"],
        "not_attacked": [
            "other norms and radii than those of the evaluation attack",
            "black-box and minimum-norm attacks",
            "gradient-masking checks",
        ],
    }
