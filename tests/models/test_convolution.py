"""The CPU convolution is jax's, in value and in derivatives of every order and mode."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from robustjax.models.convolution import convolution, convolve

ORDER = ("NHWC", "HWIO", "NHWC")
CASES = [
    (kernel, stride, padding, size)
    for kernel in (1, 3, 4, 5, 7)
    for stride in (1, 2)
    for padding in ("SAME", "VALID", ((1, 2), (3, 0)))
    for size in ((8, 8), (9, 7))
]


def arrays(kernel, size, dtype=jnp.float32):
    x, k = jax.random.split(jax.random.key(0))
    return (
        jax.random.normal(x, (2, *size, 3), dtype),
        jax.random.normal(k, (kernel, kernel, 3, 4), dtype),
    )


def squared(conv, stride, padding, **settings):
    """Make a scalar of x and kernel with a cotangent that differs everywhere."""

    def f(x, kernel):
        y = conv(x, kernel, (stride, stride), padding, dimension_numbers=ORDER, **settings).astype(
            jnp.float32
        )
        return (jnp.sin(y) * jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape)).mean()

    return f


def direct(x, kernel, stride, pads):
    """Convolve by the definition, in float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *pads, (0, 0)))
    kernel = np.asarray(kernel, np.float64)
    side = kernel.shape[0]
    rows, columns = (x.shape[1] - side) // stride + 1, (x.shape[2] - side) // stride + 1
    out = np.zeros((x.shape[0], rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + side, j * stride : j * stride + side]
            out[:, i, j] = np.einsum("bijc,ijco->bo", window, kernel)
    return out


@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), CASES)
def test_gradients_are_those_of_jax(kernel, stride, padding, size):
    if padding == "VALID" and kernel > min(size):
        pytest.skip("no window fits")
    args = arrays(kernel, size)
    ours = jax.jit(jax.value_and_grad(squared(convolve, stride, padding), (0, 1)))(*args)
    theirs = jax.jit(jax.value_and_grad(squared(lax.conv_general_dilated, stride, padding), (0, 1)))(*args)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (3, 1), (4, 2), (5, 1)])
def test_value_is_the_definition_and_the_gradient_its_adjoint(kernel, stride):
    x, w = arrays(kernel, (9, 7))
    pads = ((1, 2), (3, 1))

    def f(x, w):
        return convolve(x, w, (stride, stride), pads, dimension_numbers=ORDER)

    y, pull = jax.vjp(f, x, w)
    np.testing.assert_allclose(y, direct(x, w, stride, pads), rtol=1e-4, atol=1e-4)
    other = np.asarray(jax.random.normal(jax.random.key(1), y.shape), np.float64)
    gx, gw = pull(jnp.asarray(other, jnp.float32))
    dx, dw = (np.asarray(jax.random.normal(jax.random.key(2), a.shape), np.float64) for a in (x, w))
    np.testing.assert_allclose((direct(dx, w, stride, pads) * other).sum(), (gx * dx).sum(), rtol=1e-4)
    np.testing.assert_allclose((direct(x, dw, stride, pads) * other).sum(), (gw * dw).sum(), rtol=1e-4)


@pytest.mark.parametrize("argument", [0, 1])
def test_second_order_and_forward_mode(argument):
    args = arrays(3, (5, 6))
    direction = jax.random.normal(jax.random.key(3), args[argument].shape)

    def products(conv):
        f = squared(conv, 2, "SAME")

        def along(*args):
            return (jax.grad(f, argument)(*args) * direction).sum()

        def slope(a):
            return jax.grad(f, argument)(*args[:argument], a, *args[argument + 1 :])

        forward_over_reverse = jax.jvp(slope, (args[argument],), (direction,))[1]
        reverse_over_reverse, mixed = (jax.grad(along, i)(*args) for i in (argument, 1 - argument))
        return forward_over_reverse, reverse_over_reverse, mixed

    ours, theirs = products(convolve), products(lax.conv_general_dilated)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(ours[0], ours[1], rtol=1e-4, atol=1e-4)


def test_a_scan_over_input_gradients_is_the_loop():
    x, w = arrays(3, (6, 6))
    slope = jax.grad(squared(convolve, 1, "SAME"))
    expected = x
    for _ in range(3):
        expected = expected + jax.grad(squared(lax.conv_general_dilated, 1, "SAME"))(expected, w)
    scanned = jax.jit(lambda x, w: lax.scan(lambda z, _: (z + slope(z, w), None), x, length=3)[0])(x, w)
    chex.assert_trees_all_close(scanned, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axes", [(0, None), (0, 0), (None, 0)])
def test_vmap_maps_the_gradients(axes):
    pair = arrays(3, (6, 6))
    many = [jnp.stack([a, 2 * a]) if axis == 0 else a for a, axis in zip(pair, axes, strict=True)]
    ours, theirs = (
        jax.jit(jax.vmap(jax.grad(squared(conv, 2, "SAME"), (0, 1)), axes))(*many)
        for conv in (convolve, lax.conv_general_dilated)
    )
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_keep_bfloat16():
    args = arrays(3, (8, 8), jnp.bfloat16)
    ours, theirs = (
        jax.grad(squared(conv, 2, "SAME"), (0, 1))(*args) for conv in (convolve, lax.conv_general_dilated)
    )
    assert [a.dtype for a in ours] == [jnp.bfloat16] * 2
    chex.assert_trees_all_close(ours, theirs, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "settings",
    [
        dict(rhs_dilation=(2, 2)),
        dict(lhs_dilation=(2, 2)),
        dict(precision="highest"),
        dict(preferred_element_type=jnp.float32),
    ],
)
def test_every_setting_reaches_jax(settings):
    args = arrays(3, (8, 8))
    ours, theirs = (
        jax.value_and_grad(squared(conv, 1, ((1, 2), (2, 1)), **settings), (0, 1))(*args)
        for conv in (convolve, lax.conv_general_dilated)
    )
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_other_convolutions_pass_through():
    x = jax.random.normal(jax.random.key(0), (2, 4, 8, 8))
    w = jax.random.normal(jax.random.key(1), (6, 2, 3, 3))
    line, taps = jnp.ones((2, 8, 3)), jnp.ones((3, 3, 4))
    ours, theirs = (
        [
            conv(x, w, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"), feature_group_count=2),
            conv(line, taps, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")),
        ]
        for conv in (convolve, lax.conv_general_dilated)
    )
    chex.assert_trees_all_equal(ours, theirs)


def orders(jaxpr):
    """Collect the dimension numbers of all convolutions of a program, inner ones included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation.params["dimension_numbers"]
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from orders(inner)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("argument", [0, 1])
def test_gradients_are_convolutions_in_the_fast_order(argument, stride):
    args = arrays(3, (8, 8))
    fast = lax.conv_dimension_numbers(args[0].shape, args[1].shape, ORDER)

    def found(conv):
        return list(orders(jax.make_jaxpr(jax.grad(squared(conv, stride, "SAME"), argument))(*args).jaxpr))

    assert found(convolve) == [fast, fast]
    assert found(lax.conv_general_dilated) != [fast, fast]


def test_the_choice_follows_the_backend():
    expected = convolve if jax.default_backend() == "cpu" else lax.conv_general_dilated
    assert convolution() is expected
