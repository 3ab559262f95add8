"""Gaussian features, some of them core and the rest spurious, and a linear rule that reads the core ones."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from robustjax import checks
from robustjax.types import Number

Weights = Float[Array, "m"] | np.ndarray  # of a linear predictor, one per feature


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["covariance", "theta_star", "sigma"],
    meta_fields=["core"],
)
@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Features x ~ N(0, covariance) with the target y = theta_star . x + sigma xi, xi ~ N(0, 1) independent.

    The first `core` features are core; the others are spurious: their coefficient is zero, but they may be
    correlated with core ones. A pytree of arrays, so everything here can be swept with vmap. `gaussian` builds
    one and checks it.

    Attributes:
      covariance: (m, m), positive definite.
      theta_star: (m,), zero on the spurious features.
      sigma: standard deviation of the noise of the target, at least 0.
      core: how many features are core.
    """

    covariance: Float[Array, "m m"] | np.ndarray
    theta_star: Weights
    sigma: Number
    core: int


def gaussian(covariance: ArrayLike, theta_star: ArrayLike, sigma: float, *, core: int) -> Gaussian:
    """Build a model after checking all that the theory assumes of it.

    The arrays are kept as numpy float64: solvers on the host see all digits, functions of JAX see them under
    `jax.enable_x64` and are float32 otherwise.

    Args:
      covariance: of all features, (m, m), core features first.
      theta_star: coefficients of the rule, (m,).
      sigma: standard deviation of the target's noise.
      core: how many features are core, from 1 to m.
    Raises:
      ValueError: if the covariance is not symmetric and positive definite, theta_star does not fit it, is zero
        or touches a spurious feature, sigma is negative, or core is out of range.
    """
    cov, theta, noise = (np.asarray(a, np.float64) for a in (covariance, theta_star, sigma))
    if theta.ndim != 1 or cov.shape != (theta.size, theta.size):
        raise ValueError(
            f"gaussian: covariance is {cov.shape} and theta_star {theta.shape}, must be (m, m) and (m,)"
        )
    if not 1 <= core <= theta.size:
        raise ValueError(f"gaussian: core is {core}, must be from 1 to the {theta.size} features")
    if not np.isfinite(cov).all() or not np.allclose(cov, cov.T, rtol=1e-6, atol=0):
        raise ValueError("gaussian: covariance is not symmetric and finite, must be both")
    lowest, highest = np.linalg.eigvalsh(cov)[[0, -1]]
    if not lowest > 1e-13 * highest:
        raise ValueError(f"gaussian: covariance has the eigenvalue {lowest:g}, must be positive definite")
    if not np.isfinite(theta).all() or not theta.any():
        raise ValueError(f"gaussian: theta_star is {theta}, must be finite and not zero")
    if theta[core:].any():
        raise ValueError(
            f"gaussian: theta_star is {theta[core:]} on the spurious features, must be zero there"
        )
    if noise.ndim or not 0 <= noise < np.inf:
        raise ValueError(f"gaussian: sigma is {sigma}, must be one number of at least 0")
    return Gaussian((cov + cov.T) / 2, theta, float(noise), core)


def checked(model: Gaussian) -> Gaussian:
    """Check a model however it was made, and return it in float64 on the host."""
    return gaussian(model.covariance, model.theta_star, float(model.sigma), core=model.core)


def core_only(model: Gaussian) -> Gaussian:
    """Take the spurious features away."""
    core = model.core
    return Gaussian(model.covariance[:core, :core], model.theta_star[:core], model.sigma, core)


def shifted(model: Gaussian, tau: Number) -> Gaussian:
    """Multiply every covariance between a core and a spurious feature by tau: the test domain of the theory.

    Args:
      model: the domain of training.
      tau: 1 keeps the correlations, 0 breaks them, -1 reverses them. In [-1, 1] the covariance stays positive
        definite; outside it need not.
    """
    checks.number("shifted", "tau", tau)
    spurious = np.arange(model.theta_star.shape[0]) >= model.core
    across = spurious[:, None] != spurious[None]
    if isinstance(model.covariance, np.ndarray) and checks.known(tau) is not None:
        covariance = np.where(across, checks.known(tau) * model.covariance, model.covariance)
    else:
        given, _ = arrays(model)
        covariance = jnp.where(across, tau * given, given)
    return dataclasses.replace(model, covariance=covariance)


def arrays(model: Gaussian) -> tuple[Float[Array, "m m"], Float[Array, "m"]]:
    """Return covariance and theta_star as arrays of JAX, float64 under `jax.enable_x64` and float32 otherwise."""

    def converted(value):
        # jax 0.10 recalls a numpy constant by its identity, in the precision of its first use: hand it a new one.
        return jnp.asarray(value.copy()) if isinstance(value, np.ndarray) else jnp.asarray(value)

    return converted(model.covariance), converted(model.theta_star)
