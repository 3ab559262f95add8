"""Metrics of detectors: the verified table, scikit-learn, brute force, and closed forms of normal scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from robustjax.analysis.intervals import bootstrap
from robustjax.ood import compat, conformal, metrics, protocols

TIED = st.lists(st.integers(-4, 4), min_size=1, max_size=30)
BOTH = (TIED, TIED)

# a, b, then AUROC (ALOE, ATOM, exact), FPR (ALOE, ATOM, id95, ood95), detection error (ALOE, ATOM),
# AUPR-in (ALOE, exact), AUPR-out (ALOE, exact): emulations of the published code and scikit-learn.
TABLE = {
    "constant": (
        np.ones(100), np.ones(100), (0, 0.5, 0.5), (1, 0, 1, 1), (0.5, 0.5), (0.30685, 0.5), (0.30685, 0.5),
    ),
    "constant, unbalanced": (
        np.ones(20), np.ones(80), (0, 0.5, 0.5), (1, 0, 1, 1), (0.5, 0.2), (0.10741, 0.2), (0.59759, 0.8),
    ),
    "perfect": (
        np.arange(200, 300), np.arange(100), (1, 1, 1), (0, 0, 0, 0), (0, 0), (0.995, 1), (0.995, 1),
    ),
    "reversed": (
        np.arange(100), np.arange(200, 300), (0, 0, 0), (1, 1, 1, 1), (0.5, 0.5), (0.30685, 0.30935),
        (0.30685, 0.30935),
    ),
    "by hand": (
        np.array([3, 1, 2, 4]), np.array([0, 2, 5, 1]), (0.5625, 0.625, 0.625), (1, 0.5, 0.75, 1),
        (0.375, 0.375), (0.47976, 0.58452), (0.52440, 0.69167),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_the_verified_table(case):
    a, b, auroc, fpr, error, aupr_in, aupr_out = TABLE[case]
    aloe, atom = compat.aloe(a, b), compat.atom(a, b)
    close = lambda got, want: np.testing.assert_allclose(got, want, atol=6e-6)
    close([aloe["auroc"], atom["auroc"], metrics.auroc(a, b)], auroc)
    close([aloe["fpr"], atom["fpr"], metrics.fpr_id95(a, b), metrics.fpr_ood95(a, b)], fpr)
    close([aloe["detection_error"], atom["detection_error"]], error)
    close([aloe["aupr_in"], metrics.aupr_in(a, b)], aupr_in)
    close([aloe["aupr_out"], metrics.aupr_out(a, b)], aupr_out)


@pytest.mark.parametrize(
    ("case", "aupr_in", "aupr_out"),
    [
        # One step from (1, 1/2) through (1, n / (n + m)) to (0, 0): n / (n + m) / 2, and m / (n + m) / 2.
        ("constant", 0.25, 0.25),
        ("constant, unbalanced", 0.1, 0.4),
        ("perfect", 0.995, 0.995),  # without ties as ALOE's
        # ID 1 2 3 4 and OOD 0 1 2 5, cut at each score: recall 1, 1, 3/4, 1/2, 1/4, 0, precision 1/2, 4/7, 3/5, 2/3,
        # 1/2, 0; and 0, 1/4, 1/2, 3/4, 1 with 1, 1, 2/3, 3/5 and 3/7, 1/2, from 0 at (0, 0).
        (
            "by hand",
            ((4 / 7 + 3 / 5) + (3 / 5 + 2 / 3) + (2 / 3 + 1 / 2) + 1 / 2) / 8,
            ((0 + 1) + (1 + 2 / 3) + (2 / 3 + 3 / 5) + (3 / 7 + 1 / 2)) / 8,
        ),
    ],
)
def test_atom_passes_equal_scores_at_once(case, aupr_in, aupr_out):
    a, b, *_ = TABLE[case]
    found = compat.atom(a, b)
    np.testing.assert_allclose([found["aupr_in"], found["aupr_out"]], [aupr_in, aupr_out], rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(*BOTH)
def test_equal_to_scikit_learn(a, b):
    label, score = np.repeat([1, 0], [len(a), len(b)]), np.array(a + b, float)
    assert metrics.auroc(a, b) == pytest.approx(sk.roc_auc_score(label, score), abs=1e-12)
    assert metrics.aupr_in(a, b) == pytest.approx(sk.average_precision_score(label, score), abs=1e-12)
    assert metrics.aupr_out(a, b) == pytest.approx(sk.average_precision_score(1 - label, -score), abs=1e-12)
    alarm, recall, _ = sk.roc_curve(label, score, drop_intermediate=False)
    assert metrics.fpr_id95(a, b) == pytest.approx(alarm[np.argmax(recall >= 0.95)], abs=1e-12)
    assert metrics.detection_error(a, b) == pytest.approx((1 - recall + alarm).min() / 2, abs=1e-12)
    alarm, recall, _ = sk.roc_curve(1 - label, -score, drop_intermediate=False)
    assert metrics.fpr_ood95(a, b) == pytest.approx(alarm[np.argmax(recall >= 0.95)], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(*BOTH)
def test_openood_is_computed_as_there(a, b):
    """Its evaluator: roc_curve with outliers positive, auc of precision_recall_curve."""
    outlier, score = np.repeat([0, 1], [len(a), len(b)]), np.array(a + b, float)
    alarm, recall, _ = sk.roc_curve(outlier, -score)
    got = compat.openood(a, b)
    assert got["fpr"] == pytest.approx(alarm[np.argmax(recall >= 0.95)], abs=1e-12)
    assert got["auroc"] == pytest.approx(sk.auc(alarm, recall), abs=1e-12)
    for name, label, value in (("aupr_in", 1 - outlier, score), ("aupr_out", outlier, -score)):
        precision, recall, _ = sk.precision_recall_curve(label, value)
        assert got[name] == pytest.approx(sk.auc(recall, precision), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(*BOTH)
def test_brute_force_and_symmetries(a, b):
    a, b = np.array(a, float), np.array(b, float)
    wins, ties = (a[:, None] > b).mean(), (a[:, None] == b).mean()
    assert metrics.auroc(a, b) == pytest.approx(wins + ties / 2, abs=1e-12)
    assert metrics.auroc_pessimistic(a, b) == pytest.approx(wins, abs=1e-12)
    assert metrics.tie_mass(a, b) == pytest.approx(ties, abs=1e-12)
    # A strictly increasing map changes no rank.
    assert metrics.summary(a, b) == pytest.approx(metrics.summary(np.exp(a) - 7, np.exp(b) - 7))
    # Exchanging the roles of both sides exchanges what is said of them.
    there, back = metrics.summary(a, b), metrics.summary(-b, -a)
    assert there["aupr_in"] == back["aupr_out"] and there["auroc"] == back["auroc"]
    assert there["fpr_id95"] == back["fpr_ood95"]


def test_ties_of_the_sweep_are_those_of_a_loop():
    """ALOE's curve, walked step by step: whichever of both smallest scores is smaller goes, data on ties."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 37).astype(float), rng.integers(-2, 5, 23).astype(float)
    left, other, points = sorted(a), sorted(b), [(37, 23)]
    while left or other:
        outlier = not left or (other and other[0] < left[0])
        (other if outlier else left).pop(0)
        points.append((len(left), len(other)))
    recall, alarm = np.array(points).T / np.array([[37], [23]])
    assert compat.aloe(a, b)["auroc"] == pytest.approx(np.trapezoid(1 - alarm[::-1], recall[::-1]))
    assert compat.aloe(a, b)["detection_error"] == pytest.approx(((1 - recall + alarm) / 2).min())


