"""Sensitivity to parts of the image: noise where it should be, published formulas, classifiers that look one way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from robustjax.analysis import backgrounds, groups, intervals, noise, saliency, sensitivity
from robustjax.data import planted as p

RNG = np.random.default_rng(0)
N, H = 6, 8
IMAGE = jnp.asarray(RNG.uniform(0.4, 0.6, (N, H, H, 3)), jnp.float32)
MASK = np.zeros((N, H, H), np.float32)
for i in range(N):
    MASK[i, 1 : 3 + i % 3, 2:6] = 1
MASK = jnp.asarray(MASK)
KEYS = jax.random.split(jax.random.key(0), N)


def linear(weight):
    return lambda x: x.reshape(x.shape[0], -1) @ weight


# --- noise ---


def test_noise_stays_in_its_part(variant):
    def both(k, x, m):
        return noise.gaussian(k, noise.of_length(k, x, m, 0.3), m, 0.01)

    moved = variant(both)(KEYS, IMAGE, MASK) - IMAGE
    outside = np.asarray(MASK)[..., None] == 0
    assert (np.asarray(moved) * outside == 0).all() and (np.abs(moved).max(axis=(1, 2, 3)) > 0).all()


@pytest.mark.slow
def test_noise_has_its_size():
    wide = jnp.full((4, 64, 64, 3), 0.5)
    mask = jnp.zeros((4, 64, 64)).at[:, :32].set(1.0).at[:, 32:].set(0.5)
    added = np.asarray(noise.gaussian(jax.random.key(1), wide, mask, 0.05) - wide)
    np.testing.assert_allclose(added[:, :32].std(), 0.05, rtol=0.02)
    np.testing.assert_allclose(added[:, 32:].std(), 0.025, rtol=0.02)
    added = np.asarray(noise.of_length(jax.random.key(1), wide, mask, 3.0) - wide).reshape(4, -1)
    np.testing.assert_allclose(np.linalg.norm(added, axis=1), 3.0, rtol=1e-5)
    per_image = noise.of_length(jax.random.key(1), wide, mask, jnp.arange(4.0)) - wide
    np.testing.assert_allclose(np.linalg.norm(per_image.reshape(4, -1), axis=1), np.arange(4.0), rtol=1e-5)
    np.testing.assert_array_equal(noise.of_length(jax.random.key(1), wide, 0 * mask, 3.0), wide)


def test_dilation_is_that_of_scipy():
    mask = jnp.zeros((2, 40, 40)).at[0, 3, 5].set(1.0).at[1, 20:24, 20:22].set(1.0)
    cross = np.zeros((5, 5), bool)
    cross[2], cross[:, 2] = True, True
    for got, m in zip(noise.dilated(mask, times=3), mask):
        np.testing.assert_array_equal(got, scipy.ndimage.binary_dilation(m, cross, iterations=3))
    with pytest.raises(ValueError, match="times is -1"):
        noise.dilated(mask, times=-1)


# --- relative foreground sensitivity ---


def test_relative_sensitivity_of_published_examples():
    cases = [
        (0.6, 0.8, 1 / 3),
        (0.3, 0.5, 0.25),
        (1, 0.9, -1),
        (0, 0.2, 1),
        (0.5, 0.5, 0),
        (1, 1, 0),
        (0, 0, 0),
    ]
    f, b, expected = np.array(cases).T
    np.testing.assert_allclose(sensitivity.relative(f, b), expected, atol=1e-12)
    # Below one half: the difference over the sum of accuracies; above: that of errors.
    f, b = RNG.uniform(size=(2, 100))
    ratio = np.where((f + b) / 2 <= 0.5, (b - f) / (b + f), (b - f) / (2 - f - b))
    np.testing.assert_allclose(sensitivity.relative(f, b), ratio, atol=1e-12)


@pytest.mark.slow
def test_who_looks_at_the_object_is_hurt_there():
    """A classifier by the brightness of the object, and one by that of the rest."""
    y = jnp.asarray([0, 1, 0, 1, 0, 1], jnp.int32)
    bright = jnp.where(y == 1, 0.52, 0.48)[:, None, None, None]
    x = jnp.broadcast_to(bright, IMAGE.shape)
    area = MASK.sum(axis=(1, 2))
    measure = jax.jit(sensitivity.under_noise(noise.gaussian, [0.0, 0.4], trials=20), static_argnums=1)
    for part, sign in ((MASK, 1), (1 - MASK, -1)):

        def logits_fn(z, part=part):
            mean = (z.mean(-1) * part).sum(axis=(1, 2)) / part.sum(axis=(1, 2))
            return jnp.stack([0.5 - mean, mean - 0.5], axis=-1) * 100

        found = measure(jax.random.key(3), logits_fn, x, MASK, y)
        got = sensitivity.rfs(found.foreground.hit, found.background.hit, y)
        assert got[0] == 0 and got[1] * sign == 1
        blind = found.background if sign == 1 else found.foreground
        np.testing.assert_array_equal(blind.hit, 1.0)
        np.testing.assert_allclose(blind.probability[:, 1], blind.probability[:, 0], atol=1e-4)
    assert (found.foreground.length[:, 0] == 0).all() and (
        found.foreground.length[:, 1] > 0.4 * np.sqrt(area)
    ).all()


def test_noise_does_not_depend_on_the_batch():
    weight, y = jnp.asarray(RNG.normal(size=(H * H * 3, 3)), jnp.float32), jnp.arange(N) % 3
    logits_fn = linear(weight)
    measure = jax.jit(sensitivity.under_noise(noise.of_length, [0.5, 1.0], trials=2), static_argnums=1)
    whole = measure(KEYS, logits_fn, IMAGE, MASK, y)
    part = measure(KEYS[4:], logits_fn, IMAGE[4:], MASK[4:], y[4:])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[4:], b, atol=1e-5), whole, part)
    with pytest.raises(ValueError, match="0 trials of 1 levels"):
        sensitivity.under_noise(noise.gaussian, [0.1], trials=0)


# --- groups and backgrounds ---


def test_group_averages():
    hits, group = np.array([1, 0, 1, 1, 0, 0.0]), np.array([0, 0, 2, 2, 3, -1])
    np.testing.assert_array_equal(groups.by_group(hits, group, 5), [0.5, np.nan, 1, 0, np.nan])
    assert groups.worst_group(hits, group) == 0
    np.testing.assert_allclose(groups.class_balanced(hits[:4], [0, 0, 1, 1]), 0.75)
    np.testing.assert_allclose(
        groups.class_balanced(np.stack([hits, 1 - hits], 1)[:3], [5, 5, 1]), [0.75, 0.25]
    )
    np.testing.assert_allclose(groups.reweighted(hits, group, [3, 0, 1, 0]), (3 * 0.5 + 1) / 4)
    with pytest.raises(ValueError, match="group 1 has no examples, but counts for 2"):
        groups.reweighted(hits, group, [1, 2, 1, 1])


def test_oracle_classifiers_on_planted_digits():
    """Who reads the digit has no gap; who reads the texture has nothing else."""
    source = p.embedded()
    sets = {
        v: p.planted(p.TINY, source, split="test", count=1200, variant=v)
        for v in ("original", "mixed_same", "mixed_rand", "mixed_other", "only_bg_t")
    }
    textures = {v: (s.place == s.label) for v, s in sets.items()}
    assert backgrounds.gap(*(np.ones(1200) for _ in range(2))) == 0
    gap = backgrounds.gap(textures["mixed_same"], textures["mixed_rand"])
    np.testing.assert_allclose(gap, 1 - 0.1117, atol=1e-4)
    assert groups.worst_group(textures["original"], sets["original"].group) == 0
    assert groups.worst_group(np.ones(1200), sets["original"].group) == 1
    assert backgrounds.flip_rate(sets["mixed_same"].place, sets["mixed_other"].place) == 1
    assert backgrounds.flip_rate(sets["mixed_same"].label, sets["mixed_other"].label) == 0


def test_coarse_predictions():
    logits = np.array([[3, 2, 1, 0], [0, 1, 5, 4], [0, 9, 1, 8.0]])
    to = np.array([0, 1, -1, 0])
    np.testing.assert_array_equal(backgrounds.coarse(logits, to), [0, -1, 1])
    np.testing.assert_array_equal(backgrounds.coarse(logits, to, restricted=True), [0, 0, 1])
    with pytest.raises(ValueError, match="must have one entry for each class"):
        backgrounds.coarse(logits, to[:3])


def test_effective_robustness_is_the_distance_to_the_line():
    clean = np.array([0.5, 0.6, 0.7, 0.8])
    line = 1 / (1 + np.exp(-(0.8 * np.log(clean / (1 - clean)) - 1.3)))
    got = backgrounds.effective_robustness(
        line + 0.07, clean, baseline_shifted=line[[0, 3]], baseline_clean=clean[[0, 3]]
    )
    np.testing.assert_allclose(got, 0.07, atol=1e-9)
    with pytest.raises(ValueError, match="at least two of different accuracy"):
        backgrounds.effective_robustness(0.4, 0.5, baseline_shifted=[0.4, 0.4], baseline_clean=[0.5, 0.5])


# --- saliency ---


def test_gradient_of_a_linear_classifier(variant):
    weight = RNG.normal(size=(H, H, 3, 4)).astype(np.float32)
    y = jnp.asarray([0, 3, 1, 2, 2, 1], jnp.int32)
    logits_fn = linear(jnp.asarray(weight.reshape(-1, 4)))
    got = variant(lambda x, y: saliency.gradient(logits_fn, x, y))(IMAGE, y)
    np.testing.assert_allclose(got, np.abs(weight[..., y]).max(axis=2).transpose(2, 0, 1), rtol=1e-5)


def test_alignment_counts_pixels():
    importance = RNG.permutation(N * H * H).reshape(N, H, H).astype(np.float32)
    got = saliency.alignment(jnp.asarray(importance), MASK)
    for i in range(N):
        m, v = np.asarray(MASK[i]) > 0, importance[i]
        top = v >= np.sort(v.ravel())[-m.sum()]
        np.testing.assert_allclose(got.overlap[i], (m & top).sum() / (m | top).sum(), rtol=1e-6)
        np.testing.assert_allclose(got.energy[i], (v[m] ** 2).sum() / (v**2).sum(), rtol=1e-5)
        np.testing.assert_allclose(got.density[i], (v[m].mean() - v[~m].mean()) / v.max(), atol=1e-5)
    perfect = saliency.alignment(MASK, MASK)
    np.testing.assert_allclose([a[0] for a in perfect], 1.0)
    assert all((a == 0).all() for a in saliency.alignment(MASK, 0 * MASK))


# --- intervals ---


def test_bootstrap_agrees_with_scipy():
    import scipy.stats

    a, b = RNG.normal(size=(2, 80))
    b = a + 0.3 * b
    ours = intervals.bootstrap(lambda u, v: np.corrcoef(u, v)[0, 1], a, b, resamples=4000)
    theirs = scipy.stats.bootstrap(
        (a, b), lambda u, v: np.corrcoef(u, v)[0, 1], paired=True, vectorized=False, method="percentile",
        n_resamples=4000, rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose((ours.low, ours.high), theirs, atol=4e-3)
    assert ours.low < ours.value < ours.high
    # Unpaired resampling would give a far wider interval for a difference of paired values.
    paired = intervals.bootstrap(lambda u, v: (u - v).mean(), a, b)
    assert paired.high - paired.low < 0.3


def test_nested_bootstrap_sees_the_spread_between_runs():
    runs = np.array([[0.0] * 50, [1.0] * 50, [0.5] * 50])
    flat = intervals.bootstrap(np.mean, runs.ravel())
    both = intervals.bootstrap(np.mean, runs, nested=True)
    assert both.high - both.low > 2.5 * (flat.high - flat.low) and both.value == 0.5
    assert intervals.bootstrap(np.mean, runs, nested=True) == both


@pytest.mark.parametrize(
    "arrays, settings, message",
    [
        (([1.0], [1.0, 2.0]), {}, "must lead with the same 1 axes"),
        (([],), {}, "must lead with the same 1 axes"),
        ((), {}, "must lead with the same 1 axes"),
        (([1.0],), {"nested": True}, "must lead with the same 2 axes"),
        (([1.0],), {"level": 1.0}, "level is 1.0"),
    ],
)
def test_bootstrap_refuses(arrays, settings, message):
    with pytest.raises(ValueError, match=message):
        intervals.bootstrap(lambda *a: 0.0, *arrays, **settings)
