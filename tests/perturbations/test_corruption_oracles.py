"""Single corruptions against scipy, Pillow, colorsys and closed forms."""

import colorsys
import functools
import io

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from PIL import Image

from robustjax.perturbations.corruptions import blur, digital, jpeg, noise, smoothing, weather
from robustjax.perturbations.corruptions.fractal import covering, plasma
from robustjax.perturbations.corruptions.table import corrupt

RNG = np.random.default_rng(0)
PICTURE = scipy.ndimage.gaussian_filter(RNG.uniform(size=(32, 32, 3)), (1, 1, 0))
PICTURE = np.float32((PICTURE - PICTURE.min()) / np.ptp(PICTURE)).round(3)
BYTES = np.uint8(PICTURE * 255)
KEY = jax.random.key(0)


@functools.cache
def compiled(name):
    return jax.jit(corrupt(name))


def corrupted(name, severity, image=PICTURE, key=KEY):
    return np.asarray(compiled(name)(key, jnp.asarray(image)[None], float(severity))[0])


@pytest.mark.parametrize("severity, sigma", [(1, 0.4), (2, 0.6), (3, 0.7), (4, 0.8), (5, 1.0), (4.5, 0.9)])
def test_gaussian_blur_is_that_of_scipy(severity, sigma):
    expected = scipy.ndimage.gaussian_filter(PICTURE, (sigma, sigma, 0), mode="nearest")
    np.testing.assert_allclose(corrupted("gaussian_blur", severity), expected, atol=1e-5)


@pytest.mark.parametrize("severity, end", [(1, 1.06), (2, 1.11), (3, 1.16), (5, 1.26)])
def test_zoom_blur_averages_what_scipy_zooms(severity, end):
    factors, total = np.arange(1, end, 0.01), np.array(PICTURE)
    for factor in factors:
        kept = int(np.ceil(32 / factor))
        top = (32 - kept) // 2
        grown = scipy.ndimage.zoom(PICTURE[top : top + kept, top : top + kept], (factor, factor, 1), order=1)
        trim = (len(grown) - 32) // 2
        total += grown[trim : trim + 32, trim : trim + 32]
    np.testing.assert_allclose(corrupted("zoom_blur", severity), total / (len(factors) + 1), atol=1e-5)


@pytest.mark.parametrize("severity", [1, 4, 5])
def test_defocus_is_a_convolution_with_a_softened_disk(severity):
    radius, sigma = {1: (0.3, 0.4), 4: (1, 0.2), 5: (1.5, 0.1)}[severity]
    place = np.arange(-8, 9)
    disk = (place[:, None] ** 2 + place**2 <= radius**2).astype(float)
    line = np.exp(-np.array([1, 0, 1]) / (2 * sigma**2))
    line /= line.sum()
    kernel = scipy.ndimage.convolve(disk / disk.sum(), np.outer(line, line), mode="constant")
    expected = scipy.ndimage.convolve(PICTURE, kernel[..., None], mode="mirror")
    np.testing.assert_allclose(corrupted("defocus_blur", severity), expected, atol=1e-5)


def test_motion_blur_spreads_a_point_along_half_a_gaussian():
    point = np.zeros((21, 21, 1), np.float32)
    point[10, 10] = 1
    spread_out = jax.jit(functools.partial(smoothing.along, largest=9))
    for angle, (down, right) in {0: (0, 1), 90: (1, 0), -90: (-1, 0), 45: (1, 1)}.items():
        spread = np.asarray(spread_out(jnp.asarray(point), 5.0, 2.0, float(angle)))[..., 0]
        length = np.arange(11)
        # Every pixel looks ahead along the line, so light goes back; on a slant places are rounded.
        weight = np.exp(-0.5 * (length / 2.0) ** 2)
        place = np.ceil(length * (np.sqrt(0.5) if down and right else 1) - 0.5).astype(int)
        expected = np.zeros((21, 21))
        np.add.at(expected, (10 - down * place, 10 - right * place), weight / weight.sum())
        np.testing.assert_allclose(spread, expected, atol=1e-6)


def test_motion_blur_keeps_flat_images_and_averages():
    np.testing.assert_allclose(
        corrupted("motion_blur", 5, np.full((32, 32, 3), 0.3, np.float32)), 0.3, atol=1e-6
    )
    turned = [corrupted("motion_blur", 5, key=jax.random.key(i)) for i in (1, 2)]
    assert np.abs(turned[0] - turned[1]).max() > 0.01
    assert all(image.std() < 0.8 * PICTURE.std() for image in turned)


