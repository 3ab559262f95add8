"""Purification: exact gradients, and the right distribution where the best denoiser is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models.diffusion import Denoiser, Process
from robustjax.numerics import fold, keys_for
from robustjax.ood.purify import purify

PROCESS = Process()


def linear():
    return Denoiser(lambda key: {}, lambda params, x, t: params * x * (1.0 + t[:, None, None, None]))


def unrolled(params, key, x, until, steps):
    """The same steps in a plain loop, with nothing computed anew."""
    keys, beta = keys_for(key, x.shape[0]), lambda t: 0.1 + 19.9 * t
    kept = lambda t: np.exp(-(0.1 * t + 0.5 * 19.9 * t * t))

    def draw(i):
        return jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(fold(keys, i))

    z = np.sqrt(kept(until)) * (2 * x - 1) + np.sqrt(1 - kept(until)) * draw(0)
    for i in range(steps):
        t = until - i * until / steps
        slope = -params * z * (1 + t) / np.sqrt(1 - kept(t))
        z = z + until / steps * beta(t) * (0.5 * z + slope)
        if i < steps - 1:
            z = z + np.sqrt(beta(t) * until / steps) * draw(i + 1)
    return jnp.clip(0.5 * (z + 1), 0, 1)


@pytest.mark.slow
def test_values_and_gradients_are_those_of_the_unrolled_steps():
    x, key = jax.random.uniform(jax.random.key(0), (3, 2, 2, 1), minval=0.3, maxval=0.7), jax.random.key(1)

    def ours(params, x):
        return purify(linear(), params, PROCESS, until=0.1, steps=5)(key, x)

    def theirs(params, x):
        return unrolled(params, key, x, 0.1, 5)

    p = jnp.float32(0.2)
    one, other = (
        jax.jit(jax.value_and_grad(lambda p, x, f=f: jnp.square(f(p, x)).sum(), argnums=(0, 1)))(p, x)
        for f in (ours, theirs)
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert float(jnp.abs(b).max()) > 1e-3
        np.testing.assert_allclose(a, b, rtol=1e-3)


@pytest.mark.parametrize("noiseless", [False, True])
def test_normal_pixels_stay_normal_under_their_exact_denoiser(noiseless):
    mean, std = 0.2, 0.25  # in [-1, 1]

    def best(params, x, t):
        kept, spread = (f(t)[:, None, None, None] for f in (PROCESS.kept, PROCESS.spread))
        return spread * (x - jnp.sqrt(kept) * mean) / (kept * std**2 + spread**2)

    n = 20000
    x = 0.5 * (1 + mean + std * jax.random.normal(jax.random.key(0), (n, 1, 1, 1)))
    run = purify(Denoiser(lambda key: {}, best), {}, PROCESS, until=0.3, steps=60, noiseless=noiseless)
    out = 2 * np.asarray(jax.jit(run)(jax.random.key(1), x)) - 1
    assert abs(out.mean() - mean) < 0.01 and abs(out.std() / std - 1) < 0.03


def test_an_example_is_purified_alike_alone_and_in_a_batch():
    x, keys = jax.random.uniform(jax.random.key(0), (3, 2, 2, 1)), jax.random.split(jax.random.key(1), 3)
    run = jax.jit(purify(linear(), jnp.float32(0.2), PROCESS, until=0.1, steps=2))
    np.testing.assert_allclose(run(keys, x)[1:2], run(keys[1:2], x[1:2]), rtol=1e-5)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="steps is 0"):
        purify(linear(), {}, PROCESS, until=0.1, steps=0)
    with pytest.raises(ValueError, match="until is 2"):
        purify(linear(), {}, PROCESS, until=2)


def test_a_long_chain_is_differentiated_in_the_memory_of_a_step(monkeypatch):
    """Gradients of 100 steps hold an image per step, not the 64 activations per pixel of each, and are the same."""
    hidden, steps = 64, 100
    x, key = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1)), jax.random.key(1)
    params = 0.1 * jax.random.normal(jax.random.key(2), (2, hidden))

    def predict(params, x, t):
        first, second = params[:, None, None, None]
        return (jnp.tanh(x * first + t[:, None, None, None]) * second).sum(axis=-1, keepdims=True)

    def slope():
        run = purify(Denoiser(lambda key: {}, predict), params, PROCESS, until=0.1, steps=steps)
        return jax.jit(jax.grad(lambda x: jnp.square(run(key, x)).sum())).lower(x).compile()

    bounded = slope()
    monkeypatch.setattr(jax, "checkpoint", lambda step: step)
    whole = slope()
    held, held_whole = (p.memory_analysis().temp_size_in_bytes for p in (bounded, whole))
    image, activations = x.nbytes, x.nbytes * hidden
    assert held_whole > steps * activations  # what reverse mode keeps of every step
    assert held < 3 * steps * image + 20 * activations < held_whole / 5
    np.testing.assert_allclose(bounded(x), whole(x), rtol=1e-4, atol=1e-6)
