"""Scores of logits and features against float64 definitions, their limits where float32 saturates, and slopes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, log_softmax, logsumexp, softmax
from sklearn import covariance, neighbors
from sklearn.linear_model import LogisticRegression

from robustjax.models import small
from robustjax.ood import (
    feature_scores,
    gaussian_scores,
    logit_scores,
    metrics,
    reject_scores,
    scores,
    shaping,
)
from robustjax.ood.blend import blend
from robustjax.ood.odin import odin, preprocessed

K = 5
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(40, K)).astype(np.float32) * 4
P = softmax(LOGITS.astype(np.float64), axis=1)
TOP = np.sort(P)[:, -3:]
ODDS = np.log(P.max(1) / np.sort(P)[:, :-1].sum(1))


def close(got, want, rtol=2e-5, atol=1e-5):
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=rtol, atol=atol)


def tempered(z, t):
    p = softmax(z.astype(np.float64) / t, axis=1)
    return t * (np.log(p.max(1)) - np.log(np.sort(p)[:, :-1].sum(1)) + np.log(K - 1))


DEFINITIONS = {
    "msp": (logit_scores.msp, P.max(1)),
    "msp_margin": (logit_scores.msp_margin, ODDS),
    "tempered, T=1": (lambda z: logit_scores.tempered_margin(z, temperature=1.0), ODDS + np.log(K - 1)),
    "tempered, T=1000": (logit_scores.tempered_margin, tempered(LOGITS, 1000)),
    "max_logit": (logit_scores.max_logit, LOGITS.max(1)),
    "energy": (lambda z: logit_scores.energy(z, temperature=2.0), 2 * logsumexp(LOGITS / 2.0, axis=1)),
    "entropy": (logit_scores.entropy, -stats.entropy(P, axis=1)),
    "entropy_log": (logit_scores.entropy_log, -np.log(stats.entropy(P, axis=1))),
    "gen": (logit_scores.gen, -((P * (1 - P)) ** 0.1).sum(1)),
    "gen of 3": (lambda z: logit_scores.gen(z, top=3), -((TOP * (1 - TOP)) ** 0.1).sum(1)),
    "rejection": (lambda z: reject_scores.rejection(z, classes=3), -P[:, 3:].sum(1)),
    "rejection_margin": (
        lambda z: reject_scores.rejection_margin(z, classes=3), np.log(P[:, :3].sum(1) / P[:, 3:].sum(1)),
    ),
    "rowl": (lambda z: reject_scores.rowl(z, classes=4), -(P.argmax(1) == 4).astype(float)),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFINITIONS)
def test_equal_to_the_definition_in_float64(name):
    form, want = DEFINITIONS[name]
    close(jax.jit(form)(LOGITS), want)


@jax.jit
def twins(z):
    return (
        logit_scores.msp_margin(z),
        logit_scores.entropy_log(z),
        reject_scores.rejection_margin(z, classes=3),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-30, 30, width=32), min_size=K, max_size=K))
def test_twins_that_do_not_saturate_are_increasing_functions_of_the_published_score(z):
    z = np.asarray([z], np.float32)
    p = softmax(z.astype(np.float64), axis=1)
    odds, log_entropy, against = (np.asarray(v, np.float64) for v in twins(z))
    close(expit(odds), p.max(1))
    close(np.exp(-log_entropy), stats.entropy(p, axis=1))
    close(expit(-against), p[:, 3:].sum(1))


MARGINS = {
    "msp_margin": (logit_scores.msp_margin, lambda g: g - np.log(K - 1)),
    "tempered": (lambda z: logit_scores.tempered_margin(z, temperature=1.0), lambda g: g),
    # H -> (K - 1) e^-g (g + 1): each other class adds g e^-g, and together they take (K - 1) e^-g from the first
    "entropy_log": (logit_scores.entropy_log, lambda g: g - np.log((K - 1) * (g + 1))),
    # G -> e^(-g gamma) [(K - 1) + (K - 1)^gamma]
    "gen_log": (
        lambda z: logit_scores.gen_log(z, gamma=0.5), lambda g: 0.5 * g - np.log(K - 1 + np.sqrt(K - 1)),
    ),
    "rejection_margin": (
        lambda z: reject_scores.rejection_margin(z, classes=3), lambda g: np.logaddexp(g, np.log(2)) - np.log(2),
    ),
}  # fmt: skip


def value_and_slope(form, z):
    """Per example, from one compiled program."""
    total = lambda v: (form(v).sum(), form(v))
    slope, value = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(z, jnp.float32))
    return np.asarray(value), np.asarray(slope)


@pytest.mark.parametrize("name", MARGINS)
def test_margins_climb_where_probabilities_are_one(name):
    """Values keep their limit form and slopes stay of order one, where max p is 1 and its gradient 0."""
    form, limit = MARGINS[name]
    gaps = np.array([30.0, 110.0, 1000.0])
    z = np.zeros((3, K))
    z[:, 2] = gaps
    value, slope = value_and_slope(form, z)
    close(value, limit(gaps), rtol=1e-5)
    assert np.isfinite(slope).all() and (slope[:, 2] > 0.4).all()
    assert (value_and_slope(logit_scores.msp, z)[1][:, 2] < 1e-6).all()


@pytest.mark.parametrize("name", [n for n in DEFINITIONS if n != "rowl"])
def test_values_and_slopes_are_finite_at_ties_and_extremes(name):
    """Equal logits, equal largest ones, and logits masked by -inf; a slope along -inf does not exist."""
    z = np.array([[0.0] * K, [1e4, -1e4, 0.0, 1.0, 1e4], [-np.inf, 3.0, 1.0, 2.0, -np.inf]])
    value, slope = value_and_slope(DEFINITIONS[name][0], z)
    assert not np.isnan(value).any()
    assert np.isfinite(slope[np.isfinite(z)]).all()


def test_what_needs_classes_says_so():
    one = jnp.zeros((2, 1))
    for form in (
        logit_scores.msp_margin,
        logit_scores.tempered_margin,
        logit_scores.entropy_log,
        logit_scores.gen,
    ):
        with pytest.raises(ValueError, match="needs at least 2"):
            form(one)
    for classes in (0, 1):
        with pytest.raises(ValueError, match="must leave at least one"):
            reject_scores.rejection(one, classes=classes)
    with pytest.raises(ValueError, match="temperature is 0"):
        logit_scores.energy(one, temperature=0)
    with pytest.raises(ValueError, match="gamma is 1"):
        logit_scores.gen(LOGITS, gamma=1)


def test_rowl_accepts_where_its_margin_is_not_negative():
    z = jnp.asarray([[1.0, 0.0, 0.5], [0.0, 1.0, 2.0], [1.0, 0.0, 1.0]])
    assert reject_scores.rowl(z, classes=2).tolist() == [0.0, -1.0, 0.0]
    assert reject_scores.rowl_margin(z, classes=2).tolist() == [0.5, -1.0, 0.0]
    inside, outside = [0.0, 0.0, -1.0, 0.0], [-1.0, 0.0]
    assert metrics.auroc(inside, outside) == 0.5 * (1 + 0.75 - 0.5)


def test_ccu_is_the_mixture_of_its_definition():
    log_in, log_out = RNG.normal(size=(2, 40)).astype(np.float32)
    weight_in, weight_out = np.exp(log_in)[:, None], np.exp(log_out + 0.5)[:, None]
    want = (weight_in * P + weight_out / K) / (weight_in + weight_out)
    log_p = jax.jit(partial(reject_scores.ccu_posterior, log_odds=0.5))(LOGITS, log_in, log_out)
    close(jnp.exp(log_p), want)
    close(jnp.exp(log_p).sum(axis=1), 1.0)
    top = want.max(1)
    margin = jax.jit(partial(reject_scores.ccu_margin, log_odds=0.5))(LOGITS, log_in, log_out)
    close(margin, np.log(top - 1 / K) - np.log1p(-top), rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize("distance", [0.0, 30.0, 1e6])
def test_ccu_knows_nothing_far_away_but_keeps_a_slope(distance):
    """Where outliers are likelier by e^distance all classes are equally likely; where data are, the network rules."""
    z, far, none = jnp.asarray(LOGITS[:1]), jnp.asarray([distance]), jnp.zeros(1)
    if distance:
        close(jnp.exp(reject_scores.ccu_posterior(z, -far, none)), 1 / K, atol=1e-6)
        close(reject_scores.ccu_posterior(z, none, -far), log_softmax(LOGITS[:1], axis=1))
    slope = jax.grad(lambda d: reject_scores.ccu_margin(z, -d, none).sum())(far)
    if distance:
        close(slope, -1.0, rtol=1e-3)
    assert np.isfinite(reject_scores.ccu_margin(jnp.zeros((1, K)), -far, none))


def test_mixture_density():
    means, log_variance = RNG.normal(size=(3, 4)), np.array([-1.0, 0.0, 0.5])
    x = RNG.normal(size=(6, 2, 2))
    parts = [
        stats.multivariate_normal(m, np.exp(v)).pdf(x.reshape(6, 4)) for m, v in zip(means, log_variance)
    ]
    args = (jnp.asarray(a, jnp.float32) for a in (x, means, log_variance))
    close(jax.jit(reject_scores.mixture_log_density)(*args), np.log(np.mean(parts, axis=0)))


FEATURES = RNG.normal(size=(90, 6)) @ (RNG.normal(size=(6, 6)) + 3 * np.eye(6)) + 3
LABEL = np.arange(90) % 3
QUERIES = RNG.normal(size=(12, 6)) * 3


def test_mahalanobis_is_that_of_scikit_learn():
    means = np.stack([FEATURES[c::3].mean(0) for c in range(3)])
    fit = covariance.EmpiricalCovariance().fit(FEATURES - means[LABEL])
    want = max_over = np.stack([-0.5 * fit.mahalanobis(QUERIES - m) for m in means]).max(0)
    form = gaussian_scores.mahalanobis(FEATURES, LABEL)
    close(form(jnp.asarray(QUERIES, jnp.float32)), want, rtol=1e-4)
    close(form(jnp.asarray(means, jnp.float32)), 0.0, atol=1e-5)
    background = covariance.EmpiricalCovariance().fit(FEATURES)
    relative = gaussian_scores.relative_mahalanobis(FEATURES, LABEL)(jnp.asarray(QUERIES, jnp.float32))
    close(relative, max_over + 0.5 * background.mahalanobis(QUERIES), rtol=1e-4, atol=1e-3)
    close(form.whitening @ form.whitening.T @ fit.covariance_.astype(np.float32), np.eye(6), atol=1e-2)


def test_shrinkage_is_that_of_scikit_learn():
    centered = FEATURES[:20] - FEATURES[:20].mean(0)
    weight = gaussian_scores.ledoit_wolf(centered)
    assert weight == pytest.approx(covariance.ledoit_wolf_shrinkage(centered, assume_centered=True))
    one = np.zeros(20, int)
    want = -0.5 * covariance.LedoitWolf(assume_centered=True).fit(centered).mahalanobis(QUERIES)
    form = gaussian_scores.mahalanobis(centered, one, shrinkage="ledoit-wolf")
    close(form(jnp.asarray(QUERIES, jnp.float32)), want, rtol=1e-4)


def test_mahalanobis_does_not_see_an_affine_change_of_features():
    turn, shift = RNG.normal(size=(6, 6)) + 3 * np.eye(6), RNG.normal(size=6)
    before = gaussian_scores.mahalanobis(FEATURES, LABEL)(jnp.asarray(QUERIES, jnp.float32))
    moved = gaussian_scores.mahalanobis(FEATURES @ turn + shift, LABEL)
    close(moved(jnp.asarray(QUERIES @ turn + shift, jnp.float32)), before, rtol=1e-3)


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("shrinkage", [0.0, 0.1, "ledoit-wolf"])
def test_mahalanobis_takes_features_of_any_rank(rank, shrinkage):
    """Constant, repeated and dependent features, in the float32 they come in, and classes nobody has."""
    features = (RNG.normal(size=(50, rank)) @ RNG.normal(size=(rank, 6)) + 100).astype(np.float32)
    label = np.where(np.arange(50) % 2, 7, 2)
    form = gaussian_scores.mahalanobis(features, label, shrinkage=shrinkage)
    value = form(jnp.asarray(features))
    assert np.isfinite(value).all()
    assert form.whitening.shape[1] == (rank if shrinkage == 0.0 else 6 if rank else 0)
    if shrinkage == 0.0 and rank:
        # The mean squared distance to the own mean is the rank: a trace of covariance times its inverse.
        own = -2 * gaussian_scores.mahalanobis(features, np.zeros(50, int))(jnp.asarray(features))
        close(own.mean(), rank, rtol=0.02)


def test_distances_of_normal_features_have_the_known_auroc():
    """Data N(0, I_2), outliers N(0, 4 I_2): AUROC 0.8 and FPR 0.52713 at 5.99146 = d^2."""
    rng = np.random.default_rng(5)
    inside, outside = (rng.normal(size=(40_000, 2)) * s for s in (1.0, 2.0))
    form = gaussian_scores.mahalanobis(rng.normal(size=(40_000, 2)), np.zeros(40_000, int))
    a, b = (np.asarray(form(jnp.asarray(x, jnp.float32))) for x in (inside, outside))
    assert metrics.auroc(a, b) == pytest.approx(0.8, abs=0.006)
    assert metrics.fpr_id95(a, b) == pytest.approx(0.52713, abs=0.012)
    assert metrics.threshold_keeping(a) == pytest.approx(-5.99146 / 2, rel=0.03)
    ten = gaussian_scores.mahalanobis(rng.normal(size=(40_000, 10)), np.zeros(40_000, int))
    a, b = (np.asarray(ten(jnp.asarray(rng.normal(size=(40_000, 10)) * s, jnp.float32))) for s in (1, 2**0.5))
    assert metrics.auroc(a, b) == pytest.approx(0.85515, abs=0.006)


def test_the_slope_of_a_distance_is_that_to_the_nearest_mean():
    form = gaussian_scores.mahalanobis(FEATURES, LABEL)
    h = jnp.asarray(QUERIES, jnp.float32)
    slope = jax.jit(jax.grad(lambda v: form(v).sum()))(h)
    means = np.stack([FEATURES[c::3].mean(0) for c in range(3)])
    precision = np.linalg.inv(np.cov((FEATURES - means[LABEL]).T, bias=True))
    away = QUERIES[:, None] - means
    nearest = np.einsum("bci,ij,bcj->bc", away, precision, away).argmin(1)
    close(slope, -away[np.arange(12), nearest] @ precision, rtol=1e-3, atol=1e-3)


def test_neighbours_are_those_of_scikit_learn_and_near_ones_are_told_apart():
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
    form = jax.jit(feature_scores.knn(FEATURES, neighbours=4))
    queries = np.concatenate([QUERIES, 7 * FEATURES[:3]])
    found, _ = neighbors.NearestNeighbors(n_neighbors=4).fit(unit(FEATURES)).kneighbors(unit(queries))
    close(form(jnp.asarray(queries, jnp.float32)), -found[:, -1], atol=1e-5)
    first = feature_scores.knn(FEATURES, neighbours=1)
    near = jnp.asarray(FEATURES[:3] * [[1, 1, 1, 1, 1, 1.01]], jnp.float32)
    apart = np.linalg.norm(
        unit(np.asarray(near, np.float64)) - unit(FEATURES[:3].astype(np.float32).astype(float)), axis=1
    )
    close(jax.jit(first)(near), -apart, rtol=0.02, atol=3e-6)
    # At a training point and at the origin there is no slope, and no NaN either.
    slope = jax.jit(jax.grad(lambda h: first(h).sum()))(jnp.concatenate([first.bank[:1], jnp.zeros((1, 6))]))
    assert np.isfinite(slope).all()


def test_vim_is_its_definition():
    kernel, bias = RNG.normal(size=(6, 3)), RNG.normal(size=3)
    form = feature_scores.vim(FEATURES, kernel, bias, principal=2)
    origin = -np.linalg.pinv(kernel.T) @ bias
    axes = np.linalg.svd(FEATURES - origin, full_matrices=True)[2]
    off = lambda h: np.linalg.norm(h - origin - (h - origin) @ axes[:2].T @ axes[:2], axis=1)
    scale = (FEATURES @ kernel + bias).max(1).mean() / off(FEATURES).mean()
    want = logsumexp(QUERIES @ kernel + bias, axis=1) - scale * off(QUERIES)
    close(form(jnp.asarray(QUERIES, jnp.float32)), want, rtol=1e-4, atol=1e-4)
    flat = feature_scores.vim(np.outer(RNG.normal(size=20), np.ones(6)), kernel, 0 * bias, principal=3)
    close(flat.scale, 0.0)
    with pytest.raises(ValueError, match="principal is 6"):
        feature_scores.vim(FEATURES, kernel, bias, principal=6)


@pytest.mark.slow
def test_activations_are_reshaped_as_written():
    h = jnp.asarray([[4.0, 0.0, 3.0, 1.0, 2.0], [0.0] * 5])
    close(shaping.react(2.5)(h)[0], [2.5, 0, 2.5, 1, 2])
    close(shaping.ash_p(percentile=60)(h)[0], [4, 0, 3, 0, 0])
    close(shaping.ash_b(percentile=60)(h)[0], [5, 0, 5, 0, 0])
    close(shaping.ash_s(percentile=60)(h)[0], np.exp(10 / 7) * np.array([4, 0, 3, 0, 0]))
    close(shaping.scale(percentile=60)(h)[0], np.exp(10 / 7) * np.array([4, 0, 3, 1, 2]))
    for shape in (shaping.ash_p(), shaping.ash_b(), shaping.ash_s(), shaping.scale(percentile=98)):
        close(shape(h)[1], 0.0)
        assert np.isfinite(jax.grad(lambda v: shape(v).sum())(h)).all()
    assert shaping.react_limit(np.arange(11.0)) == 9.0
    kernel = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)
    form = shaping.head(kernel, jnp.ones(3), logit_scores.energy, shaping.react(2.5))
    close(form(h[:1]), logsumexp(np.array([2.5, 0, 2.5, 1, 2]) @ np.asarray(kernel) + 1))
    with pytest.raises(ValueError, match="percentile is 99"):
        shaping.ash_s(percentile=99)


@pytest.mark.slow
def test_odin_moves_and_tempers():
    """On linear logits the sign step raises the log-probability of the prediction; the order is that in float64."""
    kernel = RNG.normal(size=(8, K)).astype(np.float32)
    logits_fn = lambda x: x @ kernel
    x = RNG.uniform(0.2, 0.8, size=(200, 8)).astype(np.float32)
    plain = jax.jit(odin(logits_fn, magnitude=0.0))(x)
    z = x.astype(np.float64) @ kernel
    close(plain, tempered(z, 1000), rtol=1e-4, atol=1e-5)
    assert stats.spearmanr(plain, z.max(1) - z.mean(1)).statistic > 0.999
    close(
        jax.jit(odin(logits_fn, temperature=1.0, magnitude=0.0))(x),
        logit_scores.msp_margin(jnp.asarray(x @ kernel)) + np.log(K - 1),
    )
    # In float64: x' = x - eta sign(grad CE(z / T, argmax)), then the probability.
    p = softmax(z / 1000, axis=1)
    slope = (p - np.eye(K)[z.argmax(1)]) @ kernel.T
    moved = (x - 0.01 * np.where(slope >= 0, 1, -1)) @ kernel.astype(np.float64)
    got = jax.jit(odin(logits_fn, magnitude=0.01))(x)
    close(got, tempered(moved, 1000), rtol=1e-3, atol=1e-4)
    assert (got >= plain - 1e-6).all()
    published = softmax(moved / 1000, axis=1).max(1)
    assert stats.spearmanr(got, published).statistic > 0.99999


def test_nudging_treats_its_step_as_a_constant():
    score = lambda x: -jnp.square(x - 1).sum(axis=1)
    x = jnp.asarray([[0.2, 3.0, 1.0]])
    moved = preprocessed(score, 0.1)
    close(moved(x), -(0.7**2 + 1.9**2 + 0.1**2))  # at no slope the step goes down
    close(jax.grad(lambda v: moved(v).sum())(x), [[1.4, -3.8, 0.2]])


def test_blends_are_logistic_regressions():
    a, b = RNG.normal(size=(60, 3)) * [1, 50, 1e-3] + [0, 40, 0], RNG.normal(size=(40, 3)) * [2, 50, 1e-3]
    both = np.concatenate([a, b])
    scaled = (both - both.mean(0)) / both.std(0)
    fit = LogisticRegression(C=0.5, tol=1e-10, max_iter=2000).fit(scaled, np.repeat([1, 0], [60, 40]))
    form = blend(a, b, strength=0.5)
    close(form(jnp.asarray(both, jnp.float32)), fit.decision_function(scaled), rtol=1e-3, atol=1e-4)


def test_blends_of_separable_or_constant_scores_stay_finite():
    form = blend(np.array([[1e6, 3.0], [2e6, 3.0]]), np.array([[-1e6, 3.0]]), strength=1e4)
    value = form(jnp.asarray([[1e6, 3.0], [-1e6, 3.0]]))
    assert np.isfinite(value).all() and value[0] > 5 > -5 > value[1] and form.weights[1] == 0
    with pytest.raises(ValueError, match="must be finite"):
        blend(np.array([[np.nan]]), np.array([[1.0]]))


@pytest.mark.slow
def test_fitted_forms_are_arguments_of_compiled_functions():
    """They are pytrees, so that a bank of features is no constant of a program."""
    kernel, bias = np.ones((6, 2)), np.zeros(2)
    forms = (
        gaussian_scores.relative_mahalanobis(FEATURES, LABEL),
        feature_scores.knn(FEATURES, neighbours=2),
        feature_scores.vim(FEATURES, kernel, bias),
    )
    h = jnp.asarray(QUERIES, jnp.float32)
    run = jax.jit(lambda fitted, h: [form(h) for form in fitted])
    for got, form in zip(run(forms, h), forms):
        close(got, form(h), rtol=1e-4, atol=1e-4)


def test_scores_of_a_network_run_under_every_transformation(variant):
    model = small.mlp(classes=K, widths=(7,), shape=(3, 3, 1))
    params, state = model.init(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (4, 3, 3, 1))
    features_fn = scores.tap(model, params, state, "stage0")
    form = gaussian_scores.mahalanobis(RNG.normal(size=(40, 7)), np.arange(40) % 2)
    score = preprocessed(scores.scored(features_fn, form), 0.01)
    close(variant(score)(x), jax.jit(score)(x), rtol=1e-4)
