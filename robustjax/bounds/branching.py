"""The programs of branch and bound, each compiled once and for a batch of sub-domains of one threat."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from robustjax import checks
from robustjax.bounds import backward, cuts, domains, rounding
from robustjax.bounds.activations import recognised
from robustjax.bounds.affine import Ball
from robustjax.bounds.arithmetic import Interval
from robustjax.bounds.backward import Moved
from robustjax.bounds.cuts import Places
from robustjax.bounds.domains import Domain, Inside, Whole
from robustjax.bounds.enclosure import around, intervals_of
from robustjax.bounds.optimised import tightened
from robustjax.bounds.program import Wire, traced
from robustjax.models.cpu.rewritten import with_fast_convolutions
from robustjax.numerics import Norm, in_float32
from robustjax.threats import Threat
from robustjax.types import LogitsFn

_SLOPES, _MULTIPLIERS = 0.1, 0.5  # rates of Adam at first
HIDDEN_STEPS = 8  # for the intervals inside
_SLOPED = 4  # a row with slopes of its own takes so many times the memory of one without


class Free(NamedTuple):
    """What is optimised: how lines are turned, and the multipliers of cuts."""

    turns: Moved
    multiplier: Float[Array, "n d"]


class Bounded(NamedTuple):
    """A batch of sub-domains while their bounds are optimised.

    Attributes:
      free: where the search is; adam: its averages.
      bound: (n,) the best bounds so far on the lead of the label's class over the other one.
    """

    free: Free
    adam: Any
    bound: Float[Array, " n"]


class Programs(NamedTuple):
    """Functions of one network; those of `compiled` take its weights as their first argument.

    Attributes:
      whole: (threat, x, label) -> what is known over the threat.
      tighter: (whole) -> the same, with slopes optimised for the intervals inside.
      enter: (whole, domains) -> what is known inside each.
      start: (whole, domains, turns, inside) -> bounds before the first step.
      step: (whole, domains, inside, bounded, rate) -> bounds after another one, of so many times the first rates.
      look: (whole, domains, inside, free) -> places to cut, by rank.
      lead: (threat, whole, points) -> the points in the threat, and the label's logit there less the largest other one.
      turns: (whole, classes) -> turns for each of so many classes that change nothing.
      classes: how many logits there are.
      places: how many places to cut `look` returns.
    """

    whole: Callable[..., Whole]
    tighter: Callable[..., Whole]
    enter: Callable[..., Inside]
    start: Callable[..., Bounded]
    step: Callable[..., Bounded]
    look: Callable[..., Places]
    lead: Callable[..., tuple[Array, Array]]
    turns: Callable[..., Moved]
    classes: int
    places: int


@functools.lru_cache(maxsize=16)
def compiled(
    apply: Callable[[Any, Array], Array],
    norm: Norm,
    shape: tuple[int, ...],
    *,
    inputs: bool,
    candidates: int,
    chunk: int,
    outward: bool,
) -> Callable[[Any], Programs]:
    """Compile what branch and bound computes, once for all weights of a network.

    Args:
      apply: (weights, images) -> logits.
      norm: of the threats.
      shape: of an image.
      inputs, candidates, chunk, outward: as in `programs`.

    Returns:
      From weights to the programs of that network.
    """

    def of(weights: Any) -> Programs:
        like = jnp.zeros(shape, jnp.float32)
        return programs(
            functools.partial(apply, weights), norm, like, inputs=inputs, candidates=candidates, chunk=chunk,
            outward=outward,
        )  # fmt: skip

    def whole_program(name: str) -> Callable[..., Any]:
        return jax.jit(in_float32(lambda weights, *given: getattr(of(weights), name)(*given)))

    made = {
        name: whole_program(name)
        for name in ("whole", "tighter", "enter", "start", "step", "look", "lead", "turns")
    }

    def bound(weights: Any) -> Programs:
        plain = of(weights)
        return plain._replace(**{name: functools.partial(fn, weights) for name, fn in made.items()})

    return bound


def programs(
    logits_fn: LogitsFn,
    norm: Norm,
    like: Array,
    *,
    inputs: bool,
    candidates: int,
    chunk: int,
    outward: bool,
) -> Programs:
    """Write down what branch and bound computes for a network.

    Args:
      logits_fn: the network.
      norm: of the threats.
      like: any image (h, w, c).
      inputs: cut the input and bound every value anew by linear relaxation; else cut what curves read.
      candidates: how many places to cut are named.
      chunk: rows of a hidden layer that go back at a time.
      outward: add what rounding can do.

    Raises:
      ValueError: for an operation that has no bounds, or logits that do not depend on the image.
    """
    program = recognised(
        traced(
            with_fast_convolutions(
                lambda z: jnp.squeeze(checks.called("bounds", "network", logits_fn, z[None]), 0)
            ),
            like,
        )
    )._replace(outward=outward)
    if not isinstance(program.output, Wire) or program.output == program.x:
        raise ValueError(
            "branch_and_bound: the logits are the image or a constant, must be computed from the image"
        )

    def whole(threat: Threat, x: Array, label: Array) -> Whole:
        x, eps, hull = jax.tree.map(lambda v: v[0], around(threat, x[None], outward=outward))
        ball = Ball(x, eps, norm, hull)
        intervals = intervals_of(program, ball)
        values = backward.by_relaxation(program, ball, intervals, chunk=chunk, only_open=True)
        return Whole(x, eps, label, values, rounding.slacks(program, values) if outward else {})

    def tighter(whole: Whole) -> Whole:
        ball = Ball(whole.x, whole.eps, norm, whole.values[program.x])
        few = max(1, chunk // _SLOPED)
        values = tightened(program, ball, whole.values, chunk=few, steps=HIDDEN_STEPS)
        return whole._replace(values=values)

    def enter(whole: Whole, many: Domain) -> Inside:
        def one(domain: Domain) -> Inside:
            return domains.enter(program, norm, whole, domain, chunk=chunk if inputs else None)

        return jax.vmap(one)(many)

    def bounds(whole: Whole, many: Domain, inside: Inside, free: Free) -> Array:
        def one(domain: Domain, inside: Inside, free: Free) -> Array:
            relaxations = domains.relaxations_of(program, whole, inside, free.turns)
            domain = domain._replace(multiplier=free.multiplier)
            return domains.bound(program, norm, whole, inside, relaxations, domain, inside.values[program.x])

        return jax.vmap(one)(many, inside, free)

    def start(whole: Whole, many: Domain, turns: Moved, inside: Inside) -> Bounded:
        free = Free(jax.tree.map(lambda t: t[many.other], turns), jnp.asarray(many.multiplier))
        return Bounded(free, optax.scale_by_adam().init(free), bounds(whole, many, inside, free))  # pyright: ignore[reportArgumentType]

    def step(whole: Whole, many: Domain, inside: Inside, now: Bounded, rate: Array) -> Bounded:
        def total(free: Free) -> tuple[Array, Array]:
            found = bounds(whole, many, inside, free)
            return found.sum(), found

        (_, found), slope = jax.value_and_grad(total, has_aux=True)(now.free)
        slope = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), slope)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a number to a whole one
            changed: Any = optax.scale_by_adam().update(slope, now.adam)
        change, adam = changed
        turns = jax.tree.map(
            lambda t, c: jnp.clip(t + _SLOPES * rate * c, -1.0, 1.0), now.free.turns, change.turns
        )
        multiplier = jnp.maximum(now.free.multiplier + _MULTIPLIERS * rate * change.multiplier, 0.0)
        return Bounded(Free(turns, multiplier), adam, jnp.fmax(now.bound, found))

    def look(whole: Whole, many: Domain, inside: Inside, free: Free) -> Places:
        def one(domain: Domain, inside: Inside, free: Free) -> Places:
            domain = domain._replace(multiplier=free.multiplier)
            return cuts.places(
                program, norm, whole, inside, domain, free.turns, inputs=inputs, count=candidates
            )

        return jax.vmap(one)(many, inside, free)

    def lead(threat: Threat, whole: Whole, points: Array) -> tuple[Array, Array]:
        points = threat.project(points, jnp.broadcast_to(whole.x, points.shape))
        logits = logits_fn(points).astype(jnp.float32)
        own = jax.nn.one_hot(whole.label, logits.shape[1], dtype=bool)
        return points, logits[:, whole.label] - jnp.where(own[None], -jnp.inf, logits).max(axis=1)

    def turns(whole: Whole, classes: Array) -> Moved:
        return {
            line.outputs[0]: Interval(
                *(jnp.zeros((len(classes), *whole.values[line.outputs[0]].low.shape)),) * 2
            )
            for line in cuts.curves_of(program)
        }

    classes = jax.eval_shape(logits_fn, like[None]).shape[1]
    return Programs(
        whole,
        tighter,
        enter,
        start,
        step,
        look,
        lead,
        turns,
        classes,
        min(candidates, domains.numbers(program).total),
    )
