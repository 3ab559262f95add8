"""The attacks in latents that judge: on a network, and on a smoothed one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.perturbations import sets
from robustjax.smoothing.noise import Noise, in_parameters
from robustjax.smoothing.votes import votes
from robustjax.threats import Threat
from robustjax.types import Attack, Batch, Images, Logits, LogitsFn


def worst(threat: Threat, *others: Attack, steps: int, restarts: int) -> Attack:
    """Build the attack on latents: PGD on cross-entropy and on the margin, with restarts, and u = 0.

    Args:
      threat: of the latents.
      others: more attacks on latents, such as the encoding of a real perturbation.
      steps: of each search, each a twentieth of the radius long.
      restarts: of each search.
    """
    ascent = pgd(threat, steps=steps, step_size=threat.eps / 20)
    repeated = compose.restarts(ascent, restarts)
    surrogates = (objectives.cross_entropy, objectives.margin)
    return compose.worst_of(*(compose.against(repeated, surrogate) for surrogate in surrogates), *others)


def smoothed(
    logits_fn: LogitsFn, space: sets.PerturbationSet, sigma: float, test: Batch, eps: np.ndarray, key: jax.Array
) -> np.ndarray:  # fmt: skip
    """Attack the smoothed classifier: climb its soft version in u, judge by fresh votes at the u found."""
    draws = sigma * jax.random.normal(key, (16, space.dimension))
    ready = space.prepare(test.image)

    @jax.jit
    def climb(ready: Any, radius: jax.Array) -> jax.Array:
        def soft(u: jax.Array) -> Logits:
            def one(noise: jax.Array) -> Logits:
                return jax.nn.log_softmax(logits_fn(space.decode(key, ready, u + noise)))

            return jax.nn.logsumexp(jax.lax.map(one, draws), axis=0)

        threat = Threat("l2", radius, -jnp.inf, jnp.inf)
        ascent = pgd(threat, steps=10, step_size=radius / 4)
        return compose.against(ascent)(key, soft, space.origin(test.image), test.label).x

    flat = test.image.reshape(len(test.label), -1)

    def copies(key: jax.Array, row: jax.Array, count: int) -> Images:
        x, u = row[: flat.shape[1]].reshape(test.image.shape[1:]), row[flat.shape[1] :]
        return in_parameters(space, sigma, centre=lambda _: u).copies(key, x, count)

    count = jax.jit(votes(logits_fn, Noise(copies, sigma), classes=10, chunk_size=500))
    held = []
    for radius in [0.0, *eps]:
        rows = jnp.concatenate([flat, climb(ready, jnp.float32(radius))], axis=1)
        held.append(np.asarray(count(jax.random.fold_in(key, 1), rows, 1000)).argmax(axis=1) == test.label)
    return np.stack(held)
