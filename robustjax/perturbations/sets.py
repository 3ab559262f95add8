"""Perturbation sets: a ball of parameters and a decoder to images, and any solver or loss sent through it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from robustjax.attacks.solver import Count, Solver, ValueAndMerit
from robustjax.numerics import constant, fold, keys_for
from robustjax.perturbations.sampling import Border
from robustjax.perturbations.spatial import warp
from robustjax.threats import Threat
from robustjax.types import (
    Ascent,
    Attack,
    Batch,
    Found,
    Images,
    Inputs,
    Keys,
    Labels,
    Logits,
    LogitsFn,
    Loss,
    Model,
    Objective,
    Params,
    PerExample,
    State,
)

Decode = Callable[[Keys, Any, Array], Images]  # (one key per example, prepared x, u) -> images


def _as_it_is(x: Images) -> Images:
    return x


class PerturbationSet(NamedTuple):
    """The images `decode(key, prepare(x), u)` with u, (b, dimension), in `threat` around the origin 0.

    The key is for decoders with a random part, which it fixes: a search then sees one image per u. Deterministic
    decoders ignore it. `prepare` computes, once per search, what decoders need of x alone: arrays that lead with
    the batch; by default it is x itself.
    """

    decode: Decode
    threat: Threat
    dimension: int
    prepare: Callable[[Images], Any] = _as_it_is

    def origin(self, x: Inputs) -> Float[Array, "b d"]:
        """Give every image the centre of the ball, u = 0."""
        return jnp.broadcast_to(constant(x, 0.0)[:, None], (x.shape[0], self.dimension))

    def sample(self, key: Keys, x: Images) -> Images:
        """Perturb each image by a u drawn uniformly from the set; one key, or one per example."""
        own, inner = _keys(key, x)
        return self.decode(own, self.prepare(x), self.threat.sample(inner, self.origin(x)))


def spatial(limits: Sequence[float], *, border: Border = "zero") -> PerturbationSet:
    """Rotate, shift, scale and shear: warp(x, u * limits) with u in [-1, 1].

    Args:
      limits: the largest rotation in degrees, shifts down and right in pixels and, if wanted, growth and shear
        in degrees: 3 to 5 numbers in the order of `warp`.
      border: what moves in from outside.
    Raises:
      ValueError: if there are not 3 to 5 limits, one is negative, or a growth reaches 1.

    Reference: Engstrom et al. 2019, arXiv:1712.02779: limits (30, 3, 3) for 32 x 32 pixels.
    """
    if len(limits) not in (3, 4, 5) or min(limits) < 0 or (len(limits) > 3 and limits[3] >= 1):
        raise ValueError(
            f"spatial: limits is {tuple(limits)}, must be 3 to 5 numbers, none negative, the growth below 1"
        )
    units = tuple(float(limit) for limit in limits)

    def decode(key: Keys, x: Images, u: Array) -> Images:
        del key
        return warp(x, u * jnp.asarray(units, u.dtype)[None], border=border)

    return PerturbationSet(decode, Threat("linf", 1.0, -1.0, 1.0), len(units))


def attack_through(space: PerturbationSet, attack: Attack) -> Attack:
    """Let an attack search the parameters u of a set, and return the image it ends at.

    Args:
      space: where to search.
      attack: any attack on vectors within `space.threat`, such as `as_attack(square(space.threat))`,
        `against(pgd(space.threat, ...))` or `refined(as_attack(grid(...)), ...)`. It starts around u = 0.
    Returns:
      An attack (key, logits_fn, x, y) -> Found: the perturbed image, and the value of the inner attack.
    """

    def outer(key: Keys, logits_fn: LogitsFn, x: Images, y: Labels) -> Found:
        own, inner = _keys(key, x)
        ready = space.prepare(x)

        def seen(u: Array) -> Logits:
            return logits_fn(space.decode(own, ready, u))

        found = attack(inner, seen, space.origin(x), y)
        return jax.lax.stop_gradient(Found(space.decode(own, ready, found.x), found.value))

    return outer


def ascent_through(space: PerturbationSet, ascent: Ascent) -> Ascent:
    """Let an ascent maximise an objective of images over the parameters of a set: max over u of f(decode(x, u))."""

    def outer(key: Keys, objective: Objective, x: Images) -> Found:
        own, inner = _keys(key, x)
        ready = space.prepare(x)
        found = ascent(inner, lambda u: objective(space.decode(own, ready, u)), space.origin(x))
        return jax.lax.stop_gradient(Found(space.decode(own, ready, found.x), found.value))

    return outer


def loss_through(space: PerturbationSet, model: Model, build: Callable[[Model], Loss]) -> Loss:
    """Let a loss that attacks images, or adds noise to them, do so to the parameters u of a set.

    The loss sees u = 0 in place of each image, and u -> model(decode(x, u)) in place of the network. So the losses of
    pixels train in latents as they are: `lambda net: smoothadv(net, pgd(space.threat, ...), sigma=sigma)`.

    Args:
      space: what u may do; only the attack of the loss is held to `space.threat`.
      model: the network on images.
      build: from a network to its loss over a `Batch`, whose forward passes may have several rows per image, next to
        one another as `losses.noise_augmentation` and `numerics.pack` lay them.
    Returns:
      The loss over a `Batch` of images, with the same key.
    """

    def loss(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        count = batch.image.shape[0]
        given = fold(keys_for(key, count), 0), space.prepare(batch.image)

        def seen(u: Array) -> Inputs:
            own, ready = jax.tree.map(lambda a: _repeated(a, u.shape[0] // count), given)
            return space.decode(own, ready, u)

        def apply(params: Params, state: State, x: Array, *, train: bool = False, key: Any = None):
            return model.apply(params, state, seen(x), train=train, key=key)

        lifted = Model(model.init, apply, lambda params, state, u: model.features(params, state, seen(u)))
        return build(lifted)(params, state, Batch(space.origin(batch.image), batch.label), key)

    return loss


class Lifted(NamedTuple):
    """Where a search through a set stands: the keys of the decoder, the prepared images, and the inner state."""

    key: Keys
    x: Any
    inner: Any


def solver_through(space: PerturbationSet, solver: Solver) -> Solver:
    """Turn a solver over u into one over images, which can be driven in segments like any other."""

    def init(key: Keys, x: Images) -> Lifted:
        own, inner = _keys(key, x)
        return Lifted(own, space.prepare(x), solver.init(inner, space.origin(x)))

    def advance(objective: ValueAndMerit, state: Lifted, count: Count) -> Lifted:
        def over_u(u: Array) -> tuple[Array, PerExample]:
            return objective(space.decode(state.key, state.x, u))

        return state._replace(inner=solver.advance(over_u, state.inner, count))

    def finish(state: Lifted) -> Found:
        found = solver.finish(state.inner)
        return Found(space.decode(state.key, state.x, found.x), found.value)

    return solver._replace(init=init, advance=advance, finish=finish)


def _keys(key: Keys, x: Images) -> tuple[Keys, Keys]:
    """Split into keys for the decoder and keys for the search."""
    keys = keys_for(key, x.shape[0])
    return fold(keys, 0), fold(keys, 1)


def _repeated(a: Array, times: int) -> Array:
    """Repeat rows, copies next to one another; jnp.repeat takes no keys."""
    return jnp.broadcast_to(a[:, None], (a.shape[0], times, *a.shape[1:])).reshape(-1, *a.shape[1:])
