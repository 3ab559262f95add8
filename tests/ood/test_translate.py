"""SSD, gates, the translated classifier and the controls of the detection claim, against numpy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.metrics import average_precision_score

from robustjax import logit
from robustjax.ood import conformal, controls, gates, metrics, translate
from robustjax.ood.gates import Gate
from robustjax.ood.ssd import Unsquared, clustered, few_shot, ssd
from robustjax.ood.translate import Defence

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
MIX = RNG.normal(size=(6, 6))
TRAIN = RNG.normal(size=(300, 6)) @ MIX + 2.0
TEST = RNG.normal(size=(40, 6)) @ MIX + 1.0


def unit(h):
    return h / (np.linalg.norm(h, axis=1, keepdims=True) + 1e-10)


def standardised(h):
    return (unit(h) - unit(TRAIN).mean(0)) / (unit(TRAIN).std(0) + 1e-10)


def by_hand(train, test, inverse=np.linalg.pinv):
    away = test - train.mean(0)
    return np.einsum("bi,ij,bj->b", away, inverse(np.cov(train.T, bias=True)), away)


# --- SSD ----------------------------------------------------------------------------------------------


def test_ssd_is_the_published_formula_in_float64_and_knows_no_scale():
    form = ssd(TRAIN)
    want = by_hand(standardised(TRAIN), standardised(TEST))
    np.testing.assert_allclose(-form(jnp.asarray(TEST, jnp.float32)), want, rtol=1e-4)
    np.testing.assert_allclose(-form(jnp.asarray(7 * TEST, jnp.float32)), want, rtol=1e-4)
    np.testing.assert_allclose(Unsquared(form)(jnp.asarray(TEST, jnp.float32)), -np.sqrt(want), rtol=1e-4)


def test_ssd_takes_the_nearest_cluster_and_the_few_known_outliers():
    label = np.arange(300) % 2
    shifted = TRAIN + label[:, None]
    h, t = ((unit(a) - unit(shifted).mean(0)) / (unit(shifted).std(0) + 1e-10) for a in (shifted, TEST))
    parts = [by_hand(h[label == k], t) for k in (0, 1)]
    form = ssd(shifted, label)
    np.testing.assert_allclose(-form(jnp.asarray(TEST, jnp.float32)), np.minimum(*parts), rtol=2e-4)

    few = RNG.normal(size=(20, 6)) - 1.0

    def shrunk(_, rows):
        return np.linalg.inv(LedoitWolf(assume_centered=True).fit(rows - rows.mean(0)).covariance_)

    data, out = (
        by_hand(standardised(rows), standardised(TEST), lambda c, rows=rows: shrunk(c, standardised(rows)))
        for rows in (TRAIN, few)
    )
    found = few_shot(TRAIN, few)(jnp.asarray(TEST, jnp.float32))
    np.testing.assert_allclose(found, out - data, rtol=1e-3, atol=1e-3)


def test_ssd_refuses_too_few_examples_without_a_way_to_invert():
    with pytest.raises(ValueError, match="59 examples of 6 features in a cluster, must be at least 60"):
        ssd(TRAIN[:59])
    flat = np.concatenate([TRAIN, TRAIN[:, :1]], axis=1)[:30]  # rank 6 of 7
    for covariance in ("truncated", "ledoit-wolf"):
        assert np.isfinite(ssd(flat, covariance=covariance)(jnp.asarray(flat, jnp.float32))).all()
    with pytest.raises(ValueError, match="covariance is 'best'"):
        ssd(TRAIN, covariance="best")  # pyright: ignore


@pytest.mark.slow
def test_slopes_are_finite_at_the_mean_and_at_features_of_zero():
    form = ssd(TRAIN)
    mean = jnp.asarray(unit(TRAIN).mean(0)[None], jnp.float32)
    for score in (form, Unsquared(form), few_shot(TRAIN, TEST)):
        for x in (mean, jnp.zeros_like(mean)):
            assert jnp.isfinite(jax.grad(lambda h, score=score: score(h).sum())(x)).all()


def test_kmeans_finds_blobs():
    blobs = np.concatenate([RNG.normal(size=(20, 3)) * 0.02 + c for c in np.eye(3)])
    found = clustered(blobs, 3, seed=1).reshape(3, 20)
    assert (found == found[:, :1]).all() and len(set(found[:, 0])) == 3


# --- gates --------------------------------------------------------------------------------------------


def test_the_conformal_threshold_is_the_published_rank():
    s = RNG.normal(size=99)
    for alpha in (0.05, 0.1, 0.33):
        k = int(np.ceil((len(s) + 1) * (1 - alpha)))
        assert conformal.threshold(-s, miss=alpha) == -np.sort(s)[k - 1]
    none = metrics.threshold_keeping(-s, 1.0)
    gate = gates.gated(lambda x: x, none)
    assert not gate(jnp.asarray(-s, jnp.float32)[:0]).any() and none == (-s).min()


def test_gates_decide_per_input_and_the_batch_rule_does_not():
    x = jnp.asarray([0.0, 1.0, 2.0, jnp.nan])
    gate = gates.gated(lambda v: v, 1.0, calibration=[0.0, 4.0])
    assert gate(x).tolist() == [True, False, False, True]
    np.testing.assert_allclose(gate.gap(x)[:3], [0.5, 0.0, -0.5])
    assert gates.together(gate)(x[:3]).tolist() == [False] * 3
    assert gates.together(gate)(x[:1]).tolist() == [True]  # the same input, other mates, another decision
    assert gates.gated(lambda v: v, -4.0).scale == 4.0
    window = gates.window_threshold(KEY, np.arange(20.0), window=20)
    assert window == 1.0


def test_rejecting_counts_what_is_accepted():
    found = gates.with_reject([1, 1, 0, 0], [0, 1, 0, 1])
    assert found == {
        "accepted_accuracy": 0.5, "rejection_rate": 0.5, "right_and_accepted": 0.25, "wrong_and_accepted": 0.25,
    }  # fmt: skip
    assert np.isnan(gates.with_reject([1], [1])["accepted_accuracy"])


# --- the pipeline -------------------------------------------------------------------------------------

W = jnp.asarray(RNG.normal(size=(16, 5)), jnp.float32)
X = jnp.asarray(RNG.uniform(size=(24, 4, 4, 1)), jnp.float32)
Y = (X.reshape(24, -1) @ W).argmax(axis=1).astype(jnp.int32)


def f(x):
    return x.reshape(x.shape[0], -1) @ W


def halved(keys, x):
    return 0.5 * x + 0.6


def mean(x):
    return x.mean(axis=(1, 2, 3))


DEFENCE = Defence(f, halved, gates.gated(mean, float(np.quantile(mean(X), 0.4))))


@pytest.mark.slow
def test_the_formula_and_both_paths():
    routed, keys = np.asarray(mean(X) < DEFENCE.gate.threshold), KEY
    assert 0 < routed.sum() < 24
    want = np.where(routed[:, None], f(jnp.clip(halved(None, X), 0, 1)), f(X))
    one = jax.jit(translate.defended(DEFENCE))(keys, X)
    np.testing.assert_allclose(one.logits, want, atol=1e-5)
    assert (one.routed == routed).all()
    host, chosen = translate.gathered(DEFENCE)(keys, X)
    assert (host.argmax(1) == one.logits.argmax(1)).all() and (chosen == routed).all()
    np.testing.assert_allclose(host, one.logits, atol=1e-5)
    # What is not routed is f to the bit.
    assert (host[~routed] == np.asarray(jax.jit(f)(X))[~routed]).all()
    # A batch of one is a batch of many.
    singles = np.concatenate([translate.gathered(DEFENCE)(keys, X[i : i + 1])[0] for i in range(4)])
    np.testing.assert_allclose(singles, host[:4], atol=1e-5)


def test_benign_accuracy_moves_by_no_more_than_the_false_alarms():
    for rate in (0.0, 0.1, 0.5, 1.0):
        gate = Gate(mean, jnp.float32(np.quantile(mean(X), rate)))
        out = translate.defended(Defence(f, halved, gate))(KEY, X)
        rights = [float(logit.correct(z, Y).mean()) for z in (out.logits, out.plain)]
        assert abs(rights[0] - rights[1]) <= float(out.routed.mean()) + 1e-7


def test_the_route_table_adds_up():
    out = translate.defended(DEFENCE)(KEY, X)
    table = translate.route_table(Y, out.plain, out.through, out.routed)
    r = table["routed"]
    whole = (1 - r) * table["accuracy_plain_route"] + r * table["accuracy_translated_route"]
    np.testing.assert_allclose(table["accuracy"], whole)
    assert table["accuracy_plain"] == 1.0 and table["n"] == 24
    np.testing.assert_allclose(table["accuracy"], np.mean(out.logits.argmax(1) == Y))
    assert np.isnan(translate.route_table(Y, out.plain, out.through, Y >= 0)["accuracy_plain_route"])
    with pytest.raises(ValueError, match="must lead with one n"):
        translate.route_table(Y[:3], out.plain, out.through, out.routed)


def test_random_translators_can_be_asked_again():
    def noisy(keys, x):
        return x + jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys)

    defence = Defence(f, noisy, Gate(gates.always, jnp.float32(0.0)))
    drawn = translate.predictions(translate.defended(defence), KEY, X, draws=9)
    wrong = np.asarray(drawn) != np.asarray(Y)
    assert drawn.shape == (9, 24) and 0 < wrong.mean() < 1
    assert (np.asarray(translate.any_wrong(drawn, Y)) == wrong.any(axis=0)).all()
    votes = [np.bincount(column, minlength=5).argmax() for column in np.asarray(drawn).T]
    assert translate.majority(drawn, 5).tolist() == votes


# --- controls -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_noise_of_the_same_size():
    x = jnp.full((8, 6, 6, 1), 0.5)
    signs = controls.sign_noise(KEY, x, 0.2)
    np.testing.assert_allclose(np.abs(signs - x), 0.2, atol=1e-6)
    assert float(jnp.abs(controls.uniform_noise(KEY, x, 0.2) - x).max()) <= 0.2 + 1e-6
    far = controls.as_far(KEY, x, x + 0.05)
    np.testing.assert_allclose(jnp.sqrt(jnp.square(far - x).sum((1, 2, 3))), 0.3, rtol=1e-4)
    assert controls.rounded(jnp.asarray([0.0, 0.5, 1.0])).tolist() == [0.0, np.float32(128 / 255), 1.0]


def test_detection_on_six_numbers():
    """Pairs (ID, OOD): 8 of 9 in order, so AUROC is 8/9; one of three OOD scores is above the 5 % quantile."""
    inside, outside = [0.9, 0.7, 0.4], [0.5, 0.2, 0.1]
    found = controls.detection(inside, outside, [0.3, 0.6, 0.8, 1.0], rates=(0.0, 0.25))
    assert found["auroc"] == 8 / 9
    assert found["fpr95"] == 1 / 3
    label = [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(
        found["aupr_out"], average_precision_score(label, -np.asarray(inside + outside))
    )
    assert found["detected at 0"] == pytest.approx(2 / 3) and found["false alarms at 0"] == 0
    assert found["detected at 0.25"] == 1 and found["false alarms at 0.25"] == pytest.approx(1 / 3)


def test_the_table_of_mistakes_and_flags():
    found = controls.two_by_two([1, 1, 0, 0, 0], [1, 0, 1, 0, 0])
    assert found["wrong if OOD"] == 0.5 and found["wrong if ID"] == pytest.approx(1 / 3)
    assert np.isnan(controls.two_by_two([1], [1])["wrong if ID"])
