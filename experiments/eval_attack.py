"""Attack a trained classifier: its accuracy over a curve of radii, with pictures.

    python experiments/eval_attack.py pgd --run runs/mnist --attack.eps 0.3 --images 1000
    python experiments/eval_attack.py curve --run runs/cifar10 --attack.eps 16/255

The run folder is one of train_classifier.py; its best checkpoint is attacked. Each image counts as resisted
at a radius if no attack broke it there or at any smaller radius. The outcome for every image goes to
outcomes.npz, the table to results.json, and both with pictures to report.html.
"""

import dataclasses
import json
import pathlib

import common
import jax
import jax.numpy as jnp
import numpy as np

from robustjax import data, runtime
from robustjax.analysis import curves
from robustjax.runtime import figures
from robustjax.runtime.files import write_whole
from robustjax.runtime.origin import made_with, plain
from robustjax.runtime.report import Report
from robustjax.threats import Threat


@dataclasses.dataclass(frozen=True)
class Config:
    """Attack a trained classifier."""

    run: str = "runs/classifier"  # folder of a run of train_classifier.py
    attack: common.PGD = common.PGD(eps=0.3, steps=100, step=0.03, restarts=10)
    radii: int = 1  # points of the curve, evenly up to --attack.eps; the clean accuracy comes on top
    images: int | None = 1000  # the first so many test images, None for all
    batch_size: int = 500
    seed: int = 0
    out: str | None = None  # where to write; <run>/attack by default
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse numbers that cannot be meant, before any work."""
        for name in ("radii", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")


PRESETS = {
    "pgd": Config(),
    "curve": Config(attack=common.PGD(eps=0.3, steps=40, step=0.05, restarts=1), radii=10),
    "smoke": Config(attack=common.PGD(eps=0.1, steps=2, step=0.5), radii=2, images=40, batch_size=16),
}


def main(cfg: Config) -> None:
    """Attack, check, tabulate, draw."""
    it = common.trained(cfg.run, data_dir=cfg.data_dir)
    test = common.first(it.test, cfg.images)
    out = pathlib.Path(cfg.out or pathlib.Path(cfg.run) / "attack")

    # --- attack ---
    evaluate = curves.over_radii(it.model, lambda eps: common.judges(cfg.attack, eps))
    radii = np.linspace(0.0, cfg.attack.eps, cfg.radii + 1)
    total = -(-len(test.label) // cfg.batch_size)
    batches = runtime.progress(
        data.evaluation(test, batch_size=cfg.batch_size),
        total=total,
        label="attack",
        batch_size=cfg.batch_size,
    )
    numbered = (batch for _, batch in batches)
    curve = evaluate(jax.random.key(cfg.seed), it.params, it.state, numbered, radii)

    # --- check: every point lies where it must ---
    origin = jnp.asarray(np.asarray(test.image, np.float32) / 255)
    for eps, x in zip(curve.eps, curve.x, strict=True):
        if not Threat(cfg.attack.norm, float(eps)).contains(x, origin).all():
            raise RuntimeError(
                f"a point found at radius {eps} is not feasible; this is a bug, please report it"
            )

    # --- tell ---
    rows = common.accuracy_rows(curve)
    for row in rows:
        runtime.say(
            f"{cfg.attack.norm} {row['radius']:.4g}: {row['accuracy %']:.1f} % ({row['95 % interval']})"
        )
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out / "outcomes.npz",
        index=test.index,
        label=test.label,
        eps=curve.eps,
        resisted=curve.resisted,
        margin=curve.margin,
    )
    about = {
        "config": plain(cfg),
        "run": it.config,
        "checkpoint": it.step,
        "data": plain(test.info),
        "made_with": made_with(),
    }
    write_whole(out / "results.json", json.dumps({"rows": rows, **about}, indent=2) + "\n")
    runtime.say(f"report: {write_page(cfg, it, test, curve, rows, out)}")


def write_page(
    cfg: Config, it: common.Trained, test: data.Split, curve: curves.Curve, rows: list, out: pathlib.Path
) -> pathlib.Path:
    """Write the page a person reads."""
    page = Report(f"{it.config['model']} on {it.config['dataset']} under attack", cfg)
    page.text(
        f"Trained with the {it.config['loss']} loss; checkpoint after {it.step} updates, the best under attack on "
        f"validation images. Judged on {test.info.count} test images. {test.info.note}".strip()
    )
    page.table(rows, caption=f"Test accuracy. {common.described(cfg.attack)}.")
    if len(rows) > 2:
        ends = curve.accuracy()
        line = tuple(np.array([100 * getattr(a, name) for a in ends]) for name in ("value", "low", "high"))
        picture = figures.curves(
            curve.eps,
            {"accuracy under attack": line},
            xlabel=f"{cfg.attack.norm} radius",
            ylabel="accuracy, %",
            limits=(0, 102),
        )
        page.picture(
            picture,
            caption="Accuracy over the radius; the band is the exact 95 % binomial interval.",
            name="curve",
        )
    page.section("Attacked images")
    broken = np.flatnonzero(curve.resisted[0] & ~curve.resisted[-1])
    drawn = common.attacked_images(test, curve)
    page.picture(drawn, caption="The first test images, at the largest radius.", name="attacked")
    page.text(f"{len(broken)} of {int(curve.resisted[0].sum())} images classified correctly were broken.")
    page.scope(
        attacked=[f"{it.config['model']} of {cfg.run}, {test.info.count} test images of {test.info.name}"],
        attacks=[common.described(cfg.attack), f"radii up to {cfg.attack.eps:.4g}"],
        not_attacked=[
            "black-box and minimal-norm attacks",
            "other norms and larger radii",
            "gradient-masking checks",
        ],
    )
    return page.write(out / "report.html")


if __name__ == "__main__":
    common.script(main, PRESETS, __doc__)
