"""Quickstart: train one network plainly and one against an adversary, and attack both.

    python -m experiments.classification.quickstart

It uses the 1,797 handwritten digits that come with scikit-learn, takes under a minute on two cores, prints
the accuracy of both networks over a curve of radii and writes runs/quickstart/report.html: the curve, and what
the attack made of the first test images.
"""

import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.classification.config import QUICKSTART_PRESETS as PRESETS
from experiments.classification.config import QuickstartConfig
from experiments.shared import command_line, report_pieces
from robustjax import data, optimizers, runtime, training
from robustjax.analysis import curves, intervals
from robustjax.attacks import against, objectives, pgd
from robustjax.data import subsets
from robustjax.losses import adversarial, standard
from robustjax.models import small
from robustjax.runtime import figures
from robustjax.runtime.report import Report
from robustjax.threats import Threat
from robustjax.types import Batch, Loss


def main(cfg: QuickstartConfig) -> None:
    """Train twice, attack twice, report."""
    train = data.load("digits", "train", data_dir=cfg.data_dir)
    test = subsets.subset(data.load("digits", "test", data_dir=cfg.data_dir), cfg.images)
    model = small.convnet_small(shape=train.image.shape[1:])

    # --- the two losses ---
    def plain(t: jax.Array) -> Loss:
        return standard(model)

    def robust(t: jax.Array) -> Loss:
        # A radius that starts at full size would keep the network from learning anything at first.
        eps = cfg.eps * jnp.minimum(t.astype(jnp.float32) / (0.3 * cfg.updates), 1.0)
        ascent = pgd(Threat("linf", eps), steps=10, step_size=eps / 4, keep="last")
        return adversarial(model, against(ascent, objectives.cross_entropy))

    # --- train, from the same start on the same batches ---
    def trained(loss_at: Callable[[jax.Array], Loss], name: str) -> training.TrainState:
        tx = optimizers.adam(optimizers.one_cycle(2e-3, cfg.updates, peak=0.3))
        update = training.scheduled(loss_at, tx)
        state = training.start(jax.random.key(cfg.seed), model, tx)

        def batches(begin: int, _: object) -> Iterator[Batch]:
            return data.stream(train, batch_size=cfg.batch_size, seed=cfg.seed, start=begin)

        size = cfg.batch_size
        return runtime.fit(update, state, batches, total=cfg.updates, label=name, batch_size=size).state

    states = {"plain": trained(plain, "plain"), "adversarial": trained(robust, "adversarial")}

    # --- attack ---
    evaluate = curves.over_radii(model, cfg.evaluation.worst_case)
    radii = np.linspace(0, cfg.evaluation.eps, cfg.radii + 1)
    found: dict[str, curves.Curve] = {}
    for name, state in states.items():
        runtime.say(f"attacking {name} at {cfg.radii} radii")
        batches = data.evaluation(test, batch_size=120)
        found[name] = evaluate(jax.random.key(cfg.seed), state.params, state.state, batches, radii)

    # --- report ---
    rows = [
        {"linf radius": float(eps)}
        | {f"{name}, %": 100 * found[name].accuracy()[i].value for name in found}
        | {f"{name}, 95 % interval": interval(found[name].accuracy()[i]) for name in found}
        for i, eps in enumerate(radii)
    ]
    print(f"\naccuracy on {test.info.count} test images of {test.info.name}, in %, with 95 % intervals")
    print(f"{'linf radius':>12}" + "".join(f"{name:>24}" for name in found))
    for row in rows:
        cells = [f"{row[f'{name}, %']:6.1f} ({row[f'{name}, 95 % interval']})" for name in found]
        print(f"{row['linf radius']:>12.3f}" + "".join(f"{cell:>24}" for cell in cells))
    print(f"\nreport: {write_report(cfg, test, found, rows)}")


def interval(estimate: intervals.Estimate) -> str:
    """Write the ends of an interval, in percent."""
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def write_report(
    cfg: QuickstartConfig,
    test: data.Split,
    found: dict[str, curves.Curve],
    rows: list[dict[str, float | str]],
) -> pathlib.Path:
    """Write report.html: the curve, its table, and attacked images."""
    report = Report("Two networks, one adversary", cfg)
    report.text(
        f"The same small convolutional network, trained for {cfg.updates} updates on handwritten digits: once on the "
        f"images as they are, once on images that an adversary moved by up to {cfg.eps:g} per pixel. Both are then "
        f"attacked at rising radii, on {test.info.count} test images that neither saw."
    )
    report.text(report_pieces.images(test))
    lines = {}
    for name, curve in found.items():
        ends = curve.accuracy()
        lines[name] = tuple(
            100 * np.array([getattr(a, part) for a in ends]) for part in ("value", "low", "high")
        )
    picture = figures.curves(
        next(iter(found.values())).eps, lines, xlabel="linf radius", ylabel="accuracy, %", limits=(0, 102)
    )
    report.picture(
        picture, caption="Accuracy under attack; bands are exact 95 % binomial intervals.", name="curve"
    )
    report.table(rows, caption=f"The same in numbers. {cfg.evaluation.in_words()}.")
    for name, curve in found.items():
        report.section(f"The {name} network, attacked")
        middle = int(np.searchsorted(curve.eps, cfg.eps, side="right")) - 1
        report.picture(
            report_pieces.attacked_images(test, curve, radius=middle),
            name=f"attacked_{name}",
            caption=f"The first test images (not chosen), attacked at radius {curve.eps[middle]:.3g}: what the network "
            "says before and after.",
        )
    report.scope(
        attacked=[f"both networks, on {test.info.count} test images of {test.info.name}"],
        attacks=[cfg.evaluation.in_words(), f"radii up to {cfg.evaluation.eps:g}"],
        not_attacked=["black-box and minimal-norm attacks", "other norms", "gradient-masking checks"],
    )
    return report.write(pathlib.Path(cfg.out) / "report.html")


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
