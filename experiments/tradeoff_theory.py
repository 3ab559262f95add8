"""The theory of adversarial training and spurious features, drawn from its formulas.

    python experiments/tradeoff_theory.py

Linear regression on Gaussian features, one of them spurious: what adversarial training under an l1, l2 or linf
budget converges to, how much of it rests on the spurious feature, what that costs where the correlation breaks and
what it brings where it lasts. Everything is exact but the dots, which are linear models trained against PGD
on samples. Takes about a minute of CPU time and writes report.html, results.json and figures/ to --out.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import common
import jax
import numpy as np

from robustjax import runtime
from robustjax.analysis.linear import pair, sampled, theorems
from robustjax.analysis.linear.gaussian import Gaussian, core_only, gaussian
from robustjax.analysis.linear.measures import measures
from robustjax.analysis.linear.minimiser import Solution, minimise, thresholds
from robustjax.numerics import Norm
from robustjax.runtime import figures
from robustjax.runtime.files import write_whole
from robustjax.runtime.origin import made_with, plain
from robustjax.runtime.report import Report

KINDS: tuple[Norm, ...] = ("l1", "l2", "linf")
SCALES = (0.5, 1.0, 2.0)  # of the spurious feature; the core feature has 1
LOUD = 2.0  # the spurious scale of the figures on shift and benefit
ANCHOR = 0.5  # radius of the tables, and of the figure on benefit
TAUS = {1.0: "kept", 0.5: "halved", 0.0: "broken", -1.0: "reversed"}
PHASE_EPS = 0.3
CORE, SPURIOUS, _, _, _, _, BLACK = figures.COLOURS


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw the theory. The core feature has scale 1 and coefficient 1."""

    rho: float = 0.8  # correlation of the core and the spurious feature
    sigma: float = 0.5  # standard deviation of the noise of the target
    eps: float = 1.0  # largest radius of the curves, in the units of the features
    radii: int = 81  # points of a curve
    grid: int = 41  # points along each side of a map
    trained: tuple[float, ...] = (0.25, 0.75)  # radii at which a model is also trained against PGD
    examples: int = 4000  # of such a training
    updates: int = 400
    steps: int = 4  # of PGD
    seed: int = 0
    out: str = "runs/tradeoff_theory"

    def check(self) -> None:
        """Refuse numbers that cannot be meant, before any work."""
        if not 0 < self.rho < 1:
            raise ValueError(f"--rho is {self.rho:g}, must be inside (0, 1)")
        if not 0 < self.sigma <= 1:  # with more noise the radii of the tables would end all prediction
            raise ValueError(f"--sigma is {self.sigma:g}, must be in (0, 1]")
        if not self.eps > 0:
            raise ValueError(f"--eps is {self.eps:g}, must be above 0")
        for name, least in (("radii", 2), ("grid", 2), ("updates", 1), ("steps", 1), ("examples", 10)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}, must be at least {least}")
        if any(not eps > 0 for eps in self.trained):
            raise ValueError(f"--trained is {self.trained}, must hold radii above 0")


PRESETS = {
    "figures": Config(),
    "smoke": Config(radii=5, grid=4, trained=(0.5,), examples=1000, updates=150, steps=3),
}


def main(cfg: Config) -> None:
    """Solve, train, draw, tell."""
    with jax.enable_x64(True):
        runtime.say("solving")
        found = {
            "weights": weights(cfg),
            "share": share(cfg),
            "shift": shift(cfg),
            "benefit": benefit(cfg),
            "phase": phase(cfg),
        }
        anchors = anchor_rows(cfg)
    runtime.say("training against PGD")
    trained = training(cfg)

    out = pathlib.Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    about = {"config": plain(cfg), "made_with": made_with()}
    content = {"anchors": anchors, "trained": trained} | found | about
    write_whole(out / "results.json", json.dumps(plain(content), indent=1) + "\n")
    runtime.say(f"report: {write_page(cfg, found, anchors, trained, out)}")


# --- solve --------------------------------------------------------------------------------------------


