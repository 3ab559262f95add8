"""L0 attacks: exact on linear models, counted queries, the support they are allowed, and the suite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import twin

import robustjax
from experiments.classification.config import AttackConfig
from experiments.shared.network_source import Source
from robustjax import api, attacks, logit
from robustjax.attacks import as_attack, l0_suite, sparse_shapes, suites
from robustjax.attacks.sigma_zero import _slope_of_count
from robustjax.attacks.solver import own_merit
from robustjax.catalog import attacks as known
from robustjax.evaluation import suite
from robustjax.threats import Threat

KEY = jax.random.key(0)
N, D = 6, 12
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(D, 2)).astype(np.float32)
X = jnp.asarray(RNG.uniform(-0.5, 1.5, size=(N, D)).clip(0, 1), jnp.float32)  # many exact 0 and 1
Y = jnp.asarray(np.asarray(X @ WEIGHT).argmax(axis=1), jnp.int32)


def net(x):
    return x.reshape(len(x), -1) @ jnp.asarray(WEIGHT)


def gains():
    """Say how much each feature can raise the margin alone, largest first, and the margin itself."""
    w = (WEIGHT[:, 1] - WEIGHT[:, 0]) * np.where(np.asarray(Y) == 0, 1, -1)[:, None]
    x = np.asarray(X)
    return -np.sort(-np.maximum(w * (1 - x), -w * x), axis=1), (w * x).sum(axis=1)


@pytest.mark.parametrize(
    "attack",
    [
        lambda t: attacks.fmn(t, steps=60),
        lambda t: attacks.sigma_zero(t, steps=100),
        lambda t: attacks.vfga(t, steps=D, samples=60),
    ],
    ids=["fmn", "sigma_zero", "vfga"],
)
def test_the_fewest_features_of_a_linear_model_are_found(attack):
    """Those of largest gain, as many as close the gap: no other choice of as many gains more."""
    gain, margin = gains()
    fewest = 1 + ((margin[:, None] + np.cumsum(gain, axis=1)) <= 0).sum(axis=1)
    found = jax.jit(lambda: as_attack(attack(Threat("l0", jnp.inf)))(KEY, net, X, Y))()
    assert (found.value > 0).all() and len(set(fewest)) > 1
    np.testing.assert_array_equal(Threat("l0", jnp.inf).distance(found.x, X), fewest)


def test_the_worst_case_of_so_many_features_is_reached_exactly():
    """PGD with steps that cross the box many times is the linear maximiser; random search gets there too."""
    gain, margin = gains()
    count = np.array([1, 1, 2, 4, 4, 12])
    worst = margin + (gain * (np.arange(D) < count[:, None])).sum(axis=1)
    threat = Threat("l0", jnp.asarray(count, jnp.float32))
    for solver in (
        attacks.pgd_solver(threat, steps=3, step_size=1e4),
        attacks.sparse_rs(threat, queries=900),
    ):
        found = jax.jit(lambda solver=solver: as_attack(solver, logit.margin)(KEY, net, X, Y))()
        np.testing.assert_allclose(found.value, worst, rtol=1e-4, atol=1e-4)


def test_the_radius_of_fmn_moves_by_one_at_least():
    """From 1 up until a point is adversarial, down after it and never above the nearest; by hand."""
    solver = attacks.fmn(Threat("l0", jnp.inf), steps=30, gamma=0.5)
    advance, objective = jax.jit(solver.advance, static_argnums=0), own_merit(lambda x: x.sum(axis=1) - 4.5)
    state = jax.jit(solver.init)(KEY, jnp.zeros((1, 8)))
    for step in range(30):
        before, state = state, advance(objective, state, 1)
        change = 1e-4 + (0.5 - 1e-4) * (1 + np.cos(np.pi * step / 30)) / 2
        radius, misclassified = float(before.memory[0]), np.asarray(before.x).sum() > 4.5
        if misclassified:
            expected = min(radius - 1, np.floor(radius * (1 - change)), float(state.kept.distance[0]))
        else:
            expected = max(radius + 1, np.floor(radius * (1 + change)))
        assert state.memory[0] == np.clip(expected, 0, 8)
        assert (np.asarray(state.x) != 0).sum() <= float(state.memory[0])
    assert state.kept.distance[0] == 5


def test_the_smooth_count_has_the_slope_that_jax_finds():
    moved = jnp.asarray(RNG.normal(size=(2, 3, 4)), jnp.float32)

    def count(v):
        square = jnp.square(v.reshape(2, -1, 2)).sum(axis=2)
        return (square / (square + 0.1)).mean(axis=1).sum()

    np.testing.assert_allclose(_slope_of_count(moved, 0.1, 2), jax.grad(count)(moved), rtol=1e-5, atol=1e-7)


def test_the_first_steps_of_sigma_zero_by_hand():
    """One feature is steeper: Adam's first step is sign(g) for both, and both cross the threshold; the box cuts."""
    solver = attacks.sigma_zero(Threat("l0", jnp.inf), steps=10)
    slope = jnp.array([2.0, -1.0])
    objective = own_merit(lambda x: (x * slope[None]).sum(axis=1) - 5.0)
    state = jax.jit(solver.init)(KEY, jnp.array([[0.25, 0.5]]))
    advance = jax.jit(lambda state: solver.advance(objective, state, 1))
    once = advance(state)
    # A step of 1 reaches both edges: changes of 0.75 and -0.5, above the threshold, which falls to 0.3 - 0.01 eta_1.
    np.testing.assert_allclose(once.x, [[1.0, 0.0]], atol=1e-6)
    eta = 0.1 + 0.9 * (1 + np.cos(np.pi / 10)) / 2
    np.testing.assert_allclose(once.memory.threshold, 0.3 - 0.01 * eta, rtol=1e-6)
    # With a threshold of 0.6, raised where the point was adversarial, the second change is undone.
    high = state._replace(memory=state.memory._replace(threshold=jnp.array([0.6])))
    np.testing.assert_array_equal(advance(high).x, [[1.0, 0.5]])


