"""The AutoAttack components against golden numbers of an independent implementation (vectors.json)."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax import logit
from robustjax.attacks import square_windows
from robustjax.attacks.apgd import apgd
from robustjax.attacks.fab import fab, fab_targeted
from robustjax.attacks.hyperplane import onto_hyperplane
from robustjax.attacks.solver import classified
from robustjax.numerics import norm
from robustjax.threats import Threat

VECTORS = json.loads((pathlib.Path(__file__).parent / "vectors.json").read_text())
KIND = {"inf": "linf", "2": "l2", "1": "l1"}
LOSS = {"ce": logit.cross_entropy, "dlr": logit.dlr}

ROW, COLUMN = np.arange(5)[:, None], np.arange(6)[None]
A = jnp.asarray(1.5 * np.sin(1 + 6 * ROW + COLUMN), jnp.float32)
B = jnp.asarray(2 * np.sin(2 + 5 * ROW + ROW.T), jnp.float32)
BIAS = jnp.asarray(0.1 * np.cos(ROW[:, 0]), jnp.float32)
X = jnp.asarray(0.5 + 0.4 * np.sin(3 + 6 * ROW[:4] + COLUMN), jnp.float32)
TOWARDS = jnp.asarray(np.sin(7 + 6 * ROW[:4] + COLUMN), jnp.float32)
Y = jnp.asarray(VECTORS["trajectories"]["y"], jnp.int32)


def net(x):
    return jnp.tanh(x @ A.T + BIAS[None]) @ B.T


def close(actual, expected, atol):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), atol=atol, rtol=0)


def test_the_network_is_the_one_of_the_vectors():
    close(X, VECTORS["trajectories"]["x"], 1e-6)
    close(net(X), VECTORS["trajectories"]["clean_logits"], 2e-6)


@pytest.mark.parametrize("case", VECTORS["losses"], ids=lambda c: f"{c['y']}-{c.get('t')}")
def test_losses(case):
    z, y = jnp.asarray([case["logits"]]), jnp.asarray([case["y"]])
    if "t" in case:
        close(logit.targeted_dlr(z, y, jnp.asarray([case["t"]]))[0], case["dlr_targeted"], 1e-6)
    else:
        close(logit.dlr(z, y)[0], case["dlr"], 1e-6)


@pytest.mark.parametrize(
    "case", [c for c in VECTORS["projections"] if c["kind"] == "l1_box"], ids=lambda c: c["eps"]
)
def test_l1_projection(case):
    x, y = jnp.asarray([case["x"]]), jnp.asarray([case["y"]])
    close((Threat("l1", case["eps"]).project(x + y, x) - x)[0], case["delta"], 1e-6)


@pytest.mark.parametrize("case", [c for c in VECTORS["projections"] if c["kind"] != "l1_box"], ids=str)
def test_hyperplane_projection(case):
    point, normal = jnp.asarray([case["t"]]), jnp.asarray([case["w"]])
    gap = (normal * point).sum(axis=1) - case["b"]
    d = onto_hyperplane(KIND[case["kind"][-1]], normal, gap, point, 0.0, 1.0)
    close(d[0], case["d"], 1e-6)
    close(jnp.abs((normal * d).sum(axis=1) + gap)[0], case["residual"], 1e-6)


@pytest.mark.parametrize("steps", ["10", "20", "40", "50", "100", "200"])
def test_apgd_checks_at_the_published_iterations(steps):
    """An objective that never rises loses half of its step at every checkpoint, and nowhere else."""
    solver = apgd(Threat("linf", 1.0), steps=int(steps), start=lambda key, x: x)

    def flat(x):
        return jnp.zeros_like(x[:, 0]), x[:, 0]

    @jax.jit
    def step_sizes(x):
        def once(state, _):
            state = solver.advance(flat, state, 1)
            return state, state.step_size[0]

        return jax.lax.scan(once, solver.init(jax.random.key(0), x), length=solver.length)[1]

    sizes = np.asarray(step_sizes(jnp.zeros((1, 1))))
    np.testing.assert_array_equal(np.flatnonzero(np.diff(sizes) < 0) + 1, VECTORS["apgd_checkpoints"][steps])
    assert sizes[0] == 2.0 and np.isin(sizes[1:] / sizes[:-1], [0.5, 1.0]).all()


@pytest.mark.parametrize(
    "case", VECTORS["trajectories"]["apgd"], ids=lambda c: f"{KIND[c['norm']]}-{c['loss']}-{c['n_iter']}"
)
def test_apgd_follows_the_published_trajectory(case):
    kind, steps = KIND[case["norm"]], case["n_iter"]
    unit = TOWARDS if kind == "linf" else TOWARDS / norm(TOWARDS, kind)[:, None]
    first = jnp.clip(X + case["eps"] * unit, 0, 1)
    solver = apgd(Threat(kind, case["eps"]), steps=steps, start=lambda key, x: first, compat="official")
    objective = classified(net, Y, LOSS[case["loss"]])

    @jax.jit
    def run(x):
        def once(state, _):
            state = solver.advance(objective, state, 1)
            return state, state.value

        return jax.lax.scan(once, solver.init(jax.random.key(0), x), length=solver.length)

    state, values = run(X)
    for iteration, expected in case["loss_after_iter"].items():
        close(values[int(iteration)], expected, 5e-6)
    close(state.best.value, case["loss_best"], 5e-6)
    plateau = (kind, steps) == ("l2", 20)  # where the last digit of the loss decides, check after check
    close(state.best.x, case["x_best"], 5e-4 if plateau else 1e-4)
    np.testing.assert_array_equal(solver.finish(state).value <= 0, case["still_correct"])
    if not plateau:
        np.testing.assert_allclose(state.step_size, case["final_step_size"], rtol=0.005)
    halvings = np.log2(2 * case["eps"] / np.asarray(state.step_size))
    assert kind == "l1" or np.allclose(halvings, halvings.round())


@pytest.mark.parametrize("case", VECTORS["square_side"])
def test_square_sides(case):
    size, kind = case.split("_", 1)
    height, width = map(int, size.split("x"))
    query, side = np.array(VECTORS["square_side"][case]).T
    table = square_windows.sides(height, width, 0.8, odd=kind != "inf")
    np.testing.assert_array_equal(
        table[square_windows.phase(jnp.asarray(query))], np.stack([side, side], axis=1)
    )


@pytest.mark.parametrize("sideways", [False, True])
@pytest.mark.parametrize("case", VECTORS["square_eta_untransposed"])
def test_square_bumps(case, sideways):
    side, kind = int(case[1]), case[3:]
    expected = np.zeros((9, 8))
    pattern = np.array(VECTORS["square_eta_untransposed"][case])
    expected[2 : 2 + side, 1 : 1 + side] = pattern.T if sideways else pattern
    size, top, left = (jnp.full(1, n) for n in (side, 2, 1))
    drawn = square_windows.bumps(kind, size, size, top, left, jnp.full(1, sideways), 9, 8)
    close(drawn[0, :, :, 0], expected, 1e-6)


@pytest.mark.parametrize("attack", [lambda t: fab_targeted(t, targets=1), fab], ids=["targeted", "any"])
@pytest.mark.parametrize("case", VECTORS["trajectories"]["fab_t"], ids=lambda c: KIND[c["norm"]])
def test_fab_finds_the_published_minimum_norms(case, attack):
    """The nearest boundary of this network is the one to the runner-up, so that both forms must agree."""
    threat = Threat(KIND[case["norm"]], jnp.inf)
    found = jax.jit(lambda key: attack(threat)(key, net, X, Y))(jax.random.key(0))
    close(norm(found.x - X, threat.norm), case["min_norm"], 1e-4)
    assert (found.value > 0).all()