def model_at(cfg: Config, b: float, rho: float | None = None) -> Gaussian:
    """Build the model of one core feature of scale 1 and one spurious feature of scale b."""
    return pair.pair(b=b, rho=cfg.rho if rho is None else rho, sigma=cfg.sigma)


def solved(model: Gaussian, eps: float, kind: Norm) -> Solution:
    """Minimise, and refuse an answer that misses its optimality conditions."""
    best = minimise(model, eps, kind)
    if not best.kkt < 1e-9:
        raise RuntimeError(
            f"optimality is missed by {best.kkt} at {kind} {eps}; this is a bug, please report it"
        )
    return best


def weights(cfg: Config) -> dict[str, Any]:
    """Both coefficients over the radius, for every budget and scale."""
    eps = np.linspace(0, cfg.eps, cfg.radii)
    lines = {
        f"{kind} {b:g}": [solved(model_at(cfg, b), e, kind).theta for e in eps]
        for kind in KINDS
        for b in SCALES
    }
    return {"eps": eps, "theta": {name: np.array(thetas) for name, thetas in lines.items()}}


def share(cfg: Config) -> dict[str, Any]:
    """The spurious share of the variance over scale and radius, the radius as a share of the one that kills."""
    b, depth = np.geomspace(0.25, 4.0, cfg.grid), np.linspace(0, 0.98, cfg.grid)
    maps = {}
    for kind in KINDS:
        models = [model_at(cfg, scale) for scale in b for _ in depth]
        thetas = [
            solved(model, d * thresholds(model, kind).zero, kind).theta
            for model, d in zip(models, np.tile(depth, len(b)), strict=True)
        ]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
        values = jax.vmap(measures)(stacked, np.stack(thetas)).variance_share
        maps[kind] = np.asarray(values).reshape(len(b), len(depth)).T
    return {"b": b, "depth": depth, "variance_share": maps}


def shift(cfg: Config) -> dict[str, Any]:
    """Mean squared errors over the radius in shifted domains, beside the model without the spurious feature."""
    eps, model = np.linspace(0, cfg.eps, cfg.radii), model_at(cfg, LOUD)
    errors = {}
    for kind in KINDS:
        split = [theorems.shift_of(model, solved(model, e, kind).theta) for e in eps]
        errors[kind] = {f"{tau:g}": np.array([s.error(tau) for s in split]) for tau in TAUS}
        alone = core_only(model)
        errors[kind]["core only"] = np.array([solved(alone, e, kind).s ** 2 for e in eps])
    return {"eps": eps, "error": errors}


def benefit(cfg: Config) -> dict[str, Any]:
    """The least adversarial risk over the correlation, with and without the spurious feature, and when it breaks."""
    rho = np.linspace(0, 0.95, cfg.radii)
    risks = {}
    for kind in KINDS:
        rows = [theorems.benefit(model_at(cfg, LOUD, r), ANCHOR, kind) for r in rho]
        risks[kind] = {name: np.array([getattr(row, name) for row in rows]) for name in rows[0]._fields}
    return {"rho": rho, "risk": risks}


def phase(cfg: Config) -> dict[str, Any]:
    """Where a linf budget with two core features relies on the spurious one, over correlation and scale."""
    correlation = np.linspace(0.05, 0.7, cfg.grid)  # with each core feature; at 0.707 it would be their sum
    b = np.linspace(0.25, 4.0, cfg.grid)

    def two_cores(second: float, r: float, scale: float) -> Gaussian:
        across = r * scale
        covariance = [[1.0, 0.0, across], [0.0, 1.0, across], [across, across, scale**2]]
        return gaussian(covariance, [1.0, second, 0.0], cfg.sigma, core=2)

    alike = [
        [bool(solved(two_cores(1.0, r, scale), PHASE_EPS, "linf").theta[2] != 0) for r in correlation]
        for scale in b
    ]
    # The core-only predictor, and with it the condition per unit of correlation and scale, is the same everywhere.
    unit = two_cores(-0.3, 0.1, 1.0)
    last = thresholds(core_only(unit), "linf").zero
    eps = np.linspace(0, 0.99 * last, 20 * cfg.grid)[1:]
    strength = np.array([theorems.irrepresentable(unit, e)[0] for e in eps]) / 0.1
    relies = np.multiply.outer(np.outer(b, correlation), strength) > 1
    onset = np.where(relies.any(axis=2), eps[relies.argmax(axis=2)], np.nan)
    return {"correlation": correlation, "b": b, "alike": alike, "onset": onset, "given_up": last}


