"""Refitting the last layer: the solver against scikit-learn, and a network that weighs its features wrongly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from sklearn.linear_model import LogisticRegression

from robustjax import logistic_regression
from robustjax.analysis import groups, last_layer
from robustjax.models import small

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 6)).astype(np.float32)
Y = (X @ RNG.normal(size=(6, 3)) + RNG.normal(size=(90, 3))).argmax(axis=1).astype(np.int32)


WEIGHT = (RNG.uniform(size=90) < 0.7).astype(np.float32) * 1.5


@pytest.mark.parametrize("strength", [0.05, 1.0])
def test_l2_is_scikit_learns_optimum(strength):
    ours = logistic_regression.logistic(
        jnp.asarray(X),
        jnp.asarray(Y),
        penalty=logistic_regression.l2,
        classes=3,
        strength=strength,
        weight=jnp.asarray(WEIGHT),
    )
    theirs = LogisticRegression(C=strength, tol=1e-8, max_iter=1000).fit(X, Y, sample_weight=WEIGHT)
    np.testing.assert_allclose(ours.weight.T, theirs.coef_, atol=5e-4)
    shift = np.asarray(ours.bias) - theirs.intercept_  # any constant is as good
    np.testing.assert_allclose(shift - shift.mean(), 0, atol=5e-4)


@pytest.mark.parametrize("strength", [0.05, 1.0])
def test_l1_meets_its_optimality_conditions(strength):
    """The problem is convex, so a point that meets them in float64 is the minimum."""
    ours = logistic_regression.logistic(
        jnp.asarray(X),
        jnp.asarray(Y),
        penalty=logistic_regression.l1,
        classes=3,
        strength=strength,
        weight=jnp.asarray(WEIGHT),
    )
    w, b = (np.asarray(a, np.float64) for a in (ours.weight, ours.bias))
    error = strength * WEIGHT[:, None] * (scipy.special.softmax(X @ w + b, axis=1) - np.eye(3)[Y])
    np.testing.assert_allclose(error.sum(axis=0), 0, atol=1e-3)
    slope = X.T @ error
    np.testing.assert_allclose(slope[w != 0], -np.sign(w[w != 0]), atol=1e-3)
    assert (np.abs(slope[w == 0]) <= 1 + 1e-3).all() and ((w == 0).any() or strength == 1)


def test_scaling_is_undone():
    features = jnp.asarray(X * np.arange(6) + 3)  # the first never changes
    scale = logistic_regression.scaling(features)
    np.testing.assert_allclose(scale(features)[:, 1:].std(axis=0), 1, rtol=1e-5)
    layer = logistic_regression.Linear(
        jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32), jnp.asarray([1.0, 2.0, 3.0])
    )
    np.testing.assert_allclose(scale.undone(layer)(features), layer(scale(features)), atol=1e-4)


def spurious(n, rng, aligned):
    """A weak core feature and a strong spurious one."""
    label = rng.integers(0, 2, n)
    place = np.where(rng.uniform(size=n) < aligned, label, 1 - label)
    noise = rng.normal(size=(n, 4)) * [0.5, 0.2, 1.0, 1.0]
    noise[:, 0] += 2 * label - 1
    noise[:, 1] += 2 * place - 1
    return noise.astype(np.float32), label, 2 * label + place


@pytest.mark.slow
def test_reweighting_recovers_the_worst_group():
    rng = np.random.default_rng(1)
    train, y, _ = spurious(2000, rng, 0.99)
    erm = LogisticRegression(C=1.0).fit(train, y)
    held, label, group = spurious(400, rng, 0.8)
    test, truth, where = spurious(2000, rng, 0.5)
    found = last_layer.dfr(train, held, label, group, classes=2, refits=5, strengths=(1.0, 0.1))
    before = groups.worst_group(erm.predict(test) == truth, where)
    after = groups.worst_group(np.asarray(found.layer(jnp.asarray(test)).argmax(-1)) == truth, where)
    assert before < 0.75 and after > 0.93
    assert found.strength in (1.0, 0.1) and set(found.tuned) == {1.0, 0.1}
    size = np.abs(found.layer.weight * train.std(axis=0)[:, None]).sum(axis=1)
    assert size[0] > 3 * size[1:].max()


def test_a_network_reads_its_new_layer():
    model = small.mlp(classes=2, shape=(2, 2, 1), widths=(5, 3))
    params, state = model.init(jax.random.key(0))
    layer = logistic_regression.Linear(params["head"]["kernel"] * 2, params["head"]["bias"] * 2)
    x = jnp.asarray(RNG.uniform(size=(4, 2, 2, 1)), jnp.float32)
    logits_fn = last_layer.retrained(model, params, state, layer)
    np.testing.assert_allclose(logits_fn(x), 2 * model.apply(params, state, x)[0], rtol=1e-5)


def test_refused():
    group = np.arange(90) % 4
    with pytest.raises(ValueError, match="the smallest group has 2 examples, must be at least 4"):
        last_layer.dfr(X, X[:10], Y[:10], group[:10], classes=3)
    with pytest.raises(ValueError, match="refits 0, must be at least one"):
        last_layer.dfr(X, X, Y, group, classes=3, refits=0)


@pytest.mark.parametrize("label", [[0, 1, 2], [-1, 0, 1], [0.0, 0.5, 1.0], [0, 1]])
def test_labels_are_those_of_the_classes(label):
    """Classes that there are not would be rows of zeros, and the regression something else."""
    fit = lambda y: logistic_regression.logistic(
        jnp.eye(3), jnp.asarray(y), penalty=logistic_regression.l2, classes=2
    )
    fit([0, 1, 1])
    with pytest.raises(ValueError, match=r"logistic: .*label"):
        fit(label)
    group, features = np.tile([0, 1], 6), np.eye(12)
    with pytest.raises(ValueError, match=r"dfr: .*label"):
        last_layer.dfr(features, features, np.resize(label, 12 if len(label) > 2 else 11), group, classes=2)
