"""The set an adversary may move in: a norm ball around each example, cut by a box."""

import dataclasses
from functools import partial
from typing import Any, ClassVar, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks, l0
from robustjax.numerics import TINY, AnyNorm, constant, divide, keys_for, norm, per_example, toward
from robustjax.types import Keys, Mask, PerExample, Radius


@runtime_checkable
class Region(Protocol):
    """What a search by gradients asks of a threat: a radius, a box, and a way back into both."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def eps(self) -> Radius:
        """The radius."""
        ...

    @property
    def lower(self) -> float | Array:
        """The lower edge of the box."""
        ...

    @property
    def upper(self) -> float | Array:
        """The upper edge of the box."""
        ...

    def project(self, x: Float[Array, "b ..."], origin: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """Move each x into the set."""
        ...


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["eps", "lower", "upper"],
    meta_fields=["norm", "exact", "density", "channels"],
)
@dataclasses.dataclass(frozen=True)
class Threat:
    """Points within `eps` of the origin in a norm, and between `lower` and `upper`.

    It works on any array (b, ...): images, latents, warp parameters. `eps`, `lower` and `upper` are leaves of
    a pytree, so one compiled program serves every radius and `vmap` over `eps` gives a robustness curve.

    Args:
      norm: "linf", "l2" or "l1", over all features of an example; or "l0", which counts what differs at all.
      eps: radius, in the units of x; in l0 how many pixels or features may change. A number, or one per example (b,).
      lower, upper: the box, broadcast against x; -inf and inf for none.
      exact: project l2 onto the intersection of ball and box, its nearest point, instead of the ball and then
        the box, which is what published attacks do. Linf and l1 are always exact.
      density: share of the features that one l1 step moves.
      channels: in l0 how many neighbouring features count as one. By default pixels are counted: images (b, h, w, c)
        have all channels of a pixel change together, and anything else has single features. 1 counts features.

    Raises:
      ValueError: for an unknown norm, a negative or NaN radius, one that is not whole in l0, a box that is empty or a
        single point, a density outside (0, 1], or channels without l0; in use, for a radius of another shape than ()
        or (b,), and for draws in l0 from a box that is infinite.

    Reference: exact l1 with box: Croce and Hein 2021, arXiv:2103.01208. Sparse l1 steps: Tramer and Boneh 2019,
      arXiv:1904.13000, with the share of features, not a quantile of them, as the setting.
    """

    norm: AnyNorm
    eps: Radius
    lower: float | Array = 0.0
    upper: float | Array = 1.0
    exact: bool = False
    density: float = 0.01
    channels: int | None = None

    def __post_init__(self):
        """Check the settings that are known now; traced ones cannot be."""
        if self.norm not in get_args(AnyNorm):
            raise ValueError(f"Threat: norm is {self.norm!r}, must be one of {', '.join(get_args(AnyNorm))}")
        for name in ("eps", "lower", "upper"):
            value = getattr(self, name)
            if isinstance(value, str | list | tuple | dict):
                hint = " such as 8 / 255, without quotes" if isinstance(value, str) else ", or an array"
                raise ValueError(f"Threat: {name} is {value!r}, must be a number{hint}")
        # Transformations also make threats whose leaves are no numbers.
        eps, lower, upper = (checks.known(value) for value in (self.eps, self.lower, self.upper))
        if eps is not None and not (eps >= 0).all():
            raise ValueError(f"Threat: eps is {self.eps}, must be at least 0")
        if self.norm == "l0" and eps is not None and (np.floor(eps) != eps).any():
            raise ValueError(f"Threat: eps is {self.eps}, must be whole in l0: it counts pixels or features")
        for name, edge in (("lower", lower), ("upper", upper)):
            if edge is not None and np.isnan(edge).any():
                raise ValueError(f"Threat: {name} is {edge}, must be a number")
        if lower is not None and upper is not None and ((lower > upper).any() or (lower == upper).all()):
            raise ValueError(f"Threat: the box is [{self.lower}, {self.upper}], lower must be below upper")
        if not 0 < self.density <= 1:
            raise ValueError(f"Threat: density is {self.density}, must be in (0, 1]")
        if self.channels is not None:
            checks.count("Threat", "channels", self.channels)
            if self.norm != "l0":
                raise ValueError(
                    f"Threat: channels is {self.channels} in {self.norm}, must be None: l0 alone counts"
                )

    def project(self, x: Float[Array, "b ..."], origin: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """Move each x to a feasible point, the nearest one in l2 distance (see `exact` for l2 with a box).

        Points of 16 bits are rounded towards their origin, since to the nearest number would leave the ball.
        """
        checks.per_point("Threat", "eps", self.eps, len(x))
        if jnp.finfo(origin.dtype).bits < 32:
            wide = self.project(x.astype(jnp.float32), origin.astype(jnp.float32))
            return toward(origin, wide)
        if self.norm == "l0":
            return l0.nearest(x, origin, self.lower, self.upper, self.eps, self.channels)
        eps = per_example(self.eps, x)
        if self.norm == "linf":
            return jnp.clip(x, jnp.maximum(origin - eps, self.lower), jnp.minimum(origin + eps, self.upper))
        delta, low, high = x - origin, self.lower - origin, self.upper - origin
        if self.norm == "l2" and not self.exact:
            delta = _shrink(delta, norm(delta, "l2"), self.eps)
        else:
            exactly = _onto_l1_and_box if self.norm == "l1" else _onto_l2_and_box
            # Bisection over flat rows becomes vector code, 30 times as fast as over (b, h, w, c).
            edges = jnp.broadcast_arrays(delta, low, high)
            flat, low, high = (edge.reshape(edge.shape[0], -1) for edge in edges)
            delta = exactly(flat, self.eps, low, high).reshape(delta.shape)
        # Rounding in origin + delta may leave the box by one unit in the last place.
        return jnp.clip(origin + delta, self.lower, self.upper)

    def sample(self, key: Keys, origin: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """Draw a point uniformly in the ball around each origin, then clip it to the box.

        In l0 as many places as allowed are drawn uniformly, and what they become uniformly in the box.

        Args:
          key: one key, or one per example.
          origin: centres, (b, ...).
        """
        checks.per_point("Threat", "eps", self.eps, len(origin))
        if jnp.finfo(origin.dtype).bits < 32:
            return toward(origin, self.sample(key, origin.astype(jnp.float32)))
        keys = keys_for(key, origin.shape[0])
        shape = origin.shape[1:]
        if self.norm == "l0":
            return self._sparse(keys, origin)
        if self.norm == "linf":
            unit = jax.vmap(lambda k: jax.random.uniform(k, shape, origin.dtype, -1.0, 1.0))(keys)
        else:
            direction = jax.random.normal if self.norm == "l2" else jax.random.laplace
            along, radius = jax.vmap(jax.random.split, out_axes=1)(keys)
            ray = jax.vmap(lambda k: direction(k, shape, origin.dtype))(along)
            ray = divide(ray, per_example(norm(ray, self.norm), ray))
            share = jax.vmap(lambda k: jax.random.uniform(k, (), origin.dtype))(radius)
            unit = ray * per_example(share ** (1.0 / max(ray[0].size, 1)), ray)
        # A box edge of the origin belongs to the set, so the clip keeps the point in the ball.
        return jnp.clip(origin + per_example(self.eps, origin) * unit, self.lower, self.upper)

    def _sparse(self, keys: Keys, origin: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """Draw a point of the l0 ball: uniform among the supports, and uniform in the box there."""
        checks.finite_box("Threat: to draw points in l0", self.lower, self.upper)
        low, high = (jnp.asarray(edge, origin.dtype) for edge in (self.lower, self.upper))
        where, what = jax.vmap(jax.random.split, out_axes=1)(keys)
        places = l0.units(origin, self.channels).shape[1]
        rank = jax.vmap(lambda k: jax.random.uniform(k, (places,)))(where)
        share = jax.vmap(lambda k: jax.random.uniform(k, origin.shape[1:], origin.dtype))(what)
        # A box edge per feature may have fewer axes than the points.
        low, high = jnp.broadcast_to(low, origin.shape), jnp.broadcast_to(high, origin.shape)
        drawn = jnp.clip(low + share * (high - low), low, high)
        return jnp.where(l0.spread(l0.largest(rank, self.eps), origin), drawn, origin)

    def steepest(self, grad: Float[Array, "b ..."], x: Array | None = None) -> Float[Array, "b ..."]:
        """Return the direction of length 1 in the norm along which the objective rises fastest.

        Linf: the sign. L2: the normalised gradient. L1: the signs of the largest entries, `density` of them,
        leaving out those that already lie on the box and push outwards if `x` is given: without that, steps
        would be spent on features that cannot move. L0 knows no length: the gradient, scaled to largest
        entry 1; the projection keeps what matters most.
        """
        if self.norm == "linf":
            return jnp.sign(grad)
        if self.norm == "l2":
            return divide(grad, per_example(norm(grad, "l2"), grad))
        if self.norm == "l0":
            return divide(grad, per_example(norm(grad, "linf"), grad))
        if x is not None:
            stuck = ((x >= self.upper) & (grad > 0)) | ((x <= self.lower) & (grad < 0))
            grad = jnp.where(stuck, 0.0, grad)
        count = max(1, round(self.density * grad[0].size))
        size = jnp.abs(grad)
        chosen = (size >= per_example(l0.kth_largest(size, count), grad)) & (size > 0)
        return divide(
            jnp.where(chosen, jnp.sign(grad), 0.0), per_example(_total(chosen.astype(grad.dtype)), grad)
        )

    @property
    def step_unit(self) -> Radius:
        """Say what step sizes are shares of: the radius; in l0, whose radius is no length, 64 widths of the box.

        There only steps that lead far beyond the box let a place take the turn of one that has reached its edge.
        """
        if self.norm != "l0":
            return self.eps
        return 64.0 * self.side

    @property
    def side(self) -> Float[Array, ""]:
        """Say how wide the box is, where it is widest."""
        return jnp.max(jnp.asarray(self.upper, jnp.float32) - jnp.asarray(self.lower, jnp.float32))

    def distance(self, x: Float[Array, "b ..."], origin: Float[Array, "b ..."]) -> PerExample:
        """Measure how far each x is from its origin; in l0 the pixels or features where it is another number."""
        if self.norm == "l0":
            return l0.changed(x, origin, self.channels).sum(axis=1).astype(jnp.float32)
        return norm(x - origin, self.norm)

    def contains(
        self,
        x: Float[Array, "b ..."],
        origin: Float[Array, "b ..."],
        *,
        rtol: float = 1e-6,
        atol: float = 1e-7,
    ) -> Mask:
        """Say which points are feasible, up to the rounding of float32: |x - origin| <= eps (1 + rtol) + |atol|.

        Rounding moves every feature by up to `atol`; |atol| is the norm of all of that: atol, sqrt(d) atol or d atol.
        In l0 it is 0: what is not moved is the origin to the bit.
        """
        checks.per_point("Threat", "eps", self.eps, len(x))
        if jnp.finfo(x.dtype).bits < 32:
            x, origin = x.astype(jnp.float32), origin.astype(jnp.float32)
        if self.norm == "l0":
            inside = self.distance(x, origin) <= jnp.asarray(self.eps)
        else:
            features = {"linf": 0.0, "l2": 0.5, "l1": 1.0}[self.norm]
            slack = atol * (x.size / max(x.shape[0], 1)) ** features
            inside = norm(x - origin, self.norm) <= jnp.asarray(self.eps) * (1 + rtol) + slack
        boxed = ((x >= self.lower) & (x <= self.upper)).reshape(x.shape[0], -1).all(axis=1)
        return inside & boxed & jnp.isfinite(x).reshape(x.shape[0], -1).all(axis=1)


def _total(x: Array) -> Array:
    return x.reshape(x.shape[0], -1).sum(axis=1)


def _shrink(delta: Array, length: Array, eps: Radius) -> Array:
    """Scale down to length eps where longer; never up."""
    scale = jnp.where(length > eps, eps / jnp.maximum(length, TINY), 1.0)
    return delta * per_example(scale, delta)


def _onto_l1_and_box(delta: Array, eps: Radius, low: Array, high: Array) -> Array:
    """Solve sum_i min(max(|d_i| - a, 0), room_i) = eps for a >= 0, where room_i is the way to the box.

    Bisection finds the linear piece, one division the point on it: no sort, and the same cost on every device.
    """
    size = jnp.abs(delta)
    room = jnp.where(delta >= 0, high, -low)
    radius = constant(delta, jnp.asarray(eps, delta.dtype))

    def kept(threshold):
        return jnp.minimum(jnp.maximum(size - per_example(threshold, delta), 0.0), room)

    def halve(_, bounds):
        less, more = bounds
        middle = 0.5 * (less + more)
        over = _total(kept(middle)) > radius
        return jnp.where(over, middle, less), jnp.where(over, more, middle)

    outside = _total(kept(constant(delta, 0.0))) > radius
    bounds = (constant(delta, 0.0), size.reshape(size.shape[0], -1).max(axis=1))
    less, more = jax.lax.fori_loop(0, 30, halve, bounds)
    middle = 0.5 * (less + more)
    rest = size - per_example(middle, delta)
    free, full = (rest > 0) & (rest < room), rest >= room
    exact = divide(
        _total(jnp.where(free, size, 0.0)) + _total(jnp.where(full, room, 0.0)) - radius,
        _total(free.astype(delta.dtype)),
    )
    # Where bisection ended on a kink there may be no free feature: then its own bound is the answer.
    threshold = jnp.where((exact >= less) & (exact <= more), exact, more)
    result = kept(jnp.where(outside, threshold, 0.0))
    # A sum of thousands of float32 is off by a few units in the last place: aim that much inside.
    aim = jnp.where(outside, radius * (1.0 - 1e-6), radius)
    return jnp.sign(delta) * _shrink(result, _total(result), aim)


def _onto_l2_and_box(delta: Array, eps: Radius, low: Array, high: Array) -> Array:
    """Find the nearest point with |v| <= eps and low <= v <= high: v = clip(s delta) with the largest s <= 1."""
    radius = constant(delta, jnp.asarray(eps, delta.dtype))

    def point(scale):
        return jnp.clip(per_example(scale, delta) * delta, low, high)

    def halve(_, bounds):
        less, more = bounds
        middle = 0.5 * (less + more)
        over = norm(point(middle), "l2") > radius
        return jnp.where(over, less, middle), jnp.where(over, middle, more)

    outside = norm(point(constant(delta, 1.0)), "l2") > radius
    less, more = jax.lax.fori_loop(0, 30, halve, (constant(delta, 0.0), constant(delta, 1.0)))
    scaled = per_example(0.5 * (less + more), delta) * delta
    free = (scaled > low) & (scaled < high)
    left = jnp.square(radius) - _total(jnp.where(free, 0.0, jnp.square(jnp.clip(scaled, low, high))))
    exact = jnp.sqrt(jnp.maximum(divide(left, _total(jnp.where(free, jnp.square(delta), 0.0))), 0.0))
    scale = jnp.where((exact >= less) & (exact <= more), exact, less)
    result = point(jnp.where(outside, scale, 1.0))
    return _shrink(result, norm(result, "l2"), radius)
