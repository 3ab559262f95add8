"""How near our searches for the nearest adversarial point come, and how they compare with others: distances, passes."""

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import attacks, binomial, logit
from robustjax.analysis.intervals import Estimate, bootstrap
from robustjax.attacks.fab import leads
from robustjax.attacks.optimality import optimality
from robustjax.attacks.solver import OfLogits, Solver, as_attack
from robustjax.threats import Threat
from robustjax.types import LogitsFn

BallNorm = Literal["linf", "l2", "l1"]
CLASSES = 10
ALPHA = 0.05


class Search(NamedTuple):
    """A search of ours: the solver for a norm and a number of steps, its loss, and passes per iteration."""

    build: Callable[[Threat, int], Solver]
    loss: OfLogits
    passes: int
    norms: tuple[BallNorm, ...] = ("linf", "l2", "l1")


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
    network: LogitsFn, x: np.ndarray, y: np.ndarray, norm: BallNorm, passes: int, seed: int
) -> dict[str, Measured]:
    """Run ours; an iteration counts its passes whether or not a row has arrived."""
    found = {}
    for name, search in OURS.items():
        if norm in search.norms:
            most = max(passes // search.passes, 2)
            solver = search.build(Threat(norm, jnp.inf), most)
            if solver.length > most:  # where a last iteration looks at what was found
                solver = search.build(Threat(norm, jnp.inf), most - 1)
            attack = as_attack(solver, search.loss)
            began = time.perf_counter()
            points = jax.jit(lambda x, y, attack=attack: attack(jax.random.key(seed), network, x, y))(x, y)
            distance = np.where(points.value > 0, distances(np.asarray(points.x), x, norm), np.inf)
            made = float(solver.length * search.passes)
            found[f"ours {name}"] = Measured(distance, made, time.perf_counter() - began)
    return found


def distances(points: np.ndarray, x: np.ndarray, norm: BallNorm) -> np.ndarray:
    """Measure in float64: (n,)."""
    flat = (points.astype(np.float64) - x).reshape(len(x), -1)
    return np.linalg.norm(flat, {"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)


def median_interval(distance: np.ndarray) -> tuple[float, float]:
    """Bound the median by order statistics, with probability 95 %."""
    first, last = binomial.order_statistics(len(distance), ALPHA, quantile=0.5, shift=0.0)
    ordered = np.concatenate([[0.0], np.sort(distance), [np.inf]])
    return float(ordered[first]), float(ordered[last])


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
                "median interval": list(median_interval(one.distance)),
                "found %": 100 * float(np.isfinite(one.distance).mean()),
                "passes": one.passes,
                "seconds": one.seconds,
            }
        )
    return sorted(rows, key=lambda row: -row["optimality"])