def test_glass_moves_pixels_from_above_and_the_left_only():
    # Value = place in the image: no smoothing mixes places at severity 1, where sigma is 0.05.
    places = np.arange(32 * 32, dtype=np.float32).reshape(32, 32, 1) / 1023
    moved = np.round(corrupted("glass_blur", 1, places)[..., 0] * 1023).astype(int)
    rows, columns = np.divmod(moved, 32)
    up, left = np.arange(32)[:, None] - rows, np.arange(32) - columns
    assert set(np.unique(up)) == set(np.unique(left)) == {0, 1}
    assert not up[:2].any() and not left[:, :2].any() and not up[:, :2].any() and not left[:2].any()
    assert 0.45 < up[2:, 2:].mean() < 0.55 and 0.45 < left[2:, 2:].mean() < 0.55


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_pixelate_is_that_of_pillow(severity):
    side = int(32 * [0.95, 0.9, 0.85, 0.75, 0.65][severity - 1])
    small = Image.fromarray(BYTES).resize((side, side), Image.Resampling.BOX)
    expected = np.asarray(small.resize((32, 32), Image.Resampling.BOX), float)
    np.testing.assert_allclose(
        corrupted("pixelate", severity, np.float32(BYTES / 255)) * 255, expected, atol=1.01
    )


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shape", [(32, 32, 3), (24, 24, 1), (27, 21, 3)], ids=str)
def test_jpeg_is_that_of_pillow(severity, shape):
    image = BYTES[: shape[0], : shape[1], : shape[2]]
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "JPEG", quality=[80, 65, 58, 50, 40][severity - 1])
    expected = np.asarray(Image.open(file), float).reshape(shape)
    ours = corrupted("jpeg_compression", severity, np.float32(image / 255)) * 255
    # A coefficient that rounds the other way changes a block by a few levels.
    error = np.abs(ours - expected)
    assert error.mean() < 1.5 and np.median(error) < 0.6 and error.max() < 30
    assert np.abs(image - expected).mean() > 4 * error.mean()


def test_jpeg_quality_and_image_have_straight_through_gradients():
    image = jnp.asarray(PICTURE[:16, :16])
    slope = jax.jit(jax.grad(lambda x: jpeg.compressed(x, 50.0).sum()))(image)
    # Compression keeps the mean, so through rounding the identity each value counts once.
    np.testing.assert_allclose(slope.mean(), 1.0, atol=0.02)


def test_brightness_and_saturation_are_those_of_colorsys():
    rng = np.random.default_rng(1)
    image = rng.uniform(size=(6, 7, 3)).astype(np.float32)
    image[0, 0], image[0, 1], image[0, 2] = 0.0, 0.4, (0.4, 0.4, 0.1)
    for severity in (1, 2, 3, 4, 5):
        lift = [0.05, 0.1, 0.15, 0.2, 0.3][severity - 1]
        factor, shift = [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)][severity - 1]
        bright, strong = np.empty_like(image), np.empty_like(image)
        for place in np.ndindex(6, 7):
            h, s, v = colorsys.rgb_to_hsv(*map(float, image[place]))
            bright[place] = colorsys.hsv_to_rgb(h, s, min(v + lift, 1))
            strong[place] = colorsys.hsv_to_rgb(h, min(max(s * factor + shift, 0), 1), v)
        np.testing.assert_allclose(corrupted("brightness", severity, image), bright, atol=1e-5)
        np.testing.assert_allclose(corrupted("saturate", severity, image), strong, atol=1e-5)


def test_contrast_keeps_the_mean_and_scales_the_rest():
    for severity, factor in ((1, 0.75), (3, 0.4), (5, 0.15)):
        out = corrupted("contrast", severity)
        np.testing.assert_allclose(out.mean((0, 1)), PICTURE.mean((0, 1)), atol=1e-5)
        np.testing.assert_allclose(out.std((0, 1)), factor * PICTURE.std((0, 1)), rtol=1e-4)


def test_noises_have_their_deviation():
    flat = np.full((64, 64, 3), 0.5, np.float32)
    for name, expected in {
        "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10],
        "speckle_noise": np.array([0.06, 0.1, 0.12, 0.16, 0.2]) * 0.5,
        "shot_noise": np.sqrt(0.5 / np.array([500, 250, 100, 75, 50])),
    }.items():
        for severity in (1, 3, 5):
            out = corrupted(name, severity, flat)
            # Four standard errors of a deviation from 12,288 draws.
            np.testing.assert_allclose(out.std(), expected[severity - 1], rtol=4 / np.sqrt(2 * flat.size))
            np.testing.assert_allclose(out.mean(), 0.5, atol=4 * expected[severity - 1] / np.sqrt(flat.size))


