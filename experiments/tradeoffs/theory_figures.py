"""The figures on the theory of spurious features."""

from typing import Any

import numpy as np

from experiments.tradeoffs.theory_curves import ANCHOR, KINDS, SCALES, TAUS
from robustjax.runtime import figures

CORE, SPURIOUS, _, _, _, _, BLACK = figures.COLOURS


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


def draw_share(cfg: Any, found: dict[str, Any]) -> bytes:
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


def draw_shift(cfg: Any, found: dict[str, Any]) -> bytes:
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
