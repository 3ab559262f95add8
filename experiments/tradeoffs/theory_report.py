"""The page on the theory of spurious features, for a person who need not know the paper."""

import pathlib
from typing import Any

from experiments.tradeoffs.theory_curves import ANCHOR, LOUD, PHASE_EPS
from experiments.tradeoffs.theory_figures import (
    draw_benefit,
    draw_phase,
    draw_share,
    draw_shift,
    draw_weights,
)
from robustjax.runtime.report import Report


def write_page(
    cfg: Any,
    found: dict[str, Any],
    anchors: list[dict[str, Any]],
    trained: list[dict[str, Any]],
    out: pathlib.Path,
) -> pathlib.Path:
    """Write the page a person reads, who need not know the paper."""
    away = max((row["away"] for row in trained), default=float("nan"))
    page = Report("Does robust training lean on spurious features?", cfg)
    page.text(
        "A model shall predict a number from features. The core feature causes it; the spurious feature does not, but "
        "in the training data it goes along with the core one (a cow and its meadow). Plain training with enough "
        "data ignores the spurious feature: it adds nothing. Adversarial training minimises the error after an "
        "adversary has moved the features, within a radius measured in the l1, l2 or linf norm, its budget. "
        "This page shows, for linear models and normally distributed features, that it often does not ignore it."
    )
    page.text(
        "Why: an adversary of radius r adds r times the size of the weights to every error, so training wants small "
        "weights. What the core weight no longer explains, a correlated feature can. How sizes add up depends on the "
        "norm: under l1 and l2 it pays to spread weight over more features; under linf it pays only if "
        "the spurious feature is larger."
    )
    page.text(
        "The setting is that of Moayeri, Banihashem and Feizi (2022, arXiv:2209.07592), who claim that (i) l1 and l2 "
        "training raises reliance on spurious features, (ii) linf training does so only if these have the larger "
        "scale, (iii) which can hurt where the correlation changed. The formulas, conditions, axes and constants of "
        "this page are our own derivation and choice; these are not the paper's figures, and no number is the paper's."
    )
    page.text(
        f"Throughout, unless an axis says otherwise: core scale 1, correlation {cfg.rho:g}, the target is the core "
        f"feature plus noise of deviation {cfg.sigma:g}. Lines and maps are exact, for infinite data."
    )
    page.section("What training converges to")
    page.picture(
        draw_weights(found["weights"], trained),
        name="weights",
        caption="Weights of the core (solid) and spurious feature (dashed) after adversarial training, over its "
        f"radius; axes are ours. Dots are models trained on {cfg.examples} samples against {cfg.steps} steps of PGD: "
        f"the largest distance from a line is {away:.2g}. Under l1 and l2 the spurious weight rises as soon as "
        f"the radius does; under linf only where the spurious scale exceeds 1/rho = {1 / cfg.rho:.3g}.",
    )
    page.table(anchors, caption=f"The same at radius {ANCHOR:g}, with what it means for errors.")
    page.section("How much of the prediction is spurious")
    page.picture(
        draw_share(cfg, found["share"]),
        name="share",
        caption="The share of the prediction's variance that is due to the spurious feature, which unlike the "
        "weights does not depend on units; axes are ours. The radius is given as a share of that at which the best "
        "robust model predicts nothing. Under linf there is a sharp edge where the spurious scale is 1/rho.",
    )
    page.section("What it costs when the correlation changes")
    page.picture(
        draw_shift(cfg, found["shift"]),
        name="shift",
        caption=f"Error on test data that nobody attacks, for a spurious feature of scale {LOUD:g}: the correlation "
        "kept as in training, halved, broken or reversed; axes are ours. The model trained without the spurious "
        "feature and the one trained plainly are the same in every domain. The error always rises from kept to "
        "reversed, if the spurious weight is not zero.",
    )
    page.section("What it brings while the correlation lasts")
    page.picture(
        draw_benefit(found["benefit"]),
        name="benefit",
        caption=f"The least error under attack at radius {ANCHOR:g} that training can reach, spurious scale "
        f"{LOUD:g}; axes are ours. With access to the spurious feature it is lower the stronger the correlation: a "
        "correlation that lasts makes a model more robust. The same model is less robust than one that never "
        "saw the feature as soon as the correlation breaks.",
    )
    page.section("More than one core feature: scale is not the criterion")
    page.picture(
        draw_phase(found["phase"]),
        name="phase",
        caption=f"linf training with two core features; axes are ours. Left, both of coefficient 1, radius "
        f"{PHASE_EPS:g}: "
        "shaded where the solved model uses the spurious feature; the line is where the irrepresentable condition of "
        "the lasso equals 1, b = 1 / (2 correlation). It dips below equal scale. Right, coefficients 1 and -0.3: their "
        "traces in the spurious feature cancel at small radii, whatever its scale; it is used once the smaller "
        "core weight is given up.",
    )
    page.section("How far this goes")
    page.text(
        "Exact: every weight meets its optimality conditions to 1e-9 in double precision, or the script would have "
        "stopped. Assumed: zero-mean jointly Gaussian features, a linear target and model, squared error, infinite "
        "data, one radius for all features. The theory says nothing of networks; it says that robust training "
        "can prefer spurious features even where plain training, given enough data, provably does not."
    )
    return page.write(out / "report.html")
