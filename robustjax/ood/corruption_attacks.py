"""Attacks on a score by corruption, and by a norm ball around what a corruption left."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.attacks.solver import better
from robustjax.numerics import fold, keys_for
from robustjax.ood.score_attacks import Direction, Search
from robustjax.ood.scores import Score
from robustjax.perturbations.corruptions.table import CORRUPTIONS, corrupt
from robustjax.types import Found, Images, Keys

SEVERITIES = (1.0, 2.0, 3.0, 4.0, 5.0)


def worst_corruption(
    score: Score,
    *,
    direction: Direction,
    names: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[float] = SEVERITIES,
    levels: int | None = 255,
) -> Search:
    """Try every corruption at every severity and keep, per example, the best for the adversary.

    With the defaults that are 95 candidates and the image itself, so that corruption never helps the detector.
    Called outside of `jit` each corruption is a program of its own, compiled once for all severities and batches
    of one shape; inside of one they become part of it, which takes long to compile.

    Args:
      score: what the detector reads.
      direction: "raise" for OOD images that are to pass for ID, "lower" for ID images.
      names: of the corruptions, as in CIFAR-10-C.
      severities: real numbers in [0, 5].
      levels: round corrupted images to multiples of 1 / levels, as image files do; None to leave them.
    Returns:
      A search (key, x) -> Found. Corruption i at severity j sees each example's key folded with i, then j.
    Raises:
      ValueError: for an unknown direction, name or severity, or none.

    Reference: Chen et al. 2021, arXiv:2006.15207: 19 corruptions at 5 severities; there of OOD images only.
    """
    _check("worst_corruption", direction)
    if not names or not severities or not all(0 <= s <= 5 for s in severities):
        raise ValueError(
            f"worst_corruption: names are {tuple(names)} and severities {tuple(severities)}, "
            "must be at least one each, severities in [0, 5]"
        )
    sign = 1.0 if direction == "raise" else -1.0
    tried = [jax.jit(_tried(score, name, sign, levels)) for name in names]

    def search(key: Keys, x: Images) -> Found:
        keys, strengths = keys_for(key, x.shape[0]), jnp.asarray(severities, jnp.float32)
        best = Found(x, sign * score(x))
        for i, one in enumerate(tried):
            best = one(fold(keys, i), x, strengths, best)
        return jax.lax.stop_gradient(Found(best.x, sign * best.value))

    return search


def copies(
    name: str, *, severities: Sequence[float] = SEVERITIES, levels: int | None = 255
) -> Callable[[Keys, Images], Float[Array, "s b h w c"]]:
    """Corrupt images at every severity, (keys, x (b, ...)) -> (s, b, ...): the candidates, for many scores at once.

    With each example's key folded with i they are those of `worst_corruption` for corruption i of its names.

    Args:
      name, severities, levels: as in `worst_corruption`.
    Raises:
      ValueError: for an unknown name.
    """
    apply = corrupt(name)

    def all_severities(key: Keys, x: Images) -> Float[Array, "s b h w c"]:
        keys = keys_for(key, x.shape[0])

        def at(given: tuple[Array, Array]) -> Images:
            return _rounded(apply(fold(keys, given[0]), x, given[1]), levels)

        return jax.lax.map(at, (jnp.arange(len(severities)), jnp.asarray(severities, jnp.float32)))

    return all_severities


def composed(first: Search, second: Search, *, direction: Direction) -> Search:
    """Search again around what a search found: the second's budget is centred there, not on the image.

    `composed(worst_corruption(score, direction="raise"), raised(pgd(threat, ...), score), direction="raise")` is the
    compositional attack of ATOM. The result is never worse for the adversary than that of the first search.

    Args:
      first, second: searches for the same score in the same direction; they see each key folded with 0 and 1.
      direction: "raise" or "lower".
    Raises:
      ValueError: for an unknown direction.

    Reference: Chen et al. 2021, arXiv:2006.15207.
    """
    _check("composed", direction)
    sign = 1.0 if direction == "raise" else -1.0

    def search(key: Keys, x: Images) -> Found:
        keys = keys_for(key, x.shape[0])
        start = first(fold(keys, 0), x)
        moved = second(fold(keys, 1), start.x)
        best = better(Found(start.x, sign * start.value), Found(moved.x, sign * moved.value))
        return Found(best.x, sign * best.value)

    return search


def _tried(score: Score, name: str, sign: float, levels: int | None):
    """Build (keys, x, severities, best) -> the better of `best` and x corrupted at each severity."""
    apply = corrupt(name)

    def tried(keys: Keys, x: Images, severities: Array, best: Found) -> Found:
        def at(best: Found, given: tuple[Array, Array]) -> tuple[Found, None]:
            index, severity = given
            found = _rounded(apply(fold(keys, index), x, severity), levels)
            return better(best, Found(found, sign * score(found))), None

        return jax.lax.scan(at, best, (jnp.arange(len(severities)), severities))[0]

    return tried


def _rounded(x: Images, levels: int | None) -> Images:
    return x if levels is None else jnp.round(x * levels) / levels


def _check(name: str, direction: str) -> None:
    if direction not in ("raise", "lower"):
        raise ValueError(f"{name}: direction is {direction!r}, must be 'raise' or 'lower'")
