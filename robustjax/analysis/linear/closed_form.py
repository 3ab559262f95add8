"""The adversarial risk of a linear predictor on Gaussian data, exactly: no sampling, no attack."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from robustjax import checks
from robustjax.analysis.linear.gaussian import Gaussian, Weights, arrays
from robustjax.numerics import Norm, divide, norm
from robustjax.types import Number

MEAN_ABS = math.sqrt(2 / math.pi)  # E|z| for z ~ N(0, 1)
DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}  # max of theta . d over the unit ball


def expected_square(s: Number, b: Number) -> Number:
    """Return E(|r| + b)^2 for r ~ N(0, s^2): s^2 + 2 sqrt(2/pi) s b + b^2."""
    return s * s + 2 * MEAN_ABS * s * b + b * b


def error(model: Gaussian, theta: Weights) -> Scalar:
    """Return the standard deviation s of the residual y - theta . x, so s^2 is the mean squared error.

    Its gradient at s = 0 is taken as zero.
    """
    covariance, theta_star = arrays(model)
    gap = jnp.asarray(theta) - theta_star
    square = jnp.einsum("i,ij,j->", gap, covariance, gap, precision="highest") + model.sigma**2
    positive = square > 0  # the other branch must not divide by zero in the gradient
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def dual_norm(theta: Weights, kind: Norm) -> Scalar:
    """Return max theta . d over |d| <= 1 in the norm of the budget: l1 for linf, l2 for l2, the largest for l1."""
    return norm(jnp.asarray(theta)[None], DUAL[checks.norm("dual_norm", kind)])[0]


def adversarial_risk(model: Gaussian, theta: Weights, eps: Number, kind: Norm) -> Scalar:
    """Return E max (y - theta . (x + d))^2 over |d| <= eps, the expectation over the Gaussian in closed form.

    The adversary adds eps |theta|_* to the size of every residual, which is normal with deviation s:
    s^2 + 2 sqrt(2/pi) eps s |theta|_* + eps^2 |theta|_*^2. It is convex in theta. As a function of JAX it can be
    compiled, mapped and differentiated twice; where |theta|_* has a kink its gradient is a subgradient.

    Args:
      model: features and rule.
      theta: the predictor, (m,); map over it for several.
      eps: radius, in the units of the features.
      kind: norm of the budget.
    """
    return jnp.asarray(expected_square(error(model, theta), eps * dual_norm(theta, kind)))


def worst_point(
    theta: Weights, x: Float[Array, "b m"], y: Float[Array, "b"], eps: Number, kind: Norm
) -> Float[Array, "b m"]:
    """Return the points within eps of x with the largest squared error: the inner maximum, exactly.

    A residual of zero has two; the one that makes it positive is returned.
    """
    checks.norm("worst_point", kind)
    theta = jnp.asarray(theta)
    if kind == "linf":
        along = jnp.sign(theta)
    elif kind == "l2":
        along = divide(theta, norm(theta[None], "l2")[0])
    else:
        along = jnp.where(jnp.arange(theta.shape[0]) == jnp.argmax(jnp.abs(theta)), jnp.sign(theta), 0.0)
    residual = y - x @ theta
    return x - eps * jnp.where(residual < 0, -1.0, 1.0)[:, None] * along[None]
