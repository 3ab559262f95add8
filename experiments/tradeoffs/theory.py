"""Solve the theory of adversarial training and spurious features, and draw it.

    python -m experiments.tradeoffs.theory

Linear regression on Gaussian features, one of them spurious: what adversarial training under an l1, l2 or linf
budget converges to, how much of it rests on the spurious feature, what that costs where the correlation breaks and
what it gains where it lasts. Everything is exact but the dots, which are linear models trained against PGD
on samples. Takes about a minute of CPU time and writes report.html, results.json and figures/ to --out.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.shared import command_line
from experiments.tradeoffs.config import (
    ANCHOR_EPS,
    CORRELATIONS_AT_TEST,
    LARGE_SCALE,
    NORMS,
    PHASE_EPS,
    SCALES,
    TheoryConfig,
)
from experiments.tradeoffs.config import THEORY_PRESETS as PRESETS
from experiments.tradeoffs.theory_report import write_report
from robustjax import runtime
from robustjax.analysis.linear import pair, sampled, theorems
from robustjax.analysis.linear.gaussian import Gaussian, core_only, gaussian
from robustjax.analysis.linear.measures import measures
from robustjax.analysis.linear.minimiser import Solution, minimise, thresholds
from robustjax.numerics import Norm
from robustjax.runtime import strict_json
from robustjax.runtime.provenance import made_with, plain


def main(cfg: TheoryConfig) -> None:
    """Solve, train, report."""
    # --- solve ---
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

    # --- train ---
    runtime.say("training against PGD")
    trained = training(cfg)

    # --- report ---
    out = pathlib.Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    about = {"config": plain(cfg), "made_with": made_with()}
    content = {"anchors": anchors, "trained": trained} | found | about
    strict_json.write(out / "results.json", plain(content))
    runtime.say(f"report: {write_report(cfg, found, anchors, trained, out)}")


def model_at(cfg: TheoryConfig, b: float, rho: float | None = None) -> Gaussian:
    """Build the model of one core feature of scale 1 and one spurious feature of scale b."""
    return pair.pair(b=b, rho=cfg.rho if rho is None else rho, sigma=cfg.sigma)


def solved(model: Gaussian, eps: float, norm: Norm) -> Solution:
    """Minimise, and refuse an answer that misses its optimality conditions."""
    best = minimise(model, eps, norm)
    if not best.kkt < 1e-9:
        raise RuntimeError(
            f"optimality is missed by {best.kkt} at {norm} {eps}; this is a bug, please report it"
        )
    return best


def weights(cfg: TheoryConfig) -> dict[str, Any]:
    """Both coefficients over the radius, for every budget and scale."""
    eps = np.linspace(0, cfg.eps, cfg.radii)
    lines = {
        f"{norm} {b:g}": [solved(model_at(cfg, b), e, norm).theta for e in eps]
        for norm in NORMS
        for b in SCALES
    }
    return {"eps": eps, "theta": {name: np.array(thetas) for name, thetas in lines.items()}}


def share(cfg: TheoryConfig) -> dict[str, Any]:
    """The spurious share of the variance over scale and radius, the radius as a share of the one that kills."""
    b, depth = np.geomspace(0.25, 4.0, cfg.grid), np.linspace(0, 0.98, cfg.grid)
    maps = {}
    for norm in NORMS:
        models = [model_at(cfg, scale) for scale in b for _ in depth]
        thetas = [
            solved(model, d * thresholds(model, norm).zero, norm).theta
            for model, d in zip(models, np.tile(depth, len(b)), strict=True)
        ]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
        values = jax.vmap(measures)(stacked, np.stack(thetas)).variance_share
        maps[norm] = np.asarray(values).reshape(len(b), len(depth)).T
    return {"b": b, "depth": depth, "variance_share": maps}


def shift(cfg: TheoryConfig) -> dict[str, Any]:
    """Mean squared errors over the radius in shifted domains, beside the model without the spurious feature."""
    eps, model = np.linspace(0, cfg.eps, cfg.radii), model_at(cfg, LARGE_SCALE)
    errors = {}
    for norm in NORMS:
        split = [theorems.shift_of(model, solved(model, e, norm).theta) for e in eps]
        errors[norm] = {f"{tau:g}": np.array([s.error(tau) for s in split]) for tau in CORRELATIONS_AT_TEST}
        alone = core_only(model)
        errors[norm]["core only"] = np.array([solved(alone, e, norm).s ** 2 for e in eps])
    return {"eps": eps, "error": errors}


def benefit(cfg: TheoryConfig) -> dict[str, Any]:
    """The least adversarial risk over the correlation, with and without the spurious feature, and when it breaks."""
    rho = np.linspace(0, 0.95, cfg.radii)
    risks = {}
    for norm in NORMS:
        rows = [theorems.benefit(model_at(cfg, LARGE_SCALE, r), ANCHOR_EPS, norm) for r in rho]
        risks[norm] = {name: np.array([getattr(row, name) for row in rows]) for name in rows[0]._fields}
    return {"rho": rho, "risk": risks}


def phase(cfg: TheoryConfig) -> dict[str, Any]:
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


def anchor_rows(cfg: TheoryConfig) -> list[dict[str, Any]]:
    """Tabulate everything at one radius."""
    rows = []
    for norm in NORMS:
        for b in SCALES:
            model = model_at(cfg, b)
            best = solved(model, ANCHOR_EPS, norm)
            split, share = theorems.shift_of(model, best.theta), measures(model, best.theta).variance_share
            condition = theorems.relies(model, ANCHOR_EPS, norm).relies
            rows.append(
                {
                    "budget": norm,
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


def training(cfg: TheoryConfig) -> list[dict[str, Any]]:
    """Train linear models against PGD on samples, and compare them with the exact minimisers."""
    rows = []
    for norm in NORMS:
        fit = jax.jit(fitted(cfg, norm))
        for b in SCALES:
            for eps in cfg.trained:
                model = model_at(cfg, b)
                theta = np.asarray(fit(jax.random.key(cfg.seed), model, eps), np.float64)
                away = float(np.abs(theta - solved(model, eps, norm).theta).max())
                rows.append({"budget": norm, "b": b, "eps": eps, "theta": theta, "away": away})
    return rows


def fitted(cfg: TheoryConfig, norm: Norm) -> Callable[..., jax.Array]:
    """Build the training run: draw a sample, then descend against PGD."""

    def run(key, model: Gaussian, eps):
        draw_key, fit_key = jax.random.split(key)
        sample = sampled.draw(draw_key, model, cfg.examples, whiten=True)
        return sampled.fit(
            fit_key, sample, sampled.adversary(eps, norm, steps=cfg.steps), updates=cfg.updates
        )

    return run


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
