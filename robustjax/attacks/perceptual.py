"""Points that look alike to a network: a ball in its features, a search inside it, and the features of LPIPS."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from robustjax import checks
from robustjax.attacks.gradient_ascent import evaluate
from robustjax.attacks.solver import Count, Solver, ValueAndMerit, better, entered, nothing_yet, repeat
from robustjax.attacks.starts import Start, at_origin
from robustjax.numerics import constant, divide, norm, per_example
from robustjax.types import Found, Images, Keys, Mask, Number, PerExample, Radius

Features = Callable[[Images], Float[Array, "b ..."]]  # images -> features, whose distance in l2 is measured
Activations = Callable[[Images], Sequence[Float[Array, "b h w c"]]]
HALVINGS = 12  # of the way back into the ball
DAMPING = 1e-3  # of the metric of features, as a share of its size along the gradient
SMALLEST = 1e-10  # length of a pixel's activations that LPIPS divides by at least


def lpips(activations: Activations, *, weights: Sequence[Array] | None = None) -> Features:
    """Turn activations into features whose distance in l2 is the square root of LPIPS.

        |f(x) - f(x')|^2 = sum_l 1 / (h_l w_l) sum_pixels sum_c weight_lc (a_lc / |a_l| - a'_lc / |a'_l|)^2

    Args:
      activations: images -> what chosen layers answer, one array (b, h, w, c) for each; the network normalises inside.
      weights: (c,) for each of them, not negative: those that LPIPS learned; by default 1.
    Returns:
      Images -> features (b, d), for `perceptual_pgd`.
    Raises:
      ValueError: for a negative weight; in use, for activations of another rank, or more or fewer than there are
        weights.

    Reference: Zhang et al. 2018, arXiv:1801.03924 (LPIPS), without weights as in Laidlaw et al. 2021, arXiv:2006.12655.
    """
    given = None if weights is None else [jnp.asarray(w) for w in weights]
    for weight in given or ():
        checks.setting("lpips", "weights", weight, least=0)

    def features(x: Images) -> Float[Array, "b d"]:
        layers = activations(x)
        if any(a.ndim != 4 for a in layers) or len(layers) != len(given or layers):
            raise ValueError(
                f"lpips: activations have shapes {', '.join(str(a.shape) for a in layers)}, must be (b, h, w, c)"
                + ("" if given is None else f", one for each of {len(given)} weights")
            )
        parts = []
        for i, layer in enumerate(layers):
            # The root of zero has no slope.
            length = jnp.sqrt(jnp.maximum(jnp.square(layer).sum(axis=-1, keepdims=True), SMALLEST**2))
            scale = 1.0 if given is None else jnp.sqrt(given[i])[None, None, None]
            part = layer / length * scale / jnp.sqrt(float(layer.shape[1] * layer.shape[2]))
            parts.append(part.reshape(len(layer), -1))
        return jnp.concatenate(parts, axis=1)

    return features


@partial(jax.tree_util.register_dataclass, data_fields=["eps", "lower", "upper"], meta_fields=["features"])
@dataclasses.dataclass(frozen=True)
class Perceptual:
    """Points whose features are within `eps` of the origin's in l2, and between `lower` and `upper`."""

    features: Features
    eps: Radius
    lower: float | Array = 0.0
    upper: float | Array = 1.0

    def distance(self, x: Float[Array, "b ..."], origin: Float[Array, "b ..."]) -> PerExample:
        """Measure how far the features of each x are from those of its origin."""
        return norm(self.features(x) - self.features(origin), "l2")

    def contains(self, x: Float[Array, "b ..."], origin: Float[Array, "b ..."]) -> Mask:
        """Say which points are feasible, up to the rounding of float32."""
        boxed = ((x >= self.lower) & (x <= self.upper)).reshape(x.shape[0], -1).all(axis=1)
        return boxed & (self.distance(x, origin) <= jnp.asarray(self.eps) * (1 + 1e-5) + 1e-6)

    def project(self, x: Float[Array, "b ..."], origin: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        """Clip to the box, then go back along the line to the origin, by bisection, until the features are near.

        Not the nearest point of the ball, but one of it, whatever the network.
        """
        x, home = jnp.clip(x, self.lower, self.upper), self.features(origin)
        between = lambda share: origin + per_example(share, x) * (x - origin)  # noqa: E731
        near = lambda share: norm(self.features(between(share)) - home, "l2") <= self.eps  # noqa: E731

        def halve(_, bounds):
            inside, outside = bounds
            middle = 0.5 * (inside + outside)
            fits = near(middle)
            return jnp.where(fits, middle, inside), jnp.where(fits, outside, middle)

        none, whole = constant(x, 0.0), constant(x, 1.0)
        inside, _ = jax.lax.fori_loop(0, HALVINGS, halve, (none, whole))
        # Rounding in origin + delta may leave the box by one unit in the last place.
        return jnp.clip(between(jnp.where(near(whole), whole, inside)), self.lower, self.upper)


class PerceptualState(NamedTuple):
    """Where a search stands, one row per example: `x` is evaluated next."""

    origin: Array
    x: Array
    found: Found
    step: Int[Array, "b"]


def perceptual_pgd(
    threat: Perceptual,
    *,
    steps: int = 40,
    first: Number = 1.0,
    solves: int = 5,
    start: Start = at_origin,
) -> Solver:
    """Step where the objective rises fastest for what the features move, and go back along the line to x.

        x <- project(x + a v / |J v|),  (J'J + damping) v = gradient,  J = features'(x)
        a = first eps (1 + cos(pi i / n)) / 2,  i = 0 ... n - 1

    The distance may be that of any network, the one under attack too: `lpips(activations)`, or features of your own.

    Args:
      threat: features, radius in their distance, and box.
      steps: gradient steps; the last point is evaluated too.
      first: length of the first step, in radii.
      solves: iterations of conjugate gradients for v, each a product with J and one with its transpose. Where features
        stretch all directions alike, one is enough.
      start: the first point, projected; x itself, or a random one for restarts.
    Returns:
      An ascent that can also be driven in segments. Going back takes 13 passes through the features.
    Raises:
      ValueError: if steps or solves is less than 1, first not positive, or eps negative or infinite.

    Reference: Laidlaw et al. 2021, arXiv:2006.12655 (perceptual PGD). Deviations: steps fall along half a cosine, the
      metric is damped, and the point returned is the best one met.
    """
    checks.count("perceptual_pgd", "steps", steps)
    checks.count("perceptual_pgd", "solves", solves)
    checks.setting("perceptual_pgd", "first", first, above=0)
    checks.setting("perceptual_pgd", "eps", threat.eps, least=0, below=float("inf"))

    def init(key: Keys, x: Array) -> PerceptualState:
        x = entered("perceptual_pgd", threat, x)
        begin = threat.project(start(key, x).astype(x.dtype), x)
        return PerceptualState(x, begin, nothing_yet(x), constant(x, 0, jnp.int32))

    def advance(objective: ValueAndMerit, state: PerceptualState, count: Count) -> PerceptualState:
        def move(state: PerceptualState) -> PerceptualState:
            _, merit, grad = evaluate(objective, state.x)
            v, length = _steepest(threat.features, state.x, grad, solves)
            done = state.step.astype(jnp.float32) / steps
            far = first * jnp.asarray(threat.eps) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
            x = threat.project(state.x + per_example(divide(far, length), v) * v, state.origin)
            return state._replace(x=x, found=better(state.found, Found(state.x, merit)))

        return repeat(move, state, count, steps + 1)

    return Solver(init, advance, lambda state: state.found, steps + 1, "perceptual_pgd")


def _steepest(features: Features, x: Array, grad: Array, solves: int) -> tuple[Array, PerExample]:
    """Solve (J'J + damping) v = gradient by conjugate gradients, and measure v in this metric."""
    _, forth = jax.linearize(features, x)
    back = jax.linear_transpose(forth, x)
    # The metric is quadratic in the gradient's length, which may be tiny.
    grad = grad * per_example(divide(jnp.ones(len(x), grad.dtype), norm(grad, "linf")), grad)
    size = divide(jnp.square(norm(forth(grad), "l2")), jnp.square(norm(grad, "l2")))

    def metric(v: Array) -> Array:
        return back(forth(v))[0] + per_example(jnp.maximum(DAMPING * size, 1e-12), v) * v

    def solve(_, carry):
        v, rest, along = carry
        image = metric(along)
        square = _dot(rest, rest)
        share = per_example(divide(square, _dot(along, image)), v)
        v, rest = v + share * along, rest - share * image
        return v, rest, rest + per_example(divide(_dot(rest, rest), square), v) * along

    v, _, _ = jax.lax.fori_loop(0, solves, solve, (jnp.zeros_like(grad), grad, grad))
    return v, jnp.sqrt(jnp.maximum(_dot(v, metric(v)), 0.0))


def _dot(a: Array, b: Array) -> PerExample:
    return (a * b).reshape(a.shape[0], -1).sum(axis=1)
