"""The report of tradeoffs.theory, for a reader who need not know the paper."""

import pathlib
from typing import Any

import numpy as np

from experiments.tradeoffs.config import (
    ANCHOR_EPS,
    CORRELATIONS_AT_TEST,
    LARGE_SCALE,
    NORMS,
    PHASE_EPS,
    SCALES,
    TheoryConfig,
)
from robustjax.runtime import figures
from robustjax.runtime.report import Report

CORE, SPURIOUS, _, _, _, _, BLACK = figures.COLOURS


def write_report(
    cfg: TheoryConfig,
    found: dict[str, Any],
    anchors: list[dict[str, Any]],
    trained: list[dict[str, Any]],
    out: pathlib.Path,
) -> pathlib.Path:
    """Write the report, for a reader who need not know the paper."""
    away = max((row["away"] for row in trained), default=float("nan"))
    report = Report("Does adversarial training rely on spurious features?", cfg)
    report.text(
        "A model shall predict a number from features. The core feature causes it; the spurious feature does not, but "
        "in the training data it goes along with the core one (a cow and its meadow). Standard training with enough "
        "data ignores the spurious feature: it adds nothing. Adversarial training minimises the error after an "
        "adversary has moved the features, within a radius measured in the l1, l2 or linf norm, its budget. "
        "This report shows, for linear models and normally distributed features, that it often does not ignore it."
    )
    report.text(
        "Why: an adversary of radius r adds r times the size of the weights to every error, so training wants small "
        "weights. What the core weight no longer explains, a correlated feature can. How sizes add up depends on the "
        "norm: under l1 and l2 it pays to spread weight over more features; under linf it pays only if "
        "the spurious feature is larger."
    )
    report.text(
        "The setting is that of Moayeri, Banihashem and Feizi (2022, arXiv:2209.07592), who claim that (i) l1 and l2 "
        "training raises reliance on spurious features, (ii) linf training does so only if these have the larger "
        "scale, (iii) which can hurt where the correlation changed. The formulas, conditions, axes and constants of "
        "this report are our own derivation and choice: neither figures nor numbers are the paper's."
    )
    report.text(
        f"Throughout, unless an axis says otherwise: core scale 1, correlation {cfg.rho:g}, the target is the core "
        f"feature plus noise of deviation {cfg.sigma:g}. Lines and maps are exact, for infinite data."
    )
    report.section("What training converges to")
    report.picture(
        _weights(found["weights"], trained),
        name="weights",
        caption="Weights of the core (solid) and spurious feature (dashed) after adversarial training, over its "
        f"radius; axes are ours. Dots are models trained on {cfg.examples} samples against {cfg.steps} steps of PGD: "
        f"the largest distance from a line is {away:.2g}. Under l1 and l2 the spurious weight rises as soon as "
        f"the radius does; under linf only where the spurious scale exceeds 1/rho = {1 / cfg.rho:.3g}.",
    )
    report.table(anchors, caption=f"The same at radius {ANCHOR_EPS:g}, with what it means for errors.")
    report.section("How much of the prediction is spurious")
    report.picture(
        _share(cfg, found["share"]),
        name="share",
        caption="The share of the prediction's variance that is due to the spurious feature, which unlike the "
        "weights does not depend on units; axes are ours. The radius is given as a share of that at which the best "
        "robust model predicts nothing. Under linf there is a sharp edge where the spurious scale is 1/rho.",
    )
    report.section("What it costs when the correlation changes")
    report.picture(
        _shift(cfg, found["shift"]),
        name="shift",
        caption=f"Error on test data that nobody attacks, for a spurious feature of scale {LARGE_SCALE:g}: the "
        "correlation kept as in training, halved, broken or reversed; axes are ours. The model trained "
        "without the spurious feature and the one trained on clean data are the same in every domain. The error "
        "always rises from kept to reversed, if the spurious weight is not zero.",
    )
    report.section("What it gains while the correlation lasts")
    report.picture(
        _benefit(found["benefit"]),
        name="benefit",
        caption=f"The least error under attack at radius {ANCHOR_EPS:g} that training can reach, spurious scale "
        f"{LARGE_SCALE:g}; axes are ours. With access to the spurious feature it is lower the stronger the "
        "correlation: a correlation that lasts makes a model more robust. The same model is less robust "
        "than one that never saw the feature as soon as the correlation breaks.",
    )
    report.section("More than one core feature: scale is not the criterion")
    report.picture(
        _phase(found["phase"]),
        name="phase",
        caption=f"linf training with two core features; axes are ours. Left, both of coefficient 1, radius "
        f"{PHASE_EPS:g}: "
        "shaded where the solved model uses the spurious feature; the line is where the irrepresentable condition of "
        "the lasso equals 1, b = 1 / (2 correlation). It dips below equal scale. Right, coefficients 1 and -0.3: their "
        "traces in the spurious feature cancel at small radii, whatever its scale; it is used once the smaller "
        "core weight is given up.",
    )
    report.section("How far this goes")
    report.text(
        "Exact: every weight meets its optimality conditions to 1e-9 in double precision, or the script would have "
        "stopped. Assumed: zero-mean jointly Gaussian features, a linear target and model, squared error, infinite "
        "data, one radius for all features. The theory says nothing of networks; it says that adversarial training "
        "can prefer spurious features even where standard training, given enough data, provably does not."
    )
    return report.write(out / "report.html")


