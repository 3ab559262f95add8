"""The contract of every network of the catalogue: shapes, dtypes, images that do not see each other, wrong input.

All are traced, which makes no weights, at the smallest depth and width that they can be given. One of each kind is
compiled.
"""

import functools
import gc

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.catalog.models import MODELS
from robustjax.models import from_flax
from robustjax.models.resnet import BasicBlock, ResNet

KEY = jax.random.key(0)
# A hidden layer reads as many features as there are: of another size it can make nothing.
ONE_SIZE = {"linear", "mlp", "convnet_small", "convnet"}
# Deep ones, and those that differ from another name in depth, width or activation alone: a second each.
LARGE = {name for name in MODELS if name.startswith("wideresnet")} - {"wideresnet28_10"}
LARGE |= {
    "densenet100",
    "densenet121_imagenet",
    "resnet34",
    "resnet50",
    "resnet18_imagenet",
    "resnet50_imagenet",
}
PRODUCTS = {"dot_general", "conv_general_dilated", "bilinear_by_platform"}


def settings(name):
    side = 32 if name.endswith("_imagenet") else 8
    size = {
        "densenet": {"depth": 10, "growth": 2},
        "wideresnet": {"depth": 10, "width": 1},
        "resnet8": {"width": 4},
    }
    if name == "densenet121_imagenet":
        return {"classes": 3, "shape": (32, 32, 3), "depths": (1, 2, 1, 1), "growth": 2}
    narrow = next((small for kind, small in size.items() if name.startswith(kind)), {})
    return {"classes": 3, "shape": (side, side, 3), "mean": (0.5,) * 3, "std": (0.2,) * 3, **narrow}


@functools.cache
def traced(name):
    model = MODELS[name](**settings(name))
    return model, *jax.eval_shape(model.init, KEY)


def images(name, count=2, *, channels=3):
    return jax.ShapeDtypeStruct((count, *settings(name)["shape"][:2], channels), jnp.float32)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in MODELS]
)
def test_shapes_and_dtypes(name):
    """Logits, features and what is kept are float32, in the mode of training too, whatever the network computes in."""
    gc.collect()  # of what earlier tests left
    before, (model, params, state) = len(jax.live_arrays()), traced(name)
    kept = jax.tree.leaves((params, state))
    assert kept and {leaf.dtype for leaf in kept} == {jnp.dtype(jnp.float32)}

    run = lambda *args: (model.apply(*args, train=True, key=KEY), model.features(*args))
    (logits, after), taps = jax.eval_shape(run, params, state, images(name))
    assert (logits.shape, logits.dtype, after) == ((2, 3), jnp.float32, state)
    assert list(taps) == [f"stage{i}" for i in range(len(taps))]
    assert all((tap.ndim, len(tap), tap.dtype) == (2, 2, jnp.float32) for tap in taps.values())

    half = MODELS[name](dtype=jnp.bfloat16, **settings(name))
    program, out = jax.make_jaxpr(half.apply, return_shape=True)(params, state, images(name))
    assert out == (logits, state)
    computed = {e.invars[0].aval.dtype for e in equations(program.jaxpr) if e.primitive.name in PRODUCTS}
    assert computed == {jnp.dtype(jnp.bfloat16)}
    assert len(jax.live_arrays()) <= before


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("name", MODELS)
def test_wrong_images_are_refused_in_one_line(name):
    model, params, state = traced(name)
    right = images(name)
    n, h, w, c = right.shape
    wrong = [
        ((n, c, h, w), rf"shape \({n}, {c}, {h}, {w}\), .*transpose"),
        ((n, h, w, 1), rf"must be \(n, {h}, {w}, {c}\)"),
        ((h, w, c), "as the network was built for"),
    ]
    if name in ONE_SIZE:
        wrong.append(((n, h + 4, w, c), rf"shape \({n}, {h + 4}, {w}, {c}\), must be \(n, {h}, {w}, {c}\)"))
    for shape, match in wrong:
        for run in (model.apply, model.features):
            with pytest.raises(ValueError, match=match) as error:
                jax.eval_shape(run, params, state, jax.ShapeDtypeStruct(shape, right.dtype))
            assert "\n" not in str(error.value)


SMALLEST = {
    **{name: MODELS[name] for name in (*sorted(ONE_SIZE), "densenet40", "wideresnet40_4")},
    "resnet": lambda *, classes, shape, mean, std: from_flax(
        ResNet(BasicBlock, (1, 1), classes, width=2), shape=shape, mean=mean, std=std
    ),
}


@pytest.mark.parametrize("name", SMALLEST)
def test_an_image_alone_is_as_in_a_batch_and_compiled_as_eager(name):
    model = SMALLEST[name](**settings(name))
    x = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype(np.float32)

    @jax.jit
    def run(key, x):
        params, state = model.init(key)
        return params, state, model.apply(params, state, x)[0], model.apply(params, state, x[1:2])[0]

    params, state, together, alone = run(KEY, x)
    np.testing.assert_allclose(alone[0], together[1], atol=1e-5)
    assert np.ptp(np.asarray(together), axis=0).min() > 1e-4  # it does look at the images
    if name in ONE_SIZE:  # with dozens of layers, each operation would be compiled for itself
        np.testing.assert_allclose(model.apply(params, state, jnp.asarray(x))[0], together, atol=1e-5)
