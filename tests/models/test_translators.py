"""Translators and critics: sizes as published, layers as defined, nothing that sees the rest of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models import critics, diffusion, pix2pixhd, selfsup, translator
from robustjax.models.cpu import doubled


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def parameters(model):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(model)[0]))


def drawn(model):
    """Positive parameters and state in general position: also where networks begin at 0 or 1."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.1, 1, a.shape), jnp.float32), shapes(model))


@pytest.mark.parametrize(
    ("size", "channels", "count"),
    [
        (256, 3, 54_413_955),
        (128, 3, 41_828_995),
        (64, 3, 29_244_035),
        (32, 3, 16_659_075),
        (32, 1, 16_652_929),
        (28, 1, 16_652_929),
        (16, 1, 6_165_121),
    ],
)
def test_the_unet_has_the_published_size_and_keeps_that_of_images(size, channels, count):
    model = translator.unet_translator(shape=(size, size, channels))
    assert parameters(model) == count
    x = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    assert jax.eval_shape(model.apply, *shapes(model), x)[0].shape == x.shape


@pytest.mark.parametrize(
    ("size", "layers", "maps", "count"),
    [
        (256, 3, [128, 64, 32, 31, 30], 2_768_705),
        (64, 3, [32, 16, 8, 7, 6], 2_768_705),
        (32, 3, [16, 8, 4, 3, 2], 2_768_705),
        (32, 2, [16, 8, 7, 6], 666_433),
        (32, 1, [16, 15, 14], 139_585),
    ],
)
def test_the_patch_critic_has_the_published_maps(size, layers, maps, count):
    model = critics.patch_critic(shape=(size, size, 3), layers=layers)
    x = jax.ShapeDtypeStruct((1, size, size, 6), jnp.float32)
    (found,) = jax.eval_shape(model.apply, *shapes(model), x)[0]
    assert [a.shape[1] for a in found] == maps and found[-1].shape[-1] == 1
    assert parameters(model) == count


def test_the_multiscale_critic_has_the_published_maps():
    for size, maps in ((256, [129, 65, 33, 34, 35]), (32, [17, 9, 5, 6, 7])):
        model = critics.multiscale_critic(shape=(size, size, 3))
        x = jax.ShapeDtypeStruct((1, size, size, 6), jnp.float32)
        first, second = jax.eval_shape(model.apply, *shapes(model), x)[0]
        assert [a.shape[1] for a in first] == maps and second[0].shape[1] == size // 4 + 1
        assert parameters(model) == 2 * 2_767_809


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 182_443_267),
        ({"halvings": 3}, 45_593_347),
        ({"halvings": 2, "blocks": 6}, 7_837_699),
        ({"halvings": 2, "blocks": 6, "width": 32}, 1_965_059),
    ],
)
def test_the_global_generator_has_the_published_size(settings, count):
    assert parameters(pix2pixhd.global_generator(shape=(64, 64, 3), **settings)) == count


def test_the_local_generator_joins_the_two_sizes():
    model = pix2pixhd.local_generator(shape=(64, 64, 3), width=4, blocks=1, local_blocks=1)
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    assert jax.eval_shape(model.apply, *shapes(model), x)[0].shape == x.shape
    # By hand: the trunk at width 8 and three halvings, the stem, down, one block, up and last of the fine part.
    trunk = 3 * 49 * 8 + 8 + sum(9 * c * 2 * c + 2 * c for c in (8, 16, 32)) + 2 * (9 * 64 * 64 + 64)
    trunk += sum(9 * 2 * c * c + c for c in (32, 16, 8))
    fine = 3 * 49 * 4 + 4 + (9 * 4 * 8 + 8) + 2 * (9 * 8 * 8 + 8) + (9 * 8 * 4 + 4) + (49 * 4 * 3 + 3)
    assert parameters(model) == trunk + fine


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_of_the_critic_sees_its_patch_and_no_more(layers, field):
    size = {1: 32, 2: 64, 3: 112}[layers]
    model = critics.patch_critic(shape=(size, size, 1), width=1, layers=layers)
    params, state = drawn(model)

    def middle(x):
        logits = model.apply(params, state, x)[0][0][-1]
        return logits[0, logits.shape[1] // 2, logits.shape[2] // 2, 0]

    seen = np.asarray(jax.jit(jax.grad(middle))(jnp.full((1, size, size, 2), 0.9)))[0].any(axis=-1)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert len(rows) == len(columns) == field
    assert seen[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


@pytest.mark.parametrize("side", [3, 4])
def test_doubling_is_a_transposed_convolution_by_its_definition(side):
    rng = np.random.default_rng(side)
    x, kernel = rng.normal(size=(2, 3, 5, 2)), rng.normal(size=(side, side, 2, 4))
    wide = np.zeros((2, 2 * 3 + 4, 2 * 5 + 4, 4))  # one pixel of margin above, more below
    for i in range(3):
        for j in range(5):
            for a in range(side):
                for b in range(side):
                    wide[:, 2 * i + a, 2 * j + b] += x[:, i, j] @ kernel[a, b]
    found = doubled(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
    np.testing.assert_allclose(found, wide[:, 1:7, 1:11], atol=1e-5)


def test_halving_the_size_does_not_count_what_lies_beyond_the_border():
    x = np.random.default_rng(0).normal(size=(1, 5, 4, 1)).astype(np.float32)
    expected = np.array(
        [
            [x[0, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2, 0].mean() for j in range(2)]
            for i in range(3)
        ]
    )
    np.testing.assert_allclose(critics.halved(jnp.asarray(x))[0, :, :, 0], expected, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"residual": True}, {"outer_skip": False}])
def test_translation_is_per_example_and_stays_in_the_box(settings):
    model = translator.unet_translator(shape=(12, 10, 1), width=2, depth=3, **settings)
    params, state = drawn(model)
    x = jax.random.uniform(jax.random.key(1), (3, 12, 10, 1))
    run = jax.jit(lambda x: model.apply(params, state, x)[0])
    every = run(x)
    assert every.shape == x.shape and float(every.min()) >= 0 and float(every.max()) <= 1
    np.testing.assert_allclose(every[1:2], jax.jit(run)(x[1:2]), atol=1e-6)


def test_without_the_outer_skip_detail_does_not_come_through():
    """A change at one pixel moves the output through the first features alone, unless they are left out."""

    def with_blind_middle(outer):
        model = translator.unet_translator(shape=(8, 8, 1), width=2, depth=2, outer_skip=outer)
        params, state = drawn(model)
        params = {**params, "down1": jax.tree.map(jnp.zeros_like, params["down1"])}
        params = {
            **params,
            "up0": jax.tree.map(lambda a: 1e-3 * a, params["up0"]),
        }  # away from where tanh is flat
        slope = jax.jit(jax.grad(lambda x: model.apply(params, state, x)[0].sum()))
        return slope(jnp.full((1, 8, 8, 1), 0.9))

    assert float(jnp.abs(with_blind_middle(True)).max()) > 0
    assert float(jnp.abs(with_blind_middle(False)).max()) == 0


def test_dropout_is_only_in_the_inner_blocks_of_deep_networks():
    shallow = translator.unet_translator(shape=(32, 32, 1), width=1)
    deep = translator.unet_translator(shape=(64, 64, 1), width=1)
    x = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)
    jax.eval_shape(lambda *a: shallow.apply(*a, train=True), *shapes(shallow), x)  # asks for no key
    x = jax.ShapeDtypeStruct((2, 64, 64, 1), jnp.float32)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda *a: deep.apply(*a, train=True), *shapes(deep), x)