def test_vfga_changes_one_more_place_each_step_and_rests_when_found():
    path, threat = [], Threat("l0", 5)
    solver = attacks.vfga(threat, steps=8, samples=3)
    objective = own_merit(lambda x: net(x)[:, 1] - net(x)[:, 0] - 1.0)
    state, advance = jax.jit(solver.init)(KEY, X), jax.jit(lambda state: solver.advance(objective, state, 1))
    changed = lambda x: (np.asarray(x) != np.asarray(X)).sum(axis=1)
    for _ in range(8):
        before, state = state, advance(state)
        margin = np.asarray(before.x) @ (WEIGHT[:, 1] - WEIGHT[:, 0]) - 1.0
        rests = (margin > 0) | (changed(before.x) >= 5)
        np.testing.assert_array_equal(changed(state.x) - changed(before.x), np.where(rests, 0, 1))
        path.append(rests)
    assert (changed(solver.finish(state).x) <= 5).all() and not path[0].all() and path[-1].all()


FORMS = {
    "pixels": (attacks.sparse_rs, 4),
    "patch": (attacks.sparse_rs_patch, 9),
    "frame": (attacks.sparse_rs_frame, 18),
}
SHAPE = (2, 5, 6, 2)


def of_form(name, mask):
    """Say what shape the changed pixels of one image have."""
    down, right = np.nonzero(mask)
    if name == "pixels":
        return len(down) == 4
    if name == "patch":
        return mask.sum() == 9 and np.ptp(down) == 2 and np.ptp(right) == 2
    inner = np.zeros((5, 6), bool)
    inner[1:-1, 1:-1] = True
    return (mask == ~inner).all()


@pytest.mark.parametrize("name", FORMS)
def test_every_query_is_counted_and_paints_the_allowed_support(name):
    """What is asked is counted by the function asked; images are grey, so that every painted pixel shows."""
    build, pixels = FORMS[name]
    asked, solver = [], build(Threat("l0", pixels, -0.5, 2.0), queries=60)
    origin = jnp.full(SHAPE, 0.5)
    slope = jnp.asarray(RNG.normal(size=SHAPE), jnp.float32)

    def objective(x):
        value = (slope * x).sum(axis=(1, 2, 3))
        jax.debug.callback(lambda x, v: asked.append((np.asarray(x), np.asarray(v))), x, value, ordered=True)
        return value

    found = jax.jit(lambda: solver(KEY, objective, origin))()
    jax.effects_barrier()
    assert len(asked) == 60 == solver.length
    points, values = map(np.stack, zip(*asked, strict=True))
    np.testing.assert_array_equal(found.value, values.max(axis=0))
    changed = (points != 0.5).any(axis=-1)
    assert (changed == (points != 0.5).all(axis=-1)).all()
    assert all(of_form(name, mask) for query in changed for mask in query)
    assert set(np.unique(points)) == {-0.5, 0.5, 2.0}
    assert len({mask.tobytes() for mask in changed[:, 0]}) > (4 if name != "frame" else 0)
    assert (values[-20:].max(axis=0) > values[0]).all()