def anchor_rows(cfg: Config) -> list[dict[str, Any]]:
    """Tabulate everything at one radius."""
    rows = []
    for kind in KINDS:
        for b in SCALES:
            model = model_at(cfg, b)
            best = solved(model, ANCHOR, kind)
            split, share = theorems.shift_of(model, best.theta), measures(model, best.theta).variance_share
            condition = theorems.relies(model, ANCHOR, kind).relies
            rows.append(
                {
                    "budget": kind,
                    "spurious scale": b,
                    "relies, by theorem": "yes" if condition else "no",
                    "core weight": float(best.theta[0]),
                    "spurious weight": float(best.theta[1]),
                    "spurious share of variance": float(share),
                    "adversarial risk": best.loss,
                    "error, kept": split.error(1.0),
                    "error, broken": split.error(0.0),
                }
            )
    return rows


# --- train --------------------------------------------------------------------------------------------


def training(cfg: Config) -> list[dict[str, Any]]:
    """Train linear models against PGD on samples, and compare them with the exact minimisers."""
    rows = []
    for kind in KINDS:
        fit = jax.jit(fitted(cfg, kind))
        for b in SCALES:
            for eps in cfg.trained:
                model = model_at(cfg, b)
                theta = np.asarray(fit(jax.random.key(cfg.seed), model, eps), np.float64)
                away = float(np.abs(theta - solved(model, eps, kind).theta).max())
                rows.append({"budget": kind, "b": b, "eps": eps, "theta": theta, "away": away})
    return rows


def fitted(cfg: Config, kind: Norm) -> Callable[..., jax.Array]:
    """Build the training run: draw a sample, then descend against PGD."""

    def run(key, model: Gaussian, eps):
        draw_key, fit_key = jax.random.split(key)
        sample = sampled.draw(draw_key, model, cfg.examples, whiten=True)
        return sampled.fit(
            fit_key, sample, sampled.adversary(eps, kind, steps=cfg.steps), updates=cfg.updates
        )

    return run


# --- draw ---------------------------------------------------------------------------------------------


def draw_weights(found: dict[str, Any], trained: list[dict[str, Any]]) -> bytes:
    """Nine small pictures: coefficients over the radius, dots for trained models."""
    with figures.canvas(figures.WIDTH, 5.6) as (figure, png):
        grid: Any = figure.subplots(3, 3, sharex=True, sharey=True)
        for i, kind in enumerate(KINDS):
            for j, b in enumerate(SCALES):
                axes, theta = grid[i, j], found["theta"][f"{kind} {b:g}"]
                axes.plot(found["eps"], theta[:, 0], color=CORE)
                axes.plot(found["eps"], theta[:, 1], color=SPURIOUS, linestyle=figures.DASHES[1])
                for row in trained:
                    if row["budget"] == kind and row["b"] == b:
                        for weight, colour in zip(row["theta"], (CORE, SPURIOUS), strict=True):
                            axes.plot(row["eps"], weight, "o", markersize=3.5, color=colour, clip_on=False)
                axes.set_ylim(-0.03, 1.03)
                if i == 0:
                    axes.set_title(f"spurious scale {b:g}")
                if i == 2:
                    axes.set_xlabel("radius of training")
                if j == 0:
                    axes.set_ylabel(f"{kind} budget\n\nweight")
        first = grid[0, 0]
        first.text(0.2, 0.82, "core", color=CORE, fontsize=8)
        first.text(0.16, 0.2, "spurious", color=SPURIOUS, fontsize=8)
        first.text(0.62, 0.59, "equal", color="#444444", fontsize=8)
        return png()