def test_shares_are_read_as_decimals():
    """0.9 of 10 is 9 and not, through 1 - 0.9 = 0.0999..., 10."""
    assert metrics.threshold_keeping(np.arange(10), 0.9) == 1
    assert metrics.threshold_keeping(np.arange(20), 0.95) == 1
    assert metrics.threshold_keeping(np.arange(7), 1.0) == 0
    assert metrics.threshold_keeping(np.arange(19), 0.95) == 0


def test_nan_counts_against_the_detector_and_infinities_are_scores():
    assert metrics.auroc([np.nan, 2.0], [0.0, 1.0]) == 0.5
    assert metrics.auroc([3.0, 2.0], [np.nan, 1.0]) == 0.5
    assert metrics.fpr([np.nan, 0.0], 1.0) == 0.5 and metrics.fnr([np.nan, 2.0], 1.0) == 0.5
    assert metrics.auroc([np.inf, 1.0], [-np.inf, 1.0]) == 0.875


def test_saturated_probabilities_understate_what_margins_say():
    """70 % of the data and all outliers at exactly 1: pessimistic codes read 0 where 0.35 is the truth."""
    a, b = np.r_[np.ones(70), np.full(30, 0.9)], np.ones(50)
    assert compat.aloe(a, b)["auroc"] == 0 and metrics.auroc(a, b) == pytest.approx(0.35)
    assert metrics.tie_mass(a, b) == pytest.approx(0.7)


def test_fixed_thresholds():
    assert metrics.fnr([1, 2, 3, 4], 2) == 0.25 and metrics.fpr([1, 2, 3, 4], 2) == 0.75
    assert metrics.end_to_end_accuracy([1, 0, 1, 1], [1, 2, 3, 4], 2) == 0.5


