"""Conditional autoencoders: the published numbers of parameters, ranges, and warps against scipy and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from robustjax.models import cvae_rectangle, cvae_small, cvae_stn, resampling, unet

KEY = jax.random.key(0)
PUBLISHED = {
    "dense": (cvae_small.mnist_dense, 1_846_320, 2_460_976, 1_845_536, 784),
    "conv": (cvae_small.mnist_conv, 166_528, 166_816, 93_422, 6272),
    "stn": (cvae_stn.mnist_stn, 451_896, 903_636, 5_079_552, 128),
    "rectangle": (cvae_rectangle.rectangle, 16_863_712, 16_865_440, 603_840, 512),
    "scenes": (unet.scenes, 118_664_080, 118_665_808, 20_736_709, 256),
}
SMALL = {
    "dense": lambda: cvae_small.dense(shape=(8, 8, 1), latents=5),
    "conv": cvae_small.mnist_conv,
    "stn": lambda: cvae_stn.mnist_stn(shape=(6, 6, 1), latents=4),
    "rectangle": lambda: cvae_rectangle.rectangle(shape=(8, 8, 3), latents=6, wide=8, narrow=4, blocks=1),
    "rectangle of blocks": lambda: cvae_rectangle.rectangle(
        shape=(8, 8, 3), latents=6, wide=8, narrow=4, blocks=1, side=2
    ),
    "scenes": lambda: unet.scenes(shape=(7, 9, 3), widths=(4, 4), latents=(4, 3), grids=((7, 9), (3, 4))),
}


def parameters(tree):
    return sum(int(np.prod(a.shape)) for a in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_of_parameters_and_latents_are_the_published_ones(name):
    build, prior, posterior, decoder, latents = PUBLISHED[name]
    model = build()
    params, _ = jax.eval_shape(model.init, KEY)
    counts = [parameters(params[part]) for part in ("prior", "posterior", "decoder")]
    assert counts == [prior, posterior, decoder] and model.dimension == latents


def test_the_segmenter_has_the_published_number_of_parameters_and_labels_every_pixel():
    model = unet.segmenter(classes=36, shape=(125, 187, 3))
    params, state = jax.eval_shape(model.init, KEY)
    assert parameters(params) == 17_269_668
    logits, _ = jax.eval_shape(
        model.apply, params, state, jax.ShapeDtypeStruct((2, 250, 375, 3), jnp.float32)
    )
    assert logits.shape == (2, 250, 375, 36) and logits.dtype == jnp.float32


@pytest.mark.parametrize("size", [(125, 187), (250, 375), (500, 750)])
def test_scenes_of_every_size_share_their_parameters(size):
    model = unet.scenes()
    params, state = jax.eval_shape(model.init, KEY)
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    found, _ = jax.eval_shape(model.posterior, params, state, x, x)
    assert found.mean.shape == found.log_variance.shape == (1, 256)
    out, _ = jax.eval_shape(model.decode, params, state, x, jax.ShapeDtypeStruct((1, 256), jnp.float32))
    assert out.shape == x.shape


def test_blocks_that_do_not_fit_the_image_are_refused():
    with pytest.raises(ValueError, match=r"side is 3 .* must divide height and width"):
        cvae_rectangle.rectangle(side=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_networks_run_in_both_modes(name):
    model = SMALL[name]()
    params, state = jax.jit(model.init)(KEY)
    x = jax.random.uniform(KEY, (3, *model.shape))

    @jax.jit
    def judge(x):
        found, same = model.posterior(params, state, x, 1.0 - x)
        return found, model.decode(params, same, x, found.mean)[0]

    found, out = judge(x)
    assert found.mean.shape == found.std.shape == (3, model.dimension)
    pixels = model.link(out)
    assert out.shape == x.shape and (pixels > 0).all() and (pixels < 1).all()
    # In evaluation mode nobody sees their neighbours.
    np.testing.assert_allclose(judge(x.at[1:].set(0.0))[1][0], out[0], atol=1e-5)
    if name in ("dense", "rectangle", "rectangle of blocks", "scenes"):
        assert abs(float(found.log_variance.mean()) + 2.3026) < 0.3
        assert (found.log_variance > -6.9078).all() and (found.log_variance < 2.3027).all()

    @jax.jit
    def train(state):
        prior, state = model.prior(params, state, x, train=True)
        return model.decode(params, state, x, prior.mean, train=True)[1]

    moved = train(state)
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    for part in ("prior", "decoder"):
        leaves = jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), state[part], moved[part]))
        assert any(leaves) or not leaves
    jax.tree.map(np.testing.assert_array_equal, moved["posterior"], state["posterior"])


@pytest.mark.slow
def test_the_spatial_transformers_start_as_identities():
    x = jax.random.uniform(KEY, (2, 42, 42, 1))
    warps = cvae_stn.Warps(count=2)
    z = jax.random.normal(KEY, (2, 8))
    out = np.asarray(warps.apply(warps.init(KEY, x, z), x, z))
    assert out.shape == (2, 42, 42, 2)
    np.testing.assert_allclose(out, jnp.broadcast_to(x, out.shape), atol=1e-5)


def test_affine_sampling_is_scipys_with_the_same_matrix():
    x = np.random.default_rng(0).uniform(size=(1, 9, 9, 1)).astype(np.float32)
    angle = 0.4
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shift = np.array([0.1, -0.2])
    theta = np.concatenate([turn, shift[:, None]], axis=1)[None]
    got = cvae_stn.affine_sample(jnp.asarray(x), jnp.asarray(theta, jnp.float32))[0, ..., 0]
    # In (down, across) order and pixels, about the middle: half a side is one unit.
    matrix = turn[::-1, ::-1]
    offset = np.full(2, 4.0) - matrix @ np.full(2, 4.0) + shift[::-1] * 4.5
    want = ndimage.affine_transform(x[0, ..., 0], matrix, tuple(offset), order=1, mode="nearest")  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.oracle
def test_resampling_is_torchs():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 7, 11, 3)).astype(np.float32)
    there = torch.from_numpy(x).permute(0, 3, 1, 2)
    interpolate = torch.nn.functional.interpolate
    for size in ((14, 22), (5, 4), (1, 30)):
        pairs = (
            (resampling.stretch, interpolate(there, size, mode="bilinear", align_corners=True)),
            (resampling.resize, interpolate(there, size, mode="bilinear", align_corners=False)),
            (resampling.adaptive_average, torch.nn.functional.adaptive_avg_pool2d(there, size)),
        )
        for ours, theirs in pairs:
            np.testing.assert_allclose(
                ours(jnp.asarray(x), size), theirs.permute(0, 2, 3, 1).numpy(), atol=1e-5
            )


def test_scenes_need_one_setting_per_scale():
    with pytest.raises(ValueError, match="one each per scale"):
        unet.scenes(widths=(4, 8))
