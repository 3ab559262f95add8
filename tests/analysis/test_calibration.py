"""Calibration error and temperature against hand-made cases and a plain loop."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from robustjax.analysis import groups, intervals, reliance
from robustjax.analysis.calibration import confidence, ece, reliability, temperature
from robustjax.ood import metrics

RNG = np.random.default_rng(0)


def test_known_errors():
    assert ece(np.full(10, 0.8), [1] * 8 + [0] * 2) == pytest.approx(0.0, abs=1e-12)
    assert ece(np.full(10, 0.8), [1] * 5 + [0] * 5) == pytest.approx(0.3)


def test_an_edge_belongs_to_the_bin_below_also_in_float32():
    found = reliability(np.array([0.05, 0.05, 0.3, 1.0, 0.0], np.float32), [1, 0, 1, 1, 0], bins=20)
    filled = {int(i): float(s) for i, s in enumerate(found.share) if s}
    assert filled == pytest.approx({0: 0.6, 5: 0.2, 19: 0.2})


@pytest.mark.parametrize("bins", [1, 15, 20])
def test_it_is_the_loop_over_bins(bins):
    p, right = RNG.uniform(0.1, 1, 500), RNG.integers(0, 2, 500)
    total = 0.0
    for i in range(bins):
        here = (p > i / bins) & (p <= (i + 1) / bins)
        if here.any():
            total += here.mean() * abs(p[here].mean() - right[here].mean())
    assert ece(p, right, bins=bins) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("true", [0.3, 1.0, 2.0])
def test_the_temperature_that_made_the_logits_is_found_again(true):
    logits = RNG.normal(size=(8000, 3)) * 2
    p = scipy.special.softmax(logits, axis=1)
    label = (RNG.uniform(size=(8000, 1)) > p.cumsum(axis=1)).sum(axis=1)
    assert temperature(true * logits, label, points=150) == pytest.approx(true, rel=0.07)


@pytest.mark.parametrize("true", [0.02, 5.0, 40.0])
def test_a_temperature_beyond_the_first_grid_is_found_too(true):
    """The oracle is scipy's bounded minimiser of the likelihood, whose optimum is the same for calibrated logits."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4000, 3)) * 2
    p = scipy.special.softmax(logits, axis=1)
    label = (rng.uniform(size=(4000, 1)) > p.cumsum(axis=1)).sum(axis=1)

    def surprise(s):
        return -scipy.special.log_softmax(true * logits / np.exp(s), axis=1)[np.arange(4000), label].mean()

    oracle = np.exp(scipy.optimize.minimize_scalar(surprise, bounds=(-10, 10), method="bounded").x)
    assert oracle == pytest.approx(true, rel=0.05)
    assert temperature(true * logits, label, points=80) == pytest.approx(oracle, rel=0.1)


def test_where_no_temperature_is_best_the_search_ends():
    wrong = np.eye(3)[RNG.integers(0, 3, 200)]
    hot = temperature(
        wrong, (wrong.argmax(axis=1) + 1) % 3, points=40
    )  # never right: the larger T the better
    assert np.log(hot) > 1 and np.isfinite(hot)


def test_confidence_is_the_largest_probability_and_survives_large_logits():
    logits = RNG.normal(size=(4, 6, 5))
    expected = scipy.special.softmax(logits / 0.5, axis=-1).max(axis=-1)
    np.testing.assert_allclose(confidence(logits, temperature=0.5), expected)
    assert confidence([[1e5, 0.0]], temperature=0.05) == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: ece([], []),
        lambda: ece([0.5], [1, 0]),
        lambda: ece([1.5], [1]),
        lambda: ece([0.2, 0.8], [3, 0]),
        lambda: ece([0.2, 0.8], [0.5, 0]),
        lambda: confidence([[1.0, 2.0]], temperature=0.0),
        lambda: temperature(np.zeros((2, 2)), [0, 2]),
        lambda: temperature(np.full((2, 2), np.nan), [0, 1]),
        lambda: metrics.end_to_end_accuracy([3, 0], [0.1, 0.2], 0.0),
        lambda: metrics.auroc(["a"], ["b"]),
        lambda: intervals.proportion(np.array([2, 0])),
        lambda: groups.by_group([1.0, 0.0], [0, 5], 2),
        lambda: groups.by_group([1.0, 0.0], [0.5, 1]),
        lambda: groups.class_balanced([1.0, 0.0], [0]),
        lambda: reliance.accuracy(np.zeros(3), np.zeros((2, 3))),
        lambda: reliability([0.5], [1], bins=0),
        lambda: temperature(np.zeros((3, 2)), [0, 1]),
        lambda: temperature(np.zeros((2, 2)), [0, 1], points=0),
    ],
)
def test_what_makes_no_sense_is_refused(call):
    with pytest.raises(ValueError, match="must"):
        call()
