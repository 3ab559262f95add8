"""Intervals inside a network: left out where nothing depends on them, and tightened by slopes of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.bounds import backward
from robustjax.bounds.activations import curve_of, recognised
from robustjax.bounds.affine import Ball
from robustjax.bounds.arithmetic import Interval
from robustjax.bounds.curves import has_chord_above
from robustjax.bounds.enclosure import intervals_of
from robustjax.bounds.optimised import tightened
from robustjax.bounds.program import traced


def ball(low, high):
    low, high = (jnp.full((1,), end, jnp.float32) for end in (low, high))
    return Ball(0.5 * (low + high), jnp.float32(1.5), "linf", Interval(low, high))


def test_slopes_behind_an_interval_are_optimised_to_the_exact_ends():
    """|x| - x / 2 over [-1, 2], as a hidden layer writes it, lies in [0, 1.5]; CROWN's slopes 1 and 0 give -0.5."""

    def fn(x):
        hidden = jax.nn.relu(x) + jax.nn.relu(-x) - 0.5 * x
        return jax.nn.relu(hidden - 0.25)

    program = recognised(traced(fn, jnp.zeros(1)))
    over = ball(-1.0, 2.0)
    read = max(backward.read_by_curves(program))

    @jax.jit
    def both():
        crown = backward.by_relaxation(program, over, intervals_of(program, over), chunk=4)
        return crown, tightened(program, over, crown, chunk=4, steps=30)

    crown, tight = both()
    np.testing.assert_allclose(crown[read].low, -0.75, atol=1e-6)
    np.testing.assert_allclose(tight[read].low, -0.25, atol=0.02)
    assert tight[read].low <= -0.25 + 1e-6
    np.testing.assert_allclose(tight[read].high, 1.25, atol=1e-5)


def test_numbers_in_one_piece_of_their_curve_are_left_out_and_nothing_changes():
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(size=s) / 2, jnp.float32) for s in ((4, 9), (9, 8), (8, 2))]

    def fn(x):
        return jax.nn.relu(jax.nn.relu(x @ weights[0]) @ weights[1] + 0.3) @ weights[2]

    x = jnp.asarray(rng.uniform(size=4), jnp.float32)
    over = Ball(x, jnp.float32(0.1), "linf", Interval(x - 0.1, x + 0.1))
    program = recognised(traced(fn, x))

    @jax.jit
    def ends(x):
        intervals = intervals_of(program, over)
        found = [
            backward.by_relaxation(program, over, intervals, chunk=3, only_open=only)
            for only in (False, True)
        ]
        unit = {program.output: jnp.eye(2)}
        bounds = [backward.least(program, over, backward.relaxations_of(program, v), unit) for v in found]
        chosen = [
            backward.open_numbers(program, w, found[1][w]) for w in sorted(backward.read_by_curves(program))
        ]
        return bounds, [(found[0][w], found[1][w]) for w in sorted(backward.read_by_curves(program))], chosen

    bounds, values, chosen = ends(x)
    np.testing.assert_allclose(*bounds, atol=1e-5)
    assert 0 < sum(int(c.sum()) for c in chosen) < 17
    for (every, only), which in zip(values, chosen, strict=True):
        np.testing.assert_allclose(only.low[which], every.low[which], atol=1e-5)
        assert (only.low <= every.low + 1e-5).all() and (only.high >= every.high - 1e-5).all()


@pytest.mark.parametrize(
    ("fn", "above"),
    [
        (jax.nn.relu, True),
        (jnp.abs, True),
        (lambda z: jnp.minimum(z, 0.5), False),
        (lambda z: jax.nn.leaky_relu(z, 0.1), True),
        (lambda z: jax.nn.leaky_relu(z, 3.0), False),
        (jax.nn.softplus, False),
    ],
)
def test_which_curves_lie_below_their_chord_at_one_break(fn, above):
    program = recognised(traced(fn, jnp.zeros(3)))
    curve = curve_of(program.lines[-1])
    assert curve is not None and has_chord_above(curve) == above
