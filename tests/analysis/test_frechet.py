"""The Frechet distance against closed forms, scipy's matrix root and samples."""

import numpy as np
import pytest
import scipy.linalg

from robustjax.analysis.frechet import Moments, frechet_distance, moments

RNG = np.random.default_rng(0)


def covariance(d):
    a = RNG.normal(size=(d, d))
    return a @ a.T / d


def test_commuting_gaussians_have_the_closed_form():
    basis, _ = np.linalg.qr(RNG.normal(size=(5, 5)))
    a, b = RNG.uniform(0.1, 3, size=(2, 5))
    shift = RNG.normal(size=5)
    first = Moments(np.zeros(5), basis * a @ basis.T)
    second = Moments(shift, basis * b @ basis.T)
    expected = (shift**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_it_is_the_formula_with_scipys_root_and_symmetric():
    a, b = Moments(RNG.normal(size=6), covariance(6)), Moments(RNG.normal(size=6), covariance(6))
    root = np.real(np.asarray(scipy.linalg.sqrtm(a.covariance @ b.covariance)))
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)


def test_features_that_never_vary_do_no_harm():
    """ReLU features of small networks are often constant: the covariance is singular."""
    f = np.concatenate([RNG.normal(size=(50, 3)), np.zeros((50, 4))], axis=1)
    assert frechet_distance(moments(f), moments(f + 1.0)) == pytest.approx(7.0, rel=1e-6)


def test_moments_are_numpys_and_large_samples_meet_the_truth():
    f = RNG.normal(size=(40000, 3)) * [1.0, 2.0, 0.5]
    found = moments(f)
    np.testing.assert_allclose(found.covariance, np.cov(f.T))
    truth = Moments(np.zeros(3), np.diag([1.0, 4.0, 0.25]))
    assert frechet_distance(found, truth) < 1e-3
    with pytest.raises(ValueError, match="at least two rows"):
        moments(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="must be equal"):
        frechet_distance(found, Moments(np.zeros(2), np.eye(2)))