def _weights(found: dict[str, Any], trained: list[dict[str, Any]]) -> bytes:
    """Nine small pictures: coefficients over the radius, dots for trained models."""
    with figures.canvas(figures.WIDTH, 5.6) as (figure, png):
        grid: Any = figure.subplots(3, 3, sharex=True, sharey=True)
        for i, norm in enumerate(NORMS):
            for j, b in enumerate(SCALES):
                axes, theta = grid[i, j], found["theta"][f"{norm} {b:g}"]
                axes.plot(found["eps"], theta[:, 0], color=CORE)
                axes.plot(found["eps"], theta[:, 1], color=SPURIOUS, linestyle=figures.DASHES[1])
                for row in trained:
                    if row["budget"] == norm and row["b"] == b:
                        for weight, colour in zip(row["theta"], (CORE, SPURIOUS), strict=True):
                            axes.plot(row["eps"], weight, "o", markersize=3.5, color=colour, clip_on=False)
                axes.set_ylim(-0.03, 1.03)
                if i == 0:
                    axes.set_title(f"spurious scale {b:g}")
                if i == 2:
                    axes.set_xlabel("radius of training")
                if j == 0:
                    axes.set_ylabel(f"{norm} budget\n\nweight")
        first = grid[0, 0]
        first.text(0.2, 0.82, "core", color=CORE, fontsize=8)
        first.text(0.16, 0.2, "spurious", color=SPURIOUS, fontsize=8)
        first.text(0.62, 0.59, "equal", color="#444444", fontsize=8)
        return png()


def _share(cfg: TheoryConfig, found: dict[str, Any]) -> bytes:
    """Three maps of the spurious share of the variance."""
    with figures.canvas(figures.WIDTH, 2.7) as (figure, png):
        row: Any = figure.subplots(1, 3, sharey=True)
        image: Any = None
        for axes, norm in zip(row, NORMS, strict=True):
            values = found["variance_share"][norm]
            image = axes.pcolormesh(
                found["b"],
                found["depth"],
                values,
                cmap="cividis",
                vmin=0,
                vmax=1,
                shading="gouraud",
                rasterized=True,
            )
            if min(values.shape) > 8:
                lines = axes.contour(
                    found["b"], found["depth"], values, levels=[0.1, 0.5], colors="white", linewidths=0.8
                )
                axes.clabel(lines, fmt="%g", fontsize=7)
            axes.set_xscale("log", base=2)
            axes.set_xticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
            axes.minorticks_off()
            axes.grid(False)
            axes.set(title=f"{norm} budget", xlabel="spurious scale / core scale")
        edge = 1 / cfg.rho
        if edge < found["b"][-1]:
            row[2].axvline(edge, color="white", linestyle=":", linewidth=1.2)
            row[2].text(0.93 * edge, 0.04, f"1/rho = {edge:.3g}", color="white", fontsize=7, ha="right")
        row[2].text(0.33, 0.5, "no reliance\nat any radius", color="white", fontsize=8, va="center")
        row[0].set_ylabel("radius / radius that\nends prediction")
        figure.colorbar(image, ax=row, label="spurious share of variance", aspect=28, pad=0.02)
        return png()


