"""The theory of adversarial training and spurious features, drawn from its formulas.

    python -m experiments.tradeoffs.theory

Linear regression on Gaussian features, one of them spurious: what adversarial training under an l1, l2 or linf
budget converges to, how much of it rests on the spurious feature, what that costs where the correlation breaks and
what it brings where it lasts. Everything is exact but the dots, which are linear models trained against PGD
on samples. Takes about a minute of CPU time and writes report.html, results.json and figures/ to --out.
"""

import dataclasses
import json
import pathlib

import jax

from experiments.shared import command_line
from experiments.tradeoffs import theory_curves
from experiments.tradeoffs.theory_report import write_page
from robustjax import runtime
from robustjax.runtime.files import write_whole
from robustjax.runtime.provenance import made_with, plain


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw the theory. The core feature has scale 1 and coefficient 1."""

    rho: float = 0.8  # correlation of the core and the spurious feature
    sigma: float = 0.5  # standard deviation of the noise of the target
    eps: float = 1.0  # largest radius of the curves, in the units of the features
    radii: int = 81  # points of a curve
    grid: int = 41  # points along each side of a map
    trained: tuple[float, ...] = (0.25, 0.75)  # radii at which a model is also trained against PGD
    examples: int = 4000  # of such a training
    updates: int = 400
    steps: int = 4  # of PGD
    seed: int = 0
    out: str = "runs/tradeoff_theory"

    def check(self) -> None:
        """Refuse numbers that cannot be meant, before any work."""
        if not 0 < self.rho < 1:
            raise ValueError(f"--rho is {self.rho:g}, must be inside (0, 1)")
        if not 0 < self.sigma <= 1:  # with more noise the radii of the tables would end all prediction
            raise ValueError(f"--sigma is {self.sigma:g}, must be in (0, 1]")
        if not self.eps > 0:
            raise ValueError(f"--eps is {self.eps:g}, must be above 0")
        for name, least in (("radii", 2), ("grid", 2), ("updates", 1), ("steps", 1), ("examples", 10)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}, must be at least {least}")
        if any(not eps > 0 for eps in self.trained):
            raise ValueError(f"--trained is {self.trained}, must hold radii above 0")


PRESETS = {
    "figures": Config(),
    "smoke": Config(radii=5, grid=4, trained=(0.5,), examples=1000, updates=150, steps=3),
}


def main(cfg: Config) -> None:
    """Solve, train, draw, tell."""
    with jax.enable_x64(True):
        runtime.say("solving")
        found = {
            "weights": theory_curves.weights(cfg),
            "share": theory_curves.share(cfg),
            "shift": theory_curves.shift(cfg),
            "benefit": theory_curves.benefit(cfg),
            "phase": theory_curves.phase(cfg),
        }
        anchors = theory_curves.anchor_rows(cfg)
    runtime.say("training against PGD")
    trained = theory_curves.training(cfg)

    out = pathlib.Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    about = {"config": plain(cfg), "made_with": made_with()}
    content = {"anchors": anchors, "trained": trained} | found | about
    write_whole(out / "results.json", json.dumps(plain(content), indent=1) + "\n")
    runtime.say(f"report: {write_page(cfg, found, anchors, trained, out)}")


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
