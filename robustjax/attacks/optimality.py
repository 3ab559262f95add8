"""How near an attack comes to the best of all attacks, over every radius: AttackBench's measure."""

from collections.abc import Mapping

import numpy as np


def optimality(
    distances: Mapping[str, np.ndarray], *, others: Mapping[str, np.ndarray] | None = None
) -> dict[str, float]:
    """Compare minimum-norm attacks by the area under their curves of robust accuracy.

        1 - (A - A*) / (c e - A*),  A = integral from 0 to e of the share of examples with distance > r, dr

    A* is the area for the smallest distance that any attack found for each example, c the share of examples classified
    correctly, e the largest of these distances. An attack that is nowhere beaten gets 1, one that finds nothing within
    e gets 0.

    Args:
      distances: by attack, (n,) from each example to the point found, in one norm and the units of x: 0 where the
        example itself is misclassified, inf where nothing was found.
      others: more attacks on the same examples, which count for the best distances and get no number.
    Returns:
      By attack, its optimality in [0, 1]; NaN where that is undefined: where all examples classified correctly have the
        same smallest distance, or no attack found anything.
    Raises:
      ValueError: if there is no attack, or distances are negative or NaN, of other shapes, or 0 for one attack only.

    Reference: Cina et al. 2024, arXiv:2404.19460 (local optimality on one network; their global optimality is the mean
      over networks). Areas are those under the steps; the authors' code takes trapezoids between them.
    """
    everything = {**(others or {}), **distances}
    if not distances:
        raise ValueError("optimality: no attack given, must be at least one")
    rows = [_checked(name, found) for name, found in everything.items()]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(
            f"optimality: attacks have {[len(row) for row in rows]} distances, must be of as many examples"
        )
    table = np.stack(rows)
    zero = table == 0
    if (zero.any(axis=0) != zero.all(axis=0)).any():
        raise ValueError(
            "optimality: distances are 0 for some attacks only, must be so for all: the example itself is misclassified"
        )
    best = table.min(axis=0)
    known = best[np.isfinite(best)]
    end = float(known.max(initial=0.0))
    clean, least = float((best > 0).mean()), float(np.minimum(best, end).mean())
    room = clean * end - least

    def share(found: np.ndarray) -> float:
        area = float(np.minimum(np.asarray(found, np.float64), end).mean())
        return 1.0 - (area - least) / room if room > 1e-12 * end else float("nan")

    return {name: share(found) for name, found in distances.items()}


def _checked(name: str, found: np.ndarray) -> np.ndarray:
    distance = np.asarray(found, np.float64)
    if distance.ndim != 1 or len(distance) == 0 or not (distance >= 0).all():
        raise ValueError(
            f"optimality: distances of {name} are {distance!r:.60}, must be (n,) numbers from 0 on, inf for none"
        )
    return distance
