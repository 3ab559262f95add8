"""How much a linear predictor relies on spurious features: four measures, as functions of JAX."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Scalar

from robustjax.analysis.linear.closed_form import error
from robustjax.analysis.linear.gaussian import Gaussian, Weights, arrays, shifted
from robustjax.numerics import divide
from robustjax.types import Number


class Measures(NamedTuple):
    """Reliance on spurious features; 0 where none has a weight.

    Attributes:
      variance_share: variance of the spurious part of the prediction over that of both parts: the only one
        that does not depend on the units of the features, and the one to compare across scales.
      weight_share: |theta_S|_1 / |theta|_1.
      shift_gap: mean squared error with broken minus with preserved correlations.
      noise_share: (|theta_C|^2 - |theta_S|^2) / (|theta_C|^2 + |theta_S|^2), the relative sensitivity to noise on
        core features minus spurious ones: 1 for no reliance, -1 for nothing else.
    """

    variance_share: Scalar
    weight_share: Scalar
    shift_gap: Scalar
    noise_share: Scalar


def measures(model: Gaussian, theta: Weights) -> Measures:
    """Measure the spurious reliance of a predictor (m,); for theta = 0 all measures are 0."""
    theta, (covariance, _), core = jnp.asarray(theta), arrays(model), model.core
    inner, outer = theta[:core], theta[core:]
    varied = [
        jnp.einsum("i,ij,j->", part, block, part, precision="highest")
        for part, block in ((inner, covariance[:core, :core]), (outer, covariance[core:, core:]))
    ]
    squares = jnp.square(inner).sum(), jnp.square(outer).sum()
    return Measures(
        divide(varied[1], varied[0] + varied[1]),
        divide(jnp.abs(outer).sum(), jnp.abs(theta).sum()),
        squared_error(model, theta, tau=0.0) - squared_error(model, theta),
        divide(squares[0] - squares[1], squares[0] + squares[1]),
    )


def squared_error(model: Gaussian, theta: Weights, *, tau: Number = 1.0) -> Scalar:
    """Return the mean squared error of a predictor where core-spurious correlations are multiplied by tau."""
    return jnp.square(error(shifted(model, tau), theta))
