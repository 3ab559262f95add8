"""Does translating outliers back to the data make a classifier robust? The whole question on the embedded digits.

    python -m experiments.ood_to_id.defence digits --out runs/translation

For every seed a classifier, a self-supervised encoder for the gate (SSD), two translators (pix2pix, trained on attacked
images with and without darker and sharper ones) and a classifier trained against PGD; then what a strict evaluation
asks: is what is adversarial an outlier, beside noise of the same size; attacks that know nothing of the defence beside
those that know all of it; radii up to 1; another gate; natural shifts. The adaptive number is the headline. Nothing
is printed as robust accuracy that the evaluation does not support.

The system is reconstructed from the abstract of arXiv:2202.08944 and from the papers of its parts: the tables of that
paper were not available, and the column `paper` of the tables stays n/a. The folder keeps every network and every
finished part; start again with the same --out and only what is missing is computed.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterator

import numpy as np

from experiments.ood_to_id import defence_report
from experiments.ood_to_id.defence_networks import Lab
from experiments.ood_to_id.defence_results import Results
from experiments.ood_to_id.measure import Arrays
from experiments.ood_to_id.networks import Recipe
from experiments.shared import command_line
from experiments.shared.fields import Fraction
from robustjax import runtime
from robustjax.runtime.provenance import made_with, plain
from robustjax.runtime.snapshot import in_bytes
from robustjax.runtime.stopping import stopping


@dataclasses.dataclass(frozen=True)
class Config:
    """Train the defence, attack it with and without knowledge of it, and say what is left."""

    seeds: int = 2
    recipe: Recipe = Recipe()
    robust_epochs: int = 40  # of the classifier trained against PGD
    images: int | None = None  # test images, all for None
    steps: int = 100  # of attacks along gradients
    restarts: int = 2  # of cross-entropy through the translator and of selective PGD; other losses start once
    targets: int = 1  # of targeted DLR
    queries: int = 500  # of Square
    estimates: int = 5  # of SPSA, 64 queries each
    only: tuple[str, ...] = ()  # attacks to run, by how their names begin: A1, A3, PGD; all by default
    radii: tuple[Fraction, ...] = (0.05, 0.1, 0.5, 1.0)  # of the sweep, beside recipe.eps
    swept: int = 180  # test images of the sweep, and of the attack on another gate
    batch_size: int = 128
    out: str = "runs/translation"

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        for name in ("seeds", "steps", "restarts", "swept", "batch_size", "robust_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if self.seeds < 2:
            raise ValueError(
                f"--seeds is {self.seeds}, must be at least 2: each is attacked by copies of another"
            )
        if 1.0 not in self.radii:
            raise ValueError(
                f"--radii is {self.radii}, must hold 1: attacks that leave something there do not work"
            )


PRESETS = {
    "digits": Config(),
    "smoke": Config(
        recipe=Recipe(
            classifier_epochs=1, encoder_epochs=1, encoder_batch=64, width=4, critic_width=4, epochs=1, batch_size=64,
            attacks=("fgsm",), shares=(1.0,), pairs_of=64,
        ),
        robust_epochs=1, images=12, steps=4, restarts=1, targets=0, queries=2, estimates=0, radii=(1.0,), batch_size=12,
        only=("PGD", "A1"),
    ),
}  # fmt: skip
MAY_DIFFER = ("out",)


def main(cfg: Config) -> int:
    """Train and attack what is missing, then tell."""
    began = time.process_time()
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, stopping() as stop:
        work = list(jobs(cfg, run.folder))
        for i, (path, job) in enumerate(work):
            if path.exists():
                continue
            runtime.say(f"part {i + 1} of {len(work)}: {path.stem}")
            start = time.process_time()
            arrays = job()
            runtime.write_whole(
                path,
                in_bytes(arrays | {"cpu_seconds": np.array(time.process_time() - start)}, compressed=True),
            )
            if stop.requested:
                runtime.say("stopped; the same command goes on with the next part")
                return stop.exit_code
    cells: dict[str, Arrays] = {}
    for path, _ in work:
        with np.load(path) as file:
            cells[path.stem] = dict(file)
    heads = [Lab(cfg, run.folder).head(seed, cells) for seed in range(cfg.seeds)]
    results = Results(cells, cfg, heads)
    facts = {"made_with": made_with(), "config": plain(cfg), **results.facts()}
    runtime.write_whole(pathlib.Path(cfg.out) / "results.json", json.dumps(facts, indent=1) + "\n")
    for line in results.lines():
        runtime.say(line)
    runtime.say(
        f"CPU: {results.seconds():.0f} s for all parts, {time.process_time() - began:.0f} s this time"
    )
    runtime.say(f"report: {defence_report.page(cfg, results).write(pathlib.Path(cfg.out) / 'report.html')}")
    return 0


def jobs(cfg: Config, folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, Callable[[], Arrays]]]:
    """List the parts in order: the file each leaves, and what makes it."""
    lab = Lab(cfg, folder)
    for name in ("trained", "detection", "natural", "adaptive", "swapped", "baseline", "sweep"):
        for seed in range(cfg.seeds):
            yield (
                folder / "parts" / f"{name}_{seed}.npz",
                lambda name=name, seed=seed: getattr(lab, name)(seed),
            )


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
