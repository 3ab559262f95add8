"""Pairs of views: what may change between them and what may not, and the export of what is learned from them."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.data.augment import crop, flip
from robustjax.models.cvae_small import dense
from robustjax.numerics import keys_for
from robustjax.perturbations import pairs
from robustjax.perturbations.corruptions.table import corrupt
from robustjax.perturbations.exported import exported, saved
from robustjax.perturbations.learned import learned

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.integers(0, 256, size=(6, 8, 8, 1)), jnp.float32) / 255
COLOUR = jnp.asarray(RNG.uniform(size=(6, 8, 8, 3)), jnp.float32)
FAMILIES = {
    "linf": pairs.linf(0.3),
    "rts": pairs.rotated_shifted_scaled(),
    "lighting": pairs.lighting(),
    "warped": pairs.warped((20.0, 0.7, 0.7, 0.1, 10.0), pad=1),
    "limited": pairs.limited(pairs.linf(0.3), count=3),
    "jointly": pairs.jointly(pairs.lighting(), crop(2), flip()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_pairs_depend_on_their_own_image_and_key_only(name):
    draw = jax.jit(FAMILIES[name])
    keys = keys_for(KEY, 6)
    image, perturbed = draw(keys, X)
    assert image.shape == perturbed.shape and (perturbed >= 0).all() and (perturbed <= 1).all()
    some = FAMILIES[name](keys[2:4], X[2:4])
    np.testing.assert_allclose(some.image, image[2:4], atol=1e-6)
    np.testing.assert_allclose(some.perturbed, perturbed[2:4], atol=1e-5)
    assert not np.allclose(perturbed, draw(jax.random.key(1), X).perturbed)


def test_noise_fills_its_ball():
    moved = np.asarray(pairs.linf(0.3)(KEY, jnp.full((50, 8, 8, 1), 0.5)).perturbed) - 0.5
    assert np.abs(moved).max() <= 0.3 + 1e-6 and abs(moved.std() - 0.3 / 3**0.5) < 0.01


@pytest.mark.slow
def test_warped_digits_keep_their_bytes_stay_near_and_keep_their_mass():
    digit = jnp.zeros((200, 28, 28, 1)).at[:, 8:20, 8:20].set(200 / 255)
    image, moved = pairs.rotated_shifted_scaled()(KEY, digit)
    assert image.shape == (200, 42, 42, 1)
    np.testing.assert_array_equal(image[:, 7:35, 7:35], digit)
    np.testing.assert_allclose(moved * 255, np.round(np.asarray(moved) * 255), atol=1e-4)
    mass = np.asarray(moved).sum(axis=(1, 2, 3)) / np.asarray(image).sum(axis=(1, 2, 3))
    assert mass.min() > 0.7**2 * 0.9 and mass.max() < 1.3**2 * 1.1
    rows, columns = np.mgrid[:42, :42]
    weight = np.asarray(moved)[..., 0] / np.asarray(moved).sum(axis=(1, 2, 3))[:, None, None]
    middle = np.stack([(weight * at).sum(axis=(1, 2)) for at in (rows, columns)], axis=1) - 20.5
    assert np.abs(middle).max() < 7.8 and (np.abs(middle).max(axis=0) > 5).all()
    # Uniform whole shifts of 7 either way have a standard deviation of sqrt(15^2 - 1) / sqrt(12).
    assert (np.abs(middle.std(axis=0) - np.sqrt(224 / 12)) < 0.6).all()


@pytest.mark.slow
def test_lights_have_the_formula_at_their_extremes():
    _, lit = pairs.lighting(dim=0.4, glow=0.0)(KEY, X)
    ratio = np.asarray(lit).sum(axis=(1, 2, 3)) / np.asarray(X).sum(axis=(1, 2, 3))
    assert (ratio > 0.39).all() and (ratio < 1.001).all()
    grey = jnp.full((400, 8, 8, 1), 0.2)
    ramp = np.asarray(pairs.lighting(dim=1.0, glow=0.6)(KEY, grey).perturbed)[..., 0] - 0.2
    assert ramp.max() <= 0.6 * 0.5 * (1 + 2**0.5) + 1e-6
    # Linear in both directions: second differences vanish, and the middle is half the light.
    np.testing.assert_allclose(np.diff(ramp, n=2, axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(np.diff(ramp, n=2, axis=2), 0, atol=1e-5)
    middle = ramp.mean(axis=(1, 2))
    assert abs(middle.mean() - 0.15) < 0.02 and middle.max() <= 0.3 + 1e-6


NAMES = ("brightness", "contrast")


@pytest.mark.slow
def test_fixed_corruptions_are_one_of_each_kind_for_an_image_whatever_the_key():
    """Noise that would differ at every draw does not, and comes in bytes; as many images as kinds, and no more."""
    made = jax.jit(pairs.corrupted(("gaussian_noise", "shot_noise"), severity=3.0, fixed=0))
    seen = [np.asarray(made(jax.random.key(i), COLOUR).perturbed) for i in range(12)]
    for row in range(len(COLOUR)):
        assert len({one[row].tobytes() for one in seen}) == 2
    np.testing.assert_allclose(255 * seen[0], np.round(255 * seen[0]), atol=1e-4)
    other = pairs.corrupted(("gaussian_noise", "shot_noise"), severity=3.0, fixed=1)(KEY, COLOUR).perturbed
    assert not any(np.array_equal(other, one) for one in seen)
    # Alone and in a batch an image has the same ones.
    alone = {np.asarray(made(jax.random.key(i), COLOUR[:1]).perturbed).tobytes() for i in range(12)}
    assert alone == {one[:1].tobytes() for one in seen}


def test_images_that_stay_clean_stay_the_same_bytes():
    """Of a corruption and the original both are shown, in either order: one image keeps all 256 values as they are."""
    x = jnp.arange(256, dtype=jnp.float32).reshape(1, 16, 16, 1).repeat(3, axis=-1) / 255
    pair = pairs.corrupted_twice(("contrast",), severity=5.0, originals=True, fixed=0)(KEY, x)
    clean = [np.abs(np.asarray(one) - np.asarray(x)).max() < 1e-6 for one in pair]
    assert sorted(clean) == [False, True]


def test_corrupted_pairs_hold_the_image_and_one_of_its_corruptions():
    image, perturbed = jax.jit(pairs.corrupted(NAMES, severity=3.0))(KEY, COLOUR)
    np.testing.assert_array_equal(image, COLOUR)
    exact = np.stack([np.asarray(corrupt(name)(KEY, COLOUR, 3.0)) for name in NAMES])
    which = np.abs(exact - np.asarray(perturbed)).max(axis=(2, 3, 4)) < 1e-6
    assert (which.sum(axis=0) == 1).all() and which.any(axis=1).all()


@pytest.mark.parametrize("originals", [False, True])
def test_two_corruptions_of_an_image_differ(originals):
    x = jnp.tile(COLOUR, (8, 1, 1, 1))
    views = jax.jit(pairs.corrupted_twice(NAMES, severity=3.0, originals=originals))(KEY, x)
    choices = [np.asarray(corrupt(name)(KEY, x, 3.0)) for name in NAMES] + [np.asarray(x)] * originals
    which = [
        (np.abs(np.stack(choices) - np.asarray(view)).max(axis=(2, 3, 4)) < 1e-6).argmax(axis=0)
        for view in views
    ]
    assert (which[0] != which[1]).all()
    assert set(which[0]) == set(which[1]) == set(range(len(choices)))


def test_joint_augmentation_moves_both_views_alike():
    # Coordinates as pixels: whatever is done to them shows.
    rows, columns = jnp.meshgrid(jnp.arange(8.0) + 1, jnp.arange(8.0) + 1, indexing="ij")
    x = jnp.broadcast_to(jnp.stack([rows, columns, rows], -1) / 10, (20, 8, 8, 3))
    half = lambda key, x: pairs.ImagePair(x, 0.5 * x)
    image, perturbed = pairs.jointly(half, crop(2), flip())(KEY, x)
    np.testing.assert_allclose(perturbed, 0.5 * image, atol=1e-6)
    assert not np.allclose(image, x) and len(np.unique(np.asarray(image).reshape(20, -1), axis=0)) > 10


def test_pairs_side_by_side_are_taken_apart():
    left, right = pairs.side_by_side()(KEY, jnp.concatenate([COLOUR, 1.0 - COLOUR], axis=2))
    np.testing.assert_array_equal(left, COLOUR)
    np.testing.assert_array_equal(right, 1.0 - COLOUR)


def test_a_limited_pool_has_so_many_perturbations_of_each_image():
    x = jnp.tile(X[:2], (60, 1, 1, 1))
    out = np.asarray(pairs.limited(pairs.linf(0.3), count=3)(KEY, x).perturbed).reshape(60, 2, -1)
    assert [len(np.unique(out[:, i], axis=0)) for i in range(2)] == [3, 3]
    assert not np.allclose(out[0, 0] - np.asarray(X[0]).ravel(), out[0, 1] - np.asarray(X[1]).ravel())


def decoder():
    model = dense(shape=(8, 8, 1), latents=3, encoder=(8,), decoder=(8,))
    return learned(model, *model.init(KEY), radius=1.0)


@pytest.mark.slow
def test_an_exported_decoder_is_the_decoder_for_every_batch():
    space = decoder()
    program = exported(space, (8, 8, 1), platforms=("cpu", "cuda"))
    for count in (1, 6):
        u = jax.random.normal(KEY, (count, 3))
        want = space.decode(keys_for(KEY, count), space.prepare(X[:count]), u)
        np.testing.assert_allclose(program.call(X[:count], u), want, atol=1e-6)
    assert "stablehlo" in program.mlir_module() and program.platforms == ("cpu", "cuda")


@pytest.mark.slow
def test_a_saved_decoder_is_portable_without_flatbuffers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)  # as if it were not installed
    files = saved(exported(decoder(), (8, 8, 1)), tmp_path)
    assert [path.name for path in files] == ["decoder.mlirbc", "decoder.mlir"]
    # Every file of MLIR's bytecode begins so.
    assert files[0].read_bytes()[:4] == b"ML\xefR" and "func.func public @main" in files[1].read_text()


def test_an_exported_decoder_survives_a_file_and_has_slopes():
    pytest.importorskip("flatbuffers")
    space = decoder()
    run = jax.export.deserialize(exported(space, (8, 8, 1)).serialize(vjp_order=1)).call
    slope = jax.grad(lambda u: run(X[:1], u).sum())(jnp.ones((1, 3)))
    want = jax.grad(lambda u: space.decode(KEY[None], space.prepare(X[:1]), u).sum())(jnp.ones((1, 3)))
    np.testing.assert_allclose(slope, want, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pairs.corrupted(()), "names is empty"),
        (lambda: pairs.corrupted(("nothing",)), "must be one of"),
        (lambda: pairs.corrupted_twice(("fog",)), "two choices"),
        (lambda: pairs.limited(pairs.linf(0.1), count=0), "count is 0"),
        (lambda: pairs.rotated_shifted_scaled(growth=1.0), "growth below 1"),
        (lambda: pairs.warped((20.0, 1.0)), "3 to 5 numbers"),
        (lambda: pairs.lighting(dim=2.0), "dim is 2.0"),
    ],
)
def test_settings_are_checked(make, words):
    with pytest.raises(ValueError, match=words):
        make()
