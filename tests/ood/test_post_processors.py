"""Post-processors against their formulas in NumPy, hand arithmetic and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import log_softmax, logsumexp, softmax

from robustjax.ood import (
    adascale,
    feature_scores,
    gram,
    guided_scores,
    head_scores,
    post_processors,
    prototype_scores,
    rankfeat,
    shaping,
)
from robustjax.ood.detectors import Detector, FitInputs, ScoreInputs
from robustjax.ood.dropout import dropout
from robustjax.ood.kl_matching import kl_matching
from robustjax.ood.logit_scores import msp_margin
from robustjax.ood.openmax import SHIFT, openmax, weibull
from robustjax.ood.ross import ross
from robustjax.ood.temperature import temperature_scaling

RNG = np.random.default_rng(0)
D, K, N = 6, 3, 60
FEATURES = np.abs(RNG.normal(size=(N, D)))
LABEL = np.arange(N) % K
KERNEL, BIAS = RNG.normal(size=(D, K)), RNG.normal(size=K)
LOGITS = FEATURES @ KERNEL + BIAS
NEW = np.abs(RNG.normal(size=(7, D))) * 2
Z = NEW @ KERNEL + BIAS
P = softmax(Z, axis=1)


def close(got, want, rtol=1e-4, atol=1e-5):
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=rtol, atol=atol)


def at(form, x=NEW):
    return jax.jit(form)(jnp.asarray(x, jnp.float32))


def unit(v):
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def test_temperature_has_the_least_cross_entropy():
    def risk(t):
        return -log_softmax(LOGITS / t, axis=1)[np.arange(N), LABEL].mean()

    # Labels drawn from the predictions at temperature 2.5, as well as can be with 60 of them.
    form = temperature_scaling(LOGITS, LABEL)
    best = optimize.minimize_scalar(risk, bounds=(0.05, 100), method="bounded", options={"xatol": 1e-9}).x
    assert form.temperature == pytest.approx(best, rel=1e-3)
    close(at(form, Z), msp_margin(jnp.asarray(Z / best, jnp.float32)), rtol=1e-3)
    # Two images of the logits (g, 0), one of them right: p = 1 / 2 at best, at the largest temperature.
    assert temperature_scaling(np.array([[3.0, 0], [3, 0]]), np.array([0, 1])).temperature == pytest.approx(
        100
    )
    # Three of four are right: p = 3 / 4 = 1 / (1 + exp(-3 / T)).
    four = temperature_scaling(np.array([[3.0, 0]] * 4), np.array([0, 0, 0, 1]))
    assert four.temperature == pytest.approx(3 / np.log(3), rel=1e-5)
    assert temperature_scaling(np.array([[3.0, 0]]), np.array([0])).temperature == pytest.approx(0.01)


def test_kl_matching_is_its_definition():
    p = softmax(LOGITS, axis=1)
    guess = p.argmax(axis=1)
    typical = [p[guess == c].mean(axis=0) for c in np.unique(guess)]
    want = -np.min([stats.entropy(P, np.broadcast_to(d, P.shape), axis=1) for d in typical], axis=0)
    close(at(kl_matching(LOGITS), Z), want)
    # One image for each class: the divergence of its own prediction is 0, and of no other smaller.
    own = kl_matching(np.array([[4.0, 0], [0, 4]]))
    close(at(own, np.array([[4.0, 0], [0, 4]])), 0.0)
    slope = jax.grad(lambda z: own(z).sum())(jnp.asarray([[2e3, 0.0], [0.0, 0.0]]))
    assert np.isfinite(slope).all()


def test_a_weibull_tail_is_that_of_the_largest_likelihood():
    excess = np.sort(RNG.gamma(2.0, size=20))
    c, log_scale = weibull(excess - excess[0])
    x = SHIFT + excess - excess[0]

    def unlikely(c, s):  # of log x, a smallest extreme value distribution of location log s and scale 1 / c
        return -stats.gumbel_l.logpdf(np.log(x), loc=s, scale=1 / c).sum()

    best = unlikely(c, np.log(SHIFT) + log_scale)
    for dc, ds in ((1.02, 0), (0.98, 0), (1, 1e-5), (1, -1e-5), (1.01, 1e-5), (0.99, -1e-5)):
        assert unlikely(c * dc, np.log(SHIFT) + log_scale + ds) > best


def test_openmax_is_its_definition():
    z = LOGITS + 6 * np.eye(K)[LABEL]
    form = openmax(z, LABEL, tail=8, alpha=2)
    means = np.stack([z[(c == LABEL) & (z.argmax(1) == c)].mean(axis=0) for c in range(K)])
    new, want = RNG.normal(size=(9, K)) * 6, []
    for row in new:
        lowered, unknown = row.copy(), 0.0
        for rank, c in enumerate(np.argsort(-row)[:2]):
            away = np.sort(np.linalg.norm(z[(c == LABEL) & (z.argmax(1) == c)] - means[c], axis=1))[-8:]
            shape, log_scale = weibull(away - away[0])
            moved = SHIFT + np.linalg.norm(row - means[c]) - away[0]
            cdf = stats.weibull_min.cdf(moved, shape, scale=SHIFT * np.exp(log_scale))
            lost = row[c] * cdf * (1 - rank / 2)
            lowered[c] -= lost
            unknown += lost
        want.append(logsumexp(lowered) - unknown)
    close(at(form, new), want, rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError, match="class 2 has no training image"):
        openmax(z, np.where(LABEL == 2, 1, LABEL))
    with pytest.raises(ValueError, match="have one distance"):
        openmax(np.eye(3)[LABEL], LABEL)


def test_residual_is_the_norm_that_vim_subtracts():
    form = feature_scores.residual(FEATURES, KERNEL, BIAS, principal=2)
    whole = feature_scores.vim(FEATURES, KERNEL, BIAS, principal=2)
    close(at(whole), logsumexp(Z, axis=1) + whole.scale * np.asarray(at(form)))


def test_fdbd_nci_and_gradnorm_are_their_definitions():
    first, mean = Z.argmax(1), FEATURES.mean(axis=0)
    gaps = np.array(
        [
            np.mean([(z[y] - z[c]) / np.linalg.norm(KERNEL[:, y] - KERNEL[:, c]) for c in range(K) if c != y])
            for z, y in zip(Z, first)
        ]
    )
    close(at(head_scores.fdbd(FEATURES, KERNEL, BIAS)), gaps / np.linalg.norm(NEW - mean, axis=1))
    plain = head_scores.fdbd(FEATURES, KERNEL, BIAS, centred=False)
    close(at(plain), gaps / np.linalg.norm(NEW, axis=1))
    # In two classes z = (h, -h): the boundary is at 0, at the distance h.
    line = head_scores.fdbd(np.array([[1.0], [3.0]]), np.array([[1.0, -1.0]]), np.zeros(2))
    close(at(line, [[5.0], [-1.0], [2.0]])[:2], [5 / 3, 1 / 3])

    along = (KERNEL.T[first] * (NEW - mean)).sum(1) / np.linalg.norm(NEW - mean, axis=1)
    close(at(head_scores.nci(FEATURES, KERNEL, BIAS, alpha=0.3)), along + 0.3 * np.abs(NEW).sum(1))

    def loss(kernel, h):
        return -jax.nn.log_softmax(h @ kernel + jnp.asarray(BIAS, jnp.float32)).mean()

    slopes = jax.vmap(jax.grad(loss), (None, 0))(
        jnp.asarray(KERNEL, jnp.float32), jnp.asarray(NEW, jnp.float32)
    )
    close(at(head_scores.gradnorm(KERNEL, BIAS)), np.abs(slopes).sum(axis=(1, 2)))


def test_dice_keeps_the_weights_that_contribute():
    share = FEATURES.mean(axis=0)[:, None] * KERNEL
    kept = head_scores.dice(FEATURES, KERNEL, BIAS, percentile=50)
    close(kept, np.where(share > np.median(share), KERNEL, 0))
    assert (np.asarray(kept) != 0).sum() == D * K // 2
    one = head_scores.dice(np.ones((2, 2)), np.array([[1.0, 2], [3, 4]]), np.zeros(2), percentile=90)
    close(one, [[0, 0], [0, 4]])


def test_patterns_and_prototypes():
    kernel, features = np.eye(D)[:, :K], FEATURES + np.eye(D)[LABEL]
    right = (features @ kernel).argmax(1) == LABEL
    assert 0.3 < right.mean() < 0.95
    patterns = np.stack([features[right & (c == LABEL)].mean(axis=0) for c in range(K)])
    form = prototype_scores.she(features, LABEL, kernel, np.zeros(K))
    close(at(form), (NEW * patterns[NEW[:, :K].argmax(1)]).sum(1))
    # No image of class 1 is right: its pattern is the mean of all its images.
    wrong = prototype_scores.she(
        np.array([[1.0], [3], [5]]), np.array([0, 1, 1]), np.array([[1.0, -1]]), np.zeros(2)
    )
    close(wrong.patterns, [[1.0], [4.0]])
    means = np.stack([unit(FEATURES)[c == LABEL].mean(axis=0) for c in range(K)])
    close(at(prototype_scores.prototypes(FEATURES, LABEL)), (unit(NEW) @ unit(means).T).max(1))
    assert at(prototype_scores.prototypes(FEATURES, LABEL), np.zeros((1, D))) == 0


def test_neighbours_guide():
    energy = logsumexp(LOGITS, axis=1)
    guidance = np.sort(unit(NEW) @ (unit(FEATURES) * energy[:, None]).T, axis=1)[:, -4:].mean(1)
    form = guided_scores.nnguide(FEATURES, KERNEL, BIAS, neighbours=4)
    close(at(form), guidance * logsumexp(Z, axis=1))
    relation = np.maximum(unit(NEW) @ unit(FEATURES).T, 0) * (P @ softmax(LOGITS, axis=1).T)
    for power in (1, 2):
        form = guided_scores.relation(FEATURES, KERNEL, BIAS, power=power, cut=0.2)
        close(at(form), (np.where(relation > 0.2, relation, 0) ** power).sum(1))
    assert not np.asarray(at(guided_scores.relation(FEATURES, KERNEL, BIAS, cut=2.0))).any()


def test_two_sides_are_clipped_and_features_divided():
    close(shaping.vra(1.0, 3.0)(jnp.asarray([[0.5, 2, 4]])), [[1, 2, 3]])
    assert shaping.vra_limits(np.arange(11.0)[:, None], low=10, high=90) == (1.0, 9.0)
    close(shaping.divided(0.1)(jnp.ones((1, 2))), 10.0)
    with pytest.raises(ValueError, match="low is 95"):
        shaping.vra_limits(FEATURES, low=95)


@pytest.mark.slow
def test_the_first_singular_part_goes():
    maps = RNG.normal(size=(4, 5, 3)) + 1
    u, s, v = np.linalg.svd(maps, full_matrices=False)
    want = maps - s[:, :1, None] * u[:, :, :1] * v[:, :1]
    close(at(rankfeat.without_first, maps), want, atol=2e-4)
    close(at(rankfeat.without_first, maps.swapaxes(1, 2)), want.swapaxes(1, 2), atol=2e-4)
    form = rankfeat.rankfeat(jnp.asarray(KERNEL[:3], jnp.float32), jnp.asarray(BIAS, jnp.float32))
    close(at(form, maps.reshape(4, 5, 1, 3)), logsumexp(want.mean(1) @ KERNEL[:3] + BIAS, axis=1), atol=1e-3)
    # Two equal singular values are halved, and a map of zeros stays one; slopes are finite at both.
    equal = jnp.asarray([np.eye(3), np.zeros((3, 3))], jnp.float32)
    close(rankfeat.without_first(equal)[0], np.eye(3) * 2 / 3)
    assert np.isfinite(jax.grad(lambda m: jnp.square(rankfeat.without_first(m)).sum())(equal)).all()
    with pytest.raises(ValueError, match="must be feature maps"):
        at(form, NEW)


def row_sums(maps, p):
    """Of the definition: F^p of (c, positions), its Gram matrix, the sum of each row, the root."""
    f = maps.reshape(maps.shape[0], -1, maps.shape[-1]).swapaxes(1, 2) ** p
    total = (f @ f.swapaxes(1, 2)).sum(axis=2)
    return np.sign(total) * np.abs(total) ** (1 / p)


@pytest.mark.slow
def test_gram_statistics_are_their_definition():
    maps = RNG.normal(size=(3, 2, 2, 4)) * 100
    found = gram.statistics({"a": jnp.asarray(maps, jnp.float32)}, (1, 2, 3))["a"]
    close(found, np.concatenate([row_sums(maps, p) for p in (1, 2, 3)], axis=1), rtol=1e-3, atol=1e-2)
    dead = jnp.zeros((1, 2, 2, 4))
    slope = jax.grad(lambda m: gram.statistics({"a": m})["a"].sum())(dead)
    assert np.isfinite(slope).all()


def test_gram_counts_what_leaves_the_range():
    """Two classes with the ranges [1, 3] and [10, 20]; the held-out image of class 0 leaves its by 1 / 3 of 3."""
    found = {"a": np.array([[1.0], [3.0], [10.0], [20.0]])}
    form = gram.gram(found, np.array([0, 0, 1, 1]), {"a": np.array([[4.0], [15.0]])}, np.array([0, 1]))
    close(form.expected["a"], 1 / 6)
    value = form({"a": jnp.asarray([[2.0], [6.0], [5.0], [0.5]])}, jnp.asarray([0, 0, 1, 0]))
    close(value, [0, -6, -3, -3], atol=1e-4)  # over 1 / 6: 0, (6 - 3) / 3, (10 - 5) / 10, (1 - 0.5) / 1
    middle = form.centred({"a": jnp.asarray([[2.0], [2.5]])}, jnp.asarray([0, 0]))
    close(middle, [0, -0.25])
    with pytest.raises(ValueError, match="class 1 has no training image"):
        gram.gram(found, np.array([0, 0, 2, 2]), found, np.zeros(4, int))


def test_dropout_averages_thinned_predictions():
    form = dropout(KERNEL, BIAS, share=0.4, samples=3, seed=5)
    masks = (np.random.default_rng(5).random((3, D)) >= 0.4) / 0.6
    mean = np.mean([softmax((NEW * m) @ KERNEL + BIAS, axis=1) for m in masks], axis=0)
    close(at(form), np.log(mean.max(1)) - np.log(np.sort(mean)[:, :-1].sum(1)))
    whole = dropout(KERNEL, BIAS, share=0.0)
    close(at(whole), msp_margin(jnp.asarray(Z, jnp.float32)))


@pytest.mark.slow
def test_adascale_follows_its_statistic():
    assert adascale.percentile_of(jnp.asarray([0.0, 2.0, 9.0]), jnp.asarray([1.0, 2, 3, 4]), 60.0, 80.0).tolist() == [
        80.0, 70.0, 60.0
    ]  # fmt: skip
    h = jnp.asarray([[1.0, 4, 3, 2, -5]] * 2)
    # Of 5 features those above the 60th percentile are 2: 10 / 7; above the 20th 4: 10 / 10.
    close(adascale.gain(h, jnp.asarray([60.0, 20.0])), [10 / 7, 1.0])
    # A linear network: the slope of the largest logit is that column, the two smallest of ten entries move.
    weight = np.array([3.0, -0.1, 2, 5, 4, 0.2, -6, 7, 8, 9])
    kernel = jnp.asarray(np.stack([weight, -weight], axis=1), jnp.float32)
    features = lambda x: x.reshape(len(x), -1)
    statistic = adascale.shift_statistic(
        features, kernel, jnp.zeros(2), first=20, second=10, weight=10, pixels=0.2, magnitude=0.5
    )
    x = jnp.asarray(np.r_[0.1, 0.9, 0.3, 0.2, 0.2, 0.8, 0.1, 0.1, 0.1, 0.1].reshape(1, 10, 1, 1), jnp.float32)
    # Entries 1 and 5, the two largest features, move to 0.4 and 1.3: their sum, and 10 times the movement of the first.
    close(statistic(x), 0.4 + 1.3 + 10 * 0.5)


WRONG = {
    "temperature is 0": lambda: post_processors.rank_feat(temperature=0),
    "percentile is 100": lambda: head_scores.dice(FEATURES, KERNEL, BIAS, percentile=100),
    "neighbours is 61": lambda: guided_scores.nnguide(FEATURES, KERNEL, BIAS, neighbours=61),
    "power is 0": lambda: guided_scores.relation(FEATURES, KERNEL, BIAS, power=0),
    "alpha is -1": lambda: head_scores.nci(FEATURES, KERNEL, BIAS, alpha=-1),
    "share is 1": lambda: dropout(KERNEL, BIAS, share=1),
    "tau is 0": lambda: shaping.divided(0),
    "tail is 1": lambda: openmax(LOGITS, LABEL, tail=1),
    "kernel .4, 3. and bias": lambda: head_scores.fdbd(FEATURES, KERNEL[:4], BIAS),
    "at least 2 classes": lambda: head_scores.gradnorm(KERNEL[:, :1], BIAS[:1]),
    "features are .60,.": lambda: prototype_scores.prototypes(FEATURES[:, 0], LABEL),
    "the larger percentile is 60": lambda: post_processors.ada_scale("logits", percentiles=(70, 60)),
    "powers is empty": lambda: post_processors.gram_matrices(powers=()),
    "largest label is 2": lambda: temperature_scaling(LOGITS[:, :2], LABEL),
    "logits are": lambda: kl_matching(LOGITS[0]),
}


@pytest.mark.parametrize("says", WRONG)
def test_wrong_settings_and_shapes_are_refused_in_one_line(says):
    with pytest.raises(ValueError, match=says) as caught:
        WRONG[says]()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_ross_is_its_definition():
    """Of the score sum(x) - |x - 1/2|: copies by hand, and the cut of the validation images."""
    score = lambda x: x.sum(axis=(1, 2, 3)) - 5 * jnp.abs(x - 0.5).sum(axis=(1, 2, 3))
    base = Detector(lambda inputs: score)
    x = jnp.asarray(RNG.uniform(size=(40, 2, 1, 1)), jnp.float32)

    def measure(part, build, fitted=()):
        return np.asarray(build(ScoreInputs(score, 2, fitted=fitted))(x))

    one = ross(base, sigma=0.2, samples=5, weight=0.3, seed=4)
    fitted = one.fit(FitInputs({}, np.zeros(0), {}, {}, measure=measure))
    noise = np.random.default_rng(4).normal(size=(5, 2, 1, 1)).astype(np.float32) * 0.2
    copies = np.stack([np.asarray(score(x + n)) for n in noise])
    median = np.median(copies, axis=0)
    away = np.abs(copies - median).mean(axis=0)
    cut = np.quantile(median, 0.05)
    want = np.minimum(median, cut) + np.maximum(median - cut, 0) * (1 + 0.3 / away)
    built = one.build(ScoreInputs(score, 2, fitted=fitted))
    close(at(built, x), want, rtol=1e-3)
    assert np.isfinite(jax.grad(lambda z: built(z).sum())(x)).all()
