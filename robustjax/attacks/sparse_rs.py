"""Sparse-RS: random search for a few pixels, a patch or a frame, which asks for values only, never for gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from robustjax import checks, l0, logit
from robustjax.attacks import sparse_shapes
from robustjax.attacks.solver import (
    Count,
    Solver,
    ValueAndMerit,
    better,
    entered,
    nothing_yet,
    repeat,
    select,
)
from robustjax.attacks.sparse_shapes import PATCHES, PIXELS, Painted
from robustjax.numerics import constant, keys_for
from robustjax.threats import Threat
from robustjax.types import Found, Keys, PerExample

Shape = tuple[int, int, int]  # height, width, channels


class Asked(NamedTuple):
    """Where a search stands, one row per example: `painted` has the highest value so far, `found` the merit."""

    key: Keys
    origin: Array
    painted: Painted
    value: PerExample
    found: Found
    step: Int[Array, "b"]


class Form(NamedTuple):
    """What may be painted.

    Attributes:
      start: (keys, count, shape) -> the first painting, of at most `count` pixels.
      propose: (keys, painting, step, count, shape) -> the next one to ask about.
      upper: (painting, shape) -> the colours where the image has them.
    """

    start: Callable[[Keys, PerExample, Shape], Painted]
    propose: Callable[[Keys, Painted, Int[Array, "b"], PerExample, Shape], Painted]
    upper: Callable[[Painted, Shape], Bool[Array, "b m c"]]


def sparse_rs(threat: Threat, *, queries: int = 10_000, alpha_init: float = 0.3) -> Solver:
    """Paint random pixels with corners of the box, and swap ever fewer of them for others while the objective rises.

    Args:
      threat: l0 norm and a finite box.
      queries: evaluations per example in all, the start included.
      alpha_init: what share of the pixels the schedule begins with; the first swap takes half of it.
    Returns:
      An ascent that can also be driven in segments, one forward pass per iteration; it climbs the margin by default.
    Raises:
      ValueError: if the norm is not l0, the box is infinite, queries is less than 1 or alpha_init is not positive.

    Reference: Croce et al. 2022, arXiv:2006.12834, with the schedule of the authors' code for any number of queries and
      the alpha_init that it is run with. Pixels and colours are drawn per image. A pixel that is given up
      may be taken again with another colour; in large images that is rare, in small ones the search would be stuck.
    """

    def propose(keys: Keys, now: Painted, step: Array, count: PerExample, shape: Shape) -> Painted:
        del shape
        return sparse_shapes.swapped(keys, now, plan[step], count)

    plan = _plan("sparse_rs", threat, PIXELS, alpha_init, queries)
    form = Form(
        lambda keys, count, s: sparse_shapes.pixels(keys, count, (s[0] * s[1], s[2])), propose, _as_it_is
    )
    return _search("sparse_rs", threat, form, queries, images=False)


def sparse_rs_patch(threat: Threat, *, queries: int = 10_000, alpha_init: float = 0.4) -> Solver:
    """Paint a square patch anywhere in the image: colour windows of it, and now and then move it.

    Args:
      threat: l0 norm and a finite box; the patch is the largest square of no more pixels than its radius.
      queries: evaluations per example in all, the start included.
      alpha_init: share of the patch in the first windows.
    Returns:
      As `sparse_rs`. What withstands it may fall to as many pixels elsewhere.
    Raises:
      ValueError: as `sparse_rs`; called, for points that are no images (b, h, w, c), or a known radius below 1.

    Reference: Croce et al. 2022, arXiv:2006.12834, image- and location-specific patches, with the schedule of the
      authors' code. Windows and ways are drawn per image, images need not be square, and the start may lie at the
      lower and right edges too. A patch has at most as many pixels as the radius, there at least as many.
    """

    def start(keys: Keys, count: PerExample, shape: Shape) -> Painted:
        return sparse_shapes.patch(keys, sparse_shapes.side_of(count, *shape[:2]), shape)

    def propose(keys: Keys, now: Painted, step: Array, count: PerExample, shape: Shape) -> Painted:
        side = sparse_shapes.side_of(count, *shape[:2])
        left = 1.0 - step.astype(jnp.float32) / queries
        moves = (step % (5 * (1 + step // 1000)) == 0) & (
            jnp.floor(sparse_shapes.REACH * left * shape[0]) > 0
        )
        there = sparse_shapes.moved(keys, now, left, side, shape)
        return select(moves, there, sparse_shapes.repainted(keys, now, plan[step], side, shape))

    plan = _plan("sparse_rs_patch", threat, PATCHES, alpha_init, queries)
    return _search(
        "sparse_rs_patch", threat, Form(start, propose, sparse_shapes.in_place), queries, images=True
    )


def sparse_rs_frame(threat: Threat, *, queries: int = 10_000, alpha_init: float = 0.5) -> Solver:
    """Paint a frame around the image: colour squares as wide as the frame is.

    Args:
      threat: l0 norm and a finite box; the frame is the widest of no more pixels than its radius.
      queries: evaluations per example in all, the start included.
      alpha_init: share of the frame's pixels at which the first squares are put.
    Returns:
      As `sparse_rs`. What withstands it may fall to as many pixels elsewhere.
    Raises:
      ValueError: as `sparse_rs`; called, for points that are no images (b, h, w, c), or a known radius that no
        frame fits in.

    Reference: Croce et al. 2022, arXiv:2006.12834, image-specific frames. The authors' code has universal frames only;
      the proposals are those, drawn per image, with the alpha_init that its documentation gives for single images.
      Where squares overlap, which of them is on top differs.
    """

    def start(keys: Keys, count: PerExample, shape: Shape) -> Painted:
        return sparse_shapes.frame(keys, sparse_shapes.border(count, *shape[:2]), shape)

    def propose(keys: Keys, now: Painted, step: Array, count: PerExample, shape: Shape) -> Painted:
        wide = sparse_shapes.border(count, *shape[:2])
        return sparse_shapes.recoloured(keys, now, plan[step], wide, shape)

    plan = _plan("sparse_rs_frame", threat, PATCHES, alpha_init, queries)
    return _search("sparse_rs_frame", threat, Form(start, propose, _as_it_is), queries, images=True)


def _search(name: str, threat: Threat, form: Form, queries: int, *, images: bool) -> Solver:
    """Ask about paintings, and keep each that raises the objective."""

    def shape_of(x: Array) -> Shape:
        if images:
            return x.shape[1], x.shape[2], x.shape[3]
        channels = l0.width(x.shape, threat.channels)
        return 1, x[0].size // channels, channels

    def count_of(x: Array) -> PerExample:
        """Count pixels, where the threat may count features."""
        most = jnp.minimum(constant(x, jnp.asarray(threat.eps, jnp.float32)), float(x[0].size))
        return jnp.floor(most * l0.width(x.shape, threat.channels) / shape_of(x)[2])

    def image(painted: Painted, origin: Array) -> Array:
        upper = form.upper(painted, shape_of(origin)).reshape(origin.shape)
        return jnp.where(
            l0.spread(painted.chosen, origin), jnp.where(upper, threat.upper, threat.lower), origin
        )

    def init(key: Keys, x: Array) -> Asked:
        x = entered(name, threat, x)
        if images:
            _require_room(name, threat, x)
        first, rest = jax.vmap(jax.random.split, out_axes=1)(keys_for(key, len(x)))
        painted = form.start(first, count_of(x), shape_of(x))
        start = image(painted, x)
        return Asked(rest, x, painted, constant(x, -jnp.inf), nothing_yet(start), constant(x, 0, jnp.int32))

    def advance(objective: ValueAndMerit, state: Asked, count: Count) -> Asked:
        most, shape = count_of(state.origin), shape_of(state.origin)

        def move(state: Asked) -> Asked:
            keys = jax.vmap(jax.random.fold_in)(state.key, state.step)
            # Rows that are through look once more at their last query, and are put back.
            step = jnp.minimum(state.step, queries - 1)
            proposed = form.propose(keys, state.painted, step, most, shape)
            painted = select(state.step == 0, state.painted, proposed)
            x = image(painted, state.origin)
            value, merit = objective(x)
            wins = (value > state.value) | jnp.isnan(state.value)
            found = better(state.found, Found(x, merit))
            painted = select(wins, painted, state.painted)
            return state._replace(painted=painted, value=jnp.where(wins, value, state.value), found=found)

        return repeat(move, state, count, queries)

    return Solver(init, advance, lambda state: state.found, queries, name, loss=logit.margin)


def _as_it_is(painted: Painted, shape: Shape) -> Bool[Array, "b m c"]:
    del shape
    return painted.upper


def _plan(
    name: str, threat: Threat, table: tuple[tuple[int, int], ...], alpha_init: float, queries: int
) -> Array:
    checks.threat(name, threat, l0=True)
    if threat.norm != "l0":
        raise ValueError(f"{name}: norm is {threat.norm!r}, must be 'l0'")
    checks.count(name, "queries", queries)
    checks.setting(name, "alpha_init", alpha_init, above=0)
    checks.finite_box(name, threat.lower, threat.upper)
    return jnp.asarray(sparse_shapes.shares(table, alpha_init, queries))


def _require_room(name: str, threat: Threat, x: Array) -> None:
    """Refuse points that are no images, and a radius that leaves nothing to paint.

    Raises:
      ValueError: if there is no room.
    """
    if x.ndim != 4:
        raise ValueError(f"{name}: x has shape {x.shape}, must be images (b, h, w, c)")
    counted = l0.width(x.shape, threat.channels)
    if counted not in (1, x.shape[3]):
        raise ValueError(f"{name}: channels is {counted}, must be 1 or the {x.shape[3]} of the images")
    eps = checks.known(threat.eps)
    height, width = x.shape[1:3]
    least = 1 if name == "sparse_rs_patch" else height * width - max(height - 2, 0) * max(width - 2, 0)
    if eps is not None and ((pixels := np.floor(eps * counted / x.shape[3])) < least).any():
        raise ValueError(f"{name}: eps allows {np.min(pixels):g} pixels, must allow at least {least}")
