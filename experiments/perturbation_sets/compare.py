"""Learn what lights or warps do to digits, attack inside what was learned, train against it, and certify it.

    python -m experiments.perturbation_sets.compare digits --out runs/perturbation_sets
    python -m experiments.perturbation_sets.compare smoke

A conditional autoencoder learns a perturbation from pairs of images alone. Around every image it then spans a ball of
latents, which the solvers of pixel attacks search, on which networks are trained, and in which smoothing certifies. The
folder gets one file per family and seed, and report.html; started again with the same --out, finished ones are not done
again.
"""

import jax.numpy as jnp
import numpy as np

from experiments.perturbation_sets import compare_report
from experiments.perturbation_sets.compare_networks import METHODS, Arrays, Digits, study
from experiments.perturbation_sets.config import COMPARE_PRESETS as PRESETS
from experiments.perturbation_sets.config import RADII, CompareConfig
from experiments.shared import command_line
from robustjax import data, runtime
from robustjax.data import subsets
from robustjax.types import Batch


def main(cfg: CompareConfig) -> int:
    """Do every family and seed that is not done, then write the report."""
    split = digits(cfg)
    found: dict[str, list[Arrays]] = {}
    with runtime.Run(cfg.out, cfg, may_differ=("out", "families", "seeds")) as run:
        for family in cfg.families:
            for seed in range(cfg.seeds):
                cell = run.cached(f"cells/{family}_{seed}", lambda f=family, s=seed: study(f, split, cfg, s))
                found.setdefault(family, []).append(cell)
        summary = {family: compare_report.summarised(cells) for family, cells in found.items()}
        for family, one in summary.items():
            print(in_words(family, one))
        page = compare_report.comparison(cfg, found, summary)
        runtime.say(f"report: {page.write(run.folder / 'report.html')}")
    return 0


def digits(cfg: CompareConfig) -> Digits:
    """Read the embedded digits and hold some training images out."""
    train, test = (subsets.subset(data.load("digits", part), cfg.images) for part in ("train", "test"))
    order = np.random.default_rng(0).permutation(len(train.label))

    def batch(split: data.Split, rows: np.ndarray) -> Batch:
        image = jnp.asarray(np.asarray(split.image)[rows], jnp.float32) / 255
        return Batch(image, jnp.asarray(np.asarray(split.label)[rows]))

    valid, rest = order[: cfg.valid], order[cfg.valid :]
    return Digits(batch(train, rest), batch(train, valid), batch(test, np.arange(len(test.label))))


def in_words(family: str, one: compare_report.Summary) -> str:
    """Say in a few lines what came out."""
    radii = "  ".join(f"{name} {r:.2f}" for name, r in zip(RADII, one.eps, strict=True))
    lines = [
        f"{family}: radii of encodings: {radii}",
        "  accuracy in %     clean  perturbed  attacked at each radius",
    ]
    for name in METHODS:
        robust = "  ".join(f"{100 * v:5.1f}" for v in one.robust[name])
        lines.append(f"  {name:18s}{100 * one.clean[name]:5.1f}  {100 * one.perturbed[name]:9.1f}  {robust}")
    for target in one.certified:
        certified = "  ".join(f"{100 * v:5.1f}" for v in one.certified[target])
        attacked = "  ".join(f"{100 * v:5.1f}" for v in one.attacked[target])
        lines += [
            f"  smoothed for the {target} radius: certified at 0 and each radius {certified}; attacked {attacked}"
        ]
    return "\n".join(
        [*lines, *(f"  {'yes' if holds else 'NO '}  {what}" for what, holds in one.gates.items())]
    )


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