def draw_share(cfg: Config, found: dict[str, Any]) -> bytes:
    """Three maps of the spurious share of the variance."""
    with figures.canvas(figures.WIDTH, 2.7) as (figure, png):
        row: Any = figure.subplots(1, 3, sharey=True)
        image: Any = None
        for axes, kind in zip(row, KINDS, strict=True):
            values = found["variance_share"][kind]
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
            axes.set(title=f"{kind} budget", xlabel="spurious scale / core scale")
        edge = 1 / cfg.rho
        if edge < found["b"][-1]:
            row[2].axvline(edge, color="white", linestyle=":", linewidth=1.2)
            row[2].text(0.93 * edge, 0.04, f"1/rho = {edge:.3g}", color="white", fontsize=7, ha="right")
        row[2].text(0.33, 0.5, "no reliance\nat any radius", color="white", fontsize=8, va="center")
        row[0].set_ylabel("radius / radius that\nends prediction")
        figure.colorbar(image, ax=row, label="spurious share of variance", aspect=28, pad=0.02)
        return png()


def draw_shift(cfg: Config, found: dict[str, Any]) -> bytes:
    """Errors over the radius in shifted domains."""
    colours = {"1": "#009E73", "0.5": "#56B4E9", "0": "#E69F00", "-1": "#D55E00"}
    with figures.canvas(figures.WIDTH, 2.8) as (figure, png):
        row: Any = figure.subplots(1, 3, sharey=True, sharex=True)
        for axes, kind in zip(row, KINDS, strict=True):
            errors = found["error"][kind]
            for tau, dash in zip(TAUS, figures.DASHES, strict=True):
                axes.plot(found["eps"], errors[f"{tau:g}"], color=colours[f"{tau:g}"], linestyle=dash)
            axes.plot(
                found["eps"], errors["core only"], color=BLACK, linewidth=1, label="no spurious feature"
            )
            axes.axhline(
                cfg.sigma**2, color="#777777", linewidth=1, linestyle=(0, (1, 2)), label="standard training"
            )
            axes.set(title=f"{kind} budget", xlabel="radius of training")
        row[0].set_ylabel("mean squared error")
        row[0].set_ylim(0)
        x, errors = 0.55 * found["eps"][-1], found["error"][KINDS[0]]
        for tau, name in TAUS.items():
            y = np.interp(x, found["eps"], errors[f"{tau:g}"]) + 0.04
            row[0].text(x, y, name, color=colours[f"{tau:g}"], fontsize=8, va="bottom")
        handles, names = row[0].get_legend_handles_labels()
        figure.legend(handles[-2:], names[-2:], loc="outside lower center", ncols=2)
        return png()


def draw_benefit(found: dict[str, Any]) -> bytes:
    """Least adversarial risks over the correlation of training."""
    looks = {
        "broken": (SPURIOUS, figures.DASHES[1], "correlation\nbroken at test", (0.3, 1.4)),
        "core_only": (BLACK, figures.DASHES[2], "core feature only", (0.0, 0.85)),
        "preserved": (CORE, "-", "correlation\nkept at test", (0.42, 0.33)),
    }
    with figures.canvas(figures.WIDTH, 2.5) as (figure, png):
        row: Any = figure.subplots(1, 3, sharey=True, sharex=True)
        for axes, kind in zip(row, KINDS, strict=True):
            for name, (colour, dash, _, _) in looks.items():
                axes.plot(found["rho"], found["risk"][kind][name], color=colour, linestyle=dash)
            axes.set(title=f"{kind} budget", xlabel="correlation in training")
        for colour, _, label, place in looks.values():
            row[2].text(*place, label, color=colour, fontsize=8)
        row[0].set_ylabel(f"adversarial risk\nat radius {ANCHOR:g}")
        row[0].set_ylim(0)
        return png()


def draw_phase(found: dict[str, Any]) -> bytes:
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


def write_page(
    cfg: Config,
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


if __name__ == "__main__":
    common.script(main, PRESETS, __doc__)
