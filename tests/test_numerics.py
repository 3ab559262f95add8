"""Per-example arithmetic against numpy, and packing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax import numerics


@pytest.mark.parametrize("kind, order", [("linf", np.inf), ("l2", 2), ("l1", 1)])
def test_norm_is_numpys(variant, kind, order):
    x = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    found = variant(lambda a: numerics.norm(a, kind))(jnp.asarray(x))
    np.testing.assert_allclose(found, np.linalg.norm(x.reshape(4, -1), order, axis=1), rtol=1e-6)


def test_l2_norm_of_tiny_vectors_does_not_underflow():
    x = jnp.full((1, 4), 1e-25)
    np.testing.assert_allclose(numerics.norm(x, "l2"), [2e-25], rtol=1e-5)


@pytest.mark.parametrize("kind", ["linf", "l2", "l1"])
def test_norm_has_a_finite_gradient_at_zero(kind):
    grad = jax.grad(lambda a: numerics.norm(a, kind).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(grad).all()


def test_divide_by_zero_is_zero_with_a_finite_gradient():
    value, grad = jax.value_and_grad(lambda d: numerics.divide(jnp.ones(2), d).sum())(jnp.array([0.0, 2.0]))
    assert value == 0.5
    np.testing.assert_allclose(grad, [0.0, -0.25])


def test_masked_mean_ignores_what_is_masked():
    values, mask = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True])
    assert numerics.masked_mean(values, mask) == 2.0
    assert numerics.masked_mean(values, jnp.zeros(3, bool)) == 0.0


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3))
def test_unpack_undoes_pack(groups, m, n):
    first = jnp.arange(groups * m * 2.0).reshape(groups * m, 2)
    second = -1.0 - jnp.arange(groups * n * 2.0).reshape(groups * n, 2)
    both = numerics.pack(first, second)
    assert sorted(both[:, 0].tolist()) == sorted([*first[:, 0].tolist(), *second[:, 0].tolist()])
    back = numerics.unpack(both, (first.shape[0], second.shape[0]))
    np.testing.assert_array_equal(back[0], first)
    np.testing.assert_array_equal(back[1], second)


def test_pack_keeps_every_row_on_its_device():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    a = jax.device_put(jnp.ones((16, 4)), rows)
    hlo = jax.jit(numerics.pack, out_shardings=rows).lower(a, a).compile().as_text()
    assert "all-to-all" not in hlo and "all-gather" not in hlo and "collective-permute" not in hlo


def test_keys_do_not_depend_on_the_batch():
    key = jax.random.key(0)
    few, many = numerics.keys_for(key, 2), numerics.keys_for(key, 5)
    np.testing.assert_array_equal(jax.random.key_data(few), jax.random.key_data(many[:2]))


def test_keys_of_the_wrong_kind_are_refused():
    with pytest.raises(ValueError, match=r"jax\.random\.key"):
        numerics.keys_for(jax.random.PRNGKey(0), 2)
    with pytest.raises(ValueError, match="3 keys given"):
        numerics.keys_for(jax.random.split(jax.random.key(0), 3), 2)


def test_unpack_of_wrong_sizes_is_refused():
    with pytest.raises(ValueError, match="must add up to the 4 rows"):
        numerics.unpack(jnp.ones((4, 1)), (1, 2))
