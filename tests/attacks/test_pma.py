"""The annealed schedule and the terms of PMA by hand, and what PMA breaks of a linear network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import logit
from robustjax.attacks import annealed_pgd, autoattack, objectives, pma
from robustjax.attacks.case import rows_of
from robustjax.attacks.starts import at_origin
from robustjax.numerics import keys_for
from robustjax.threats import Threat

KEY = jax.random.key(0)
WIDE = {"lower": -jnp.inf, "upper": jnp.inf}
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("stages", "way"), [(1, 0.3), (2, 0.6)])
def test_steps_fall_along_half_a_cosine(stages, way):
    """sum over i < n of (1 + cos(pi i / n)) / 2 is (n + 1) / 2: 0.1 eps times 3 for each stage of 5 steps."""
    threat = Threat("linf", 2.0, **WIDE)
    solver = annealed_pgd(threat, steps=5 * stages, stages=stages, first=0.1, start=at_origin)
    found = solver(KEY, lambda x: x.sum(axis=1), jnp.zeros((1, 3)))
    np.testing.assert_allclose(found.x, 2.0 * way, rtol=1e-5)


def test_the_margin_of_probabilities_by_hand():
    p = jnp.asarray([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    label = jnp.asarray([0, 1])
    margin = jax.jit(logit.probability_margin)
    np.testing.assert_allclose(margin(jnp.log(p) + 3, label), [-0.2, 0.5], rtol=1e-5)
    masked = jnp.asarray([[0.0, -jnp.inf, -jnp.inf]])
    np.testing.assert_allclose(margin(masked, jnp.asarray([0])), [-1.0])
    found = jax.jit(objectives.probability_margin(lambda x: jnp.log(x), label))(p)
    np.testing.assert_allclose(found, [-0.2, 0.5], rtol=1e-5)


def test_terms_come_one_at_a_time_and_then_together():
    """Probabilities 0.5, 0.3, 0.2 and label 0: -p_y is -0.5, the best other 0.3, the margin -0.2; gaps of logits."""
    case = pma(Threat("linf", 0.1), steps=6)
    assert (case.runs, case.solver.length) == (2, 8)  # two stages of 3 steps and a first point each
    x, y = jnp.zeros((1, 1)), jnp.asarray([0])

    def net(x):
        return jnp.log(jnp.asarray([[0.5, 0.3, 0.2]])) + 0 * x

    for run, early in ((0, -0.5), (1, 0.3)):
        for step, expected in ((0, early), (3, early), (4, -0.2), (7, -0.2)):
            rows = rows_of(case, keys_for(KEY, 1), y, {}, jnp.int32(run), x)
            value, merit = jax.jit(case.objective(net, rows._replace(step=jnp.asarray([step]))))(x)
            assert float(value[0]) == pytest.approx(expected, abs=1e-6)
            assert float(merit[0]) == pytest.approx(np.log(0.3 / 0.5), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_breaks_what_can_be_broken_of_a_linear_network(norm):
    """Broken where the gap to some class is at most eps times the dual norm of the difference of weights."""
    w = RNG.normal(size=(12, 3)).astype(np.float32)
    x = RNG.normal(size=(40, 12)).astype(np.float32)
    logits = x @ w
    y, eps = logits.argmax(axis=1), 0.3 if norm == "linf" else 0.8
    sizes = np.linalg.norm(w[:, y].T[:, None] - w.T[None], ord=1 if norm == "linf" else 2, axis=2)
    gaps = logits.max(axis=1)[:, None] - logits
    robust = np.where(np.arange(3) == y[:, None], True, gaps > eps * sizes).all(axis=1)
    assert 4 < robust.sum() < 36
    attack = autoattack.worst_case((pma(Threat(norm, eps, **WIDE), steps=40),))
    found = jax.jit(lambda x, y: attack(KEY, lambda z: z @ w, x, y))(x, y)
    np.testing.assert_array_equal(found.value <= 0, robust)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: annealed_pgd(Threat("linf", 0.1), steps=1, stages=2), "annealed_pgd: steps is 1"),
        (lambda: annealed_pgd(Threat("linf", 0.1), steps=4, first=0.0), "annealed_pgd: first is 0"),
        (lambda: annealed_pgd(Threat("linf", jnp.inf), steps=4), "annealed_pgd: eps is inf"),
        (lambda: annealed_pgd(Threat("l0", 2), steps=4), "annealed_pgd: norm is 'l0'"),
        (lambda: pma(Threat("linf", 0.1), steps=1), "pma: steps is 1"),
        (lambda: pma(Threat("linf", 0.1), restarts=0), "pma: restarts is 0"),
    ],
)
def test_what_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()
