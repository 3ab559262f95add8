"""Contrastive losses beside a plain computation in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.losses.contrastive import contrastive, nt_xent, supcon
from robustjax.models import selfsup
from robustjax.types import Batch


def by_hand(first, second, label, temperature):
    z = np.concatenate([first, second]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    y = np.concatenate([label, label])
    losses = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        total = sum(np.exp(z[i] @ z[k] / temperature) for k in others)
        same = [j for j in others if y[j] == y[i]]
        losses.append(np.mean([-np.log(np.exp(z[i] @ z[j] / temperature) / total) for j in same]))
    return np.array(losses).reshape(2, -1).mean(axis=0)


def test_both_losses_are_what_numpy_says():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 5, 3)).astype(np.float32)
    for temperature in (0.5, 0.07):
        found = jax.jit(nt_xent)(jnp.asarray(first), jnp.asarray(second), temperature=temperature)
        np.testing.assert_allclose(found, by_hand(first, second, np.arange(5), temperature), rtol=1e-4)
        label = np.array([0, 1, 0, 2, 1])
        found = jax.jit(supcon)(
            jnp.asarray(first), jnp.asarray(second), jnp.asarray(label), temperature=temperature
        )
        np.testing.assert_allclose(found, by_hand(first, second, label, temperature), rtol=1e-4)


def test_gradients_are_finite_where_views_agree_exactly():
    z = jnp.ones((3, 2))
    assert np.isfinite(jax.jit(jax.grad(lambda z: nt_xent(z, z, temperature=0.1).sum()))(z)).all()


@pytest.mark.slow
def test_the_published_scale_is_seven_times_the_plain_loss():
    model = selfsup.small_encoder(shape=(4, 4, 1), widths=(4,), projection=2)
    params, state = jax.jit(model.init)(jax.random.key(0))
    batch = Batch(jax.random.uniform(jax.random.key(1), (4, 4, 4, 1)), jnp.zeros(4, jnp.int32))

    def noisy(key, x):
        return x + 0.1 * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(key)

    plain, scaled = (
        jax.jit(contrastive(model, noisy, base_temperature=base))(params, state, batch, jax.random.key(2))
        for base in (None, 0.07)
    )
    np.testing.assert_allclose(scaled[0] / plain[0], 0.5 / 0.07, rtol=1e-5)
    assert 0 <= float(plain[1][1]["agreement"]) <= 1
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), plain[1][0], state)
    assert all(jax.tree.leaves(moved))  # running statistics follow
