"""Gradient-masking checks for scores: raised where gradients say nothing, silent on linear scores."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.evaluation import score_checks
from robustjax.evaluation.score_suite import ScoreResults
from robustjax.threats import Threat

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
W = RNG.normal(size=16).astype(np.float32)
X = RNG.uniform(0.3, 0.7, size=(24, 4, 4, 1)).astype(np.float32)
IS_ID = np.arange(24) < 12
BALL = Threat("linf", 0.1)


def linear(x):
    return x.reshape(len(x), -1) @ jnp.asarray(W)


def saturated(x):
    """A sigmoid of a thousand times the mean is 0 or 1 in float32."""
    return jax.nn.sigmoid(1000 * (x.mean(axis=(1, 2, 3)) - 0.75))


def raised(score, **settings):
    flags = score_checks.checks(KEY, score, X, IS_ID, BALL, steps=10, draws=10, **settings)
    return {flag.name for flag in flags if flag.raised}


def test_a_linear_score_raises_nothing():
    assert raised(linear) == set()


@pytest.mark.parametrize(
    "score", [saturated, lambda x: jnp.round(8 * x.mean(axis=(1, 2, 3))) / 8], ids=["saturated", "in steps"]
)
def test_gradients_that_vanish_are_seen(score):
    found = raised(score)
    assert {"saturation on ID", "saturation on OOD", "larger radius on OOD"} <= found


def test_a_plateau_from_which_the_whole_box_is_not_reached():
    """OOD images on a plateau cannot be moved to the scores that ID images have, though the box holds these."""
    x = X.copy()
    x[IS_ID] += 0.25

    def score(z):
        return 10 * jax.nn.relu(z.mean(axis=(1, 2, 3)) - 0.65)

    flags = score_checks.checks(KEY, score, x, IS_ID, BALL, steps=5, draws=5)
    assert "unlimited radius on OOD" in {flag.name for flag in flags if flag.raised}


def test_a_few_enormous_scores_hide_nothing():
    """Distances along features that training images do not have are enormous; the others count for themselves."""
    x = X.copy()
    x[:, 0, 0, 0] = 0.3  # of the cliff, which is out of reach of all but one image of each side
    x[[0, 12], 0, 0, 0] = 0.95

    def score(z):
        return linear(z) - jnp.where(z[:, 0, 0, 0] > 0.9, 1e12, 0.0)

    def names(score):
        flags = score_checks.checks(KEY, score, x, IS_ID, BALL, steps=10, draws=10)
        return {flag.name for flag in flags if flag.raised}

    assert not {name for name in names(score) if name.startswith(("larger", "batch"))}
    assert "batch mates" in names(lambda z: score(z) + (0.1 if len(z) < 24 else 0.0))


def test_scores_that_are_not_finite_are_said_and_end_the_checks():
    assert "not finite" in raised(lambda x: jnp.where(x[:, 0, 0, 0] > 0.5, jnp.nan, x.mean(axis=(1, 2, 3))))


def results(scores, worst=None, clean=None):
    """Two ID and two OOD images; rows of scores are attacks."""
    scores = np.asarray(scores, np.float32)
    clean = np.array([1.0, 2.0, 0.0, 0.5], np.float32) if clean is None else clean
    is_id = np.array([True, True, False, False])
    best = np.where(is_id, np.minimum(clean, scores.min(axis=0)), np.maximum(clean, scores.max(axis=0)))
    names = ("apgd-score", "apgd-class", "square")[: len(scores)]
    return ScoreResults(
        names, np.arange(4), is_id, clean, scores, np.zeros((4, 1, 1, 1), np.float32),
        best if worst is None else worst, np.zeros(4, int), np.ones(4), np.zeros(4), np.zeros(3), np.zeros(3),
    )  # fmt: skip


def names_of(found):
    return {flag.name for flag in score_checks.from_results(found) if flag.raised}


def test_what_random_search_alone_finds_is_said_with_the_area_it_costs():
    """AUROC of (1, 2) against (0, .5) is 1; raised to (3, 3) by Square alone it is 0."""
    blind = results([[0.9, 1.9, 0.1, 0.6], [0.9, 1.9, 0.1, 0.6], [0.95, 1.95, 3.0, 3.0]])
    assert names_of(blind) == {"black box ahead on OOD"}
    (flag,) = [f for f in score_checks.from_results(blind) if f.raised]
    assert flag.evidence["AUROC"] == 0.0 and flag.evidence["AUROC of the others"] == 1.0
    fine = results([[0.5, 1.5, 0.6, 1.0], [0.5, 1.5, 0.6, 1.0], [0.6, 1.6, 0.5, 0.9]])
    assert names_of(fine) == set()


def test_the_ascent_of_every_class_that_wins_is_said():
    found = results([[0.5, 1.5, 0.1, 0.6], [0.6, 1.6, 1.4, 1.4], [0.6, 1.6, 0.1, 0.5]])
    assert "every class ahead on OOD" in names_of(found)


def test_scores_that_nothing_moves_are_said():
    still = np.array([1.0, 2.0, 0.0, 0.5], np.float32)
    assert {"unmoved on ID", "unmoved on OOD"} <= names_of(results([still, still, still]))


def test_a_radius_that_only_carries_on_what_was_known_is_said():
    small = results([[0.5, 1.5, 0.6, 1.0]])
    blind = dataclasses.replace(results([[0.9, 1.9, 0.1, 0.6]]), worst=small.worst)
    seeing = results([[0.3, 1.2, 0.8, 1.2]])
    assert score_checks.over_radii([small, blind]).raised
    assert not score_checks.over_radii([small, seeing]).raised
    assert "not checked" in score_checks.over_radii([small]).says
