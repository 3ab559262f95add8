"""Does exposure to attacked outliers make a detector robust? Six trainings on the embedded digits, in minutes.

    python -m experiments.ood_detection.compare digits --out runs/aloe

Digits 0 to 5 are the data. Networks are trained plainly (MSP), with outliers (OE), adversarially (ADV), on attacked
data and clean outliers (AOE), on clean data and attacked outliers (ACET), and with both attacked (ALOE), three
seeds at once and at three radii; then their score is attacked on both sides, on five kinds of outliers that none
was trained on, by the score itself and by what the papers climb in its place. A second comparison has near
outliers only: 6 and 7 to train on, 8 and 9 to be told from 0 to 5.

The folder keeps every finished setting under cells/; start again with the same --out and only what is missing is
computed. report.html and results.json say what was expected and whether it holds.
"""

import dataclasses
import json
import pathlib

import numpy as np

from experiments.ood_detection import compare_report
from experiments.ood_detection.compare_data import SETS
from experiments.ood_detection.compare_networks import Worker
from experiments.ood_detection.compare_report import Cell
from experiments.shared import command_line
from experiments.shared.fields import Fraction
from robustjax import runtime
from robustjax.runtime.provenance import made_with, plain
from robustjax.runtime.snapshot import in_bytes
from robustjax.runtime.stopping import stopping


@dataclasses.dataclass(frozen=True)
class Config:
    """Train six ways, over radii and seeds, and attack the score on both sides."""

    radii: tuple[Fraction, ...] = (0.05, 0.10, 0.15)  # linf, of training and of the attacks
    near: Fraction = 0.10  # radius of the comparison with near outliers only, one of --radii
    seeds: int = 3
    updates: int = 1500
    batch_size: int = 64
    outlier_batch_size: int = 128
    weight: float = 0.5  # of the outliers' term
    steps: int = 5  # of the training attack, each of 2.5 eps / steps
    judge_steps: int = 40  # of the attacks on the score
    judge_starts: int = 3  # of APGD on the score itself
    outliers: int = 300  # test outliers of each kind
    width: int = 128  # of both hidden layers
    resamples: int = 300  # of the bootstrap
    out: str = "runs/aloe"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse numbers that cannot be meant, before any work."""
        for name in (
            "seeds",
            "updates",
            "batch_size",
            "outlier_batch_size",
            "steps",
            "judge_steps",
            "judge_starts",
            "outliers",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if not self.radii or list(self.radii) != sorted(set(self.radii)) or not 0 < self.radii[0] <= 1:
            raise ValueError(f"--radii is {self.radii}, must rise from above 0")
        if self.near not in self.radii:
            raise ValueError(f"--near is {self.near:g}, must be one of --radii {self.radii}")


PRESETS = {
    "digits": Config(),
    "smoke": Config(
        radii=(0.05, 0.1),
        seeds=2,
        updates=4,
        steps=1,
        judge_steps=2,
        judge_starts=1,
        outliers=20,
        width=8,
        resamples=10,
    ),
}
MAY_DIFFER = ("out", "data_dir", "resamples")


def grid(cfg: Config) -> list[Cell]:
    """List what to train, each setting once; what sees no attack is trained at radius 0."""
    cells = [Cell("far", method, 0.0) for method in ("standard", "oe")]
    cells += [Cell("far", m, e) for e in reversed(cfg.radii) for m in ("adversarial", "aoe", "acet", "aloe")]
    cells += [Cell("near", "oe", 0.0)]
    cells += [Cell("near", method, cfg.near) for method in ("aoe", "acet", "aloe")]
    return cells


def main(cfg: Config) -> int:
    """Train and attack what is missing, then tell."""
    cells, worker = grid(cfg), Worker(cfg)
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, stopping() as stop:
        paths = {cell: run.folder / "cells" / f"{cell.name}.npz" for cell in cells}
        for i, (cell, path) in enumerate(paths.items()):
            if path.exists():
                continue
            runtime.say(f"setting {i + 1} of {len(cells)}: {cell.name}")
            state = worker.fit(cell, stop)
            if state is None:
                runtime.say("stopped; the same command goes on with this setting")
                return stop.exit_code
            runtime.write_whole(path, in_bytes(worker.measured(state), compressed=True))
    arrays = {}
    for cell, path in paths.items():
        with np.load(path) as file:
            arrays[cell] = dict(file)
    results = compare_report.Results(arrays, SETS, tuple(cfg.radii), cfg.near, cfg.resamples)
    facts = {"made_with": made_with(), "config": plain(cfg), **results.facts()}
    runtime.write_whole(pathlib.Path(cfg.out) / "results.json", json.dumps(facts, indent=1) + "\n")
    for line in results.lines():
        runtime.say(line)
    runtime.say(f"report: {compare_report.page(cfg, results).write(pathlib.Path(cfg.out) / 'report.html')}")
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