def test_the_schedule_is_the_published_one_at_any_number_of_queries():
    """Shares of the authors' table, at the query of 10,000 that corresponds."""
    pixels = sparse_shapes.shares(sparse_shapes.PIXELS, 0.3, 10_000)
    at = [1, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6000, 6001, 8000, 8001, 9999]
    divisors = [2, 2, 4, 4, 5, 5, 6, 6, 8, 8, 10, 10, 12, 12, 15, 15, 20, 20]
    np.testing.assert_allclose(pixels[at], 0.3 / np.array(divisors), rtol=1e-6)
    patches = sparse_shapes.shares(sparse_shapes.PATCHES, 0.4, 1000)
    at = [1, 2, 5, 6, 20, 21, 50, 51, 100, 101, 400, 401, 800, 801]
    divisors = [1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 64, 64, 128]
    np.testing.assert_allclose(patches[at], 0.4 / np.array(divisors), rtol=1e-6)


def test_sizes_of_patches_and_frames_never_exceed_the_radius():
    """Of 5 x 6 pixels: squares of 1, 4, 9, 16, 25; frames of 18, 28 and all 30."""
    count = jnp.array([0.0, 1.0, 8.0, 9.0, 24.0, 30.0])
    np.testing.assert_array_equal(sparse_shapes.side_of(count, 5, 6), [0, 1, 2, 3, 4, 5])
    count = jnp.array([17.0, 18.0, 27.0, 28.0, 29.0, 30.0])
    np.testing.assert_array_equal(sparse_shapes.border(count, 5, 6), [0, 1, 1, 2, 2, 3])


