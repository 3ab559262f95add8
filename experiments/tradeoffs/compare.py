"""What does adversarial training do to shortcuts? Train on digits whose background gives the class away, and measure.

    python -m experiments.tradeoffs.compare digits --out runs/tradeoffs
    python -m experiments.tradeoffs.compare digits --runs runs/mnist runs/mnist_plain --out runs/compared

Real digits lie on textures that agree with the class on most training images (robustjax/data/planted.py). Networks
are trained on clean images and adversarially, over norms, radii, correlations and seeds, all seeds of a setting at
once, and evaluated on images with matching, random and missing backgrounds, under attack, under noise and by group.
The folder keeps every finished setting under settings/, weights included: start again with the same --out and only
what is missing is trained. report.html explains the result to somebody who has not read the papers.

With --runs nothing is trained: run folders of classification.train are measured on their own test images instead, and
with --checkpoints PyTorch weights, each as file:architecture:dataset:normalisation:norm:eps, the last two the
threat it was trained against (l2:0 for training on clean images):

    python -m experiments.tradeoffs.compare digits --checkpoints net.pt:resnet18:cifar10:none:linf:8/255
"""

import numpy as np

from experiments.shared import command_line
from experiments.tradeoffs import compare_report, pretrained
from experiments.tradeoffs.config import COMPARE_MAY_DIFFER as MAY_DIFFER
from experiments.tradeoffs.config import COMPARE_PRESETS as PRESETS
from experiments.tradeoffs.config import HIGH_CONTRAST, LOW_CONTRAST, CompareConfig, Setting
from experiments.tradeoffs.results import Results
from experiments.tradeoffs.trainer import Trainer
from robustjax import data, runtime
from robustjax.data import planted
from robustjax.data.decode import digest
from robustjax.runtime import image_grids
from robustjax.runtime.stopping import Stop, stopping


def main(cfg: CompareConfig) -> int:
    """Train and evaluate what is missing, then report."""
    if cfg.runs or cfg.checkpoints:
        return compare_trained(cfg)
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, stopping() as stop:
        # --- data ---
        source, grid = digits(cfg), cfg.grid()

        # --- train and evaluate ---
        trainers = {classes: Trainer(cfg, classes, source) for classes in (2, 10)}
        found: dict[Setting, dict[str, np.ndarray]] = {}
        for i, setting in enumerate(grid):

            def make(setting: Setting = setting, number: int = i + 1, stop: Stop = stop):
                runtime.say(f"setting {number} of {len(grid)}: {setting.name}")
                return trainers[setting.classes].results(setting, stop)

            arrays = run.cached(f"settings/{setting.name}", make)
            if arrays is None:
                runtime.say("stopped; the same command goes on with this setting")
                return stop.exit_code
            found[setting] = {name: a for name, a in arrays.items() if not name.startswith("weights/")}

        # --- report ---
        results = Results(found, cfg.correlation, cfg.radius, cfg.size * cfg.size * 3, cfg.resamples)
        report = compare_report.comparison(cfg, results, examples(cfg, source), images_in_words(cfg, source))
        runtime.say(f"report: {report.write(run.folder / 'report.html')}")
    return 0


def compare_trained(cfg: CompareConfig) -> int:
    """Measure trained classifiers, and report."""
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run:
        report = compare_report.of_pretrained(cfg, list(pretrained.measured(cfg, run)))
        runtime.say(f"report: {report.write(run.folder / 'report.html')}")
    return 0


def digits(cfg: CompareConfig) -> planted.Source:
    """Load the digits that are planted."""
    if cfg.dataset == "digits":
        return planted.embedded()
    split = data.load(cfg.dataset, "train", data_dir=cfg.data_dir)
    tenth = len(split.label) // 10
    return planted.of_grey(split.image, split.label, validation=tenth, test=2 * tenth)


def images_in_words(cfg: CompareConfig, source: planted.Source) -> str:
    """Say on which images networks are evaluated."""
    rows = source.rows["test"]
    levels = np.rint(4080 * source.image[rows]).astype(np.int32)
    return (
        f"{cfg.test:,} test scenes for each network, seeds 0 to {cfg.seeds - 1}, of the {len(rows):,} test digits of "
        f"{cfg.dataset} (a fixed shuffle of {len(source.digit):,}), SHA-256 of the digits {digest(levels)[:16]}"
    )


def examples(cfg: CompareConfig, source: planted.Source) -> bytes:
    """Draw the first test images of both backgrounds."""
    rows, names = [], []
    shown: dict[planted.Variant, str] = {"mixed_same": "own", "mixed_rand": "random", "only_bg_t": "alone"}
    for contrast, background in (("high", HIGH_CONTRAST), ("low", LOW_CONTRAST)):
        recipe = cfg.recipe(Setting("multi", background, cfg.correlation))
        for variant, name in shown.items():
            scenes = planted.planted(recipe, source, split="test", count=10, variant=variant)
            rows.append(scenes.image(np.arange(10)))
            names.append(f"{contrast}, {name}")
    return image_grids.grid(rows, rows=names)


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
