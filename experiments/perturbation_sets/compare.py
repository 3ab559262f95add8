"""Learn what lights or warps do to digits, attack inside what was learned, train against it, and certify it.

    python -m experiments.perturbation_sets.compare digits --out runs/perturbation_sets
    python -m experiments.perturbation_sets.compare smoke

A conditional autoencoder learns a perturbation from pairs of images alone. Around every image it then spans a ball of
latents, in which the solvers of pixel attacks climb, networks are trained, and smoothing certifies. The folder gets
one file per family and seed, and report.html; started again with the same --out, finished ones are not done again.
"""

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np

from experiments.perturbation_sets import compare_networks, compare_report
from experiments.perturbation_sets.compare_networks import METHODS, SHARES, TARGETS, Digits, Effort
from experiments.shared import command_line
from robustjax import data, runtime
from robustjax.data import subsets
from robustjax.runtime.snapshot import in_bytes
from robustjax.types import Batch


@dataclasses.dataclass(frozen=True)
class Config:
    """Learn perturbation sets of digits and judge classifiers on them."""

    families: tuple[str, ...] = tuple(compare_networks.FAMILIES)  # of lighting, warps
    seeds: int = 3
    cvae_epochs: int = 200
    epochs: int = 80  # of every classifier
    batch_size: int = 128
    latents: int = 16
    steps: int = 50  # of an attack that judges, each a twentieth of the radius long
    restarts: int = 3
    copies: int = 2000  # noisy copies per certificate
    queries: int = 500  # of the attack without gradients
    targets: tuple[str, ...] = TARGETS  # radii for which networks are smoothed, of median, largest
    valid: int = 300  # training images held out to choose the radius on
    images: int | None = None  # the first so many training and test images, None for all
    out: str = "runs/perturbation_sets"

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        if unknown := [name for name in self.families if name not in compare_networks.FAMILIES]:
            raise ValueError(
                f"--families has {unknown[0]!r}, must be of {', '.join(compare_networks.FAMILIES)}"
            )
        if unknown := [name for name in self.targets if name not in TARGETS]:
            raise ValueError(f"--targets has {unknown[0]!r}, must be of {', '.join(TARGETS)}")
        for name in (
            "seeds",
            "cvae_epochs",
            "epochs",
            "batch_size",
            "latents",
            "steps",
            "restarts",
            "queries",
            "valid",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if self.copies < 10:
            raise ValueError(f"--copies is {self.copies}, must be at least 10 to certify anything")
        if self.images is not None and self.images < self.valid + self.batch_size:
            raise ValueError(f"--images is {self.images}, must be at least --valid + --batch-size")


PRESETS = {
    "digits": Config(),
    "smoke": Config(
        families=("lighting",), seeds=1, cvae_epochs=2, epochs=2, batch_size=32, steps=2, restarts=1, copies=20,
        queries=5, valid=16, targets=("largest",), images=64, latents=4, out="runs/perturbation_sets_smoke",
    ),
}  # fmt: skip


def digits(cfg: Config) -> Digits:
    """Read the embedded digits and hold some training images out."""
    train, test = (subsets.first(data.load("digits", part), cfg.images) for part in ("train", "test"))
    order = np.random.default_rng(0).permutation(len(train.label))

    def batch(split: data.Split, rows: np.ndarray) -> Batch:
        image = jnp.asarray(np.asarray(split.image)[rows], jnp.float32) / 255
        return Batch(image, jnp.asarray(np.asarray(split.label)[rows]))

    held, rest = order[: cfg.valid], order[cfg.valid :]
    return Digits(batch(train, rest), batch(train, held), batch(test, np.arange(len(test.label))))


def main(cfg: Config) -> int:
    """Do every family and seed that is not done, then write the page."""
    held = digits(cfg)
    names = (
        "cvae_epochs",
        "epochs",
        "batch_size",
        "steps",
        "restarts",
        "copies",
        "queries",
        "latents",
        "targets",
    )
    effort = Effort(**{name: getattr(cfg, name) for name in names})
    found: dict[str, list[compare_networks.Arrays]] = {}
    with runtime.Run(cfg.out, cfg, may_differ=("out", "families", "seeds")) as run:
        for family in cfg.families:
            for seed in range(cfg.seeds):
                path = run.folder / "cells" / f"{family}_{seed}.npz"
                if not path.exists():
                    path.parent.mkdir(exist_ok=True)
                    done = compare_networks.study(family, held, effort, seed)
                    runtime.write_whole(path, in_bytes(done))
                with np.load(path) as arrays:
                    found.setdefault(family, []).append(dict(arrays))
        summary = {family: compare_report.summarised(cells) for family, cells in found.items()}
        for family, one in summary.items():
            print(told(family, one))
        place = compare_report.page(cfg, found, summary).write(pathlib.Path(run.folder) / "report.html")
    runtime.say(f"report: {place}")
    return 0


def told(family: str, one: compare_report.Summary) -> str:
    """Say in a few lines what came out."""
    radii = "  ".join(f"{share} {r:.2f}" for share, r in zip(SHARES, one.eps, strict=True))
    lines = [
        f"{family}: radii of encodings: {radii}",
        "  accuracy in %     clean  perturbed  attacked at each radius",
    ]
    for name in METHODS:
        shown = "  ".join(f"{100 * v:5.1f}" for v in one.robust[name])
        lines.append(f"  {name:18s}{100 * one.clean[name]:5.1f}  {100 * one.perturbed[name]:9.1f}  {shown}")
    for target in one.certified:
        certified = "  ".join(f"{100 * v:5.1f}" for v in one.certified[target])
        attacked = "  ".join(f"{100 * v:5.1f}" for v in one.attacked[target])
        lines += [
            f"  smoothed for the {target} radius: certified at 0 and each radius {certified}; attacked {attacked}"
        ]
    return "\n".join([*lines, *(f"  {'yes' if held else 'NO '}  {what}" for what, held in one.gates.items())])


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
