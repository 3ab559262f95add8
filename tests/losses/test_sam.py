"""SAM and ASAM: a quadratic of two parameters by hand, one attack per step, BatchNorm updated once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.sam import asam, sam

CURVE = np.array([2.0, 0.5])
W = np.array([0.3, -4.0])
PARAMS = {"a": jnp.float32(W[0]), "b": jnp.asarray([W[1]], jnp.float32)}
KEY = jax.random.key(0)


def quadratic(params, state, batch, key):
    """Compute (2 a^2 + b^2 / 2) / 2; the state counts where it was evaluated."""
    del batch, key
    value = 0.5 * (CURVE[0] * params["a"] ** 2 + CURVE[1] * params["b"][0] ** 2)
    return value, (state + params["a"], {"a": params["a"]})


def flat(tree):
    return np.array([float(tree["a"]), float(tree["b"][0])])


G = CURVE * W
STEPS = {
    "sam": (sam, {}, lambda rho: rho * G / np.linalg.norm(G)),
    "asam": (asam, {}, lambda rho: rho * W**2 * G / np.linalg.norm(W * G)),
    "asam with eta": (
        asam,
        {"eta": 0.1},
        lambda rho: rho * (np.abs(W) + 0.1) ** 2 * G / np.linalg.norm((np.abs(W) + 0.1) * G),
    ),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("rho", [0.0, 0.05, 1.0])
def test_value_and_gradient_are_those_at_the_moved_weights(name, rho):
    wrap, settings, step = STEPS[name]
    slope = jax.value_and_grad(wrap(quadratic, rho=rho, **settings), has_aux=True)
    (value, (state, metrics)), grads = jax.jit(slope)(PARAMS, jnp.float32(0.0), None, KEY)
    there = W + step(rho)
    np.testing.assert_allclose(value, 0.5 * (CURVE * there**2).sum(), rtol=1e-6)
    np.testing.assert_allclose(flat(grads), CURVE * there, rtol=1e-5)
    # State and metrics are of the first pass, at w.
    assert float(state) == pytest.approx(W[0]) and float(metrics["a"]) == pytest.approx(W[0])
    np.testing.assert_allclose(metrics["sharpness"], value - 0.5 * (CURVE * W**2).sum(), atol=1e-5)


def test_asam_does_not_see_how_a_function_is_scaled():
    """f(a, b) = F(a b) is the same at (c a, b / c), and so is the perturbed value; SAM's is not."""

    def product(params, state, batch, key):
        return jnp.square(params["a"] * params["b"][0] - 1.0), (state, {})

    other = {"a": 10.0 * PARAMS["a"], "b": 0.1 * PARAMS["b"]}
    values = {
        wrap: [float(wrap(product, rho=0.1)(p, None, None, KEY)[0]) for p in (PARAMS, other)]
        for wrap in (sam, asam)
    }
    assert values[asam][0] == pytest.approx(values[asam][1], rel=1e-5)
    assert values[sam][0] != pytest.approx(values[sam][1], rel=0.05)


def test_images_are_attacked_once_at_the_unmoved_weights():
    seen = []

    def attack(params, state, batch, key):
        seen.append(flat(params))
        return batch + params["a"]

    def risk(params, state, batch, attacked, key):
        return (attacked * params["a"] + params["b"][0]) ** 2, (state, {"attacked": attacked})

    inner = AdversarialLoss(attack, risk)
    (value, (_, metrics)), grads = jax.value_and_grad(sam(inner, rho=0.2), has_aux=True)(
        PARAMS, None, jnp.float32(2.0), KEY
    )
    np.testing.assert_allclose(seen, [W], rtol=1e-6)
    x = 2.0 + W[0]  # cut from the gradient
    g = 2 * (x * W[0] + W[1]) * np.array([x, 1.0])
    a, b = W + 0.2 * g / np.linalg.norm(g)
    np.testing.assert_allclose(value, (x * a + b) ** 2, rtol=1e-5)
    np.testing.assert_allclose(flat(grads), 2 * (x * a + b) * np.array([x, 1.0]), rtol=1e-5)
    assert float(metrics["attacked"]) == pytest.approx(x)
    # Without a step it is the wrapped loss, with its keys.
    plain = inner(PARAMS, None, jnp.float32(2.0), KEY)[0]
    assert float(sam(inner, rho=0.0)(PARAMS, None, jnp.float32(2.0), KEY)[0]) == pytest.approx(float(plain))


def test_a_zero_gradient_moves_nothing():
    still = {"a": jnp.float32(0.0), "b": jnp.zeros(1)}
    for wrap in (sam, asam):
        (value, _), grads = jax.value_and_grad(wrap(quadratic, rho=1.0), has_aux=True)(
            still, jnp.float32(0.0), None, KEY
        )
        assert float(value) == 0 and not flat(grads).any()


def test_negative_settings_are_refused():
    with pytest.raises(ValueError, match="sam: rho is -1"):
        sam(quadratic, rho=-1)
    with pytest.raises(ValueError, match=r"asam: eta is -0\.5"):
        asam(quadratic, eta=-0.5)
