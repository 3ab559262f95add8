"""Pooling is the reduction over disjoint windows, in value and in derivatives of both modes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models.cpu import avg_pool, max_pool


def windows(x, size):
    """List the windows of an array, (b, i, j, size * size, c), by the definition."""
    rows, columns = x.shape[1] // size, x.shape[2] // size
    cut = [
        [
            x[:, i * size : (i + 1) * size, j * size : (j + 1) * size].reshape(x.shape[0], -1, x.shape[3])
            for j in range(columns)
        ]
        for i in range(rows)
    ]
    return jnp.stack([jnp.stack(row, 1) for row in cut], 1)


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize(("pool", "reduction"), [(max_pool, jnp.max), (avg_pool, jnp.mean)])
def test_values_and_derivatives(pool, reduction, window, size):
    # Few distinct values, so that most windows have several largest entries.
    x = jnp.round(2 * jax.random.normal(jax.random.key(0), (2, *size, 3)))
    dx = jax.random.normal(jax.random.key(1), x.shape)

    @jax.jit
    def results(x, dx):
        both = []
        for f in (lambda x: pool(x, window), lambda x: reduction(windows(x, window), axis=3)):
            out, pull = jax.vjp(f, x)
            both.append((out, pull(jnp.cos(out))[0], jax.jvp(f, (x,), (dx,))[1]))
        return both

    ours, theirs = results(x, dx)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_second_derivative_and_half_precision():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))

    def f(x):
        return (max_pool(x, 2) ** 3).sum()

    hessian = jax.jit(jax.hessian(f))(x).reshape(x.size, x.size)
    largest = np.asarray(max_pool(x, 2))[:, :, None, :, None] == np.asarray(x).reshape(2, 2, 2, 2, 2, 1)
    np.testing.assert_allclose(
        hessian, np.diag(np.where(largest.reshape(x.shape), 6 * x, 0).ravel()), rtol=1e-5
    )
    assert jax.grad(lambda x: f(x).astype(jnp.float32))(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_every_transformation(variant):
    x = jax.random.normal(jax.random.key(0), (4, 6, 6, 2))

    def slope(x):
        return jax.grad(lambda x: jnp.sin(max_pool(x, 2)).sum())(x)

    chex.assert_trees_all_close(variant(slope)(x), slope(x), rtol=1e-6)
