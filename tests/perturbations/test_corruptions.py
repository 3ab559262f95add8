"""What holds for each of the nineteen corruptions, and the published table of their parameters."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.perturbations.corruptions import parameters
from robustjax.perturbations.corruptions.severity import at
from robustjax.perturbations.corruptions.table import CORRUPTIONS, corrupt

RNG = np.random.default_rng(0)
SMOOTH = np.kron(RNG.uniform(size=(4, 3, 2, 3)), np.ones((1, 6, 6, 1)))
X = np.clip(SMOOTH + RNG.normal(scale=0.05, size=SMOOTH.shape), 0, 1).astype(np.float32)
X[3] = 0.5  # grey, flat
X[2, :4] = 0.0
X = jnp.asarray(X)  # (4, 18, 12, 3)
KEY = jax.random.key(0)
EXTRA = {"speckle_noise", "gaussian_blur", "spatter", "saturate"}

# One line per corruption as read in the published scripts: severities 1 to 5, each a tuple where there are several.
PUBLISHED = {
    "GAUSSIAN_NOISE": ".04 .06 .08 .09 .10",
    "SHOT_NOISE": "500 250 100 75 50",
    "IMPULSE_NOISE": ".01 .02 .03 .05 .07",
    "SPECKLE_NOISE": ".06 .1 .12 .16 .2",
    "GAUSSIAN_BLUR": ".4 .6 .7 .8 1",
    "GLASS_BLUR": ".05,1,1 .25,1,1 .4,1,1 .25,1,2 .4,1,2",
    "DEFOCUS_BLUR": ".3,.4 .4,.5 .5,.6 1,.2 1.5,.1",
    "MOTION_BLUR": "6,1 6,1.5 6,2 8,2 9,2.5",
    "ZOOM_BLUR": "1.06 1.11 1.16 1.21 1.26",
    "FOG": ".2,3 .5,3 .75,2.5 1,2 1.5,1.75",
    "FROST": "1,.2 1,.3 .9,.4 .85,.4 .75,.45",
    "SNOW": ".1,.2,1,.6,8,3,.95 .1,.2,1,.5,10,4,.9 .15,.3,1.75,.55,10,4,.9 .25,.3,2.25,.6,12,6,.85 "
    ".3,.3,1.25,.65,14,12,.8",
    "CONTRAST": ".75 .5 .4 .3 .15",
    "BRIGHTNESS": ".05 .1 .15 .2 .3",
    "SATURATE": ".3,0 .1,0 1.5,0 2,.1 2.5,.2",
    "JPEG_COMPRESSION": "80 65 58 50 40",
    "PIXELATE": ".95 .9 .85 .75 .65",
    "ELASTIC_TRANSFORM": "0,0,.08 .05,.2,.07 .08,.06,.06 .1,.04,.05 .1,.03,.03",
    "SPATTER": ".62,.1,.7,.7,.5,0 .65,.1,.8,.7,.5,0 .65,.3,1,.69,.5,0 .65,.1,.7,.69,.6,1 .65,.1,.5,.68,.6,1",
}


WEIGHT = jnp.asarray(RNG.normal(size=X.shape), jnp.float32)
KEYS = jax.random.split(KEY, 4)
TRACES = collections.Counter()


@functools.cache
def compiled(name):
    """One program per corruption, all that the tests below need: images, and slopes in image and severity."""

    @jax.jit
    def run(keys, x, severity):
        def weighed(x, severity):
            TRACES[name] += 1
            out = corrupt(name)(keys, x, severity)
            return (out * WEIGHT).sum(), out

        slopes, out = jax.grad(weighed, (0, 1), has_aux=True)(x, severity)
        return out, *slopes

    return run


def corrupted(name, severity, keys=KEYS, x=X):
    return results(name, severity, keys, x)[0]


def results(name, severity, keys=KEYS, x=X):
    return compiled(name)(keys, x, jnp.broadcast_to(jnp.asarray(severity, jnp.float32), (4,)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    published = np.array([[float(v) for v in row.split(",")] for row in PUBLISHED[name].split()], np.float32)
    table = getattr(parameters, name)
    assert table.shape[0] == 6
    # A last column of our own, the weight of the effect, is 0 at severity 0 and 1 from severity 1 on.
    own = table[:, published.shape[1] :]
    assert own.shape[1] in (0, 1) and np.array_equal(own, np.tile([[0]] + [[1]] * 5, own.shape[1]))
    np.testing.assert_array_equal(table[1:, : published.shape[1]], published)


def test_there_are_nineteen_and_four_are_extra():
    assert len(CORRUPTIONS) == len(PUBLISHED) == 19
    assert {name.upper() for name in CORRUPTIONS} == set(PUBLISHED)
    assert {name for name, one in CORRUPTIONS.items() if one.extra} == EXTRA
    with pytest.raises(ValueError, match=r"corrupt: name is 'rain', must be one of gaussian_noise"):
        corrupt("rain")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_zero_is_the_identity_and_more_is_not(name):
    np.testing.assert_allclose(corrupted(name, 0.0), X, atol=2e-6)
    changes = [float(jnp.abs(corrupted(name, s) - X)[:3].mean()) for s in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert min(changes) > 1e-4
    assert float(jnp.abs(corrupted(name, 0.3) - X).mean()) < max(changes)
    if name != "saturate":  # whose severities 1 and 2 fade colours that 3 to 5 strengthen
        assert changes[4] > changes[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_keeps_shape_dtype_and_range_and_traces_once(name):
    for severity in (0.0, 0.37, 2.0, 4.5, 5.0):
        out = corrupted(name, severity)
        assert out.shape == X.shape and out.dtype == X.dtype
        assert jnp.isfinite(out).all() and (out >= 0).all() and (out <= 1).all()
    assert TRACES[name] == 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_depends_on_its_own_key_and_severity_only(name):
    severity, order = jnp.asarray([1.0, 4.5, 3.0, 5.0]), jnp.asarray([2, 0, 3, 1])
    whole = corrupted(name, severity)
    np.testing.assert_allclose(
        corrupted(name, severity[order], KEYS[order], X[order]), whole[order], atol=1e-5
    )
    np.testing.assert_allclose(corrupted(name, 3.0)[2], whole[2], atol=1e-5)
    other = corrupted(name, severity, jax.random.split(jax.random.key(7), 4))
    assert bool(jnp.abs(other - whole).max() > 1e-3) == CORRUPTIONS[name].random


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_gradients_are_finite_and_tell_of_the_severity_where_promised(name):
    some = 0.0
    for severity in (0.0, 1.6, 3.0, 5.0):
        _, in_x, in_severity = results(name, severity)
        assert jnp.isfinite(in_x).all() and jnp.isfinite(in_severity).all()
        assert jnp.abs(in_x).max() > 0
        some = max(some, float(jnp.abs(in_severity[:2]).max()))
    assert (some > 1e-3) == CORRUPTIONS[name].smooth


def test_one_key_and_one_severity_serve_a_batch():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(4))
    one = jax.jit(corrupt("speckle_noise"))(KEY, X, 2.0)
    np.testing.assert_allclose(one, corrupted("speckle_noise", 2.0, keys), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7, 21, 3), (1, 5, 1)], ids=str)
def test_images_of_any_size_and_one_channel(shape):
    x = jnp.asarray(RNG.uniform(size=(2, *shape)), jnp.float32)
    for name, one in CORRUPTIONS.items():
        out = jax.eval_shape(one.apply, KEY, x, 3.0)
        assert out.shape == x.shape and out.dtype == x.dtype, name
    for name in ("zoom_blur", "pixelate", "jpeg_compression"):
        out = jax.jit(corrupt(name))(KEY, x, 3.0)
        assert jnp.isfinite(out).all() and (out >= 0).all() and (out <= 1).all(), name


def test_rows_are_interpolated_and_their_ends_hold():
    table = np.asarray([[0, 5], [2, 5], [4, 5], [8, 5], [16, 5], [32, 4]], np.float32)
    for severity, expected in (
        (0.0, 0),
        (0.5, 1),
        (1.0, 2),
        (2.25, 5),
        (4.5, 24),
        (5.0, 32),
        (7.0, 32),
        (-1.0, 0),
    ):
        assert float(at(table, jnp.asarray(severity))[0]) == expected
    slope = jax.vmap(jax.grad(lambda s: at(table, s)[0]))(jnp.asarray([0.0, 1.0, 2.5, 5.0]))
    np.testing.assert_array_equal(slope, [2, 2, 4, 16])


def test_same_under_every_transformation(variant):
    noisy = corrupt("gaussian_noise")
    severity = jnp.asarray([1.0, 2.0, 3.5, 5.0])
    np.testing.assert_allclose(
        variant(noisy)(KEYS, X, severity), jax.jit(noisy)(KEYS, X, severity), atol=1e-5
    )
