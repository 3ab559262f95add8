"""The same problem by sampling: draw data, attack it, train against the attack. It must agree with the theory."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from robustjax import checks, optimizers
from robustjax.analysis.linear.gaussian import Gaussian, arrays
from robustjax.attacks.pgd import pgd
from robustjax.attacks.starts import at_origin
from robustjax.numerics import Norm
from robustjax.threats import Threat
from robustjax.types import Ascent, Number, Objective

Data = tuple[Float[Array, "n m"], Float[Array, "n"]]


def draw(key: PRNGKeyArray, model: Gaussian, count: int, *, whiten: bool = False) -> Data:
    """Draw features and targets, float32.

    Args:
      key: one key.
      model: features and rule.
      count: how many examples.
      whiten: make the sample's own mean zero and its joint covariance of features and noise exactly the model's,
        which leaves of the sampling error only what comes from higher moments.
    Raises:
      ValueError: if there are too few examples to whiten.
    """
    size = model.theta_star.shape[0]
    if whiten and count < size + 3:
        raise ValueError(f"draw: count is {count}, must be at least {size + 3} to whiten {size} features")
    z = jax.random.normal(key, (count, size + 1), jnp.float32)
    if whiten:
        z = z - z.mean(axis=0, keepdims=True)
        factor = jnp.linalg.cholesky(jnp.matmul(z.T, z, precision="highest") / count)
        z = jax.scipy.linalg.solve_triangular(factor, z.T, lower=True).T
    covariance, theta_star = (a.astype(z.dtype) for a in arrays(model))
    x = jnp.matmul(z[:, :size], jnp.linalg.cholesky(covariance).T, precision="highest")
    return x, jnp.matmul(x, theta_star, precision="highest") + model.sigma * z[:, size]


def adversary(eps: Number, kind: Norm, *, steps: int = 10) -> Ascent:
    """Build PGD for squared errors: steps of 2.5 eps / steps from the data point itself, no box.

    A random start would be wrong here: it can flip the sign of a small residual, and PGD then moves to the far
    end of the ball, where the error is smaller.

    Raises:
      ValueError: if a known eps or steps is negative.
    """
    ball = Threat(checks.norm("adversary", kind), eps, -math.inf, math.inf)
    return pgd(ball, steps=steps, step_size=2.5 * eps / max(steps, 1), start=at_origin, keep="last")


def squared_error(theta: Float[Array, "m"], y: Float[Array, "n"]) -> Objective:
    """Build the objective (y - theta . x)^2 per example."""
    return lambda x: jnp.square(y - jnp.matmul(x, theta, precision="highest"))


def risk(key: PRNGKeyArray, theta: Float[Array, "m"], sample: Data, ascent: Ascent) -> Scalar:
    """Average the squared error over a sample after an attack: at most the worst case, and near it if PGD works."""
    x, y = sample
    return ascent(key, squared_error(theta, y), x).value.mean()


def fit(
    key: PRNGKeyArray, sample: Data, ascent: Ascent, *, updates: int = 1500, rate: float = 0.02
) -> Float[Array, "m"]:
    """Train a linear predictor from zero against an attack: full batches, Adam, a rate that falls to 0.

    Args:
      key: for the attack.
      sample: features (n, m) and targets (n,).
      ascent: what finds the worst points, such as `adversary(eps, kind)`.
      updates: of the predictor.
      rate: learning rate per update, at the start.
    Raises:
      ValueError: if updates is below 1.
    """
    checks.count("fit", "updates", updates)
    x, y = sample
    tx = optimizers.adam(optimizers.cosine(rate, updates))

    def loss(theta: Array, worst: Array) -> Scalar:
        return squared_error(theta, y)(worst).mean()

    def update(carry: tuple, key: PRNGKeyArray):
        theta, memory = carry
        # The gradient of a maximum is the gradient at the maximiser, held fixed (Danskin).
        worst = ascent(key, squared_error(theta, y), x).x
        change, memory = tx.update(jax.grad(loss)(theta, worst), memory, theta)
        return (theta + change, memory), None

    start = jnp.zeros_like(x[0])
    (theta, _), _ = jax.lax.scan(update, (start, tx.init(start)), jax.random.split(key, updates))
    return theta
