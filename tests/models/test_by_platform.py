"""The form of a layer follows the platform that a program is compiled for, not the one that it is written on."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models import small, translator
from robustjax.models.cpu import convolve
from robustjax.models.cpu.by_platform import multiply
from robustjax.models.cpu.convolution import Convolution
from robustjax.models.cpu.patches import Halved
from robustjax.models.cpu.transposed import Doubled
from robustjax.models.small import strided

KEY = jax.random.key(0)


def counts(f, *args, platform):
    """Count the convolutions and matrix products of a program for a platform."""
    text = jax.jit(f).trace(*args).lower(lowering_platforms=(platform,)).as_text()
    return text.count("stablehlo.convolution"), text.count("stablehlo.dot_general")


def convnet():
    return small.convnet(shape=(8, 8, 1)), (8, 8, 1), 2, 2


def convnet_small():
    return small.convnet_small(shape=(8, 8, 1)), (8, 8, 1), 2, 2


def strided_net():
    return strided(shape=(8, 8, 3), widths=(4, 6)), (8, 8, 3), 2, 2


def unet():
    return translator.unet_translator(shape=(16, 16, 1), width=4), (16, 16, 1), 8, 0


@pytest.mark.parametrize("build", [convnet, convnet_small, strided_net, unet])
def test_accelerators_get_plain_convolutions_and_cpus_do_not(build):
    model, shape, convolutions, products = build()
    params, state = jax.eval_shape(model.init, KEY)
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)

    def value(params, state, x):
        return model.apply(params, state, x)[0].sum()

    for platform in ("tpu", "cuda"):
        assert counts(value, params, state, x, platform=platform) == (convolutions, products)
        # The value and the input gradient: as many again.
        both = jax.value_and_grad(value, 2)
        assert counts(both, params, state, x, platform=platform) == (2 * convolutions, 2 * products)
        # And the gradients of the parameters.
        every = jax.value_and_grad(value, (0, 2))
        assert counts(every, params, state, x, platform=platform) == (3 * convolutions, 3 * products)
    assert counts(jax.grad(value, 2), params, state, x, platform="cpu") != (2 * convolutions, 2 * products)


def test_a_program_for_several_platforms_holds_both_forms():
    x, kernel = jnp.ones((2, 8, 8, 1)), jnp.ones((3, 3, 1, 2))
    traced = jax.jit(lambda x, kernel: convolve(x, kernel, (1, 1), "SAME")).trace(x, kernel)
    text = traced.lower(lowering_platforms=("cpu", "tpu")).as_text()
    assert "stablehlo.dot_general" in text and "stablehlo.convolution" in text


def test_input_gradients_are_kept_apart_on_tpus():
    """XLA for TPUs would compute one within the other again and again; no other platform needs it."""
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 4))

    def layers(x):
        return convolve(jnp.tanh(convolve(x, kernel, (1, 1), "SAME")), kernel, (1, 1), "SAME").sum()

    for platform, barriers in (("tpu", 2), ("cuda", 0)):
        text = jax.jit(jax.grad(layers)).trace(x).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.optimization_barrier") == barriers


FORMS = {
    "convolve": (Convolution((1, 1), ((1, 1), (1, 1))), (3, 3, 5, 12)),
    "convolve, few channels": (Convolution((1, 1), ((1, 1), (1, 1))), (3, 3, 5, 1)),
    "convolve, strided": (Convolution((2, 2), ((1, 1), (1, 1))), (4, 4, 5, 4)),
    "doubled, 3x3": (Doubled(), (3, 3, 5, 4)),
    "doubled, 4x4": (Doubled(), (4, 4, 5, 4)),
    "halved": (Halved(), (3, 3, 5, 4)),
}


def operands(shape, *, x=(), kernel=()):
    """Draw an x and a kernel, with axes of the given lengths in front."""
    return jax.random.normal(KEY, (*x, 2, 4, 6, 5)), jax.random.normal(jax.random.key(1), (*kernel, *shape))


def total(operation):
    return lambda x, kernel: jnp.sin(operation(x, kernel)).sum()


@pytest.mark.parametrize("name", FORMS)
def test_all_forms_are_one_map_in_value_and_gradients(name):
    product, shape = FORMS[name]

    @jax.jit
    def results(x, kernel):
        forms = (
            partial(multiply, product),
            product.plain,
            product.product,
            product.along_x,
            product.along_kernel,
        )
        return [(form(x, kernel), jax.grad(total(form), (0, 1))(x, kernel)) for form in forms]

    first, *others = results(*operands(shape))
    for other in others:
        chex.assert_trees_all_close(first, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_gradients_inside_and_outside_of_maps_are_those_of_jax(axes):
    """Nested maps, and maps whose gradient reaches operands that are not mapped over."""
    product, shape = FORMS["convolve"]
    x, kernel = operands(
        shape, **{n: (3,) for n, axis in zip(("x", "kernel"), axes, strict=True) if axis == 0}
    )

    @jax.jit
    def results(x, kernel):
        found = []
        for form in (partial(multiply, product), product.plain):
            inside = jax.vmap(jax.grad(total(form), (0, 1)), axes)
            outside = jax.grad(lambda *args, f=form: jax.vmap(total(f), axes)(*args).sum(), (0, 1))
            second = jax.grad(lambda *args, f=outside: jnp.square(f(*args)[0]).sum(), (0, 1))
            twice = jax.vmap(jax.vmap(jax.grad(total(form), (0, 1)), axes), (None, 0))
            found.append(
                (inside(x, kernel), outside(x, kernel), second(x, kernel), twice(x, jnp.stack([kernel] * 2)))
            )
        return found

    ours, theirs = results(x, kernel)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["convolve", "halved", "doubled, 4x4"])
def test_every_transformation(variant, name):
    product, shape = FORMS[name]
    x, kernel = operands(shape, x=(4,))

    def slopes(x, keys):
        def one(x, key):
            inner = jax.random.normal(key, shape)
            return jax.grad(total(partial(multiply, product)), (0, 1))(x, kernel + inner)

        return jax.vmap(one)(x, keys)

    keys = jax.random.split(KEY, 4)
    chex.assert_trees_all_close(variant(slopes)(x, keys), slopes(x, keys), rtol=1e-4, atol=1e-4)


def test_shared_kernels_get_the_sum_of_all_devices_gradients():
    product, shape = FORMS["convolve"]
    x, kernel = operands(shape)
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))
    slope = jax.grad(total(partial(multiply, product)), 1)
    split = jax.shard_map(slope, mesh=mesh, in_specs=(jax.P("data"), jax.P()), out_specs=jax.P())
    np.testing.assert_allclose(jax.jit(split)(x, kernel), slope(x, kernel), rtol=1e-4, atol=1e-4)


def test_loops_and_recomputation_are_the_plain_program():
    product, shape = FORMS["convolve"]
    x, kernel = operands((*shape[:3], 5))

    def stacked(form):
        def f(x, kernel):
            layer = jax.checkpoint(lambda x: jnp.tanh(form(x, kernel)))
            return jax.lax.scan(lambda x, _: (layer(x), None), x, length=3)[0].sum()

        return jax.jit(jax.grad(f, (0, 1)))

    ours, theirs = (stacked(form)(x, kernel) for form in (partial(multiply, product), product.plain))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-3)
