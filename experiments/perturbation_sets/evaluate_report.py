"""What the page of perturbation_sets.evaluate says."""

from typing import Any

import numpy as np

from robustjax.runtime import image_grids
from robustjax.runtime.report import Report
from robustjax.runtime.subplots import Line, Panel, panels

ERRORS = ("nearest", "encoded", "expected", "farthest", "reconstruction")


def page(
    cfg: Any,
    found: dict[str, Any],
    lengths: np.ndarray,
    promised: dict[str, np.ndarray],
    pictures: dict[str, np.ndarray],
) -> Report:
    """Write everything down."""
    report = Report(f"The perturbation set of {found['run']}", cfg)
    rows = found["radii"]
    report.text(
        f"{found['latents']} latents, trained for {found['updates']:,} updates. Encodings of validation pairs are "
        f"{np.median(lengths):.2f} long in the median and {lengths.max():.2f} at most. A ball of radius "
        f"{found['conformal radius, 1 miss in 100']:.2f} holds the encoding of a new pair with probability 0.99 at "
        "least (conformal)."
    )
    report.section("Quality over the radius")
    report.table(
        [
            {"radius": f"{row['radius']:.2f}", "inside %": f"{100 * row['inside']:.1f}"}
            | {"covered %": f"{100 * row['covered']:.1f}"}
            | {name: f"{row[name]:.5f}" for name in ERRORS}
            for row in rows
        ],
        caption="Means over test pairs. Inside: the pair's encoding lies in the ball. Covered: a search in the ball "
        f"comes within {cfg.tolerance:g} of the real perturbation. Errors per pixel: nearest and farthest that a "
        "search finds, at the encoding, on average over the ball, and of a reconstruction.",
    )
    report.text(f"Divergence of the posterior from the prior: {rows[-1]['kl']:.2f} nats.")
    radii = [row["radius"] for row in rows]
    curve = {name: Line(radii, [row[name] for row in rows]) for name in ("nearest", "expected", "farthest")}
    shares = {name: Line(radii, [100 * row[name] for row in rows]) for name in ("inside", "covered")}
    at = np.linspace(0, lengths.max(), 50)
    shares["encodings, validation"] = Line(at, [100 * (lengths <= r).mean() for r in at])
    report.picture(
        panels(
            [
                Panel("Errors to real perturbations", curve, "radius", "error per pixel"),
                Panel("What the ball holds", shares, "radius", "% of pairs", (0, 102)),
            ],
            across=2,
        ),
        caption="Quality and coverage over the radius.",
    )
    if promised:
        _theorems(report, cfg, promised)
    report.section("Pictures, at the largest radius")
    strips = pictures["strips"]
    report.picture(
        image_grids.grid(
            strips,
            rows=[f"latent {way}" for way in pictures["ways"]],
            columns=[f"{u:.1f}" for u in np.linspace(-radii[-1], radii[-1], strips.shape[1])],
        ),
        caption="Along the four latents that the posterior uses most, from one end of the ball to the other.",
    )
    table = [[pictures[n][i] for n in ("clean", "real", "encoded")] for i in range(len(pictures["clean"]))]
    report.picture(
        image_grids.grid(
            [[*row, *pictures["imagined"][i]] for i, row in enumerate(table)],
            columns=["image", "real", "encoded", *["imagined"] * 5],
        ),
        caption="An image, a real perturbation, what decoding its encoding gives, and draws from the set.",
    )
    report.picture(
        image_grids.grid(
            [pictures[n] for n in ("clean", "observed", "farthest")],
            rows=["image", "worst observed", "worst imagined"],
        ),
        caption="Farthest from the image: of 24 real perturbations, and of all that a search finds in the set.",
    )
    return report


def _theorems(report: Report, cfg: Any, promised: dict[str, np.ndarray]) -> None:
    report.section("What the training objective promises")
    first, second = promised["nearest"] <= promised["promised"], promised["likelihood"] >= promised["bound"]
    rows = [
        {
            "theorem": f"a near point exists (giving up {cfg.excess:g})",
            "promised, median": f"error {np.median(promised['promised']):.1f} "
            f"within {np.median(promised['radius']):.1f}",
            "found, median": f"error {np.median(promised['nearest']):.1f}",
            "holds for": f"{first.sum()} of {len(first)}",
        },
        {
            "theorem": "the set is likely, log-likelihood",
            "promised, median": f"at least {np.median(promised['bound']):.1f}",
            "found, median": f"{np.median(promised['likelihood']):.1f}",
            "holds for": f"{second.sum()} of {len(second)}",
        },
    ]
    report.table(
        rows,
        caption="Squared errors in units of the likelihood's variance, summed over pixels. Expectations over the "
        "posterior are averages over 64 draws, the likelihood of the set over 256, which misses what is rare: it is a "
        "low estimate.",
    )
