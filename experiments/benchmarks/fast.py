r"""The fast suite beside AutoAttack's standard one on the same network: agreement, passes and seconds.

    python -m experiments.benchmarks.fast cpu --source.run runs/mnist --eps 0.3 --images official:1000
    python -m experiments.benchmarks.fast cpu --source.checkpoint net.pth --source.dataset mnist --norm l2 --eps 1.5
    python -m experiments.benchmarks.fast smoke --source.run runs/digits

Both suites are run with each seed, in turns; the first seed's standard suite is the one to agree with, and the lines of
other seeds say how far standard agrees with itself. "robust" is in percent with its exact 95 % interval over images,
"agree" is the share of images with the same result, "missed" counts images that standard broke and the suite did not,
"more" the other way round; passes are forward and backward ones, over all images. Seconds are those of compiled
programs: every program is compiled before.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import jax

from experiments.benchmarks import measured_on
from experiments.benchmarks.config import FAST_PRESETS as PRESETS
from experiments.benchmarks.config import FastConfig
from experiments.shared import command_line, network_source
from robustjax import runtime
from robustjax.analysis.intervals import proportion
from robustjax.catalog import attacks as known_attacks
from robustjax.evaluation import pool, suite
from robustjax.evaluation.results import Results
from robustjax.evaluation.suite import as_floats
from robustjax.threats import Threat
from robustjax.types import frozen

SMALLEST = 32


class Turn(NamedTuple):
    """One suite with one seed."""

    suite: known_attacks.Suite
    seed: int
    results: Results
    passes: int
    seconds: float


def measure(cfg: FastConfig) -> list[Turn]:
    """Run both suites in turns."""
    it = network_source.open_network(cfg.source, cfg.images, 0)
    images, labels, index = as_floats(it.test.image), it.test.label, it.test.index
    classes, size = len(it.test.info.classes), min(cfg.batch_size, len(labels))
    mesh = runtime.data_mesh()
    arguments = runtime.place((it.network.params, it.network.state), mesh)
    threat, everything = Threat(cfg.norm, cfg.eps), Threat(cfg.norm, 1.0 if cfg.norm == "linf" else 1e3)
    settings = known_attacks.AttackSettings()
    suites: dict[known_attacks.Suite, Any] = {}
    smallest = min(SMALLEST, size)
    for name in cfg.suites:
        cases = partial(known_attacks.suite, name, classes=classes, settings=settings)
        evaluate = suite.over(
            partial(frozen, it.network.model),
            cases,
            batch_size=size,
            smallest=smallest,
            sharding=runtime.over_data(mesh),
        )
        suites[name] = cases, evaluate
        for some in pool.buckets(size, smallest):
            # All attacks see all images and break them at once, in batches of every size: the radius is traced.
            few = images[:some], labels[:some], everything
            evaluate(jax.random.key(0), *few, *arguments, every=True)

    turns = []
    for seed in range(cfg.seeds):
        for name, (cases, evaluate) in suites.items():
            began = time.perf_counter()
            found = evaluate(jax.random.key(seed), images, labels, threat, *arguments, index=index)
            seconds = time.perf_counter() - began
            passes = sum(int(n) * case.passes for n, case in zip(found.steps, cases(threat), strict=True))
            turns.append(Turn(name, seed, found, passes, seconds))
    return turns


def row(turn: Turn, first: Turn, same_seed: Turn) -> dict[str, Any]:
    """Compare a turn with the first one of standard; passes and seconds with that of the same seed."""
    mine, truth = turn.results.robust, first.results.robust
    robust, agree = proportion(mine), proportion(mine == truth)
    return {
        "suite": turn.suite,
        "seed": turn.seed,
        "images": len(mine),
        "robust %": 100 * robust.value,
        "interval": [100 * robust.low, 100 * robust.high],
        "agree %": 100 * agree.value,
        "agree interval": [100 * agree.low, 100 * agree.high],
        "missed": int((mine & ~truth).sum()),
        "more": int((truth & ~mine).sum()),
        "passes": turn.passes,
        "passes / standard": turn.passes / max(same_seed.passes, 1),
        "seconds": turn.seconds,
        "seconds / standard": turn.seconds / same_seed.seconds,
        "after": {name: 100 * found.value for name, found in turn.results.accuracy()},
        "parts": {
            name: round(float(seconds), 2)
            for name, seconds in zip(turn.results.attacks, turn.results.seconds, strict=True)
        },
    }


def main(cfg: FastConfig) -> int:
    """Measure, print a table, append a line."""
    runtime.one_device_per_core()
    packages = measured_on.versions("jax", "flax")
    print(f"{measured_on.chip()}, {packages}")
    turns = measure(cfg)
    standard = {turn.seed: turn for turn in turns if turn.suite == "standard"}
    rows = [row(turn, standard[0], standard[turn.seed]) for turn in turns]
    print(
        "suite     seed images robust % (95 % interval)    agree % (95 % interval)  missed  more      passes  seconds"
    )
    for one in rows:
        print(
            f"{one['suite']:9s} {one['seed']:4d} {one['images']:6d} {one['robust %']:7.2f}  "
            f"({one['interval'][0]:.2f} to {one['interval'][1]:.2f})  {one['agree %']:7.2f}  "
            f"({one['agree interval'][0]:.2f} to {one['agree interval'][1]:.2f})  {one['missed']:5d} {one['more']:5d} "
            f"{one['passes']:11,d} ({one['passes / standard']:.3f})  {one['seconds']:7.2f} "
            f"({one['seconds / standard']:.3f})  "
            + ", ".join(f"{name} {share:.2f}" for name, share in one["after"].items())
        )
    measured_on.append(cfg.out, cfg, packages, results=rows)
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