def _shift(cfg: TheoryConfig, found: dict[str, Any]) -> bytes:
    """Errors over the radius in shifted domains."""
    colours = {"1": "#009E73", "0.5": "#56B4E9", "0": "#E69F00", "-1": "#D55E00"}
    with figures.canvas(figures.WIDTH, 2.8) as (figure, png):
        row: Any = figure.subplots(1, 3, sharey=True, sharex=True)
        for axes, norm in zip(row, NORMS, strict=True):
            errors = found["error"][norm]
            for tau, dash in zip(CORRELATIONS_AT_TEST, figures.DASHES, strict=True):
                axes.plot(found["eps"], errors[f"{tau:g}"], color=colours[f"{tau:g}"], linestyle=dash)
            axes.plot(
                found["eps"], errors["core only"], color=BLACK, linewidth=1, label="no spurious feature"
            )
            axes.axhline(
                cfg.sigma**2, color="#777777", linewidth=1, linestyle=(0, (1, 2)), label="standard training"
            )
            axes.set(title=f"{norm} budget", xlabel="radius of training")
        row[0].set_ylabel("mean squared error")
        row[0].set_ylim(0)
        x, errors = 0.55 * found["eps"][-1], found["error"][NORMS[0]]
        for tau, name in CORRELATIONS_AT_TEST.items():
            y = np.interp(x, found["eps"], errors[f"{tau:g}"]) + 0.04
            row[0].text(x, y, name, color=colours[f"{tau:g}"], fontsize=8, va="bottom")
        handles, names = row[0].get_legend_handles_labels()
        figure.legend(handles[-2:], names[-2:], loc="outside lower center", ncols=2)
        return png()


def _benefit(found: dict[str, Any]) -> bytes:
    """Least adversarial risks over the correlation of training."""
    looks = {
        "broken": (SPURIOUS, figures.DASHES[1], "correlation\nbroken at test", (0.3, 1.4)),
        "core_only": (BLACK, figures.DASHES[2], "core feature only", (0.0, 0.85)),
        "preserved": (CORE, "-", "correlation\nkept at test", (0.42, 0.33)),
    }
    with figures.canvas(figures.WIDTH, 2.5) as (figure, png):
        row: Any = figure.subplots(1, 3, sharey=True, sharex=True)
        for axes, norm in zip(row, NORMS, strict=True):
            for name, (colour, dash, _, _) in looks.items():
                axes.plot(found["rho"], found["risk"][norm][name], color=colour, linestyle=dash)
            axes.set(title=f"{norm} budget", xlabel="correlation in training")
        for colour, _, label, place in looks.values():
            row[2].text(*place, label, color=colour, fontsize=8)
        row[0].set_ylabel(f"adversarial risk\nat radius {ANCHOR_EPS:g}")
        row[0].set_ylim(0)
        return png()


def _phase(found: dict[str, Any]) -> bytes:
    """Phase diagrams of a linf budget with two core features."""
    r, b = found["correlation"], found["b"]
    with figures.canvas(figures.WIDTH, 3.1) as (figure, png):
        row: Any = figure.subplots(1, 2, sharey=True)
        left, right = row
        left.pcolormesh(
            r, b, found["alike"], cmap="Blues", vmin=-0.12, vmax=2.2, shading="nearest", rasterized=True
        )
        fine = np.linspace(r[0], r[-1], 200)
        left.plot(fine, np.minimum(1 / (2 * fine), b[-1] + 1), color=BLACK)
        left.axhline(1.0, color="#777777", linewidth=1, linestyle=figures.DASHES[2])
        left.text(r[0] + 0.01, 1.05, "equal scale", fontsize=7, color="#555555", va="bottom")
        left.text(0.5, 2.9, "relies", fontsize=9, ha="center")
        left.text(0.08, 1.45, "does not", fontsize=9, ha="left")
        left.annotate(
            "condition = 1",
            (0.2, 2.5),
            (0.24, 3.55),
            fontsize=8,
            arrowprops={"arrowstyle": "-", "linewidth": 0.7},
        )
        left.set_title("two alike core features")
        image = right.pcolormesh(
            r,
            b,
            found["onset"],
            cmap="viridis_r",
            vmax=found["given_up"],
            shading="nearest",
            rasterized=True,
        )
        right.text(0.08, 1.45, "relies at no radius", fontsize=9, ha="left")
        right.set_title("core features of opposite effect")
        for axes in row:
            axes.set(xlabel="correlation with each core feature", ylim=(b[0], b[-1]), xlim=(r[0], r[-1]))
            axes.grid(False)
        left.set_ylabel("spurious scale / core scale")
        figure.colorbar(image, ax=right, label="smallest radius with reliance")
        return png()
