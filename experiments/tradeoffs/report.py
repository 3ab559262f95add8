"""What the page of tradeoffs.compare says: three findings, what was expected, and all numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.tradeoffs.cells import STRONG, WEAK, Cell
from experiments.tradeoffs.results import Arrays, Results, claims, drawn, written
from robustjax import runtime
from robustjax.analysis.linear.measures import measures
from robustjax.analysis.linear.minimiser import minimise
from robustjax.analysis.linear.pair import pair
from robustjax.analysis.linear.theorems import irrepresentable
from robustjax.analysis.measures import MEASURES, Term, estimate
from robustjax.runtime.report import Report
from robustjax.runtime.subplots import Panel, panels

FRONTIER = ("clean", "robust", "worst", "rfs")
ALIKE = ("clean", "robust", "worst_class", "rfs")  # of networks whose backgrounds nobody planted
CORNER = "Linf radii are drawn at the l2 length of their farthest corner."


def page(cfg: Any, results: Results, examples: bytes) -> Report:
    """Write the page a person reads."""
    sheet = Report("What adversarial training does to shortcuts", cfg)
    sheet.text(
        "A network can recognise a digit by its shape, or take a shortcut: here every digit lies on a texture that "
        "mostly belongs to its class. Adversarial training hardens a network against small changes of its input. Does "
        "it then look more at the digit, or more at the background? Real digits, artificial backgrounds, "
        f"{cfg.seeds} networks for every setting; shades are 95 % bootstrap intervals over networks and test images."
    )
    sheet.picture(
        examples,
        name="examples",
        caption="What the networks see: the same test digits on their own textures, on random ones, and the texture "
        "alone; above a strong background, below a weak one.",
    )
    findings = [told(results) for told in (_radii, _correlations, _groups)]
    for number, (sentence, picture, caption) in enumerate((f for f in findings if f), 1):
        sheet.section(f"{number}. {sentence}")
        sheet.picture(picture, caption=caption, name=f"picture{number}")
    sheet.section("What was expected, and what was found")
    rows = [claim.judged(results) for claim in claims(results)]
    for row in rows:
        runtime.say(f"{row['verdict']:>15}: {row['claim']}: {row['found']}, expected {row['expected']}")
    sheet.table(
        rows,
        caption="Differences of accuracies, averaged over networks. The verdict compares the average with what was "
        "expected; where the interval holds the bound, another run may decide otherwise.",
    )
    sheet.section("The same question in the linear theory")
    sheet.text(
        "With one core and one spurious feature and a linf budget, training leans on the spurious feature exactly "
        "if its scale times its correlation exceeds the core's scale (the irrepresentable condition, a value above "
        "1), at every radius; plain training never does. A strong signal is taken up and a weak one left alone, as "
        "above; which side of 1 a texture lies on cannot be read off its pixels: the two backgrounds only bracket it."
    )
    sheet.table(
        _linear(results.correlation),
        caption=f"Correlation {results.correlation:g}, as in the pictures over radii; share of the variance of the "
        "prediction that is due to the spurious feature, from the exact minimisers. tradeoffs.theory draws more.",
    )
    sheet.section("Accuracy, robustness, worst group and sensitivity over the radius")
    for name, background in (("strong", STRONG), ("weak", WEAK)):
        drawings = [
            Panel(m.title, results.over_radii(background, key), "reach of training (l2)", m.unit)
            for key, m in ((key, MEASURES[key]) for key in FRONTIER)
        ]
        sheet.picture(
            panels(drawings, across=2),
            name=f"frontier_{name}",
            caption=f"The {name} background. {CORNER} Foreground sensitivity (RFS) is high where noise on the digit "
            "hurts more than noise on the background; it mixes where a network looks with how much noise it bears, so "
            "it is not to be read alone.",
        )
    sheet.section("All settings")
    sheet.table(
        [_row(cell, arrays) for cell, arrays in results.cells.items()],
        caption="Averages over networks and test images. The worst group is a class on its own or on another "
        "background, in each network by itself; refitted: the last layer fitted again on scenes without the shortcut.",
    )
    sheet.scope(
        **_scope(
            cfg, [f"{len(results.cells)} settings of a small convolutional network, {cfg.seeds} seeds each"]
        )
    )
    return sheet


def compared(cfg: Any, found: Sequence[tuple[Mapping[str, Any], Arrays]]) -> Report:
    """Write the page about networks that others trained: facts (name, norm, eps) and arrays of each."""
    sheet = Report("What these networks rely on", cfg)
    sheet.text("Each network is judged on the test images of its own data set.")
    rows = []
    for facts, arrays in found:
        known = [MEASURES[m] for m in (*ALIKE, "overlap") if MEASURES[m].known(arrays)]
        terms: list[list[Term]] = [[(1, arrays, m)] for m in known]
        numbers = [written(estimate(term, resamples=cfg.resamples)) for term in terms]
        training = f"{facts['norm']} {facts['eps']:.4g}" if facts["eps"] else "plain"
        rows.append(
            {"network": facts["name"], "training": training}
            | dict(zip((m.title for m in known), numbers, strict=True))
        )
    sheet.table(rows, caption="Means with 95 % bootstrap intervals over test images.")
    norms = list(dict.fromkeys(facts["norm"] for facts, _ in found))
    drawings = []
    for measure in (MEASURES[m] for m in ALIKE if all(MEASURES[m].known(a) for _, a in found)):
        lines = {}
        for norm in norms:
            points = [(f["eps"], a) for f, a in found if f["norm"] == norm or not f["eps"]]
            lines[f"{norm} training"] = drawn(sorted(points, key=lambda p: p[0]), measure, cfg.resamples)
        drawings.append(Panel(measure.title, lines, "radius of training", measure.unit))
    sheet.picture(
        panels(drawings, across=2),
        name="frontier",
        caption="Over the radius of training; 0 is plain training.",
    )
    sheet.scope(**_scope(cfg, [facts["name"] for facts, _ in found]))
    return sheet


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
        leans = "leans on it" if value > 1 else "leaves it alone"
        rows.append({"spurious / core scale": scale, "condition": value, "theorem": leans, **shares})
    return rows


def _radii(results: Results) -> tuple[str, bytes, str]:
    cells = {}
    for b in (STRONG, WEAK):
        top = results.largest(results.multi(b, "linf")) or results.largest(results.multi(b))
        cells[b] = results.change(top, results.multi(b), "gap") if top else "is not known to change"
    drawings = [
        Panel(f"{name} background", results.over_radii(b, "gap"), "reach of training (l2)", "accuracy lost")
        for name, b in (("Strong", STRONG), ("Weak", WEAK))
    ]
    return (
        f"Strong adversarial training {cells[STRONG]} the reliance on a strong background; it {cells[WEAK]} that on a "
        "weak one.",
        panels(drawings, across=2),
        f"How much accuracy is lost when backgrounds no longer match; at 0 the background does not matter. {CORNER}",
    )


def _correlations(results: Results) -> tuple[str, bytes, str] | None:
    drawings = []
    known = sorted(
        c.correlation for c in results.cells if c == results.correlated(c.correlation, results.radius)
    )
    if len(known) < 2:
        return None
    for name, radius in (("Plain training", 0.0), ("Adversarial training", results.radius)):
        points = [(c, results.correlated(c, radius)) for c in known]
        lines = {
            "backgrounds as in training": results.line(points, "robust"),
            "random backgrounds": results.line(points, "robust_rand"),
        }
        drawings.append(Panel(name, lines, "correlation in training", "accuracy under attack", (0, 1)))
    # With a perfect shortcut nothing else is trained at all, so the comparison stops short of 1.
    ends = [results.correlated(c, results.radius) for c in (max([c for c in known if c < 1]), known[0])]
    kept, lost = (results.change(ends[0], ends[1], m) for m in ("robust", "robust_rand"))
    return (
        f"A shortcut {kept} the robustness of adversarially trained networks while it holds, and {lost} it once it "
        "breaks.",
        panels(drawings, across=2),
        "Accuracy under attack of networks trained with more or less of a shortcut, plainly and at l2 "
        f"{results.radius:g}.",
    )


def _groups(results: Results) -> tuple[str, bytes, str] | None:
    last = results.largest(results.binary())
    if last is None:
        return None
    points = [(e, results.binary("l2", e)) for e in (0.0, *results.radii(results.binary()))]
    lines = {
        "as trained": results.line(points, "worst"),
        "last layer refitted": results.line(points, "refit"),
    }
    back = results.estimate((1, last, "refit"), (-1, last, "worst"))
    done = "brings back" if back.low > 0 else "does not clearly bring back"
    return (
        f"Refitting the last layer on a few images without the shortcut {done} the digits that adversarial training "
        "gave up.",
        panels([Panel("Worst group of two classes", lines, "l2 radius of training", "accuracy", (0, 1))]),
        "Accuracy on the worst combination of class and background: is the digit lost from the features, or ignored?",
    )


def _row(cell: Cell, arrays: Arrays) -> dict[str, Any]:
    facts = {
        "task": cell.task,
        "background": cell.background[0],
        "correlation": cell.correlation,
        "method": cell.method,
        "radius": f"{cell.norm} {cell.eps:.4g}" if cell.eps else "plain",
    }
    return facts | {m.title: f"{m.of(arrays):.3f}" if m.known(arrays) else None for m in MEASURES.values()}


def _scope(cfg: Any, attacked: list[str]) -> dict[str, list[str]]:
    return {
        "attacked": attacked,
        "attacks": [f"{cfg.judge.in_words()}, radius {cfg.judge.eps:g}"],
        "not_attacked": [
            "other norms and radii than the judge's",
            "black-box and minimal-norm attacks",
            "gradient-masking checks",
        ],
    }
