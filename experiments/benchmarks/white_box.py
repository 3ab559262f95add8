r"""What attacks with gradients break within a radius, run by run, each with as many forward and backward passes.

    python -m experiments.benchmarks.white_box cpu --source.run runs/digits --eps 0.2
    python -m experiments.benchmarks.white_box cpu --source.run runs/cifar10 --eps 8/255 --images official:300
    python -m experiments.benchmarks.white_box smoke --source.run runs/digits

Every contender makes --runs runs of --gradients gradients each: from a random start, or at another wrong class. The
table has what is left of the accuracy after each run, in percent with its exact 95 % interval over images after the
last one, and how many images a contender misses that another one breaks. Beside the library's attacks there are
objectives that others have published and the library leaves out, on the library's steps, so that only the objective
differs:

    gama    probability margin + 50 (1 - t / 0.25) |p - p(x)|^2 in the first quarter    arXiv:2011.14969
    md      one logit of the margin in the first half, then the margin                   arXiv:2006.13726
    odi     a random direction of the logits in the first tenth, then the margin         arXiv:2003.06878, and in A3
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.benchmarks import measured_on
from experiments.benchmarks.config import WHITE_BOX_PRESETS as PRESETS
from experiments.benchmarks.config import WhiteBoxConfig
from experiments.shared import command_line, network_source
from robustjax import logit
from robustjax.analysis.intervals import proportion
from robustjax.attacks.annealed_pgd import annealed_pgd
from robustjax.attacks.apgd import apgd
from robustjax.attacks.compose import wrong_classes
from robustjax.attacks.solver import Solver
from robustjax.evaluation.suite import as_floats
from robustjax.numerics import fold
from robustjax.threats import Threat
from robustjax.types import Keys, Labels, Logits, LogitsFn, frozen

GAMA_WEIGHT, GAMA_SHARE, ODI_SHARE = 50.0, 0.25, 0.1


class Now(NamedTuple):
    """What a loss may know besides the logits: of the images, and how far the run is."""

    label: Labels
    target: Labels  # of this run
    clean: Logits  # probabilities of the images themselves
    direction: Array  # drawn uniformly from [-1, 1]^k
    odd: Array  # whether the run is an odd one
    done: Array  # share of the run


Loss = Callable[[Logits, Now], Array]


def pma(z: Logits, now: Now) -> Array:
    """Ascend one probability of the margin, then the margin."""
    margin, own = logit.probability_margin(z, now.label), jnp.exp(-logit.cross_entropy(z, now.label))
    return jnp.where(now.done < 0.5, jnp.where(now.odd, margin + own, -own), margin)


def md(z: Logits, now: Now) -> Array:
    """Ascend one logit of the margin, then the margin."""
    margin = logit.margin(z, now.label)
    own = jnp.take_along_axis(z, now.label[:, None], axis=1)[:, 0]
    return jnp.where(now.done < 0.5, jnp.where(now.odd, margin + own, -own), margin)


def gama(z: Logits, now: Now) -> Array:
    """Ascend the margin of probabilities and, at first, how far they have come."""
    weight = GAMA_WEIGHT * jnp.maximum(1.0 - now.done / GAMA_SHARE, 0.0)
    moved = jnp.square(jax.nn.softmax(z) - now.clean).sum(axis=1)
    return logit.probability_margin(z, now.label) + weight * moved


def odi(z: Logits, now: Now) -> Array:
    """Ascend a random direction, then the margin."""
    return jnp.where(now.done < ODI_SHARE, (z * now.direction).sum(axis=1), logit.margin(z, now.label))


CONTENDERS: dict[str, tuple[str, Loss]] = {
    "apgd-ce": ("apgd", lambda z, now: logit.cross_entropy(z, now.label)),
    "apgd-dlr": ("apgd", lambda z, now: logit.dlr(z, now.label)),
    "apgd-t": ("apgd", lambda z, now: logit.targeted_dlr(z, now.label, now.target)),
    "margin": ("annealed", lambda z, now: logit.margin(z, now.label)),
    "probability margin": ("annealed", lambda z, now: logit.probability_margin(z, now.label)),
    "multi-targeted": ("annealed", lambda z, now: logit.targeted_margin(z, now.label, now.target)),
    "pma": ("twice", pma),
    "gama": ("annealed", gama),
    "md": ("twice", md),
    "odi": ("annealed", odi),
}


def solvers(threat: Threat, gradients: int) -> dict[str, Solver]:
    """Build the searches of as many gradients."""
    return {
        "apgd": apgd(threat, steps=gradients - 1),
        "annealed": annealed_pgd(threat, steps=gradients - 1),
        "twice": annealed_pgd(threat, steps=gradients - 2, stages=2),
    }


def broken(
    network: LogitsFn, solver: Solver, loss: Loss, keys: Keys, x: Array, y: Labels, run: Array
) -> Array:
    """Make one run: (b,) whether a misclassified point was met."""
    clean = network(x)
    ranked = wrong_classes(clean, y, clean.shape[1] - 1)
    mine = fold(keys, run)
    target = ranked[:, run % ranked.shape[1]]
    direction = jax.vmap(lambda key: jax.random.uniform(key, clean.shape[1:], minval=-1.0))(fold(mine, 1))

    def advance(i: Array, state: Any) -> Any:
        done = i / solver.length
        now = Now(y, target, jax.nn.softmax(clean), direction, jnp.full(len(y), run % 2 == 1), done)

        def both(z: Array) -> tuple[Array, Array]:
            logits = network(z)
            return loss(logits, now), logit.margin(logits, y)

        return solver.advance(both, state, 1)

    state = jax.lax.fori_loop(0, solver.length, advance, solver.init(fold(mine, 0), x))
    return solver.finish(state).value > 0


def measure(cfg: WhiteBoxConfig) -> tuple[dict[str, np.ndarray], int]:
    """Make all runs of all contenders: (runs, n) whether an image is robust after so many; and the number of images."""
    it = network_source.open_network(cfg.source, cfg.images, 0)
    images, labels = as_floats(it.test.image), it.test.label
    network = frozen(it.network.model, it.network.params, it.network.state)
    right = np.asarray(jax.jit(lambda x: network(x).argmax(axis=1))(images)) == labels
    if not right.any():
        raise ValueError(
            f"--source classifies none of {len(labels)} images correctly, must some: check labels and pixels"
        )
    x, y, total = images[right], labels[right], len(labels)
    size = min(cfg.batch_size, len(y))
    own = jax.random.split(jax.random.key(cfg.seed), len(y))
    searches = solvers(Threat(cfg.norm, cfg.eps), cfg.gradients)
    robust = {}
    for name, (search, loss) in CONTENDERS.items():
        attack = jax.jit(partial(broken, network, searches[search], loss))
        left, after = np.ones(len(y), bool), []
        for run in range(cfg.runs):
            rows = np.flatnonzero(left)
            for first in range(0, len(rows), size):
                some = rows[first : first + size]
                padded = np.resize(some, size)
                keys = own[padded]
                found = np.asarray(attack(keys, x[padded], y[padded], jnp.int32(run)))[: len(some)]
                left[some[found]] = False
            after.append(left.copy())
        robust[name] = np.stack(after)
        print(f"{name}: {100 * left.sum() / total:.2f} %", flush=True)
    return robust, total


def main(cfg: WhiteBoxConfig) -> int:
    """Measure, print a table, append a line."""
    packages = measured_on.versions("jax", "flax")
    print(f"{measured_on.chip()}, {packages}")
    robust, total = measure(cfg)
    together = np.all([after[-1] for after in robust.values()], axis=0)
    shown = sorted({1, 2, cfg.runs // 2, cfg.runs} & set(range(1, cfg.runs + 1)))
    rows = []
    for name, after in robust.items():
        last = proportion(np.pad(after[-1], (0, total - after.shape[1])))
        rows.append(
            {
                "attack": name,
                "images": total,
                "robust %": 100 * last.value,
                "interval": [100 * last.low, 100 * last.high],
                "after runs": {run: 100 * float(after[run - 1].sum()) / total for run in shown},
                "missed": int((after[-1] & ~together).sum()),
                "passes": 2 * cfg.gradients * cfg.runs,
            }
        )
    for row in sorted(rows, key=lambda row: row["robust %"]):
        curve = "  ".join(f"{run}: {share:6.2f}" for run, share in row["after runs"].items())
        print(
            f"{row['attack']:20s} {row['robust %']:6.2f} % ({row['interval'][0]:.2f} to {row['interval'][1]:.2f})  "
            f"missed {row['missed']:3d}  after runs {curve}"
        )
    print(f"all together: {100 * together.sum() / total:.2f} %")
    measured_on.append(cfg.out, cfg, packages, results=rows)
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