def test_patches_come_to_every_place_and_frames_grow_inwards_only():
    keys, shape = jax.random.split(KEY, 400), (4, 5, 1)
    start = jax.jit(lambda: sparse_shapes.patch(keys, jnp.full(400, 2), shape))()
    corners = {tuple(corner) for corner in np.asarray(start.corner).tolist()}
    assert corners == {(i, j) for i in range(3) for j in range(4)}
    far = jax.jit(lambda: sparse_shapes.moved(keys, start, jnp.ones(400), jnp.full(400, 2), shape))()
    assert (far.corner >= 0).all() and (far.corner <= jnp.array([[2, 3]])).all()
    wide = jnp.full(400, 2)
    first = jax.jit(lambda: sparse_shapes.frame(keys, wide, (6, 7, 1)))()
    then = jax.jit(lambda: sparse_shapes.recoloured(keys, first, jnp.full(400, 0.01), wide, (6, 7, 1)))()
    # One seed: a square of 2 x 2, cut by the image, of one colour; what lies in the hole does not count.
    changed = np.asarray((then.upper != first.upper)[..., 0]).reshape(400, 6, 7)
    for places in (np.nonzero(mask) for mask in changed if mask.any()):
        assert max(np.ptp(place) for place in places) <= 1
    assert (changed.sum(axis=(1, 2)) <= 4).all() and changed.any(axis=(1, 2)).sum() > 300


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: attacks.sigma_zero(Threat("l1", 1.0)), "sigma_zero: norm is 'l1', must be 'l0'"),
        (lambda: attacks.vfga(Threat("l1", 1.0)), "vfga: norm is 'l1', must be 'l0'"),
        (lambda: attacks.sparse_rs(Threat("l1", 1.0)), "sparse_rs: norm is 'l1', must be 'l0'"),
        (lambda: attacks.sigma_zero(Threat("l0", 1, -np.inf, np.inf)), "sigma_zero: the box is"),
        (lambda: attacks.vfga(Threat("l0", 1, 0.0, np.inf)), "vfga: the box is"),
        (lambda: attacks.sparse_rs_frame(Threat("l0", 9, 0.0, np.inf)), "sparse_rs_frame: the box is"),
        (lambda: attacks.sparse_rs(Threat("l0", 1), queries=0), "sparse_rs: queries is 0"),
        (lambda: attacks.sparse_rs(Threat("l0", 1), alpha_init=0.0), "sparse_rs: alpha_init is 0.0"),
        (lambda: attacks.vfga(Threat("l0", 1), samples=0), "vfga: samples is 0"),
        (lambda: attacks.sigma_zero(Threat("l0", 1), sigma=0.0), "sigma_zero: sigma is 0.0"),
        (lambda: attacks.sparse_rs_patch(Threat("l0", 4)).init(KEY, X), "must be images"),
        (lambda: attacks.sparse_rs_patch(Threat("l0", 1, channels=1)).init(KEY, jnp.ones(SHAPE)), "allows 0 pixels"),
        (lambda: attacks.sparse_rs_frame(Threat("l0", 17)).init(KEY, jnp.ones(SHAPE)), "must allow at least 18"),
        (lambda: suites.standard(Threat("l0", 4), classes=2, compat="official"), "compat is 'official' in l0"),
        (lambda: l0_suite.standard(Threat("l1", 4), classes=2), "pgd_l0: norm is 'l1'"),
        (lambda: known.suite("plus", Threat("l0", 4), 2, settings=known.AttackSettings()), "plus: norm is 'l0'"),
        (lambda: known.suite("rand", Threat("l0", 4), 2, settings=known.AttackSettings()), "rand: norm is 'l0'"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_when_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.slow
def test_the_suite_counts_pixels_image_by_image():
    """Of a linear network the robust images are known: those whose largest gains do not close the gap."""
    gain, margin = gains()
    count = 2
    cases = lambda t: (l0_suite.random_pixels(t, queries=300),)
    images = np.asarray(X).reshape(N, 1, D, 1)
    found = suite.over(lambda: net, cases, batch_size=8)(KEY, images, np.asarray(Y), Threat("l0", count))
    np.testing.assert_array_equal(found.robust, margin + gain[:, :count].sum(axis=1) < 0)
    assert 0 < found.robust.sum() < N
    np.testing.assert_array_equal(found.distance, (found.x != images).reshape(N, -1).sum(axis=1))
    names = [case.name for case in suites.standard(Threat("l0", count), classes=2)]
    assert names == ["pgd-ce", "pgd-margin", "sigma-zero", "sparse-rs"]
    assert all(known.attack(n, Threat("l0", 18), 2, known.AttackSettings(steps=2, queries=2)) for n in (
        "pgd-ce", "fmn", "sigma-zero", "vfga", "sparse-rs", "sparse-rs-patch", "sparse-rs-frame"
    ))  # fmt: skip


@pytest.mark.slow
def test_evaluations_of_pixels_print_what_closed_form_says(monkeypatch):
    """The front door with the suite of l0 cut short, and its gradient-masking checks."""
    gain, margin = gains()
    short = lambda t, classes: (l0_suite.pgd_l0(t, "pgd-ce", logit.cross_entropy, steps=5, restarts=1),)
    monkeypatch.setitem(api.SUITES, "standard", short)
    images = np.asarray(X).reshape(N, 3, 4, 1)
    found = robustjax.evaluate(net, images, np.asarray(Y), norm="l0", eps=2)
    assert found.robust.value == pytest.approx((margin + gain[:, :2].sum(axis=1) < 0).mean())
    assert repr(found).startswith("l0 of 2 pixels, standard suite, 6 images")
    told = {flag.name: flag for flag in found.flags}
    assert {"noise", "one step", "random search", "unlimited radius"} & set(told) and not told[
        "one step"
    ].raised
    for wrong in (8 / 255, 13, 2.5):
        with pytest.raises(ValueError, match="from 1 to 12: in l0 it counts pixels"):
            robustjax.evaluate(net, images, np.asarray(Y), norm="l0", eps=wrong)


def test_scripts_count_pixels_too():
    source = Source(function="mine:net", dataset="digits")
    curve = AttackConfig(source=source, norm="l0", eps=5, radii=3, out="x")
    curve.check()
    np.testing.assert_array_equal(curve.grid(), [2, 3, 5])
    for settings, says in (
        ({}, "must be given in l0"),
        ({"eps": 0.3}, "whole number"),
        ({"eps": 2, "radii": 3}, "--radii is 3"),
    ):
        with pytest.raises(ValueError, match=says):
            AttackConfig(**{"source": source, "norm": "l0", "out": "x", **settings}).check()


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["fmn", "sigma_zero", "vfga"])
def test_as_few_features_as_adversarial_library_finds(name):
    """On a network of three classes, at the same budget: equal but for a few images either way."""
    torch = pytest.importorskip("torch")
    # It imports torchvision and visdom, which attacks do not use and which may be broken.
    peers = pytest.importorskip("adv_lib.attacks", exc_type=(ImportError, RuntimeError))
    first, second = (torch.from_numpy(w) for w in twin.LAYERS)
    their = lambda x: 5.0 * torch.tanh(2.0 * x @ first) @ second
    x, y = torch.tensor(np.asarray(twin.X)), torch.tensor(np.asarray(twin.Y), dtype=torch.long)
    torch.manual_seed(0)
    budget = {"fmn": {"norm": 0, "steps": 300}, "sigma_zero": {"num_steps": 300}, "vfga": {"targeted": False}}
    points = getattr(peers, name)(their, x, y, **budget[name]).numpy()
    broken = np.asarray(twin.net(points)).argmax(axis=1) != np.asarray(twin.Y)
    there = np.where(broken, (points != np.asarray(twin.X)).sum(axis=1), 99)

    threat = Threat("l0", jnp.inf)
    ours = {"fmn": {"steps": 300}, "sigma_zero": {"steps": 300}, "vfga": {"steps": 12}}
    found = jax.jit(
        lambda: as_attack(getattr(attacks, name)(threat, **ours[name]))(KEY, twin.net, twin.X, twin.Y)
    )()
    here = np.where(np.asarray(found.value) > 0, (np.asarray(found.x) != np.asarray(twin.X)).sum(axis=1), 99)
    assert np.median(here) <= np.median(there) and here.mean() <= there.mean() + 0.1