def test_impulses_hit_their_share_and_are_fair():
    flat, before = np.full((64, 64, 3), 0.5, np.float32), None
    for severity, share in ((1, 0.01), (4, 0.05), (4.5, 0.06), (5, 0.07)):
        out = corrupted("impulse_noise", severity, flat)
        hit = out != 0.5
        assert set(np.unique(out)) == {0.0, 0.5, 1.0}
        assert abs(hit.mean() - share) < 4 * np.sqrt(share / flat.size)
        assert abs((out == 1).sum() / hit.sum() - 0.5) < 4 * 0.5 / np.sqrt(hit.sum())
        assert before is None or hit[before].all()
        before = hit


def test_shot_noise_counts_whole_photons():
    for severity, rate in ((1, 500), (3, 100), (5, 50)):
        counts = corrupted("shot_noise", severity, np.full((32, 32, 3), 0.2, np.float32)) * rate
        np.testing.assert_allclose(counts, counts.round(), atol=rate * 1e-5)


def test_poisson_quantiles_are_those_of_scipy():
    z, quantile = np.linspace(-4, 4, 2001).astype(np.float32), jax.jit(noise.poisson)
    for mean in (0.0, 0.03, 0.7, 5.0, 11.9, 12.1, 40.0, 500.0):
        ours = np.asarray(quantile(jnp.asarray(z), jnp.full_like(z, mean)))
        exact = scipy.stats.poisson.ppf(scipy.stats.norm.cdf(z.astype(float)), mean)
        assert np.abs(ours - exact).max() <= 1
        assert (ours != exact).mean() < (0.002 if mean <= 12 else 0.05)


