"""Networks from images to images keep the size of any image, or say in a line which sizes they take."""

import jax
import jax.numpy as jnp
import pytest

from robustjax.catalog import translators
from robustjax.models import diffusion, pix2pixhd, unet
from robustjax.types import Model

SIZES = ((30, 30), (32, 32), (33, 48), (31, 17), (48, 32), (9, 9), (1, 1))


def shape_of(model: Model, size: tuple[int, int]) -> tuple[int, ...]:
    key = jax.random.key(0)
    params, state = jax.eval_shape(model.init, key)
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return jax.eval_shape(lambda p, s, x: model.apply(p, s, x)[0], params, state, x).shape


MODELS = {
    "global_generator": lambda: pix2pixhd.global_generator(shape=(32, 32, 3), width=4, halvings=2, blocks=1),
    "local_generator": lambda: pix2pixhd.local_generator(
        shape=(32, 32, 3), width=4, halvings=1, blocks=1, local_blocks=1
    ),
    "segmenter": lambda: unet.segmenter(classes=3, shape=(32, 32, 3), widths=(4, 8, 8)),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MODELS)
def test_sizes_at_use(name, size):
    model = MODELS[name]()
    # pix2pixHD halves twice; the segmenter of three scales needs 4 pixels.
    fits = min(size) >= 4 if name == "segmenter" else all(side % 4 == 0 and side >= 16 for side in size)
    if fits:
        assert shape_of(model, size) == (2, *size, 3)
        return
    with pytest.raises(ValueError, match=r"images have \(\d+, \d+\) pixels, must") as error:
        shape_of(model, size)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(30, 30), (33, 48), (9, 9), (28, 28)])
@pytest.mark.parametrize("name", ["pix2pix", "dae", "pix2pixhd", "atop"])
def test_translators_by_name_keep_the_size(name, size):
    if name not in translators.TRANSLATORS:
        pytest.skip("no translator of that name")
    try:
        model = translators.network(name, shape=(*size, 3), sizes=translators.Sizes(width=4, blocks=1))
    except ValueError as error:
        assert "must" in str(error) and "\n" not in str(error)
        return
    assert shape_of(model, size) == (2, *size, 3)


@pytest.mark.parametrize("size", [(30, 30), (33, 48), (9, 9)])
def test_a_denoiser_keeps_the_size(size):
    model = diffusion.small_denoiser(shape=(*size, 3), widths=(8, 8))
    params = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    t = jax.ShapeDtypeStruct((2,), jnp.float32)
    assert jax.eval_shape(model.predict, params, x, t).shape == (2, *size, 3)