@pytest.mark.parametrize("bad", [[], [[1.0]]])
def test_refuses_what_is_no_vector(bad):
    with pytest.raises(ValueError, match="auroc: scores have shape"):
        metrics.auroc(bad, [1.0])
    with pytest.raises(ValueError, match="share is 0"):
        metrics.fpr_id95([1.0], [1.0], share=0)
    with pytest.raises(ValueError, match="must be a"):
        protocols.over_sets({"a": {"auroc": 1.0}, "b": {}, "c (must be a)": {}})
    with pytest.raises(ValueError, match="attacked scores"):
        protocols.under_attack([1.0], [1.0], [1.0, 2.0], [1.0])


@pytest.mark.parametrize("eps", [0.0, 0.25, 0.5])
def test_normal_scores_under_attack(eps):
    """s = x, data N(1, 1), outliers N(-1, 1): an attack of radius eps moves the means towards each other."""
    rng = np.random.default_rng(1)
    n = 100_000
    a, b = rng.normal(1, 1, n), rng.normal(-1, 1, n)
    got = protocols.under_attack(a, b, a - eps, b + eps)
    phi, gamma = stats.norm.cdf, 1 + stats.norm.ppf(0.05)
    both = 2 - 2 * eps
    want = {
        "auroc_clean": phi(2 / np.sqrt(2)),
        "auroc_in": phi((2 - eps) / np.sqrt(2)),
        "auroc_out": phi((2 - eps) / np.sqrt(2)),
        "auroc_both": phi(both / np.sqrt(2)),
        "fpr_clean": phi(-1 - gamma),
        "fpr_recalibrated": phi(-stats.norm.ppf(0.05) - both),
        "fnr_clean_threshold": phi(gamma - 1 + eps),
        "fpr_clean_threshold": phi(-1 + eps - gamma),
    }
    assert got.pop("threshold") == pytest.approx(gamma, abs=0.03)
    assert got == pytest.approx(want, abs=0.008)
    assert metrics.detection_error(a - eps, b + eps) == pytest.approx(phi(-both / 2), abs=0.005)


@pytest.mark.slow
def test_intervals_are_those_of_analysis():
    """The true AUROC of normal scores lies in about 95 % of the intervals; here in at least 17 of 20."""
    truth, hits = stats.norm.cdf(1 / np.sqrt(2)), 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores, is_data = (
            np.r_[rng.normal(1, 1, 80), rng.normal(0, 1, 60)],
            np.repeat([True, False], [80, 60]),
        )
        found = bootstrap(lambda s, d: metrics.auroc(s[d], s[~d]), scores, is_data, resamples=200)
        hits += found.low <= truth <= found.high
    assert hits >= 17


def test_conformal_thresholds_miss_no_more_than_promised():
    """Over 4000 calibration sets of n uniform scores the mean miss is k / (n + 1), with k = floor(miss (n + 1))."""
    rng = np.random.default_rng(2)
    found = [conformal.threshold(rng.uniform(size=50), miss=0.1) for _ in range(4000)]
    assert np.mean(found) == pytest.approx(5 / 51, abs=0.003)  # the miss of threshold t is t itself
    assert conformal.threshold(np.arange(18.0), miss=0.05) == -np.inf
    assert conformal.threshold(np.arange(19.0), miss=0.05) == 0


@pytest.mark.parametrize(
    ("n", "miss", "risk"), [(59, 0.05, 0.05), (58, 0.05, 0.05), (200, 0.1, 0.01), (3000, 0.05, 0.1)]
)
def test_confident_thresholds_have_the_rank_of_the_binomial(n, miss, risk):
    """Wilks: 59 samples are the fewest whose least value misses under 5 % with 95 % confidence."""
    got = conformal.confident_threshold(np.arange(1.0, n + 1), miss=miss, risk=risk)
    rank = max((k for k in range(1, n + 1) if stats.beta.sf(miss, k, n - k + 1) <= risk), default=-np.inf)
    assert got == rank
    assert (got == -np.inf) == (n == 58)


def test_p_values_are_valid_and_exact():
    np.testing.assert_allclose(conformal.p_values([1.0, 2.0, 3.0], [0.0, 2.0, 9.0]), [0.25, 0.75, 1.0])
    rng = np.random.default_rng(3)
    p = np.concatenate([conformal.p_values(rng.normal(size=30), rng.normal(size=1)) for _ in range(4000)])
    for level in (0.1, 0.3, 0.7):
        assert (p <= level).mean() <= level + 0.02
