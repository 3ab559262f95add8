"""AutoAugment: every operation beside Pillow's, the published tables, and no trace of which stream an image is from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.ensemble import HistGradientBoostingClassifier

from robustjax.data import autoaugment as aa
from robustjax.data import pillow_tones
from robustjax.data.augment import chain, crop, cutout, flip

RNG = np.random.default_rng(0)
FILL = (10, 200, 90)
SHEAR = np.linspace(0, 0.3, 10)


def rotated(image, level):
    turned = image.convert("RGBA").rotate(aa.ROTATE[level])
    return Image.composite(turned, Image.new("RGBA", turned.size, (128,) * 4), turned).convert(image.mode)


def transformed(image, matrix, resample=Image.Resampling.NEAREST):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=FILL)


def sheared(image, matrix):
    return transformed(image, matrix, Image.Resampling.BICUBIC)


def enhanced(kind):
    return lambda image, level, sign: kind(image).enhance(1 + sign * 0.1 * level)


PILLOW = {
    "shear_x": lambda image, level, sign: sheared(image, (1, sign * SHEAR[level], 0, 0, 1, 0)),
    "shear_y": lambda image, level, sign: sheared(image, (1, 0, 0, sign * SHEAR[level], 1, 0)),
    "translate_x": lambda image, level, sign: transformed(
        image, (1, 0, sign * 150 / 331 * level / 9 * image.size[0], 0, 1, 0)
    ),
    "translate_y": lambda image, level, sign: transformed(
        image, (1, 0, 0, 0, 1, sign * 150 / 331 * level / 9 * image.size[1])
    ),
    "rotate": lambda image, level, sign: rotated(image, level),
    "color": enhanced(ImageEnhance.Color),
    "contrast": enhanced(ImageEnhance.Contrast),
    "brightness": enhanced(ImageEnhance.Brightness),
    "sharpness": enhanced(ImageEnhance.Sharpness),
    "posterize": lambda image, level, sign: ImageOps.posterize(image, (8, 8, 7, 7, 6, 6, 5, 5, 4, 4)[level]),
    "solarize": lambda image, level, sign: ImageOps.solarize(image, 256 - 256 * level / 9),
    "autocontrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, level, sign: ImageOps.equalize(image),
    "invert": lambda image, level, sign: ImageOps.invert(image),
}
# Where one of the two rounds down just below a whole number: off by one level, in at most this share of values.
ROUNDED = {"shear_x": 0.05, "shear_y": 0.05, "autocontrast": 1.0}
ROUNDED |= {name: 0.03 for name in ("color", "contrast", "brightness", "sharpness")}


def pictures():
    """Draw images of all kinds: noise, a narrow range, blocks, one colour, few values."""
    noise = RNG.integers(0, 256, (32, 32, 3))
    y, x = np.mgrid[:32, :32]
    ramp = np.stack([4 * x + 3 * y, 255 - 5 * x, 100 + (x * y) // 16], -1)
    blocks = np.kron(RNG.integers(0, 256, (8, 8, 3)), np.ones((4, 4, 1), int))
    return [noise, 100 + noise // 8, ramp, blocks, np.full((32, 32, 3), 77), noise // 128 * 200]


@pytest.fixture(scope="module")
def steps():
    """Compile each operation once for all images, levels and ways."""
    built = dict(zip(aa.OPERATIONS, aa.operations((32, 32, 3), FILL), strict=True))
    over = lambda f: jax.jit(jax.vmap(f, (None, 0, 0)))
    return {name: over(step) for name, step in built.items()}


@pytest.mark.parametrize("name", aa.OPERATIONS)
def test_operations_are_those_of_pillow(name, steps):
    levels, ways = np.repeat(np.arange(10), 2), np.tile([0, 1], 10)
    for picture in pictures():
        image = Image.fromarray(picture.astype(np.uint8))
        want = np.stack(
            [PILLOW[name](image, int(m), 1 - 2 * int(w)) for m, w in zip(levels, ways, strict=True)]
        ).astype(int)
        got = np.asarray(steps[name](jnp.asarray(picture, jnp.int32), levels, ways))
        apart = np.abs(got - want)
        # Beyond that, only places on the very edge of an image that is sheared.
        assert (apart > (name in ROUNDED)).mean() <= (5e-4 if "shear" in name else 0)
        assert (apart > 0).mean() <= ROUNDED.get(name, 0)


@pytest.mark.parametrize(
    "name",
    [
        "shear_x",
        "shear_y",
        "translate_x",
        "translate_y",
        "rotate",
        "color",
        "contrast",
        "brightness",
        "sharpness",
    ],
)
def test_level_zero_changes_nothing(name, steps):
    picture = pictures()[0]
    for way in (0, 1):
        got = steps[name](jnp.asarray(picture, jnp.int32), np.array([0]), np.array([way]))
        np.testing.assert_array_equal(got[0], picture)


@pytest.mark.parametrize("shape", [(20, 32, 3), (28, 28, 1)])
def test_rectangles_and_grey_images_are_those_of_pillow(shape):
    picture = RNG.integers(0, 256, shape)
    image = Image.fromarray(picture.astype(np.uint8).squeeze())
    fill = FILL[: shape[-1]]
    every = jax.jit(
        lambda x: jnp.stack([step(x, jnp.int32(5), jnp.int32(1)) for step in aa.operations(shape, fill)])
    )
    for name, got in zip(aa.OPERATIONS, np.asarray(every(jnp.asarray(picture, jnp.int32))), strict=True):
        if shape[-1] == 1 and name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
            coloured = Image.merge("RGB", [image] * 3)
            want = np.asarray(PILLOW[name](coloured, 5, -1)).astype(int)[..., :1]
        else:
            want = np.asarray(PILLOW[name](image, 5, -1)).astype(int).reshape(shape)
        assert np.abs(got - want).max() <= (name in ROUNDED), name


def test_contrast_is_stretched_to_the_whole_number_below():
    """Exactly, where Pillow's float64 may be one lower."""
    picture = RNG.integers(0, 2, (6, 6, 1)) * 87 + RNG.integers(0, 40, (6, 6, 1))
    low, high = int(picture.min()), int(picture.max())
    want = [(int(v) - low) * 255 // (high - low) for v in picture.flat]
    got = pillow_tones.autocontrasted(jnp.asarray(picture, jnp.int32))
    np.testing.assert_array_equal(np.asarray(got).ravel(), want)


def test_the_tables_are_complete():
    for policy in (aa.CIFAR10, aa.SVHN):
        assert len(policy) == 25 and all(len(row) == 2 for row in policy)
        entries = [entry for row in policy for entry in row]
        assert all(n in aa.OPERATIONS and 0 <= p <= 0.9 and 0 <= m <= 9 for n, p, m in entries)
    # Sums and counts of the published tables, by hand.
    count = lambda policy, name: sum(n == name for row in policy for n, _, _ in row)
    assert [count(aa.CIFAR10, n) for n in ("equalize", "translate_y", "shear_x", "autocontrast")] == [
        9,
        5,
        0,
        7,
    ]
    assert [count(aa.SVHN, n) for n in ("invert", "shear_y", "shear_x", "equalize")] == [12, 8, 6, 6]
    assert aa.CIFAR10[4] == (("autocontrast", 0.5, 8), ("equalize", 0.9, 2))
    assert aa.SVHN[-1] == (("shear_x", 0.7, 2), ("invert", 0.1, 5))


@pytest.mark.slow
def test_rows_signs_and_probabilities_are_drawn_as_the_policy_says():
    """On a one-pixel-wide test of invert: how often an operation happens is its probability."""
    images = jnp.zeros((4000, 1, 1, 1))
    policy = ((("invert", 0.3, 0), ("invert", 0.0, 0)), (("invert", 0.0, 0), ("invert", 0.8, 0)))
    done = jax.jit(aa.autoaugment(policy))(jax.random.key(0), images).mean()
    assert float(done) == pytest.approx(0.55, abs=0.03)
    way = aa.autoaugment(((("translate_x", 1.0, 9), ("invert", 0.0, 0)),), fill=1.0)
    moved = np.asarray(jax.jit(way)(jax.random.key(1), jnp.zeros((400, 1, 4, 1))))[:, 0, :, 0]
    assert set(map(tuple, moved)) == {(1, 1, 0, 0), (0, 0, 1, 1)}
    assert 0.4 < moved[:, 0].mean() < 0.6


@pytest.mark.slow
def test_an_image_is_treated_alike_in_any_batch():
    images = jnp.asarray(np.stack(pictures()), jnp.float32) / 255
    keys = jax.random.split(jax.random.key(2), len(images))
    augmented = jax.jit(aa.autoaugment(aa.CIFAR10, fill=(0.4, 0.5, 0.6)))
    together = augmented(keys, images)
    np.testing.assert_array_equal(augmented(keys[2:3], images[2:3])[0], together[2])
    np.testing.assert_array_equal(
        together, np.round(np.asarray(together) * 255).astype(np.float32) / np.float32(255)
    )
    assert together.min() >= 0 and together.max() <= 1


@pytest.mark.slow
def test_cutout_windows_have_the_size_and_colour_they_should():
    fill = tuple(np.floor(255 * np.array([0.49, 0.48, 0.45])) / 255)
    images = jnp.ones((2000, 32, 32, 3))
    covered = np.asarray(jax.jit(cutout(16, fill=fill))(jax.random.key(0), images))
    window = (covered != 1).all(-1)
    area = window.sum((1, 2))
    assert area.max() == 256 and area.min() >= 64  # a centre in the corner leaves a quarter
    interior = ~(
        window[:, 0].any(1) | window[:, -1].any(1) | window[:, :, 0].any(1) | window[:, :, -1].any(1)
    )
    assert (area[interior] == 256).all() and interior.any()
    np.testing.assert_allclose(np.unique(covered[window], axis=0), [fill], rtol=1e-6)
    padded = np.asarray(crop(4, fill=fill)(jax.random.key(0), images[:50]))
    np.testing.assert_allclose(np.unique(padded[(padded != 1).all(-1)], axis=0), [fill], rtol=1e-6)


@pytest.mark.slow
def test_nothing_tells_the_streams_apart_unless_their_settings_differ():
    """The same images through both pipelines: trees over pixels and counts guess; a smaller window is found out."""
    image = jnp.asarray(RNG.integers(0, 256, (2000, 16, 16, 1)) // 32 * 32, jnp.float32) / 255
    image = jax.image.resize(image[:, ::4, ::4], (2000, 16, 16, 1), "linear")
    fill = 100 / 255

    shared = jax.jit(chain(crop(2, fill=fill), flip(), aa.autoaugment(aa.CIFAR10, fill=fill)))

    def pipeline(window):
        covered = jax.jit(cutout(window, fill=fill))
        return lambda key, x: covered(jax.random.fold_in(key, 0), shared(key, x))

    def seen(augment, seed):
        x = np.asarray(augment(jax.random.key(seed), image)).reshape(2000, -1)
        counts = [
            np.isclose(x, fill).sum(1),
            x.mean(1),
            x.std(1),
            x.min(1),
            x.max(1),
            (x == 128 / 255).sum(1),
        ]
        return np.column_stack([*counts, x[:, ::5]])

    def accuracy(inside, outside):
        def stacked(seed):
            a, b = [seen(inside, 4 * seed + i) for i in (0, 1)], [seen(outside, 4 * seed + i) for i in (2, 3)]
            return np.concatenate(a + b), np.repeat([0, 1], 4000)

        model = HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=8, random_state=0)
        return model.fit(*stacked(0)).score(*stacked(1))

    usual = pipeline(8)
    assert accuracy(usual, usual) <= 0.52
    assert accuracy(usual, pipeline(4)) > 0.6


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"policy": ()}, "policy is empty"),
        ({"policy": ((("blur", 0.5, 1), ("invert", 0.5, 1)),)}, "operation is 'blur'"),
        ({"policy": ((("invert", 1.5, 1), ("invert", 0.5, 1)),)}, "invert has probability"),
        ({"policy": ((("invert", 0.5, 10), ("invert", 0.5, 1)),)}, "level 10"),
        ({"fill": 1.5}, "fill is 1"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        aa.autoaugment(**settings)
