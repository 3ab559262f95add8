"""Adversarial and shifted images: natural shifts beside Pillow, pairs of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from robustjax.data import views
from robustjax.perturbations import adversarial_pairs
from robustjax.perturbations.tones import SHIFTS


def pixels(channels):
    return np.random.default_rng(channels).integers(0, 256, (9, 8, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "pillow"),
    [
        ("darker", ImageEnhance.Brightness),
        ("brighter", ImageEnhance.Brightness),
        ("sharper", ImageEnhance.Sharpness),
        ("blurred", ImageEnhance.Sharpness),
        ("contrast", ImageEnhance.Contrast),
    ],
)
def test_shifts_are_pillows_up_to_its_rounding(name, pillow, channels):
    image = pixels(channels)
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    shift = SHIFTS[name]
    for strength in shift.strengths:
        theirs = np.asarray(pillow(picture).enhance(strength), np.float64).reshape(image.shape)
        ours = 255 * np.asarray(shift.apply(jnp.asarray(image[None], jnp.float32) / 255, strength))[0]
        # Pillow rounds the smoothed image and the result down to whole levels.
        assert np.abs(ours - theirs).max() <= 1.01 + abs(1 - strength) * (
            0.51 if name in ("sharper", "blurred") else 1
        )


def test_inversion_has_both_ends():
    x = jnp.asarray(pixels(1)[None], jnp.float32) / 255
    invert = SHIFTS["inverted"].apply
    np.testing.assert_allclose(invert(x, 0.0), x)
    np.testing.assert_allclose(invert(x, 1.0), 1 - x, atol=1e-6)


WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
X = jax.random.uniform(jax.random.key(0), (6, 4, 4, 1))


def linear(x):
    return x.reshape(len(x), -1) @ WEIGHTS


def test_attacked_pairs_stay_in_their_ball_and_are_made_against_the_networks_answer():
    views_ = jax.jit(adversarial_pairs.attacked(linear, adversarial_pairs.ATTACKS["pgd"](0.1)))(
        jax.random.key(1), X
    )
    np.testing.assert_array_equal(views_.image, X)
    assert float(jnp.abs(views_.perturbed - X).max()) <= 0.1 + 1e-6
    answer = linear(X).argmax(axis=1)
    before, after = (jax.nn.log_softmax(linear(z))[jnp.arange(6), answer] for z in (X, views_.perturbed))
    assert (after < before).all()


def test_one_step_pairs_of_a_linear_network_lie_in_a_corner():
    binary = lambda x: jnp.concatenate([linear(x)[:, :1], -linear(x)[:, :1]], axis=1)
    made = jax.jit(adversarial_pairs.attacked(binary, adversarial_pairs.ATTACKS["fgsm"](0.1)))(
        jax.random.key(1), X
    ).perturbed
    sign = jnp.where(linear(X)[:, 0] > 0, -1.0, 1.0)[:, None, None, None]
    corner = jnp.clip(X + 0.1 * sign * jnp.sign(WEIGHTS[:, 0]).reshape(1, 4, 4, 1), 0, 1)
    np.testing.assert_allclose(made, corner, atol=1e-6)


@pytest.mark.parametrize("name", adversarial_pairs.ATTACKS)
def test_every_attack_crosses_a_plane_at_half_its_radius_and_no_more_than_that(name):
    w, inside = np.asarray(WEIGHTS[:, 0]), 0.3 + 0.4 * X
    reach = 0.56 * np.linalg.norm(w) if name == "cw" else 0.1 * np.abs(w).sum()

    def plane(share):
        def network(x):  # a plane for each image, its `share` of the reach away
            z = (x - inside).reshape(len(x), -1) @ w + share * reach
            return jnp.stack([z, -z], axis=1)

        made = jax.jit(adversarial_pairs.attacked(network, adversarial_pairs.ATTACKS[name](0.1)))(
            jax.random.key(1), inside
        )
        return network(made.perturbed).argmax(axis=1)

    assert (plane(0.5) == 1).all() and (plane(1.05) == 0).all()


def test_every_kind_of_every_image_or_one_kind_of_each():
    dark, bright = (
        adversarial_pairs.shifted(SHIFTS[name], k) for name, k in (("darker", 0.5), ("brighter", 1.5))
    )
    kinds = adversarial_pairs.identity(), dark, bright
    all_of_them = jax.jit(adversarial_pairs.every(*kinds))(jax.random.key(0), X)
    np.testing.assert_array_equal(all_of_them.image, np.tile(X, (3, 1, 1, 1)))
    np.testing.assert_allclose(all_of_them.perturbed[6:12], 0.5 * X, rtol=1e-6)
    x = jnp.full((300, 2, 2, 1), 0.5)
    mixed = np.asarray(jax.jit(adversarial_pairs.one_of(*kinds))(jax.random.key(0), x).perturbed)[:, 0, 0, 0]
    values, counts = np.unique(mixed, return_counts=True)
    np.testing.assert_allclose(values, [0.25, 0.5, 0.75])
    assert (abs(counts / 300 - 1 / 3) < 5 * np.sqrt(2 / 9 / 300)).all()
    with pytest.raises(ValueError, match="no kind of pair"):
        adversarial_pairs.every()


def test_views_of_digits_are_dimmed_shifts():
    x = jnp.zeros((50, 7, 7, 1)).at[:, 3, 3].set(0.5)
    seen = np.asarray(jax.jit(views.shifted_and_dimmed())(jax.random.key(0), x))
    assert ((seen > 0).sum(axis=(1, 2, 3)) == 1).all() and (seen.max(axis=(1, 2, 3)) >= 0.3 - 1e-6).all()
    assert seen.max() <= 0.7 + 1e-6
    rows = seen.sum(axis=(2, 3)).argmax(axis=1)
    assert set(rows) == {1, 2, 3, 4, 5}


def test_hues_turn_as_the_standard_library_turns_them():
    import colorsys

    image, turn = pixels(3).astype(np.float32) / 255, 0.07
    expected = [[colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in (colorsys.rgb_to_hsv(*map(float, p)) for p in row)] for row in image]  # fmt: skip  # noqa: E501
    np.testing.assert_allclose(views.turned(jnp.asarray(image), jnp.float32(turn)), expected, atol=1e-5)


@pytest.mark.slow
def test_views_of_colour_images_stay_in_the_box_and_differ():
    x = jnp.asarray(np.stack([pixels(3)] * 4), jnp.float32) / 255
    seen = jax.jit(views.simclr())(jax.random.key(0), x)
    assert seen.shape == x.shape and float(seen.min()) >= 0 and float(seen.max()) <= 1
    assert float(jnp.abs(seen[0] - seen[1]).max()) > 0.01


@pytest.mark.slow
def test_a_crop_of_everything_is_the_image():
    image = jnp.asarray(pixels(3), jnp.float32) / 255
    square = image[:8, :8]
    found = views.resized_crop(jax.random.key(0), square, 1.0)
    # Only the shape is random then: sides that would not fit are cut to the image.
    assert found.shape == square.shape and float(found.min()) >= float(square.min()) - 1e-5
