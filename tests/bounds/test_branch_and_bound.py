"""Branch and bound against mixed-integer programs that are solved exactly, and against points."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax.bounds import branch_and_bound
from robustjax.threats import Threat
from robustjax.types import Model, Network

WIDTHS = (3, 7, 3)


def drawn(seed, widths=WIDTHS):
    rng = np.random.default_rng(seed)
    pairs = list(itertools.pairwise(widths))
    weights = [np.float32(rng.normal(size=s) * np.sqrt(2.0 / s[0])) for s in pairs]
    biases = [np.float32(0.3 * rng.normal(size=s[1])) for s in pairs]
    return weights, biases, jnp.asarray(rng.uniform(0.2, 0.8, size=(1, widths[0], 1)), jnp.float32)


def apply(params, state, x, *, train=False, key=None):
    weights, biases = params
    x = x.reshape(len(x), -1)
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        x = jax.nn.relu(x @ w + b[None])
    return x @ weights[-1] + biases[-1][None], state


MODEL = Model(lambda key: (None, None), apply, lambda params, state, x: {})  # one, so that it compiles once


def network(weights, biases):
    return Network(MODEL, jax.tree.map(jnp.asarray, (weights, biases)), None)


def exact(weights, biases, low, high, label, other):
    """Minimise z_label - z_other over a box as a mixed-integer program, a binary variable for each ReLU."""
    sizes = [len(low), *(w.shape[1] for w in weights)]
    hidden = sizes[1:-1]
    # Variables: input, then per hidden layer the outputs and the binaries.
    total = sizes[0] + 2 * sum(hidden)
    rows, ends, lower, upper = [], [], list(low), list(high)
    integer = [0] * sizes[0]
    before, at = slice(0, sizes[0]), sizes[0]
    ends_of = (np.float64(low), np.float64(high))
    for w, b, n in zip(weights[:-1], biases[:-1], hidden, strict=True):
        w, b = np.float64(w), np.float64(b)
        middle, reach = sum(ends_of) / 2, (ends_of[1] - ends_of[0]) / 2
        bottom, top = (middle @ w + b + sign * (reach @ np.abs(w)) for sign in (-1, 1))
        for i in range(n):
            z, a = at + i, at + n + i
            line = np.zeros(total)
            line[before] = w[:, i]
            # z >= pre;  z <= pre - bottom (1 - a);  z <= top a
            rows.append(line - np.eye(total)[z])
            ends.append(-b[i])
            rows.append(np.eye(total)[z] - line - bottom[i] * np.eye(total)[a])
            ends.append(b[i] - bottom[i])
            rows.append(np.eye(total)[z] - top[i] * np.eye(total)[a])
            ends.append(0.0)
        lower += [0.0] * 2 * n
        upper += [*np.maximum(top, 0), *[1.0] * n]
        integer += [0] * n + [1] * n
        ends_of = (np.maximum(bottom, 0), np.maximum(top, 0))
        before, at = slice(at, at + n), at + 2 * n
    cost = np.zeros(total)
    cost[before] = np.float64(weights[-1])[:, label] - np.float64(weights[-1])[:, other]
    done = scipy.optimize.milp(
        cost,
        constraints=scipy.optimize.LinearConstraint(np.array(rows), -np.inf, ends),
        bounds=scipy.optimize.Bounds(lower, upper),
        integrality=integer,
        options={"mip_rel_gap": 1e-9},
    )
    assert done.success
    return done.fun + float(biases[-1][label]) - float(biases[-1][other])


def least(weights, biases, x, eps, label):
    x = np.float64(x).reshape(-1)
    low, high = np.maximum(x - eps, 0), np.minimum(x + eps, 1)
    others = [k for k in range(len(biases[-1])) if k != label]
    return min(exact(weights, biases, low, high, label, other) for other in others)


SETTINGS = {"batch_size": 8, "steps": 8, "candidates": 2, "depth": 64}


def decided(seed, inputs):
    """Verify a random network whose last bias is moved so that the least lead is 0.01 above 0, and then 0.01 below."""
    weights, biases, x = drawn(seed)
    label = int(np.argmax(network(weights, biases)(x[None])))
    true = least(weights, biases, x, EPS, label)
    bounded = []
    for aim in (0.01, -0.01):
        moved = [*biases[:-1], biases[-1] + np.float32(aim - true) * np.eye(3, dtype=np.float32)[label]]
        verify = branch_and_bound(network(weights, moved), Threat("linf", EPS), inputs=inputs, **SETTINGS)
        done = verify(x, label)
        assert done.status == ("certified" if aim > 0 else "attacked")
        assert done.lower <= aim + 1e-5 and done.upper >= aim - 1e-5
        points = np.clip(np.random.default_rng(0).uniform(x - EPS, x + EPS, size=(500, *x.shape)), 0, 1)
        logits = np.asarray(network(weights, moved)(jnp.asarray(points, jnp.float32)))
        leads = logits[:, label] - np.delete(logits, label, axis=1).max(axis=1)
        assert done.lower <= leads.min()
        assert np.abs(done.point - x).max() <= EPS + 1e-6
        at = np.asarray(network(weights, moved)(jnp.asarray(done.point[None])))[0]
        assert done.upper == pytest.approx(at[label] - np.delete(at, label).max(), abs=1e-5)
        # Slopes that are optimised give no less than those they start from, and never more than there is.
        assert list(done.roots) == sorted(done.roots) and all(root <= aim + 1e-5 for root in done.roots)
        bounded.append(done.bounded)
    return bounded


EPS = 0.3


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_certified_exactly_where_a_mixed_integer_program_says_so(seed):
    decided(seed, inputs=False)


def test_sub_domains_are_cut_until_all_are_decided():
    assert max(max(decided(seed, inputs=False)) for seed in range(3)) > 4


@pytest.mark.slow
def test_cuts_of_the_input_decide_the_same():
    assert max(max(decided(seed, inputs=True)) for seed in range(3)) > 4


def test_without_a_budget_nothing_is_certified():
    weights, biases, x = drawn(0)
    verify = branch_and_bound(network(weights, biases), Threat("linf", EPS), **SETTINGS)
    logits = np.asarray(network(weights, biases)(x[None]))[0]
    done = verify(x, logits.argmax(), lambda: False)
    assert done.status == "undecided" and done.lower == -np.inf
    assert done.upper == pytest.approx(np.diff(np.sort(logits)[-2:])[0])


def test_a_budget_that_ends_within_leaves_a_sound_bound():
    """However soon it ends: the bound stays below the exact least lead, and nothing is certified that is not."""
    found = []
    for seed in range(3):
        weights, biases, x = drawn(seed)
        label = int(np.argmax(network(weights, biases)(x[None])))
        true = least(weights, biases, x, EPS, label)
        moved = [*biases[:-1], biases[-1] + np.float32(0.01 - true) * np.eye(3, dtype=np.float32)[label]]
        verify = branch_and_bound(network(weights, moved), Threat("linf", EPS), **SETTINGS)
        for asked in (2, 6, 12, 10_000):
            budget = iter([True] * asked + [False] * 10_000)
            done = verify(x, label, lambda budget=budget: next(budget))
            assert done.lower <= 0.01 + 1e-5 and (done.status == "certified") == (done.lower > 0)
            found.append(done.status)
        assert found[-1] == "certified"
    assert "undecided" in found and "attacked" not in found


class Kept:
    """A memory that is killed after some batches."""

    def __init__(self, kept=None, stops=None):
        self.kept, self.stops, self.times = kept, stops, 0

    def load(self):
        return self.kept

    def keep(self, arrays):
        self.kept = arrays()
        self.times += 1
        if self.times == self.stops:
            raise KeyboardInterrupt


def test_a_killed_search_ends_bit_by_bit_as_if_it_had_not_been():
    weights, biases, x = drawn(5)  # in 15 sub-domains
    label = int(np.argmax(network(weights, biases)(x[None])))
    true = least(weights, biases, x, EPS, label)
    moved = [*biases[:-1], biases[-1] + np.float32(0.01 - true) * np.eye(3, dtype=np.float32)[label]]
    verify = branch_and_bound(network(weights, moved), Threat("linf", EPS), **SETTINGS)
    whole = Kept()
    expected = verify(x, label, memory=whole)
    assert whole.times > 2 and expected.status == "certified"
    killed = Kept(stops=2)
    with pytest.raises(KeyboardInterrupt):
        verify(x, label, memory=killed)
    found = verify(x, label, memory=Kept(killed.kept))
    assert found[:3] == expected[:3] and found.bounded == expected.bounded
    np.testing.assert_array_equal(found.point, expected.point)
    with pytest.raises(ValueError, match="of another network, threat or example"):
        verify(x + 0.01, label, memory=Kept(killed.kept))
    other = branch_and_bound(network(weights, biases), Threat("linf", EPS), **SETTINGS)  # of the same shapes
    with pytest.raises(ValueError, match="of another network, threat or example"):
        other(x, label, memory=Kept(killed.kept))


def test_the_wrong_class_is_attacked_at_once_and_settings_are_checked():
    weights, biases, x = drawn(0)
    net = network(weights, biases)
    done = branch_and_bound(net, Threat("linf", EPS), **SETTINGS)(x, int(np.argmin(net(x[None]))))
    assert done.status == "attacked" and done.bounded == 0 and np.array_equal(done.point, x)
    with pytest.raises(ValueError, match="batch_size is 1, must be at least 2"):
        branch_and_bound(net, Threat("linf", EPS), batch_size=1)
    with pytest.raises(ValueError, match="must be computed from the image"):
        branch_and_bound(lambda z: jnp.zeros((len(z), 3)), Threat("linf", EPS))(x, 0)


@pytest.mark.slow
def test_tightened_intervals_certify_what_is_true_and_nothing_else():
    """Two hidden layers: what is known before the first cut grows, and stays below the exact least lead."""
    weights, biases, x = drawn(2, (3, 6, 5, 3))
    label = int(np.argmax(network(weights, biases)(x[None])))
    true = least(weights, biases, x, EPS, label)
    tightened = 0
    for aim in (0.02, -0.02):
        moved = [*biases[:-1], biases[-1] + np.float32(aim - true) * np.eye(3, dtype=np.float32)[label]]
        verify = branch_and_bound(network(weights, moved), Threat("linf", EPS), tighten=True, **SETTINGS)
        done = verify(x, label)
        assert done.status == ("certified" if aim > 0 else "attacked")
        assert done.lower <= aim + 1e-5 and all(root <= aim + 1e-5 for root in done.roots)
        if len(done.roots) > 2:
            assert done.roots[-1] > done.roots[1]
            tightened += 1
    assert tightened
