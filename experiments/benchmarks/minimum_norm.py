"""How near searches for the nearest adversarial point come, ours and adversarial-library's: distances and passes."""

import importlib
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import attacks, logit
from robustjax.analysis.intervals import Estimate, bootstrap
from robustjax.attacks.fab import leads
from robustjax.attacks.optimality import optimality
from robustjax.attacks.solver import OfLogits, Solver, as_attack
from robustjax.threats import Threat
from robustjax.types import LogitsFn

BallNorm = Literal["linf", "l2"]
CLASSES = 10


class Search(NamedTuple):
    """A search of ours: the solver for a norm and a number of steps, its loss, and passes per iteration."""

    build: Callable[[Threat, int], Solver]
    loss: OfLogits
    passes: int
    norms: tuple[BallNorm, ...] = ("linf", "l2")


OURS = {
    "fmn": Search(lambda t, n: attacks.fmn(t, steps=n), logit.margin, 2),
    "ddn": Search(lambda t, n: attacks.ddn(t, steps=n), logit.cross_entropy, 2, ("l2",)),
    "deepfool": Search(lambda t, n: attacks.deepfool(t, steps=n), leads, CLASSES + 1),
    "super_deepfool": Search(lambda t, n: attacks.super_deepfool(t, steps=n), leads, CLASSES + 1, ("l2",)),
    "fab": Search(lambda t, n: attacks.boundary(t, steps=n), leads, CLASSES + 2),
}


class Measured(NamedTuple):
    """What a search found: (n,) distances, inf for none; passes per image, and seconds with compiling."""

    distance: np.ndarray
    passes: float
    seconds: float


def ours(
    network: LogitsFn, x: np.ndarray, y: np.ndarray, norm: BallNorm, steps: int, seed: int
) -> dict[str, Measured]:
    """Run ours; an iteration counts its passes whether or not a row has arrived."""
    found = {}
    for name, search in OURS.items():
        if norm in search.norms:
            solver = search.build(Threat(norm, jnp.inf), steps)
            attack = as_attack(solver, search.loss)
            began = time.perf_counter()
            points = jax.jit(lambda x, y, attack=attack: attack(jax.random.key(seed), network, x, y))(x, y)
            distance = np.where(points.value > 0, distances(np.asarray(points.x), x, norm), np.inf)
            passes = float(solver.length * search.passes)
            found[name] = Measured(distance, passes, time.perf_counter() - began)
    return found


def theirs(
    net: Any, x: np.ndarray, y: np.ndarray, norm: BallNorm, steps: int, seed: int
) -> dict[str, Measured]:
    """Run adversarial-library's on the same weights in PyTorch; rows that pass through the network are counted."""
    import torch

    peer: Any = importlib.import_module("adv_lib.attacks")

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
    order = {"linf": float("inf"), "l2": 2}[norm]
    searches = {
        "fmn": lambda f: peer.fmn(f, images, labels, norm=order, steps=steps),
        "deepfool": lambda f: peer.df(f, images, labels, norm=order, steps=steps),
    }
    if norm == "l2":
        searches["ddn"] = lambda f: peer.ddn(f, images, labels, steps=steps, levels=None)
        searches["super_deepfool"] = lambda f: peer.sdf(f, images, labels, steps=steps)
    found = {}
    for name, search in searches.items():
        torch.manual_seed(seed)
        counted, began = Counted().eval(), time.perf_counter()
        points = search(counted).detach()
        seconds = time.perf_counter() - began
        with torch.no_grad():
            wrong = (net(points).argmax(1) != labels).numpy()
        reached = distances(points.numpy().transpose(0, 2, 3, 1), x, norm)
        found[name] = Measured(np.where(wrong, reached, np.inf), counted.passes / len(x), seconds)
    return found


def distances(points: np.ndarray, x: np.ndarray, norm: BallNorm) -> np.ndarray:
    """Measure in float64: (n,)."""
    flat = (points.astype(np.float64) - x).reshape(len(x), -1)
    return np.linalg.norm(flat, {"linf": np.inf, "l2": 2}[norm], axis=1)


def table(found: dict[str, Measured], norm: BallNorm) -> list[dict[str, Any]]:
    """Compare all searches with the best of them for each image; intervals over images by bootstrap."""
    names, all_ = list(found), [one.distance for one in found.values()]

    def share(at: int) -> Callable[..., float]:
        return lambda *columns: optimality(dict(zip(names, columns, strict=True)))[names[at]]

    rows = []
    for i, (name, one) in enumerate(found.items()):
        reached: Estimate = bootstrap(share(i), *all_, resamples=200)
        rows.append(
            {
                "norm": norm,
                "search": name,
                "optimality": reached.value,
                "interval": [reached.low, reached.high],
                "median": float(np.median(one.distance)),
                "found %": 100 * float(np.isfinite(one.distance).mean()),
                "passes": one.passes,
                "seconds": one.seconds,
            }
        )
    return sorted(rows, key=lambda row: -row["optimality"])
