"""DeepFool beside the paper's loop in numpy, its rest, and beside another implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twin import LAYERS, X, Y, foolbox_distances, net

from robustjax.attacks.deepfool import deepfool
from robustjax.attacks.fab import fab, leads
from robustjax.attacks.solver import as_attack, classified
from robustjax.numerics import norm
from robustjax.threats import Threat

KEY = jax.random.key(0)


def by_hand(x0, label, kind, overshoot):
    """Algorithm 2 of the paper in float64: gradients of the twin network by the chain rule."""
    first, second = (w.astype(np.float64) for w in LAYERS)
    total, x = np.zeros_like(x0), x0
    for _ in range(50):
        hidden = np.tanh(2.0 * x @ first)
        logits = 5.0 * hidden @ second
        if logits.argmax() != label:
            break
        jacobian = 5.0 * (first * (1 - hidden**2) * 2.0) @ second
        ways = []
        for k in set(range(3)) - {label}:
            f, w = logits[k] - logits[label], jacobian[:, k] - jacobian[:, label]
            if kind == "l2":
                ways.append((abs(f) / np.linalg.norm(w), abs(f) / (w @ w) * w))
            else:
                ways.append((abs(f) / np.abs(w).sum(), abs(f) / np.abs(w).sum() * np.sign(w)))
        total = total + min(ways, key=lambda way: way[0])[1]
        x = x0 + (1 + overshoot) * total
    return x


@pytest.mark.parametrize("kind", ["linf", "l2"])
def test_arrives_where_the_papers_loop_does(kind):
    threat = Threat(kind, jnp.inf, -np.inf, np.inf)
    found = jax.jit(lambda: as_attack(deepfool(threat, overshoot=0.05), leads)(KEY, net, X, Y))()
    expected = [by_hand(x, y, kind, 0.05) for x, y in zip(np.float64(X), np.asarray(Y))]
    np.testing.assert_allclose(found.x, expected, atol=1e-3)


def test_rows_rest_where_they_arrived():
    solver = deepfool(Threat("l2", jnp.inf), steps=40)
    advance = jax.jit(lambda state, n: solver.advance(classified(net, Y, leads), state, n))
    early = advance(solver.init(KEY, X), 12)
    late = advance(early, 20)
    arrived = np.isfinite(early.kept.distance)
    assert arrived.all()
    np.testing.assert_array_equal(late.x, early.x)
    np.testing.assert_array_equal(solver.finish(late).x, solver.finish(early).x)


@pytest.mark.slow
def test_arrives_inside_the_box_too_at_more_than_the_nearest():
    found = jax.jit(lambda: as_attack(deepfool(Threat("l2", jnp.inf)), leads)(KEY, net, X, Y))()
    nearest = jax.jit(lambda: fab(Threat("l2", jnp.inf))(KEY, net, X, Y))()
    ratio = norm(found.x - X, "l2") / norm(nearest.x - X, "l2")
    assert (found.value > 0).all() and ratio.min() > 1.0 and np.median(ratio) < 1.3


@pytest.mark.oracle
def test_distances_are_those_of_foolbox():
    """In a box that nobody reaches: otherwise it clips, and takes more and smaller steps."""
    theirs = foolbox_distances("L2DeepFoolAttack", 2, (-50, 50), loss="logits", overshoot=0.02, candidates=3)
    attack = as_attack(deepfool(Threat("l2", jnp.inf, -50.0, 50.0)), leads)
    found = jax.jit(lambda: attack(KEY, net, X, Y))()
    np.testing.assert_allclose(norm(found.x - X, "l2"), theirs, rtol=2e-3)
