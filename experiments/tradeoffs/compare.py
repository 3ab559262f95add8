"""What does adversarial training do to shortcuts? Train on digits whose background gives the class away, and measure.

    python -m experiments.tradeoffs.compare digits --out runs/tradeoff
    python -m experiments.tradeoffs.compare digits --runs runs/mnist runs/mnist_plain --out runs/compared

Real digits lie on textures that agree with the class on most training images (robustjax/data/planted.py). Networks
are trained plainly and adversarially, over norms, radii, correlations and seeds, all seeds of a setting at once, and
judged on images with matching, random and missing backgrounds, under attack, under noise and by group. The
folder keeps every finished setting under cells/, weights included: start again with the same --out and only what
is missing is trained. report.html explains the result to somebody who has not read the papers.

With --runs nothing is trained: run folders of classification.train are measured on their own test images instead, and
with --checkpoints PyTorch weights, each as file:architecture:dataset:normalisation:norm:eps, the last two the
threat it was trained against (l2:0 for plain training):

    python -m experiments.tradeoffs.compare digits --checkpoints net.pt:resnet18:cifar10:none:linf:8/255
"""

import dataclasses
import pathlib

import numpy as np

from experiments.shared import command_line
from experiments.shared.fields import Fraction
from experiments.shared.settings import PGD
from experiments.tradeoffs import other_networks
from experiments.tradeoffs import report as pages
from experiments.tradeoffs.cells import STRONG, WEAK, Cell, unpacked
from experiments.tradeoffs.networks import Worker, recipe_of
from experiments.tradeoffs.results import Results
from robustjax import data, runtime
from robustjax.data import planted
from robustjax.runtime import image_grids
from robustjax.runtime.snapshot import in_bytes
from robustjax.runtime.stopping import stopping