def test_plasma_roughness_falls_by_the_square_of_the_decay():
    decay, residues = 2.0, [[], [], []]
    draw = jax.jit(lambda key, decay: plasma(key, 32, decay))
    for seed in range(20):
        land = np.asarray(draw(jax.random.key(seed), decay))
        np.testing.assert_allclose([land.min(), land.max()], [0, 1], atol=1e-6)
        for i, step in enumerate((8, 4, 2)):
            corners, middle = land[::step, ::step], land[step // 2 :: step, step // 2 :: step]
            around = sum(np.roll(corners, s, (0, 1)) for s in ((0, 0), (-1, 0), (0, -1), (-1, -1))) / 4
            residues[i].append((middle - around) / land.std())
            upper = np.roll(middle, 1, axis=0)
            edge = land[::step, step // 2 :: step]
            beside = (corners + np.roll(corners, -1, axis=1) + middle + upper) / 4
            residues[i].append((edge - beside) / land.std())
    spread = [np.sqrt(np.mean(np.square(np.concatenate([r.ravel() for r in rs])))) for rs in residues]
    np.testing.assert_allclose([spread[0] / spread[1], spread[1] / spread[2]], decay**2, rtol=0.15)
    assert [covering(*shape) for shape in ((32, 32), (28, 28), (33, 5), (1, 1))] == [32, 32, 64, 1]
    with pytest.raises(ValueError, match="power of two"):
        plasma(KEY, 12, 2.0)


def test_fog_keeps_the_largest_value_and_greys_the_rest():
    light = corrupted("fog", 5)
    assert light.max() <= PICTURE.max() + 1e-6
    # x goes to (x + 1.5 cloud) max / (max + 1.5): differences between channels shrink by that factor alone.
    factor = PICTURE.max() / (PICTURE.max() + 1.5)
    np.testing.assert_allclose(
        light[..., 0] - light[..., 1], factor * (PICTURE[..., 0] - PICTURE[..., 1]), atol=1e-5
    )


def test_snow_adds_the_same_flakes_upside_down():
    black = np.zeros((32, 32, 3), np.float32)
    out = corrupted("snow", 3, black)
    flakes = out - 0.1 * 0.5  # what whitening makes of black
    np.testing.assert_allclose(flakes, flakes[::-1, ::-1], atol=1e-5)
    assert (flakes >= -1e-6).all() and 0.002 < flakes.mean() < 0.2
    np.testing.assert_allclose(out[..., 0], out[..., 2], atol=1e-6)


@pytest.mark.slow
def test_frost_dims_the_image_and_adds_ice():
    black, grey = (corrupted("frost", 5, np.full((32, 32, 3), v, np.float32)) for v in (0.0, 0.5))
    np.testing.assert_allclose(grey, np.minimum(black + 0.75 * 0.5, 1), atol=1e-5)
    ice = np.asarray(jax.jit(weather.ice, static_argnums=(1, 2))(KEY, 32, 32))
    assert ice.min() >= 0 and ice.max() <= 1 and ice.std() > 0.05
    assert (ice[..., 2] >= ice[..., 0] - 1e-6).all()  # bluish


def test_ice_is_as_bright_as_the_published_photographs():
    # The five photographs have a mean of 0.64. A texture of mean 0.488 and mean square 0.262, laid over images with the
    # same weights, changed them by 0.6 of the published mean squared change: the mean square must be 0.262 / 0.6.
    draw = jax.jit(jax.vmap(lambda key: weather.ice(key, 32, 32)))
    ice = np.asarray(draw(jax.random.split(KEY, 100)))
    assert ice.mean() == pytest.approx(0.64, abs=0.015)
    assert np.square(ice).mean() == pytest.approx(0.262 / 0.6, abs=0.02)


def test_ice_needs_memory_linear_in_the_pixels():
    def largest(side: int) -> int:
        """Count the numbers of the largest intermediate array, those inside loops included."""

        def arrays(jaxpr):
            for equation in jaxpr.eqns:
                yield from (v.aval.size for v in equation.outvars if hasattr(v.aval, "size"))
                for inner in jax.extend.core.jaxprs_in_params(equation.params):
                    yield from arrays(inner)

        return max(arrays(jax.make_jaxpr(lambda key: weather.ice(key, side, side))(KEY).jaxpr))

    assert largest(128) <= 16 * 128**2
    assert largest(256) <= 4.5 * largest(128)


def test_mud_hides_and_water_shines():
    white, black = np.ones((32, 32, 3), np.float32), np.zeros((32, 32, 3), np.float32)
    mud = corrupted("spatter", 5, white)
    hidden = np.abs(mud - np.array([63, 42, 20]) / 255).max(axis=-1) < 0.2
    clear = (mud == 1).all(axis=-1)
    assert 0.01 < hidden.mean() < 0.5 and clear.mean() > 0.3 and (hidden | clear).mean() > 0.9
    water = corrupted("spatter", 3, black)
    assert (water >= 0).all() and 0.02 < water.max(axis=-1).mean() < 0.4
    np.testing.assert_allclose(water.max(axis=(0, 1)), 0.5 * np.array([175, 238, 238]) / 255, atol=1e-4)
    np.testing.assert_allclose(water * 238, water[..., 2:] * np.array([175, 238, 238]), atol=1e-3)


def test_elastic_affine_map_takes_three_points_back():
    moves = RNG.uniform(-2, 2, size=(3, 2)).astype(np.float32)
    rows, columns = np.meshgrid(np.arange(32.0), np.arange(24.0), indexing="ij")
    ours = digital._affine(
        jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32), jnp.asarray(moves)
    )
    before = np.array([[24, 20], [8, 20], [8, 4]], float)  # the middle (16, 12), a third of 24 either way
    solved = np.linalg.solve(np.c_[before + moves, np.ones(3)], before)
    expected = np.c_[rows.ravel(), columns.ravel(), np.ones(rows.size)] @ solved
    np.testing.assert_allclose(ours[0].ravel(), expected[:, 0], atol=1e-3)
    np.testing.assert_allclose(ours[1].ravel(), expected[:, 1], atol=1e-3)


def test_elastic_displacements_have_the_published_size():
    # On a ramp the change is the displacement; severity 5: jitter 0.96, amplitude 3.2, smoothing 0.96 pixels.
    ramp = np.tile(np.linspace(0, 1, 32, dtype=np.float32)[:, None, None], (1, 32, 1))
    middles = []
    for seed in range(12):
        moved = (corrupted("elastic_transform", 5, ramp, jax.random.key(seed)) - ramp)[8:24, 8:24, 0] * 31
        plane = np.stack([np.ones(256), *(a.ravel() for a in np.mgrid[:16, :16])], axis=1)
        rest = moved.ravel() - plane @ np.linalg.lstsq(plane, moved.ravel(), rcond=None)[0]
        middles.append(np.mean(rest**2))
    # White noise of variance 1/3, smoothed by sigma in two dimensions, keeps 1 / (4 pi sigma^2) of it.
    expected = 3.2**2 / 3 / (4 * np.pi * 0.96**2)
    np.testing.assert_allclose(np.mean(middles), expected, rtol=0.3)


def test_zoomed_lines_stay_inside():
    for size in (1, 5, 8, 28, 32, 33):
        for factor in (1, 1.05, 1.26, 1.75, 2.25):
            places = blur.zoomed(size, factor)
            assert places.min() >= 0 and places.max() <= size - 1 + 1e-5
