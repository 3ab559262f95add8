"""Searches for the nearest adversarial point from adversarial-library and foolbox, on our weights in PyTorch."""

import importlib
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.minimum_norm import CLASSES, BallNorm, Measured, distances

ORDER = {"linf": float("inf"), "l2": 2, "l1": 1}
EAD_SEARCHES = 4  # constants that EAD tries, of ten times as much each until one succeeds
EAD_FIRST = 1.0


class Peer(NamedTuple):
    """A search of another library: norms it works in, passes per step, and how it is called with so many steps."""

    norms: tuple[BallNorm, ...]
    passes: int
    run: Callable[["Given", int], Any]


class Given(NamedTuple):
    """What a search is called with: a network that counts, images (b, c, h, w), labels, the norm, its number."""

    net: Any
    images: Any
    labels: Any
    norm: BallNorm
    order: float


ALL: tuple[BallNorm, ...] = ("linf", "l2", "l1")


def _adv_lib() -> dict[str, Peer]:
    peer: Any = importlib.import_module("adv_lib.attacks")

    def alma(g: Given, n: int) -> Any:
        # The settings of the paper for its short and its long runs, and for each norm.
        first = {"l2": 0.1, "l1": 0.5}[g.norm]
        alpha = 0.5 if n < 500 else 0.9
        return peer.alma(
            g.net, g.images, g.labels, num_steps=n, distance=g.norm, init_lr_distance=first, α=alpha
        )

    def trust_region(g: Given, n: int) -> Any:
        longest = {"linf": 0.01, "l2": 0.05}[g.norm]  # of its adaptive steps
        return peer.tr(g.net, g.images, g.labels, iter=n, adaptive=True, p=g.order, eps=longest)

    return {
        "fmn": Peer(ALL, 2, lambda g, n: peer.fmn(g.net, g.images, g.labels, norm=g.order, steps=n)),
        "deepfool": Peer(
            ("linf", "l2"),
            CLASSES + 1,
            lambda g, n: peer.df(g.net, g.images, g.labels, norm=g.order, steps=n),
        ),
        "ddn": Peer(("l2",), 2, lambda g, n: peer.ddn(g.net, g.images, g.labels, steps=n, levels=None)),
        "super_deepfool": Peer(
            ("l2",), CLASSES + 1, lambda g, n: peer.sdf(g.net, g.images, g.labels, steps=n)
        ),
        "alma": Peer(("l2", "l1"), 2, alma),
        "pdgd": Peer(("l2",), 2, lambda g, n: peer.pdgd(g.net, g.images, g.labels, num_steps=n)),
        "pdpgd": Peer(ALL, 2, lambda g, n: peer.pdpgd(g.net, g.images, g.labels, norm=g.order, num_steps=n)),
        "trust region": Peer(("linf", "l2"), 4, trust_region),
    }


def _foolbox() -> dict[str, Peer]:
    import foolbox

    def run(attack: Any, g: Given, **settings: Any) -> Any:
        model = foolbox.PyTorchModel(g.net, bounds=(0, 1), device="cpu")
        return attack(
            model, g.images, foolbox.criteria.Misclassification(g.labels), epsilons=None, **settings
        )[0]

    def elastic_net(g: Given, n: int) -> Any:
        attack = foolbox.attacks.EADAttack(
            binary_search_steps=EAD_SEARCHES, steps=max(n // EAD_SEARCHES, 1), initial_const=EAD_FIRST,
            decision_rule="L1", abort_early=False,
        )  # fmt: skip
        return run(attack, g)

    def brendel_bethge(g: Given, n: int) -> Any:
        name = {"linf": "Linfinity", "l2": "L2", "l1": "L1"}[g.norm]
        build = getattr(foolbox.attacks, f"{name}BrendelBethgeAttack")
        return run(build(steps=n), g, starting_points=g.images[_other(g.labels.numpy())])

    found = {"elastic net": Peer(("l1",), 3, elastic_net)}
    return found | ({"brendel-bethge": Peer(ALL, 2, brendel_bethge)} if find_spec("numba") else {})


def _other(labels: np.ndarray) -> np.ndarray:
    """Name for each image one of another class: a first point, since all are classified correctly."""
    others = [np.flatnonzero(labels != label) for label in labels]
    return np.array([rows[i % len(rows)] for i, rows in enumerate(others)])


def theirs(
    net: Any, x: np.ndarray, y: np.ndarray, norm: BallNorm, passes: int, seed: int
) -> dict[str, Measured]:
    """Run all that are installed; rows that pass through the network, forth or back, are counted."""
    import torch

    class Counted(torch.nn.Module):
        passes = 0

        def forward(self, points: Any) -> Any:
            logits = net(points)
            self.passes += len(points)
            if logits.requires_grad:
                logits.register_hook(self.back)
            return logits

        def back(self, grad: Any) -> None:
            self.passes += len(grad)

    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    labels = torch.from_numpy(y.astype(np.int64))
    searches = {f"adv-lib {name}": one for name, one in _adv_lib().items()} if find_spec("adv_lib") else {}
    if find_spec("foolbox"):
        searches |= {f"foolbox {name}": one for name, one in _foolbox().items()}
    found = {}
    for name, search in searches.items():
        if norm not in search.norms:
            continue
        torch.manual_seed(seed)
        counted, began = Counted().eval(), time.perf_counter()
        given = Given(counted, images.clone(), labels, norm, ORDER[norm])
        points = search.run(given, max(passes // search.passes, 1)).detach()
        seconds = time.perf_counter() - began
        with torch.no_grad():
            wrong = (net(points).argmax(1) != labels).numpy()
        reached = distances(points.numpy().transpose(0, 2, 3, 1), x, norm)
        found[name] = Measured(np.where(wrong, reached, np.inf), counted.passes / len(x), seconds)
    return found
