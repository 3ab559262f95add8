"""Points that travel: signed steps with momentum along gradients that are averaged, transformed or smoothed.

Gradients are built from each other: `at_scales(diverse(plain))` averages over scales of randomly resized images. The
solver `momentum_iterative` follows them; with

```
MI     momentum_iterative(threat)
NI     momentum_iterative(threat, look_ahead=True)
DI     momentum_iterative(threat, gradient=diverse())
TI     momentum_iterative(threat, gradient=translated())
SI-NI  momentum_iterative(threat, gradient=at_scales(), look_ahead=True)
VMI    momentum_iterative(threat, neighbours=5)
```

it is the attack of that name, and `objectives` of an `ensemble` attack several source networks at once.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from robustjax import checks
from robustjax.attacks.solver import (
    Count,
    Solver,
    ValueAndMerit,
    better,
    check_finite,
    entered,
    nothing_yet,
    repeat,
)
from robustjax.attacks.starts import Start, at_origin
from robustjax.numerics import constant, divide, fold, keys_for, per_example
from robustjax.threats import Threat
from robustjax.types import Found, Keys, Logits, LogitsFn, Objective, Radius

Gradient = Callable[[Keys, Objective, Array], Array]  # (keys, objective, x) -> what stands for its gradient


def plain(keys: Keys, objective: Objective, x: Array) -> Array:
    """Take the gradient itself."""
    del keys
    return jax.grad(lambda z: objective(z).sum())(x)


def at_scales(gradient: Gradient = plain, *, scales: int = 5) -> Gradient:
    """Average the gradients of x -> f(x / 2^i), i = 0, 1, ...

    Reference: Lin et al. 2020, arXiv:1908.06281 (SI).
    """
    checks.count("at_scales", "scales", scales)

    def averaged(keys: Keys, objective: Objective, x: Array) -> Array:
        total = jnp.zeros_like(x)
        for i in range(scales):
            total += gradient(fold(keys, i), lambda z, i=i: objective(z / 2.0**i), x)
        return total / scales

    return averaged


def diverse(gradient: Gradient = plain, *, smallest: float = 0.9, chance: float = 0.5) -> Gradient:
    """Show an image, with a chance, made smaller by a random factor and placed at random on black.

    Args:
      gradient: of what is shown.
      smallest: the factor is uniform in [smallest, 1], the same for height and width.
      chance: of each image to be transformed at all.

    Reference: Xie et al. 2019, arXiv:1803.06978 (DI). There an image of 299 pixels grows to a random size below 330 and
      is padded to it; here it keeps its size, as in other implementations. Resizing is bilinear.
    """
    checks.setting("diverse", "smallest", smallest, above=0, most=1)
    checks.setting("diverse", "chance", chance, least=0, most=1)

    def transformed(keys: Keys, objective: Objective, x: Array) -> Array:
        _require_images("diverse", x)
        height, width = x.shape[1:3]

        def one(key: Array, image: Array) -> Array:
            u = jax.random.uniform(key, (4,), image.dtype)
            factor = smallest + (1.0 - smallest) * u[0]
            room = (1.0 - factor) * jnp.asarray([height, width], image.dtype)
            small = jax.image.scale_and_translate(
                image,
                image.shape,
                (0, 1),
                jnp.stack([factor, factor]),
                u[1:3] * room,
                "linear",
                antialias=False,
            )
            return jnp.where(u[3] < chance, small, image)

        return gradient(fold(keys, 1), lambda z: objective(jax.vmap(one)(keys, z)), x)

    return transformed


def translated(gradient: Gradient = plain, *, size: int = 15, sigma: float = 3.0) -> Gradient:
    """Smooth the gradient by a Gaussian kernel: about the mean over small translations of the image.

    Args:
      gradient: what is smoothed.
      size: side of the kernel in pixels, odd.
      sigma: the kernel reaches from -sigma to sigma standard deviations.

    Reference: Dong et al. 2019, arXiv:1904.02884 (TI), with the kernel of the authors' code.
    """
    checks.count("translated", "size", size)
    checks.setting("translated", "sigma", sigma, above=0)
    if size % 2 == 0:
        raise ValueError(f"translated: size is {size}, must be odd")
    line = np.exp(-0.5 * np.linspace(-sigma, sigma, size) ** 2) if size > 1 else np.ones(1)
    kernel = np.outer(line, line) / np.outer(line, line).sum()

    def smoothed(keys: Keys, objective: Objective, x: Array) -> Array:
        _require_images("translated", x)
        grad, channels = gradient(keys, objective, x), x.shape[-1]
        weight = jnp.broadcast_to(jnp.asarray(kernel, x.dtype)[:, :, None, None], (size, size, 1, channels))
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            grad, weight, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=channels
        )

    return smoothed


def ensemble(*networks: LogitsFn, weights: Sequence[float] | None = None) -> LogitsFn:
    """Average the logits of several source networks, to be attacked as one.

    Args:
      networks: at least one; all with the same classes.
      weights: one for each network, not negative; equal by default. They are divided by their sum.
    Raises:
      ValueError: for no network, another number of weights, or weights that are negative or all zero.

    Reference: Dong et al. 2018, arXiv:1710.06081 (ensemble in logits).
    """
    if not networks:
        raise ValueError("ensemble: no network is given, must be at least one")
    shares = np.ones(len(networks)) if weights is None else np.asarray(weights, np.float64)
    if (
        shares.shape != (len(networks),)
        or not (shares >= 0).all()
        or not np.isfinite(shares).all()
        or shares.sum() == 0
    ):
        raise ValueError(
            f"ensemble: weights are {weights!r:.60}, must be {len(networks)} numbers from 0, one for each network, "
            "and not all zero"
        )
    shares = shares / shares.sum()

    def logits(x: Array) -> Logits:
        found = [network(x) for network in networks]
        if len({one.shape for one in found}) > 1:
            raise ValueError(
                f"ensemble: the networks give {' and '.join(str(one.shape) for one in found)}, must have the same "
                "classes"
            )
        return sum(
            (float(share) * one for share, one in zip(shares, found, strict=True)), jnp.zeros_like(found[0])
        )

    return logits


class Rolling(NamedTuple):
    """Where a search stands, one row per example: `drift` is what neighbours' gradients differ by, in the mean."""

    key: Keys
    origin: Array
    x: Array
    momentum: Array
    drift: Array
    found: Found
    step: Int[Array, "b"]


