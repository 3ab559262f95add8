"""First light: train one network plainly and one against an adversary, and attack both.

    python -m experiments.classification.quickstart

It uses the 1,797 handwritten digits that come with scikit-learn, takes under a minute on two cores, prints
the accuracy of both networks over a curve of radii and writes runs/quickstart/report.html: the curve, and what
the attack made of the first test images.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared import command_line, report_pieces
from experiments.shared.fields import Fraction
from experiments.shared.settings import PGD
from robustjax import data, optimizers, runtime, training
from robustjax.analysis import curves
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.data import subsets
from robustjax.losses.adversarial import adversarial
from robustjax.losses.standard import standard
from robustjax.models import small
from robustjax.runtime import figures
from robustjax.runtime.report import Report
from robustjax.threats import Threat
from robustjax.types import Model


@dataclasses.dataclass(frozen=True)
class Config:
    """Train and attack on the embedded digits."""

    eps: Fraction = 0.2  # linf radius of training; images lie in [0, 1]
    updates: int = 1000
    batch_size: int = 128
    judge: PGD = PGD(eps=0.3, steps=50, step=0.05, restarts=2)
    radii: int = 6
    images: int | None = None  # test images, None for all 359
    seed: int = 0
    out: str = "runs/quickstart"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse numbers that cannot be meant, before any work."""
        if not 0 <= self.eps <= 1:
            raise ValueError(f"--eps is {self.eps:g}, must be in [0, 1]")
        for name in ("updates", "batch_size", "radii"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")


PRESETS = {
    "digits": Config(),
    "smoke": Config(updates=10, radii=2, images=32, judge=PGD(eps=0.3, steps=2, step=0.5)),
}


def main(cfg: Config) -> None:
    """Train twice, attack twice, tell."""
    train = data.load("digits", "train", data_dir=cfg.data_dir)
    test = subsets.first(data.load("digits", "test", data_dir=cfg.data_dir), cfg.images)
    model = small.convnet_small(shape=train.image.shape[1:])

    # --- train ---
    def grown(t):
        # A radius that starts at full size would keep the network from learning anything at first.
        return cfg.eps * jnp.minimum(t.astype(jnp.float32) / (0.3 * cfg.updates), 1.0)

    def robust(t):
        ascent = pgd(Threat("linf", grown(t)), steps=10, step_size=grown(t) / 4, keep="last")
        return adversarial(model, compose.against(ascent, objectives.cross_entropy))

    losses = {"plain": lambda t: standard(model), "adversarial": robust}
    trained = {name: fit(cfg, model, loss_at, train, name) for name, loss_at in losses.items()}

    # --- attack ---
    evaluate = curves.over_radii(model, lambda eps: cfg.judge.worst_case(eps))
    radii = np.linspace(0, cfg.judge.eps, cfg.radii + 1)
    found = {}
    for name, state in trained.items():
        runtime.say(f"attacking {name} at {cfg.radii} radii")
        batches = data.evaluation(test, batch_size=120)
        found[name] = evaluate(jax.random.key(cfg.seed), state.params, state.state, batches, radii)

    # --- tell ---
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
    print(f"\nreport: {write_page(cfg, test, found, rows)}")


def fit(cfg: Config, model: Model, loss_at, train: data.Split, name: str) -> training.TrainState:
    """Train from the same start on the same batches."""
    tx = optimizers.adam(optimizers.one_cycle(2e-3, cfg.updates, peak=0.3))
    update = training.scheduled(loss_at, tx)
    state = training.start(jax.random.key(cfg.seed), model, tx)
    batches = data.stream(train, batch_size=cfg.batch_size, seed=cfg.seed)
    bar = runtime.progress(batches, total=cfg.updates, label=name, batch_size=cfg.batch_size)
    for i, batch in bar:
        state, metrics = update(state, batch)
        if i % 20 == 0:
            bar.show(metrics)
    return state


def interval(estimate) -> str:
    """Write the ends of an interval, in percent."""
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def write_page(cfg: Config, test: data.Split, found: dict[str, curves.Curve], rows: list) -> pathlib.Path:
    """Write the page a person reads."""
    page = Report("Two networks, one adversary", cfg)
    page.text(
        f"The same small convolutional network, trained for {cfg.updates} updates on handwritten digits: once on the "
        f"images as they are, once on images that an adversary moved by up to {cfg.eps:g} per pixel. Both are then "
        f"attacked at rising radii, on {test.info.count} test images that neither saw."
    )
    lines = {}
    for name, curve in found.items():
        ends = curve.accuracy()
        lines[name] = tuple(
            100 * np.array([getattr(a, part) for a in ends]) for part in ("value", "low", "high")
        )
    picture = figures.curves(
        next(iter(found.values())).eps, lines, xlabel="linf radius", ylabel="accuracy, %", limits=(0, 102)
    )
    page.picture(
        picture, caption="Accuracy under attack; bands are exact 95 % binomial intervals.", name="curve"
    )
    page.table(rows, caption=f"The same in numbers. {cfg.judge.in_words()}.")
    for name, curve in found.items():
        page.section(f"The {name} network, attacked")
        middle = int(np.searchsorted(curve.eps, cfg.eps, side="right")) - 1
        page.picture(
            report_pieces.attacked_images(test, curve, radius=middle),
            name=f"attacked_{name}",
            caption=f"The first test images (not chosen), attacked at radius {curve.eps[middle]:.3g}: what the network "
            "says before and after.",
        )
    page.scope(
        attacked=[f"both networks, on {test.info.count} test images of {test.info.name}"],
        attacks=[cfg.judge.in_words(), f"radii up to {cfg.judge.eps:g}"],
        not_attacked=["black-box and minimal-norm attacks", "other norms", "gradient-masking checks"],
    )
    return page.write(pathlib.Path(cfg.out) / "report.html")


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
