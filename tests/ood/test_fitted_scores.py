"""Detectors that are fitted: clusters of one example, features that are not finite, and fitted forms inside jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.analysis import frechet, last_layer
from robustjax.losses import gaussian_mixture
from robustjax.ood import detectors, metrics, shaping
from robustjax.ood.blend import blend
from robustjax.ood.detectors import FitInputs, ScoreInputs
from robustjax.ood.feature_scores import knn, vim
from robustjax.ood.gaussian_scores import mahalanobis, relative_mahalanobis
from robustjax.ood.ssd import clustered, few_shot, ssd

RNG = np.random.default_rng(0)
D = 8
ONE, OTHER = np.eye(D)[0] * 10, np.eye(D)[1] * 10
TRAIN = RNG.normal(size=(200, D)) + ONE
LABEL = np.zeros(200, int)
ID = jnp.asarray(RNG.normal(size=(60, D)) + ONE, jnp.float32)
OOD = jnp.asarray(RNG.normal(size=(60, D)) + OTHER, jnp.float32)


def auroc(form):
    return metrics.auroc(np.asarray(form(ID)), np.asarray(form(OOD)))


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_a_class_of_one_example_leaves_the_others_as_they_are(copies):
    """Two directions ten deviations apart are told apart by any distance: AUROC 1."""
    features = np.concatenate([TRAIN, np.repeat(-ONE[None], copies, axis=0)])
    label = np.repeat([0, 1], [200, copies])
    form = ssd(features, label, covariance="ledoit-wolf")
    assert auroc(form) == 1.0
    score = np.asarray(form(jnp.concatenate([ID, OOD, jnp.asarray(-ONE[None], jnp.float32)])))
    assert np.isfinite(score).all() and score.std() > 0 and score[-1] == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match="all alike"):
        ssd(features, label, covariance="truncated")


def test_a_cluster_of_one_takes_the_variance_of_the_others():
    """Standardised, the distance from the example alone is |z - z_0|^2 over the mean variance in the other cluster."""
    features, label = np.concatenate([TRAIN, -ONE[None]]), np.repeat([0, 1], [200, 1])
    form = ssd(features, label, covariance="ledoit-wolf")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    z = (unit - unit.mean(axis=0)) / unit.std(axis=0)
    variance = np.square(z[:200] - z[:200].mean(axis=0)).mean()
    new = -np.asarray(ONE) + 0.3 * RNG.normal(size=(5, D))  # near the single example
    at = (new / np.linalg.norm(new, axis=1, keepdims=True) - unit.mean(axis=0)) / unit.std(axis=0)
    want = np.square(at - z[200]).sum(axis=1) / variance
    np.testing.assert_allclose(form.distance(jnp.asarray(new, jnp.float32)), want, rtol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_few_outliers_are_enough_to_tell_them_apart(count):
    form = few_shot(TRAIN, RNG.normal(size=(count, D)) + OTHER)
    assert auroc(form) > 0.99
    twice = few_shot(TRAIN, np.repeat(OTHER[None], count, axis=0))
    assert auroc(twice) > 0.99


def test_more_clusters_than_groups_still_detect():
    """k-means at k = 80 of 200 examples makes clusters of one."""
    which = clustered(TRAIN, 80)
    assert np.bincount(which).min() == 1
    assert auroc(ssd(TRAIN, which, covariance="ledoit-wolf")) == 1.0


def test_k_means_draws_as_from_all_distances_at_once():
    """k-means++ by the definition, with the whole (n, k, d) array."""
    unit, rng = TRAIN / np.linalg.norm(TRAIN, axis=1, keepdims=True), np.random.default_rng(3)
    centers = unit[rng.integers(len(unit))][None]
    while len(centers) < 6:
        away = np.square(unit[:, None] - centers).sum(axis=2).min(axis=1)
        centers = np.concatenate([centers, unit[rng.choice(len(unit), 1, p=away / away.sum())]])
    nearest = np.square(unit[:, None] - centers).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(clustered(TRAIN, 6, rounds=1, seed=3), nearest)


def test_classes_of_one_example_each_have_no_covariance():
    with pytest.raises(ValueError, match="do not vary within their classes"):
        mahalanobis(TRAIN[:5], np.arange(5))


def broken(value):
    features = TRAIN.copy()
    features[7, 2] = value
    return features


FITS = {
    "mahalanobis": lambda f: mahalanobis(f, LABEL),
    "relative": lambda f: relative_mahalanobis(f, LABEL),
    "ssd": lambda f: ssd(f, covariance="truncated"),
    "few_shot": lambda f: few_shot(f, TRAIN[:5]),
    "OOD features of few_shot": lambda f: few_shot(TRAIN, f),
    "clustered": lambda f: clustered(f, 3),
    "knn": lambda f: knn(f, neighbours=3),
    "vim": lambda f: vim(f, np.ones((D, 2)), np.zeros(2)),
    "kernel of vim": lambda f: vim(TRAIN, f[7:9].T, np.zeros(2)),
    "blend": lambda f: blend(f, TRAIN),
    "react": shaping.react_limit,
    "dfr": lambda f: last_layer.dfr(TRAIN, f, LABEL, LABEL, classes=2),
    "scale of dfr": lambda f: last_layer.dfr(f, TRAIN, LABEL, LABEL, classes=2),
    "frechet": frechet.moments,
    "principal axes": lambda f: gaussian_mixture.principal(f.reshape(-1, 2, 4, 1)),
}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", FITS)
def test_one_feature_that_is_not_finite_is_refused_in_one_line(name, value):
    with pytest.raises(ValueError, match="finite") as caught:
        FITS[name](broken(value))
    assert "\n" not in str(caught.value)


FORMS = {
    "mahalanobis": lambda: mahalanobis(TRAIN, LABEL),
    "relative": lambda: relative_mahalanobis(TRAIN, np.arange(200) % 2),
    "ssd": lambda: ssd(TRAIN, covariance="truncated"),
    "few_shot": lambda: few_shot(TRAIN, TRAIN[:5] + OTHER),
    "knn": lambda: knn(TRAIN, neighbours=3),
    "vim": lambda: vim(TRAIN, RNG.normal(size=(D, 3)), np.zeros(3)),
    "blend": lambda: blend(TRAIN, TRAIN + 1),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_fitted_form_is_compiled_like_any_function_and_is_a_pytree(name):
    form = FORMS[name]()
    want = np.asarray(form(ID))
    np.testing.assert_allclose(jax.jit(form)(ID), want, rtol=1e-4, atol=1e-4)
    passed = jax.jit(lambda f, x: f(x))(form, ID)
    np.testing.assert_allclose(passed, want, rtol=1e-4, atol=1e-4)
    assert jax.tree.leaves(form) and hash(form) == hash(form)


@pytest.mark.parametrize("covariance", ["pinv", "truncated", "ledoit-wolf"])
def test_features_that_never_change_in_training_count_for_nothing(covariance):
    """Dead activations are 0 in training. The distance is that of the other features, however they move later."""
    dead = np.zeros((len(TRAIN), 3))
    dead[:, 1] = 1e-14 * RNG.normal(size=len(TRAIN))  # rounding
    form = ssd(np.concatenate([TRAIN, dead], axis=1), covariance=covariance)
    new = np.concatenate([RNG.normal(size=(6, D)) + ONE, RNG.normal(size=(6, 3))], axis=1)
    unit = TRAIN / np.linalg.norm(TRAIN, axis=1, keepdims=True)
    alone = ssd(TRAIN, covariance=covariance)
    at = (new / np.linalg.norm(new, axis=1, keepdims=True))[:, :D]
    white = (at - unit.mean(axis=0)) / unit.std(axis=0) @ np.asarray(alone.whitening[0], np.float64)
    want = np.square(white).sum(axis=1)
    np.testing.assert_allclose(form.distance(jnp.asarray(new, jnp.float32)), want, rtol=2e-3)
    assert want.max() < 1e4

    shots = few_shot(np.concatenate([TRAIN, dead], axis=1), np.concatenate([OTHER, [1.0, 2, 3]])[None])
    assert np.isfinite(shots(jnp.asarray(new, jnp.float32))).all()


def test_features_without_any_variation_are_refused_in_one_line():
    with pytest.raises(ValueError, match="must vary"):
        ssd(np.repeat(ONE[None], 100, axis=0), covariance="ledoit-wolf")


WRONG_LABELS = {
    "fractions": np.linspace(0, 1.5, 60),
    "negative": np.repeat([-1, 0, 1], 20),
    "one-hot": np.eye(3)[np.repeat([0, 1, 2], 20)],
    "too few": np.repeat([0, 1], 20),
}


@pytest.mark.parametrize("fit", [mahalanobis, relative_mahalanobis, ssd], ids=lambda f: f.__name__)
@pytest.mark.parametrize("label", WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_labels_are_whole_numbers_one_for_each_example(fit, label):
    features = np.random.default_rng(0).normal(size=(60, 2))
    fit(features, np.repeat([0, 1, 2], 20))
    with pytest.raises(ValueError, match="label") as raised:
        fit(features, label)
    assert "\n" not in str(raised.value)


def test_layers_of_mahalanobis_distances_are_taken_after_a_step_each():
    """By hand: one layer is the image, the other its double; the step follows the sign of each layer's own slope."""
    magnitude, label = 0.5, np.arange(len(TRAIN)) % 3
    layers = {"stage0": 1.0, "stage1": 2.0}
    images = {"held_out": TRAIN[:40], "noise": RNG.normal(size=(30, TRAIN.shape[1])).astype(np.float32)}

    def inputs(fitted):
        features = lambda x: {name: scale * x for name, scale in layers.items()}
        return ScoreInputs(lambda x: x[:, :3], 3, features, fitted=fitted)

    def measure(part, build, fitted=()):
        return jax.jit(lambda x: build(inputs(fitted))(x))(jnp.asarray(images[part]))

    read = lambda x: {name: scale * x for name, scale in layers.items()}
    given = FitInputs(read(TRAIN), label, read(images["held_out"]), read(images["noise"]), measure=measure)
    one = detectors.mahalanobis_layers(magnitude=magnitude)
    assert one.fit is not None and one.surrogate is not None
    fitted = one.fit(given)

    def by_hand(x):
        out = []
        for scale in layers.values():
            form = mahalanobis(scale * TRAIN, label)
            white, center, means = (np.asarray(a, float) for a in (form.whitening, form.center, form.means))
            distance = lambda h: np.square(((h - center) @ white)[:, None] - means[None]).sum(axis=2)
            nearest = distance(scale * x).argmin(axis=1)
            slope = -(((scale * x - center) @ white) - means[nearest]) @ white.T
            out.append(-0.5 * distance(scale * (x + magnitude * np.where(slope > 0, 1, -1))).min(axis=1))
        return np.stack(out, axis=1)

    a, b = (by_hand(images[part].astype(float)) for part in ("held_out", "noise"))
    weighed = blend(a, b)
    expected = a @ np.asarray(weighed.weights, float) + float(weighed.bias)
    x = jnp.asarray(images["held_out"])
    found, plain = jax.jit(lambda x: (one.build(inputs(fitted))(x), one.surrogate(inputs(fitted))(x)))(x)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-2)
    # Without the step the score is another one, and what adaptive attacks maximise beside it.
    assert np.abs(np.asarray(plain) - expected).max() > 0.1
