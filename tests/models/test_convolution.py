"""The CPU convolution is jax's, in value and in derivatives of every order and mode."""

import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from robustjax.models.cpu import convolve

ORDER = ("NHWC", "HWIO", "NHWC")


def arrays(kernel, size=(8, 7), channels=(3, 4), dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.normal(size=(2, *size, channels[0])), dtype),
        jnp.asarray(rng.normal(size=(kernel, kernel, *channels)), dtype),
    )


def pulled(conv, args, stride, padding, **settings):
    """Return the result and both gradients, for a cotangent that differs everywhere."""
    y, pull = jax.vjp(
        lambda x, w: conv(x, w, (stride, stride), padding, dimension_numbers=ORDER, **settings), *args
    )
    return y, *pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))


def agree(cases, rtol=1e-5, atol=1e-4):
    """Compare both convolutions on a list of arguments of `pulled`, in one compiled program."""

    @jax.jit
    def both(arguments):
        return [
            [
                pulled(conv, args, *rest, **settings)
                for args, (rest, settings) in zip(arguments, statics, strict=True)
            ]
            for conv in (convolve, lax.conv_general_dilated)
        ]

    statics = [(case[1:3], case[3] if len(case) > 3 else {}) for case in cases]
    ours, theirs = both([case[0] for case in cases])
    chex.assert_trees_all_close(ours, theirs, rtol=rtol, atol=atol)
    chex.assert_trees_all_equal_dtypes(ours, theirs)


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


@pytest.mark.parametrize("kernel", [1, 3, 4, 5, 7])
def test_gradients_are_those_of_jax(kernel):
    paddings = ["SAME", ((1, 2), (3, 0))] + (["VALID"] if kernel < 7 else [])
    agree(
        [
            (arrays(kernel, size), *rest)
            for *rest, size in itertools.product((1, 2), paddings, ((8, 8), (9, 6)))
        ]
    )


# Few channels on both sides, on one or the other, and enough of them for the result to be computed a column wider.
@pytest.mark.parametrize("channels", [(1, 6), (3, 2), (2, 40), (40, 1), (8, 12), (12, 8), (4, 130)])
def test_every_way_of_computing_is_that_of_jax(channels):
    agree(
        [
            (arrays(kernel, (6, 5), channels), 1, padding)
            for kernel, padding in itertools.product(
                (1, 3, 4), ("SAME", "VALID", ((0, 3), (2, 0)), ((1, 1), (1, 2)))
            )
        ]
    )


def test_every_setting_reaches_jax():
    args = arrays(3)
    settings = [
        dict(rhs_dilation=(2, 2)),
        dict(lhs_dilation=(2, 2)),
        dict(precision="highest"),
        dict(preferred_element_type=jnp.float32),
    ]
    agree([(args, 1, ((1, 2), (2, 1)), each) for each in settings])


def test_bfloat16_stays_bfloat16():
    cases = ((1, 2, (8, 8)), (3, 1, (8, 8)), (4, 2, (8, 8)), (3, 1, (1, 20)), (3, 1, (12, 12)))
    agree(
        [(arrays(k, channels=channels, dtype=jnp.bfloat16), s, "SAME") for k, s, channels in cases], 2e-2, 0.2
    )


