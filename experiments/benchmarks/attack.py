"""Measure attacks: seconds and robust accuracy beside torchattacks and foolbox, same weights, same images.

    python -m experiments.benchmarks.attack cpu --runs runs/mnist runs/cifar10 --eps 0.3 8/255 --images 200 64
    python -m experiments.benchmarks.attack smoke

Each run folder of classification.train (convnet_small, convnet or resnet18) is attacked by AutoAttack's
standard attacks, ours and torchattacks' set to as many iterations and queries, and by PGD, ours and foolbox's. With
--attacks detector, PGD pushes the score of the test images (ID) down and that of as many uniform noise images (OOD) up,
ours and in a loop of PyTorch; "robust" is the AUROC then, and the parts end with images per second, both sides.
The contenders take turns, each with random numbers of its own, so that a noisy machine disturbs all of them;
robust accuracy is the mean over the turns. Our seconds are those of compiled
programs; what compiling took is shown beside. Needs torch, torchattacks and foolbox: pip install -e '.[peers]'.

--nearest 200 measures searches for the nearest adversarial point instead, of about as many forward and backward
passes, in linf, l2 and l1: AttackBench's optimality (1 for a search that is nowhere beaten, over all radii), the
median distance and passes made per image, on the images that are classified correctly; ours, and
adversarial-library's and foolbox's on the same weights, if they are installed: pip install adv-lib foolbox numba.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measured_on, minimum_norm, minimum_norm_peers, peers, score_attacks
from experiments.benchmarks.config import ATTACK_PRESETS as PRESETS
from experiments.benchmarks.config import AttackConfig, AttackName
from experiments.shared import classifiers, command_line
from robustjax import logit, runtime
from robustjax.attacks import autoattack
from robustjax.attacks.case import Case
from robustjax.attacks.pgd import pgd_solver
from robustjax.catalog import models
from robustjax.data import subsets
from robustjax.evaluation import pool, suite
from robustjax.threats import Threat
from robustjax.types import Network, frozen


class Outcome(NamedTuple):
    """One turn of a contender."""

    seconds: float
    robust: np.ndarray  # (n,) bool
    parts: dict[str, float]  # seconds per attack
    steps: dict[str, int]  # iterations of all images together, ours only


def ours(
    it: Network, images: np.ndarray, labels: np.ndarray, eps: float, cfg: AttackConfig, kind: AttackName
) -> Callable[..., Outcome]:
    """Build one turn of the library's suite runner, and one that only compiles."""

    def cases(threat: Threat) -> tuple[Case, ...]:
        if kind == "pgd":
            solver = pgd_solver(threat, steps=cfg.pgd_steps, step_size=2.5 * threat.eps / cfg.pgd_steps)
            return (autoattack.untargeted("pgd", solver, logit.cross_entropy),)
        return (
            autoattack.apgd_ce(threat, classes=10, steps=cfg.steps),
            autoattack.apgd_targeted(threat, classes=10, targets=cfg.targets, steps=cfg.steps),
            autoattack.fab_targeted(threat, classes=10, targets=cfg.targets, steps=cfg.steps),
            autoattack.random_search(threat, queries=cfg.queries),
        )

    network, size = partial(frozen, it.model), min(cfg.batch_size, len(labels))
    if kind == "detector":
        search = score_attacks.ours(
            network, (it.params, it.state), images, noise(images), eps=eps, steps=cfg.pgd_steps, size=size
        )
        return _outcome(search, 2 * len(labels))
    mesh = runtime.data_mesh()
    rows, arguments = runtime.over_data(mesh), runtime.place((it.params, it.state), mesh)
    smallest = min(size, 32, max(4, size // 4))
    evaluate = suite.over(network, cases, batch_size=size, smallest=smallest, sharding=rows)
    seeds = itertools.count()

    def turn(compiling: bool = False) -> Outcome:
        began = time.perf_counter()
        if compiling:
            # All attacks see all images and break them at once, in batches of every size: the radius is traced.
            for some in pool.buckets(size, smallest):
                few = images[:some], labels[:some], Threat("linf", 1.0)
                evaluate(jax.random.key(0), *few, *arguments, every=True)
            return Outcome(time.perf_counter() - began, np.zeros(0, bool), {}, {})
        key = jax.random.key(next(seeds))
        found = evaluate(key, images, labels, Threat("linf", eps), *arguments)
        parts = {name: float(s) for name, s in zip(found.attacks, found.seconds, strict=True)}
        steps = {name: int(n) for name, n in zip(found.attacks, found.steps, strict=True)}
        return Outcome(time.perf_counter() - began, found.robust, parts, steps)

    return turn


def theirs(
    net: Any, images: np.ndarray, labels: np.ndarray, eps: float, cfg: AttackConfig, kind: AttackName
) -> Callable[[], Outcome]:
    """Build one turn of torchattacks (standard) or foolbox (pgd), in batches of our size."""
    import torch

    if kind == "detector":
        size = min(cfg.batch_size, len(labels))
        search = score_attacks.theirs(net, images, noise(images), eps=eps, steps=cfg.pgd_steps, size=size)
        return _outcome(search, 2 * len(labels))
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    y = torch.from_numpy(labels.astype(np.int64))

    def right(points: Any) -> np.ndarray:
        with torch.no_grad():
            return np.concatenate(
                [(net(p).argmax(1) == t).numpy() for p, t in zip(points, y.split(size), strict=True)]
            )

    size = min(cfg.batch_size, len(labels))

    def turn() -> Outcome:
        began, parts = time.perf_counter(), {}
        robust = right(x.split(size))
        if kind == "pgd":
            import foolbox

            model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
            attack = foolbox.attacks.LinfPGD(steps=cfg.pgd_steps, abs_stepsize=2.5 * eps / cfg.pgd_steps)
            points = [
                attack(model, a, b, epsilons=eps)[1]
                for a, b in zip(x.split(size), y.split(size), strict=True)
            ]
            return Outcome(time.perf_counter() - began, robust & right(points), {}, {})
        import torchattacks

        common_ = {"norm": "Linf", "eps": eps}
        attacks = {
            "apgd-ce": torchattacks.APGD(net, steps=cfg.steps, loss="ce", **common_),
            "apgd-t": torchattacks.APGDT(net, steps=cfg.steps, n_classes=cfg.targets + 1, **common_),
            "fab-t": torchattacks.FAB(
                net, steps=cfg.steps, multi_targeted=True, n_classes=cfg.targets + 1, **common_
            ),
            "square": torchattacks.Square(net, n_queries=cfg.queries, resc_schedule=False, **common_),
        }
        for name, attack in attacks.items():  # each on what is still robust, as its own AutoAttack does
            start = time.perf_counter()
            for rows in np.array_split(np.flatnonzero(robust), max(1, -(-int(robust.sum()) // size))):
                if len(rows):
                    found = attack(x[rows], y[rows])
                    with torch.no_grad():
                        robust[rows] &= (net(found).argmax(1) == y[rows]).numpy()
            parts[name] = time.perf_counter() - start
        return Outcome(time.perf_counter() - began, robust, parts, {})

    return turn


def noise(images: np.ndarray) -> np.ndarray:
    """Draw as many uniform noise images: the OOD images of the attack on the detector."""
    return np.random.default_rng(0).random(images.shape, np.float32)


def _outcome(turn: Callable[[], score_attacks.Turn], count: int) -> Callable[..., Outcome]:
    def timed(compiling: bool = False) -> Outcome:
        del compiling  # the first turn compiles
        found = turn()
        rate = {"images/s": count / found.seconds}
        return Outcome(found.seconds, found.above, found.parts | rate, {})

    return timed


def measure(folder: str, eps: float, count: int, cfg: AttackConfig) -> list[dict[str, Any]]:
    """Measure all contenders on one run folder."""
    it, test = classifiers.open_classifier(folder, data_dir=cfg.data_dir)
    test = subsets.subset(test, count)
    images, labels = test.image.astype(np.float32) / 255, test.label
    results = []
    for kind in cfg.attacks:
        turns = {"ours": ours(it, images, labels, eps, cfg, kind)}
        peer = {"standard": "torchattacks", "pgd": "foolbox", "detector": "torch"}[kind]
        if cfg.peers and find_spec("torch") and find_spec(peer):
            constants = models.NORMALISATIONS.get(it.about["dataset"])
            net = peers.network(it.about["model"], it.params, it.state, constants)
            turns[peer] = theirs(net, images, labels, eps, cfg, kind)
        compiling = turns["ours"](compiling=True).seconds
        outcomes: dict[str, list[Outcome]] = {name: [] for name in turns}
        for _ in range(cfg.repeats):
            for name, turn in turns.items():
                outcomes[name].append(turn())
        for name, found in outcomes.items():
            seconds = [o.seconds for o in found]
            # Turn by turn: what slows the machine for a while slows both contenders of a turn.
            shares = [a.seconds / b.seconds for a, b in zip(outcomes["ours"], found, strict=True)]
            mine = name == "ours"
            results.append(
                {
                    "run": folder,
                    "network": it.about["model"],
                    "eps": eps,
                    "images": len(labels),
                    "attack": kind,
                    "contender": name,
                    "robust %": 100 * float(np.mean([o.robust for o in found])),
                    "seconds": statistics.median(seconds),
                    "spread": [min(seconds), max(seconds)],
                    "ours / peer": None if mine else [statistics.median(shares), min(shares), max(shares)],
                    "compiling": compiling if mine else None,
                    "parts": {k: round(v, 2) for k, v in found[-1].parts.items()},
                    "microseconds": {
                        k: round(1e6 * found[-1].parts[k] / max(n, 1), 1) for k, n in found[-1].steps.items()
                    },
                }
            )
    return results


def nearest(folder: str, count: int, cfg: AttackConfig, passes: int) -> list[dict[str, Any]]:
    """Measure searches for the nearest adversarial point on one run folder."""
    it, test = classifiers.open_classifier(folder, data_dir=cfg.data_dir)
    test = subsets.subset(test, count)
    x, y = test.image.astype(np.float32) / 255, np.asarray(test.label)
    right = np.asarray(it.logits_fn(jnp.asarray(x))).argmax(axis=1) == y
    x, y, net = x[right], y[right], None
    if cfg.peers and find_spec("torch"):
        constants = models.NORMALISATIONS.get(it.about["dataset"])
        net = peers.network(it.about["model"], it.params, it.state, constants)
    results = []
    for norm in cfg.norms:
        found = minimum_norm.ours(it.logits_fn, x, y, norm, passes, cfg.seed)
        if net is not None:
            found |= minimum_norm_peers.theirs(net, x, y, norm, passes, cfg.seed)
        for row in minimum_norm.table(found, norm):
            results.append({"run": folder, "images": len(y), **row})
            (low, high), (near, far) = row["interval"], row["median interval"]
            print(
                f"{it.about['model']:14s} {len(y):5d} {norm:5s} {row['search']:24s} optimality "
                f"{row['optimality']:.3f} ({low:.3f} to {high:.3f})  median {row['median']:.4f} "
                f"({near:.4f} to {far:.4f})  found "
                f"{row['found %']:5.1f} %  {row['passes']:7.1f} passes  {row['seconds']:6.2f} s",
                flush=True,
            )
    return results


def main(cfg: AttackConfig) -> int:
    """Measure, print a table, append a line."""
    runtime.one_device_per_core()
    packages = measured_on.versions("jax", "flax", "torch", "torchattacks", "foolbox", "adv_lib")
    print(f"{measured_on.chip()}, {packages}")
    if cfg.nearest:
        pairs = zip(cfg.runs, cfg.images, strict=True)
        lines = [row for folder, count in pairs for row in nearest(folder, count, cfg, cfg.nearest)]
        measured_on.append(cfg.out, cfg, packages, results=lines)
        return 0
    print(
        f"{'network':14s} {'eps':>7s} {'images':>6s} {'attack':9s} {'contender':12s} {'robust %':>8s} "
        f"{'seconds':>9s}  parts"
    )
    results = []
    for folder, eps, count in zip(cfg.runs, cfg.eps, cfg.images, strict=True):
        for row in measure(folder, eps, count, cfg):
            results.append(row)
            first = ""
            if row["compiling"]:
                first = f"; {row['microseconds']} us per iteration; compiling {row['compiling']:.1f} s"
            elif row["ours / peer"]:
                middle, least, most = row["ours / peer"]
                first = f"; ours / peer {middle:.3f} ({least:.3f} to {most:.3f}) over the turns"
            print(
                f"{row['network']:14s} {eps:7.4f} {row['images']:6d} {row['attack']:9s} {row['contender']:12s} "
                f"{row['robust %']:8.2f} {row['seconds']:9.2f} ({row['spread'][0]:.2f} to {row['spread'][1]:.2f})  "
                f"{row['parts']}{first}"
            )
    measured_on.append(cfg.out, cfg, packages, results=results)
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
