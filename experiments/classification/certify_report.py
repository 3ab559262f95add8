"""The report of classification.certify: certified, attacked and undecided over the radius."""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments.classification.certify_branch import Tried
from experiments.classification.config import CertifyConfig
from experiments.shared import report_pieces
from robustjax import runtime
from robustjax.analysis.intervals import Estimate, proportion
from robustjax.attacks import masking_checks
from robustjax.data import Split
from robustjax.runtime import figures, strict_json
from robustjax.runtime.provenance import made_with, plain
from robustjax.runtime.report import Report
from robustjax.types import Flag, Network


class Bracket(NamedTuple):
    """What is known at each radius; images are those of the test set, in order.

    Attributes:
      radii: (r,) rising.
      clean: (n,) whether the image itself is classified correctly.
      certified: (m, r, n) whether one of the first 1, ..., m methods excludes every other class in the ball.
      robust: (r, n) whether no attack changed the class.
    """

    radii: np.ndarray
    clean: np.ndarray
    certified: np.ndarray
    robust: np.ndarray


def rows(cfg: CertifyConfig, found: Bracket) -> list[dict[str, Any]]:
    """Tabulate by radius, in percent: attacked, certified by each method over those before, undecided."""
    table = []
    for r, eps in enumerate(found.radii):
        attacked, sure = proportion(found.robust[r]), proportion(found.certified[-1, r])
        table.append(
            {
                "radius": float(eps),
                **{
                    f"{method} %": 100 * float(found.certified[m, r].mean())
                    for m, method in enumerate(cfg.columns())
                },
                "certified, 95 %": _interval(sure),
                "attacked %": 100 * attacked.value,
                "attacked, 95 %": _interval(attacked),
                "undecided %": 100 * float((found.robust[r] & ~found.certified[-1, r]).mean()),
            }
        )
    return table


def say(cfg: CertifyConfig, found: Bracket) -> None:
    """Print the table."""
    runtime.say(f"clean {100 * found.clean.mean():.1f} %")
    for row in rows(cfg, found):
        runtime.say(
            f"{cfg.norm} {row['radius']:.4g}: certified "
            + ", ".join(f"{method} {row[f'{method} %']:.1f}" for method in cfg.columns())
            + f"; attacked {row['attacked %']:.1f}; undecided {row['undecided %']:.1f} %"
        )


def write(
    cfg: CertifyConfig,
    network: Network,
    test: Split,
    found: Bracket,
    seconds: np.ndarray,
    tried: list[Tried],
    flags: tuple[Flag, ...],
    out: pathlib.Path,
) -> pathlib.Path:
    """Write report.html and results.json."""
    table, clean = rows(cfg, found), proportion(found.clean)
    page = Report(f"{network.title}, certified and attacked", cfg)
    last = table[-1]
    page.text(
        f"Clean accuracy {100 * clean.value:.1f} % ({_interval(clean)}). Within {cfg.norm} {last['radius']:.4g} the "
        f"accuracy under the worst possible attack lies between {100 * found.certified[-1, -1].mean():.1f} % "
        f"({last['certified, 95 %']}), which is proved, and {last['attacked %']:.1f} % ({last['attacked, 95 %']}), "
        f"which attacks left; {last['undecided %']:.1f} % are undecided."
    )
    page.text(report_pieces.images(test))
    page.table(
        table,
        caption="Shares of all images, by radius. A method counts with those to its left; exact 95 % binomial "
        "intervals over images. Certificates hold "
        + ("for the network as computed in float32." if cfg.outward else "up to rounding in float32."),
    )
    page.table(
        [
            {"method": name, "seconds": float(s), "an image": float(s) / len(test.label)}
            for name, s in zip(cfg.columns(), seconds, strict=True)
        ],
        caption="Seconds at all radii together, with compiling.",
    )
    bands = {"attacked": found.robust, **{m: found.certified[i] for i, m in enumerate(cfg.columns())}}
    if tried:
        page.table(
            [one.row(cfg.norm) for one in tried],
            caption=f"Branch and bound, {cfg.budget:g} seconds for an image at a radius. The least lead of the label's "
            "logit over the largest other one lies between the bounds; the upper one is that of a point.",
        )
    picture = figures.curves(
        np.array([0.0, *found.radii]),
        {name: _line(found.clean, hits) for name, hits in bands.items()},
        xlabel=f"{cfg.norm} radius",
        ylabel="accuracy, %",
        limits=(0, 102),
    )
    page.picture(
        picture,
        caption="Accuracy under attack, and certified by each method and those before it, with 95 % intervals. The "
        "truth lies between the attacked line and the highest certified one.",
        name="bracket",
    )
    if flags:
        page.table(masking_checks.rows(flags))
    page.scope(
        attacked=[f"{network.title}, {len(test.label)} test images: {json.dumps(network.about)}"],
        attacks=[
            f"APGD on cross-entropy and at 9 targets, {cfg.steps} steps each; Square, {cfg.queries} queries",
            f"bounds: {', '.join(cfg.columns())}",
        ],
        not_attacked=[
            "other norms and larger radii",
            "FAB",
            *([] if cfg.budget else ["by branch and bound: undecided images may go either way"]),
        ],
    )
    about = {
        "network": network.about, "data": plain(test.info), "config": plain(cfg), "table": table,
        "clean %": 100 * clean.value, "seconds": seconds.tolist(),
        "branch and bound": [one._asdict() for one in tried], "flags": [plain(f) for f in flags],
        "made_with": made_with(),
    }  # fmt: skip
    strict_json.write(out / "results.json", about)
    return page.write(out / "report.html")


def _interval(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def _line(clean: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ends = [proportion(one) for one in (clean, *hits)]
    value, low, high = (
        100 * np.array([getattr(end, name) for end in ends]) for name in ("value", "low", "high")
    )
    return value, low, high