@pytest.mark.parametrize(
    ("kernel", "stride", "channels"),
    [
        (1, 2, (3, 4)),
        (2, 1, (3, 4)),
        (2, 1, (20, 40)),
        (3, 1, (8, 9)),
        (4, 2, (3, 4)),
        (5, 1, (1, 4)),
        (3, 1, (30, 2)),
    ],
)
def test_value_is_the_definition_and_the_gradients_its_adjoint(kernel, stride, channels):
    x, w = arrays(kernel, channels=channels)
    dx, dw = arrays(kernel, channels=channels, seed=1)
    pads = ((kernel // 2, (kernel - 1) // 2),) * 2
    y, gx, gw = jax.jit(lambda *args: pulled(convolve, args, stride, pads))(x, w)
    np.testing.assert_allclose(y, direct(x, w, stride, pads), rtol=1e-4, atol=1e-4)
    cotangent = np.cos(np.arange(y.size)).reshape(y.shape)
    np.testing.assert_allclose((direct(dx, w, stride, pads) * cotangent).sum(), (gx * dx).sum(), rtol=1e-3)
    np.testing.assert_allclose((direct(x, dw, stride, pads) * cotangent).sum(), (gw * dw).sum(), rtol=1e-3)


# A kernel over all of the image, over more than that, off its centre, and of which pads or strides leave some out.
@pytest.mark.parametrize(
    ("kernel", "size", "stride", "pads"),
    [
        (4, (4, 4), 1, ((0, 0), (0, 0))),
        (4, (2, 2), 2, ((1, 1), (1, 1))),
        (3, (1, 2), 2, ((1, 2), (0, 1))),
        (3, (4, 3), 3, ((0, 1), (1, 0))),
        (2, (1, 1), 2, ((2, 0), (0, 1))),
    ],
)
def test_what_gives_one_pixel_is_a_product(kernel, size, stride, pads):
    args = arrays(kernel, size)
    assert convolve(*args, (stride, stride), pads).shape == (2, 1, 1, 4)
    assert not convolutions(lambda *args: convolve(*args, (stride, stride), pads), *args)
    agree([(args, stride, pads)])


@pytest.mark.parametrize(("stride", "channels"), [(2, (3, 4)), (1, (1, 4)), (1, (8, 9)), (1, (1, 20))])
def test_second_order_and_forward_mode(stride, channels):
    args, directions = arrays(3, (4, 5), channels), arrays(3, (4, 5), channels, seed=1)

    @jax.jit
    def products(args, directions):
        def of(conv):
            def f(*args):
                return jnp.sin(conv(*args, (stride, stride), "SAME", dimension_numbers=ORDER)).sum()

            def along(*args):
                slopes = jax.grad(f, (0, 1))(*args)
                return sum(
                    (slope * direction).sum() for slope, direction in zip(slopes, directions, strict=True)
                )

            return jax.jvp(jax.grad(f, (0, 1)), args, directions)[1], jax.grad(along, (0, 1))(*args)

        return of(convolve), of(lax.conv_general_dilated)

    ours, theirs = products(args, directions)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(ours[0], ours[1], rtol=1e-4, atol=1e-4)


def test_a_scan_over_input_gradients_is_the_loop():
    x, w = arrays(3, channels=(8, 8))

    def step(conv, z):
        return z + 0.1 * pulled(conv, (jnp.sin(z), w), 1, "SAME")[1]

    scanned = jax.jit(lambda x: lax.scan(lambda z, _: (step(convolve, z), None), x, length=3)[0])(x)
    one = jax.jit(lambda x: step(lax.conv_general_dilated, x))
    chex.assert_trees_all_close(scanned, one(one(one(x))), rtol=1e-4, atol=1e-3)


def test_vmap_maps_the_gradients():
    x, w = arrays(3, channels=(8, 8))
    both = jnp.stack([x, 2 * x]), jnp.stack([w, 2 * w])

    @jax.jit
    def mapped(both):
        results = []
        for conv, axes in itertools.product(
            (convolve, lax.conv_general_dilated), ((0, None), (0, 0), (None, 0))
        ):
            args = [a if axis == 0 else a[0] for a, axis in zip(both, axes, strict=True)]
            results.append(jax.vmap(lambda *args, conv=conv: pulled(conv, args, 1, "SAME"), axes)(*args))
        return results[:3], results[3:]

    chex.assert_trees_all_close(*mapped(both), rtol=1e-4, atol=1e-4)


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


FAST = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"


def convolutions(f, *args, platform="cpu"):
    """List the orders of dimensions of all convolutions of a program for a platform."""
    text = jax.jit(f).trace(*args).lower(lowering_platforms=(platform,)).as_text()
    return re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", text)


@pytest.mark.parametrize("channels", [(4, 20), (8, 12)])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_convolutions_in_the_fast_order(stride, channels):
    args = arrays(3, channels=channels)

    def found(conv):
        return convolutions(lambda *args: pulled(conv, args, stride, "SAME"), *args)

    # Of 8 channels and more, at stride 1, the gradient of the kernel is a product.
    assert found(convolve) == [FAST] * (2 if (stride, channels) == (1, (8, 12)) else 3)
    assert found(lax.conv_general_dilated) != [FAST] * 3


def test_the_gradient_of_a_kernel_of_two_taps_is_a_product():
    x, kernel = arrays(2, channels=(20, 40))

    def gradient(kernel):
        y, pull = jax.vjp(lambda kernel: convolve(x, kernel, (1, 1), "VALID"), kernel)
        return pull(y)

    assert len(convolutions(gradient, kernel)) == 1  # the value alone


# Count and size of images, padding: one turn, several, a last one that is filled up, odd edges.
SHIFTED = [
    ((3, 8, 7), "SAME"),
    ((5, 32, 32), ((1, 1), (1, 1))),
    ((7, 24, 20), "SAME"),
    ((2, 40, 40), "VALID"),
    ((16, 16, 16), ((0, 2), (3, 0))),
]


@pytest.mark.parametrize("channels", [(8, 9), (8, 40)])
@pytest.mark.parametrize(("images", "padding"), SHIFTED)
def test_kernel_gradients_by_shifts_are_those_of_jax(images, padding, channels):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(*images, channels[0])), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, *channels)), jnp.float32)
    agree([((x, kernel), 1, padding)], atol=2e-3)


@pytest.mark.parametrize("wide", [16, 40])
def test_kernel_gradients_by_shifts_are_summed_over_devices_once(wide):
    """A loop over images is within a device: it exchanges nothing, whatever it adds up."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread, whole = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in (("data",), ())
    )
    x, cotangent = jnp.ones((32, 32, 32, 8)), jnp.ones((32, 32, 32, wide))
    kernel = jnp.ones((3, 3, 8, wide))

    def gradient(x, kernel, cotangent):
        return jax.vjp(lambda kernel: convolve(x, kernel, (1, 1), "SAME"), kernel)[1](cotangent)[0]

    placed = jax.device_put(x, spread), jax.device_put(kernel, whole), jax.device_put(cotangent, spread)
    program = jax.jit(gradient, out_shardings=whole).lower(*placed).compile()
    text = program.as_text()
    assert (" while(" in text) == (wide > 32)
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))
    assert len(re.findall(r"= \S+ all-reduce", text)) == 1
    # Ones: each of 9 taps meets 32 x 32 pixels of 32 images, less those of its border.
    inner = 32 * np.outer([31, 32, 31], [31, 32, 31])
    np.testing.assert_allclose(program(*placed), np.broadcast_to(inner[..., None, None], kernel.shape))