def momentum_iterative(
    threat: Threat,
    *,
    steps: int = 10,
    step_size: Radius | None = None,
    momentum: float = 1.0,
    look_ahead: bool = False,
    neighbours: int = 0,
    reach: float = 1.5,
    gradient: Gradient = plain,
    start: Start = at_origin,
    keep: Literal["best", "last"] = "last",
) -> Solver:
    """Step along the steepest direction of m <- momentum m + g / mean |g|, and project.

    g is the gradient, plus with `neighbours` the mean difference between the gradients at random neighbours of the last
    point and the gradient there.

    Args:
      threat: where the result must lie.
      steps: gradients; with the last point that makes steps + 1 evaluations.
      step_size: length of a step in the threat's norm; eps / steps by default.
      momentum: of the sum of normalised gradients.
      look_ahead: take the gradient where the momentum alone would lead, at x + step_size momentum m.
      neighbours: points for the variance of the gradient, 0 for none.
      reach: neighbours lie within `reach` eps in every feature.
      gradient: how to differentiate, such as `translated(diverse())`.
      start: the first point, projected.
      keep: give the last point, which travels best, or the one of highest merit.
    Returns:
      An ascent that can also be driven in segments.
    Raises:
      ValueError: if steps or neighbours is negative, another number is out of range, eps is infinite, or keep unknown.

    Reference: Dong et al. 2018, arXiv:1710.06081 (MI); Lin et al. 2020, arXiv:1908.06281 (NI), with the mean of |g| for
      its l1 norm as in the authors' code; Wang and He 2021, arXiv:2103.15571 (VMI, VNI). Other norms than linf by
      their steepest direction.
    """
    who = "momentum_iterative"
    checks.threat(who, threat)
    check_finite(who, threat)
    checks.count(who, "steps", steps, least=0)
    checks.count(who, "neighbours", neighbours, least=0)
    checks.setting(who, "momentum", momentum, least=0)
    checks.setting(who, "reach", reach, above=0)
    if step_size is not None:
        checks.setting(who, "step_size", step_size, least=0)
    if keep not in ("best", "last"):
        raise ValueError(f"{who}: keep is {keep!r}, must be 'best' or 'last'")
    length = threat.eps / max(steps, 1) if step_size is None else step_size

    def init(key: Keys, x: Array) -> Rolling:
        x = entered(who, threat, x)
        first, rest = jax.vmap(jax.random.split, out_axes=1)(keys_for(key, len(x)))
        begin = threat.project(start(first, x).astype(x.dtype), x)
        nothing = jnp.zeros_like(x)
        return Rolling(rest, x, begin, nothing, nothing, nothing_yet(begin), constant(x, 0, jnp.int32))

    def advance(objective: ValueAndMerit, state: Rolling, count: Count) -> Rolling:
        def value(x: Array) -> Array:
            return objective(x)[0]

        def slope(keys: Keys, x: Array) -> Array:
            found = gradient(keys, value, x)
            return jnp.where(jnp.isfinite(found), found, 0.0)

        def move(state: Rolling) -> Rolling:
            here = Found(state.x, objective(state.x)[1])
            found = better(state.found, here) if keep == "best" else here
            keys, size = jax.vmap(jax.random.fold_in)(state.key, state.step), per_example(length, state.x)
            ahead = state.x + size * momentum * state.momentum if look_ahead else state.x
            steep = slope(keys, ahead)
            grad = steep + state.drift
            mean = jnp.abs(grad).reshape(len(grad), -1).mean(axis=1)
            rolling = momentum * state.momentum + divide(grad, per_example(mean, grad))
            drift = state.drift
            if neighbours:
                wide = reach * per_example(threat.eps, state.x)

                def near(i: Array) -> Array:
                    its = fold(keys, 1 + i)
                    draw = jax.vmap(
                        lambda key: jax.random.uniform(key, state.x.shape[1:], state.x.dtype, -1.0)
                    )
                    return slope(fold(its, 1), state.x + wide * draw(its))

                drift = jax.lax.map(near, jnp.arange(neighbours)).mean(axis=0) - steep
            x = threat.project(state.x + size * threat.steepest(rolling, state.x), state.origin)
            return state._replace(x=x, momentum=rolling, drift=drift, found=found)

        return repeat(move, state, count, steps + 1)

    return Solver(init, advance, lambda state: state.found, steps + 1, who)


def _require_images(who: str, x: Array) -> None:
    if x.ndim != 4:
        raise ValueError(f"{who}: x has shape {x.shape}, must be images (b, height, width, channels)")
