"""An attack on a classifier that is smoothed in the parameters of a perturbation set."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from robustjax import checks
from robustjax.attacks.compose import against
from robustjax.attacks.pgd import pgd
from robustjax.perturbations.sets import PerturbationSet
from robustjax.smoothing.noise import Noise, in_parameters
from robustjax.smoothing.votes import votes
from robustjax.threats import Threat
from robustjax.types import Batch, Images, Logits, LogitsFn


def attack_smoothed(
    key: PRNGKeyArray,
    logits_fn: LogitsFn,
    space: PerturbationSet,
    test: Batch,
    *,
    sigma: float,
    radii: Sequence[float] | np.ndarray,
    classes: int,
    steps: int = 10,
    gradient_samples: int = 16,
    samples: int = 1000,
    chunk_size: int = 500,
) -> np.ndarray:
    """Attack x -> argmax of the votes under noise in u, within balls of u; the votes at the u found decide.

    PGD maximises the margin of the log of the mean probability over a fixed set of noise. What it reaches lies above
    the certified accuracy at every radius, unless the votes are unlucky.

    Args:
      key: one key, for all examples.
      logits_fn: the classifier underneath.
      space: the set in whose parameters it is smoothed; its own ball plays no part.
      test: images and labels.
      sigma: standard deviation of the noise, in the units of u.
      radii: of the balls, in l2.
      classes: number of logits.
      steps: of PGD, each a quarter of the radius long.
      gradient_samples: of noise, for the gradient.
      samples: of noise, for the votes.
      chunk_size: samples per forward pass.
    Returns:
      (1 + len(radii), b): whether the class of most votes is right, without attack and at each radius.
    Raises:
      ValueError: if images are not floats in [0, 1], labels not below `classes`, or a setting is not positive.
    """
    checks.examples("attack_smoothed", test.image, lower=0.0, upper=1.0)
    checks.labels("attack_smoothed", test.label, count=len(test.image), classes=classes)
    checks.positive("attack_smoothed", "sigma", sigma)
    for radius in radii:
        checks.positive("attack_smoothed", "a radius", radius)
    checks.count("attack_smoothed", "gradient_samples", gradient_samples)
    draws = sigma * jax.random.normal(key, (gradient_samples, space.dimension))
    ready = space.prepare(test.image)

    @jax.jit
    def attack(ready: Any, radius: Array) -> Array:
        def soft(u: Array) -> Logits:
            def one(noise: Array) -> Logits:
                return jax.nn.log_softmax(logits_fn(space.decode(key, ready, u + noise)))

            return jax.nn.logsumexp(jax.lax.map(one, draws), axis=0)

        threat = Threat("l2", radius, -jnp.inf, jnp.inf)
        ascent = pgd(threat, steps=steps, step_size=radius / 4)
        return against(ascent)(key, soft, space.origin(test.image), test.label).x

    flat = test.image.reshape(len(test.label), -1)

    def around(key: PRNGKeyArray, row: Array, samples: int) -> Images:
        x, u = row[: flat.shape[1]].reshape(test.image.shape[1:]), row[flat.shape[1] :]
        return in_parameters(space, sigma, centre=lambda _: u).sample(key, x, samples)

    count = jax.jit(votes(logits_fn, Noise(around, sigma), classes=classes, chunk_size=chunk_size))
    right = []
    for radius in [0.0, *radii]:
        rows = jnp.concatenate([flat, attack(ready, jnp.float32(radius))], axis=1)
        won = np.asarray(count(jax.random.fold_in(key, 1), rows, samples)).argmax(axis=1)
        right.append(won == np.asarray(test.label))
    return np.stack(right)