def test_encoders_tell_dark_images_from_bright_ones_and_read_before_the_head():
    model = selfsup.small_encoder(shape=(8, 8, 1), widths=(4, 8), projection=3)
    params, state = drawn(model)
    x = jax.random.uniform(jax.random.key(2), (2, 8, 8, 1))
    features = jax.jit(selfsup.encoded(model, params, state))
    assert features(x).shape == (2, 8) and jax.eval_shape(model.apply, params, state, x)[0].shape == (2, 3)
    bright, dark = (f / jnp.linalg.norm(f, axis=1, keepdims=True) for f in (features(x), features(0.3 * x)))
    assert float(jnp.abs(bright - dark).max()) > 1e-3
    resnet = selfsup.resnet18_encoder(shape=(8, 8, 1))
    taps = jax.eval_shape(resnet.features, *shapes(resnet), jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))
    assert taps[max(taps)].shape == (2, 512)


def test_a_diffusion_keeps_the_variance_that_its_rates_leave():
    process = diffusion.Process()
    for t in (0.1, 0.5, 1.0):
        grid = np.linspace(0, t, 10001)
        rates = 0.1 + 19.9 * grid
        kept = np.exp(-np.trapezoid(rates, grid))
        np.testing.assert_allclose(process.kept(jnp.float32(t)), kept, rtol=1e-5)
        np.testing.assert_allclose(process.spread(jnp.float32(t)) ** 2, 1 - kept, rtol=1e-5)
    x = jnp.full((20000, 1, 1, 1), 0.5)
    noise = jax.random.normal(jax.random.key(0), x.shape)
    noisy = np.asarray(process.noisy(x, jnp.full((20000,), 0.1), noise))
    assert abs(noisy.mean() - 0.5 * np.sqrt(0.8963)) < 0.01 and abs(noisy.std() - 0.322) < 0.01


@pytest.mark.slow
def test_the_denoiser_takes_any_size_and_begins_silent():
    denoiser = diffusion.small_denoiser(shape=(7, 5, 1), widths=(8, 8))
    params = jax.jit(denoiser.init)(jax.random.key(0))
    out = jax.jit(denoiser.predict)(params, jnp.ones((2, 7, 5, 1)), jnp.array([0.1, 0.9]))
    assert out.shape == (2, 7, 5, 1) and np.ptp(out) == 0  # a bias


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: translator.unet_translator(shape=(8, 8, 1), depth=5), "depth is 5"),
        (lambda: translator.unet_translator(shape=(8, 8, 1), depth=1), "depth is 1"),
        (lambda: translator.autoencoder(shape=(8, 8, 1), widths=()), "widths is empty"),
        (lambda: critics.patch_critic(shape=(8, 8, 1), layers=0), "layers is 0"),
        (lambda: critics.patch_critic(shape=(16, 16, 1), layers=3), "must have 24"),
        (lambda: critics.multiscale_critic(shape=(8, 8, 1), scales=0), "scales is 0"),
        (lambda: pix2pixhd.global_generator(shape=(30, 32, 1)), "multiples of 16"),
        (lambda: pix2pixhd.global_generator(shape=(32, 32, 1)), "must leave 4"),
        (lambda: diffusion.small_denoiser(shape=(8, 8, 1), widths=(12,)), "multiples of 8"),
    ],
)
def test_settings_are_checked(build, words):
    with pytest.raises(ValueError, match=words):
        build()