@dataclasses.dataclass(frozen=True)
class Config:
    """Train over norms, radii, correlations and seeds, and measure what the networks rely on."""

    l2: tuple[Fraction, ...] = (0.3, 0.6)  # training radii; plain training comes on top
    linf: tuple[Fraction, ...] = (4 / 255, 8 / 255)
    correlation: float = 0.8  # of background and class in training, for the radii
    correlations: tuple[float, ...] = (0.1, 0.5, 0.95, 1.0)  # further ones, at --radius
    radius: Fraction = 0.3  # l2, for the correlations
    groups: bool = True  # also two classes, with Group DRO, Just Train Twice and refitted last layers
    seeds: int = 3
    images: int = 3000  # for training; a third more for the two classes
    test: int = 1200
    epochs: int = 15
    batch_size: int = 128
    rate: float = 2e-3  # of AdamW, at the peak of a cosine cycle
    steps: int = 4  # of the training attack, each of 2.5 eps / steps
    judge: PGD = PGD(norm="l2", eps=0.3, steps=10, step=0.25)
    size: int = 16  # pixels a side
    digit: int = 12
    source: str = "digits"  # or another set of grey digits by name, such as mnist
    resamples: int = 500  # of the bootstrap
    runs: tuple[str, ...] = ()  # run folders of classification.train, to be measured instead
    checkpoints: tuple[
        str, ...
    ] = ()  # file:architecture:dataset:normalisation:norm:eps, to be measured instead
    out: str = "runs/tradeoff"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse numbers that cannot be meant, before any work."""
        for name in ("seeds", "images", "test", "epochs", "batch_size", "steps", "resamples"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if not min((*self.l2, *self.linf, self.radius)) > 0:
            raise ValueError("--l2, --linf and --radius must be above 0; plain training is always there")
        if not all(0 <= c <= 1 for c in (*self.correlations, self.correlation)):
            raise ValueError(f"--correlations is {self.correlations}, must be in [0, 1]")
        for words in self.checkpoints:
            other_networks.checkpoint(words)


PRESETS = {
    "digits": Config(),
    "smoke": Config(
        l2=(0.3,),
        linf=(),
        correlations=(0.1,),
        seeds=2,
        images=60,
        test=24,
        epochs=1,
        batch_size=32,
        steps=1,
        judge=PGD(norm="l2", eps=0.3, steps=1, step=1.0),
        groups=False,
        resamples=10,
    ),
}
# More radii or correlations may join a folder later: every setting has a file of its own.
MAY_DIFFER = ("out", "data_dir", "l2", "linf", "correlations", "groups", "resamples", "runs", "checkpoints")


def grid(cfg: Config) -> list[Cell]:
    """List what to train, each setting once."""
    trained = [("l2", 0.0), *(("l2", e) for e in cfg.l2), *(("linf", e) for e in cfg.linf)]
    cells = [Cell("multi", b, cfg.correlation, "plain", n, e) for b in (STRONG, WEAK) for n, e in trained]
    for c in (*cfg.correlations, cfg.correlation):
        cells += [Cell("multi", STRONG, c, "plain", "l2", e) for e in (0.0, cfg.radius)]
    if cfg.groups:
        two, most = Cell("binary", WEAK, 0.95), max(cfg.l2, default=cfg.radius)
        cells += [two._replace(norm=n, eps=e) for n, e in trained if n == "l2" or e == max(cfg.linf)]
        cells += [two._replace(method="group_dro", eps=e) for e in (0.0, most)]
        cells += [two._replace(method="jtt", eps=e) for e in (0.0, most)]
    return list(dict.fromkeys(cells))


def main(cfg: Config) -> int:
    """Train what is missing, then tell."""
    if cfg.runs or cfg.checkpoints:
        return compare(cfg)
    source, cells = digits(cfg), grid(cfg)
    workers = {k: Worker(cfg, k, source) for k in (2, 10)}
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, stopping() as stop:
        paths = {cell: run.folder / "cells" / f"{cell.name}.npz" for cell in cells}
        for i, (cell, path) in enumerate(paths.items()):
            if path.exists():
                continue
            runtime.say(f"setting {i + 1} of {len(cells)}: {cell.name}")
            worker = workers[recipe_of(cfg, cell).classes]
            state = worker.fit(cell, stop)
            if state is None:
                runtime.say("stopped; the same command goes on with this setting")
                return stop.exit_code
            runtime.write_whole(path, in_bytes(worker.measured(cell, state), compressed=True))
    results = Results(
        {cell: unpacked(path) for cell, path in paths.items()},
        cfg.correlation,
        cfg.radius,
        cfg.size * cfg.size * 3,
        cfg.resamples,
    )
    page = pages.page(cfg, results, examples(cfg, source))
    runtime.say(f"report: {page.write(pathlib.Path(cfg.out) / 'report.html')}")
    return 0


def compare(cfg: Config) -> int:
    """Measure classifiers that others trained, and draw the page about them."""
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run:
        page = pages.compared(cfg, list(other_networks.measured(cfg, run.folder)))
        runtime.say(f"report: {page.write(run.folder / 'report.html')}")
    return 0


def digits(cfg: Config) -> planted.Source:
    """Load what is planted."""
    if cfg.source == "digits":
        return planted.embedded()
    split = data.load(cfg.source, "train", data_dir=cfg.data_dir)
    tenth = len(split.label) // 10
    return planted.of_grey(split.image, split.label, validation=tenth, test=2 * tenth)


def examples(cfg: Config, source: planted.Source) -> bytes:
    """Draw the first test scenes of both backgrounds."""
    rows, names = [], []
    shown: dict[planted.Variant, str] = {"mixed_same": "own", "mixed_rand": "random", "only_bg_t": "alone"}
    for strength, background in (("strong", STRONG), ("weak", WEAK)):
        recipe = recipe_of(cfg, Cell("multi", background, cfg.correlation))
        for variant, name in shown.items():
            scenes = planted.planted(recipe, source, split="test", count=10, variant=variant)
            rows.append(scenes.image(np.arange(10)))
            names.append(f"{strength}, {name}")
    return image_grids.grid(rows, rows=names)


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
