"""A suite gives the same results however it is cut, stopped and resumed, and the right ones where that is known."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diary import Diary
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from robustjax.attacks import autoattack
from robustjax.attacks.square import square
from robustjax.evaluation import pool, runner, suite
from robustjax.evaluation.results import BROKEN, NOT_RUN, ROBUST, merge
from robustjax.threats import Threat

RNG = np.random.default_rng(0)
FIRST = jnp.asarray(RNG.normal(size=(36, 24)) / 6, jnp.float32)
SECOND = jnp.asarray(RNG.normal(size=(24, 5)) / 4, jnp.float32)
X = RNG.uniform(size=(30, 6, 6, 1)).astype(np.float32)
KEY = jax.random.key(0)
BALL = Threat("linf", 0.03)


def network(first, second):
    return lambda x: jax.nn.relu(x.reshape(x.shape[0], -1) @ first) @ second


Y = np.array(network(FIRST, SECOND)(X).argmax(axis=1))
Y[:2] = (Y[:2] + 1) % 5  # wrong from the start


def cases(threat):
    """The standard attacks, short."""
    return (
        autoattack.apgd_ce(threat, steps=6),
        autoattack.apgd_targeted(threat, classes=5, targets=3, steps=6),
        autoattack.fab_targeted(threat, classes=5, targets=2, steps=5),
        autoattack.random_search(threat, queries=40),
    )


def targeted(threat):
    return cases(threat)[1:2]


@functools.cache
def evaluator(tasks=cases, **settings):
    return suite.over(network, tasks, **{"batch_size": 32, "smallest": 16, **settings})


def run(*, rows=slice(None), threat=BALL, tasks=cases, call=None, **settings):
    index = np.arange(len(Y))[rows]
    given = call or {}
    return evaluator(tasks, **settings)(KEY, X[rows], Y[rows], threat, FIRST, SECOND, index=index, **given)


def same(first, second):
    for name in ("attacks", "index", "label", "clean", "outcome", "prediction"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    for name in ("margin", "x", "value", "distance"):
        np.testing.assert_allclose(
            getattr(first, name), getattr(second, name), atol=2e-5, equal_nan=True, err_msg=name
        )


@pytest.fixture(scope="module")
def whole():
    return run()


@pytest.mark.slow
def test_results_are_sound_and_the_attack_is_of_use(whole):
    logits = network(FIRST, SECOND)(jnp.asarray(whole.x))
    wrong = np.asarray(logits.argmax(axis=1)) != Y
    np.testing.assert_array_equal(wrong, ~whole.robust)
    assert BALL.contains(whole.x, X).all()
    assert (whole.clean[:2] != Y[:2]).all() and (whole.outcome[:, :2] == NOT_RUN).all()
    assert (whole.x[:2] == X[:2]).all()
    assert 5 <= whole.robust.sum() <= 22
    broken = (whole.outcome == BROKEN).any(axis=0)
    assert ((whole.margin > 0).any(axis=0) == broken).all()
    later = np.cumsum(whole.outcome == BROKEN, axis=0) - (whole.outcome == BROKEN) > 0
    assert (whole.outcome[later] == NOT_RUN).all() and (whole.outcome[:, whole.robust] == ROBUST).all()
    values = [estimate.value for _, estimate in whole.accuracy()]
    assert values == sorted(values, reverse=True) and values[-1] == whole.robust.mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 8, "smallest": 4, "segment": 3},
        {"batch_size": 5, "smallest": 5, "segment": 1000},
    ],
    ids=str,
)
def test_cutting_it_otherwise_changes_nothing(whole, settings):
    same(run(**settings), whole)


@pytest.mark.slow
def test_a_long_search_begins_with_a_batch_cut_to_its_images(monkeypatch):
    """28 images are classified correctly: seven eighths of a batch of 32, and the results are the same."""
    seen = []

    def counted(*arguments):
        def logits(x):
            seen.append(len(x))
            return network(*arguments)(x)

        return logits

    def searched():
        evaluate = suite.over(counted, lambda threat: cases(threat)[3:], batch_size=32, smallest=16)
        seen.clear()
        return evaluate(KEY, X, Y, BALL, FIRST, SECOND)

    plain = searched()
    assert set(seen) == {3, 32}  # three to see how many logits there are
    monkeypatch.setattr(pool, "TAILORED", 41)
    monkeypatch.setattr(pool, "COMPILING", {"cpu": 0.0})
    same(searched(), plain)
    assert 28 in seen


@pytest.mark.slow
def test_smaller_batches_where_they_pay_change_nothing(whole, monkeypatch):
    """Compiling counts as nothing, as next to a large network."""
    sizes = []
    resized = pool.Pool.resized
    monkeypatch.setattr(pool, "COMPILING", {"cpu": 0.0})
    monkeypatch.setattr(
        pool.Pool, "resized", lambda self, size, *rest: sizes.append(size) or resized(self, size, *rest)
    )
    same(run(batch_size=32, smallest=4), whole)
    assert {4, 8, 16} & set(sizes)
    sizes.clear()
    monkeypatch.undo()
    same(run(batch_size=32, smallest=4), whole)


@pytest.mark.parametrize(("work", "found"), [(1.0, 32), (1e10, 8), (float("inf"), 8)])
def test_a_batch_shrinks_where_that_saves_more_than_compiling(work, found):
    assert pool.affordable([4, 8, 16, 32], 8, 32, work, jax.devices()) == found
    assert pool.affordable([4, 8, 16, 32], 8, 64, 0.0, jax.devices()) == 32
    assert pool.affordable([4, 8, 16, 32], 32, 8, 0.0, jax.devices()) == 32


@given(size=st.integers(1, 600), share=st.floats(0, 1), multiple=st.sampled_from([1, 2, 8]))
def test_a_batch_cut_to_its_rows_holds_them_and_little_more(size, share, multiple):
    size = -(-size // multiple) * multiple
    count = max(1, round(share * size))
    found = pool.tailored(size, count, multiple)
    assert count <= found <= size and found % multiple == 0
    assert found <= count + size / 8 + multiple


@pytest.mark.slow
def test_order_and_neighbours_change_nothing(whole):
    order = np.random.default_rng(1).permutation(len(Y))
    shuffled = run(rows=order)
    back = np.argsort(order)
    np.testing.assert_array_equal(shuffled.outcome[:, back], whole.outcome)
    np.testing.assert_allclose(shuffled.x[back], whole.x, atol=2e-5)
    same(merge([run(rows=slice(0, 13)), run(rows=slice(13, None))]), whole)


@pytest.mark.slow
def test_devices_change_nothing(whole):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    same(run(sharding=NamedSharding(mesh, PartitionSpec("data"))), whole)


@pytest.mark.slow
def test_arrays_on_a_mesh_may_be_closed_over_or_are_refused_in_one_line():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    weight = jnp.asarray(np.ones((4, 2)) * [[0.0], [1.0], [0.0], [0.0]] * [1.0, -1.0], jnp.float32)
    there = jax.device_put(weight, NamedSharding(mesh, PartitionSpec()))
    linear = lambda x: (x.reshape(x.shape[0], -1) - 0.5) @ there
    x = np.linspace(0.0, 1.0, 9, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    y, ball = (x[:, 0] < 0.5).astype(int), Threat("linf", 0.2)
    short = lambda threat: (autoattack.apgd_ce(threat, steps=2),)
    found = suite.over(lambda: linear, short)(KEY, x, y, ball)
    # The margin of a point is twice its distance from 1/2.
    np.testing.assert_array_equal(found.robust[x[:, 0] != 0.5], (np.abs(x[:, 0] - 0.5) > 0.2)[x[:, 0] != 0.5])
    rows = NamedSharding(mesh, PartitionSpec("data"))
    with pytest.raises(ValueError, match="give them as arguments"):
        suite.over(lambda: linear, short, sharding=rows)(KEY, x, y, ball)
    given = suite.over(lambda w: lambda x: (x.reshape(x.shape[0], -1) - 0.5) @ w, short, sharding=rows)
    np.testing.assert_array_equal(given(KEY, x, y, ball, there).robust, found.robust)


def test_a_reference_that_answers_for_other_classes_is_refused_before_any_work():
    """It alone decides what counts as misclassified."""
    seen = suite.over(
        network,
        lambda threat: pytest.fail("worked"),
        reference=lambda f, s: lambda x: network(f, s)(x)[:, :4],
    )
    with pytest.raises(ValueError, match="suite: reference: network gives 4 logits"):
        seen(KEY, X, Y, BALL, FIRST, SECOND)


@pytest.mark.parametrize("place", range(4))
def test_devices_exchange_nothing(place):
    rows = NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data"))
    numbers, case = np.zeros(16, np.int32), cases(BALL)[place]
    clean = {"ranked": np.zeros((16, 3), np.int32)}
    fresh = pool.Fresh(
        numbers == 0, np.zeros((16, 6, 6, 1), np.float32), numbers, clean, numbers, numbers,
        case.parameters_of(numbers),
    )  # fmt: skip
    inputs = pool.spread((pool.blank(case, fresh), fresh), rows)
    rest = KEY, case.stream, jnp.int32(3), jnp.float32(0), BALL, (FIRST, SECOND)
    settings = {"system": network, "program": pool.CaseAt(cases, place), "sharding": rows}
    program = pool.SEGMENT.large.lower(*inputs, *rest, **settings).compile().as_text()
    for exchange in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert f" {exchange}" not in program


@pytest.mark.slow
def test_it_finds_what_the_pure_attack_finds(whole):
    attack = jax.jit(
        lambda x, y, threat: autoattack.worst_case(cases(threat))(KEY, network(FIRST, SECOND), x, y)
    )
    found = attack(X, Y, BALL)
    np.testing.assert_array_equal(np.asarray(found.value) > 0, ~whole.robust)
    # Images that stand were searched to the end by both.
    np.testing.assert_allclose(found.value[whole.robust], whole.value[whole.robust], atol=2e-5)


def test_killed_anywhere_it_goes_on_bit_for_bit(whole):
    def attempt(diary):
        return run(batch_size=8, smallest=4, segment=3, call={"memory": diary})

    diary = Diary()
    expected, total = attempt(diary), 10**9 - diary.lives
    for lives in np.random.default_rng(0).integers(1, total, size=3):
        diary, done = Diary(lives=int(lives)), None
        while done is None:
            try:
                done = attempt(diary)
            except KeyboardInterrupt:
                diary.lives = int(lives)
        for name in ("outcome", "margin", "x", "value", "prediction", "steps"):
            np.testing.assert_array_equal(getattr(done, name), getattr(expected, name), err_msg=name)
    same(expected, whole)


@pytest.mark.parametrize(("before", "after"), [(8, 32), (32, 8)])
def test_it_goes_on_in_batches_of_another_size(before, after):
    """One attack of several runs, so that rows are full and more wait when it is cut off."""

    def evaluate(batch_size, **call):
        tasks = evaluator(targeted, batch_size=batch_size, smallest=4, segment=2)
        return tasks(KEY, X, Y, BALL, FIRST, SECOND, **call)

    diary = Diary(lives=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(before, memory=diary)
    same(evaluate(after, memory=Diary(diary.kept)), evaluate(after))


def test_progress_of_another_evaluation_is_refused():
    diary = Diary(lives=2)
    with pytest.raises(KeyboardInterrupt):
        run(call={"memory": diary})
    with pytest.raises(ValueError, match="belongs to evaluation"):
        run(threat=Threat("linf", 0.04), call={"memory": Diary(diary.kept)})


def test_radii_compile_once_and_a_larger_one_never_helps():
    opened = []

    def counted(*arguments):
        opened.append(1)
        return network(*arguments)

    evaluate = suite.over(counted, lambda threat: cases(threat)[1:3], batch_size=32, smallest=16)
    report, robust = None, []
    for eps in (0.0, 0.01, 0.02, 0.04):
        report = evaluate(KEY, X, Y, Threat("linf", eps), FIRST, SECOND, given=report)
        robust.append(report.robust)
    assert robust[0].sum() == (report.clean == Y).sum()
    # In every call twice for its shape, and once for its steps, in one batch size.
    assert len(opened) <= 3 * 4
    assert all((later <= earlier).all() for earlier, later in itertools.pairwise(robust))
    assert robust[0].sum() > robust[-1].sum()


def test_every_attack_on_every_image():
    full = run(call={"every": True})
    assert ((full.outcome != NOT_RUN) == (full.clean == Y)).all()
    np.testing.assert_array_equal(full.robust, run().robust)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dual"), [("linf", 1), ("l2", 2), ("l1", np.inf)])
def test_standard_is_exact_on_a_linear_network(kind, dual):
    """Far from the box, an image stands where min_j (z_y - z_j) / |w_y - w_j|_dual exceeds the radius."""
    weight = np.random.default_rng(3).normal(size=(12, 4)).astype(np.float32)
    x = np.random.default_rng(4).uniform(0.4, 0.6, size=(40, 12)).astype(np.float32)
    y = (x @ weight).argmax(axis=1)
    gaps = (x @ weight)[np.arange(40), y][:, None] - x @ weight
    slopes = np.linalg.norm(weight[:, y].T[:, :, None] - weight[None], ord=dual, axis=1)
    distance = np.where(slopes > 0, gaps / np.maximum(slopes, 1e-9), np.inf).min(axis=1)
    eps = float(np.median(distance[distance > 0]))
    evaluate = suite.over(
        lambda w: lambda x: x @ w,
        lambda t: autoattack.standard(t, classes=4)[1:3],
        batch_size=40,
        smallest=40,
    )
    robust = evaluate(KEY, x, y, Threat(kind, eps, -9.0, 9.0), weight).robust
    clear = np.abs(distance / eps - 1) > 0.01
    np.testing.assert_array_equal(robust[clear], (distance > eps)[clear])
    assert 0.3 < robust.mean() < 0.7


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(
    kind=st.sampled_from(["linf", "l2", "l1"]),
    classes=st.sampled_from([2, 3, 4, 10, 100]),
    shape=st.sampled_from([(7,), (3, 5), (5, 9, 1), (4, 6, 3), (2, 3, 4, 2)]),
    eps=st.floats(0.0, 1.5),
    seed=st.integers(0, 2**31 - 1),
)
def test_soundness_for_any_shape_and_number_of_classes(kind, classes, shape, eps, seed):
    draw = np.random.default_rng(seed)
    weight = draw.normal(size=(int(np.prod(shape)), classes)).astype(np.float32)
    x = draw.uniform(size=(6, *shape)).astype(np.float32)
    x.flat[:3] = 0.0, 1.0, 0.0

    def net(w):
        return lambda z: jnp.tanh(z.reshape(z.shape[0], -1) @ w)

    def short(threat):
        return (
            autoattack.apgd_ce(threat, steps=5, shrinking=kind == "l1"),
            autoattack.apgd_targeted(threat, classes=classes, targets=2, steps=3),
            autoattack.fab_targeted(threat, classes=classes, targets=2, steps=3, restarts=2),
            autoattack.random_search(threat, queries=6),
        )

    y = draw.integers(0, classes, size=6)
    found = suite.over(net, short, batch_size=6, smallest=6)(KEY, x, y, Threat(kind, eps), weight)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[kind]
    distance = np.linalg.norm((found.x.astype(np.float64) - x).reshape(6, -1), ord=order, axis=1)
    assert (distance <= eps * (1 + 1e-6) + 1e-6).all()
    assert (found.x >= 0).all() and (found.x <= 1).all() and np.isfinite(found.x).all()
    logits = np.array(net(weight)(jnp.asarray(found.x)))
    own = logits[np.arange(6), y]
    logits[np.arange(6), y] = -np.inf
    lead = own - logits.max(axis=1)
    clear = np.abs(lead) > 1e-5  # a saturated tanh ties, and another program may break the tie otherwise
    np.testing.assert_array_equal(found.robust[clear], lead[clear] > 0)
    assert (found.robust <= (found.clean == y)).all()


def test_networks_that_return_nan_count_as_wrong():
    evaluate = suite.over(lambda: lambda x: jnp.full((x.shape[0], 3), jnp.nan), cases_of_three, batch_size=4)
    found = evaluate(KEY, X[:4], Y[:4] % 3, BALL)
    assert not found.robust.any() and (found.clean == -1).all()


def cases_of_three(threat):
    return (autoattack.apgd_ce(threat, steps=2),)


@pytest.mark.slow
def test_a_reference_network_overrules_the_attack():
    """An attack on a network that is always fooled breaks nothing that the reference still gets right."""
    evaluate = suite.over(
        lambda first, second: lambda x: -network(first, second)(x),
        lambda threat: cases(threat)[:1],
        batch_size=32,
        reference=network,
    )
    found = evaluate(KEY, X, Y, Threat("linf", 1e-5), FIRST, SECOND)
    np.testing.assert_array_equal(found.robust, found.clean == Y)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": X[:3]}, r"labels have shape \(30,\), must be \(3,\)"),
        ({"index": np.zeros(30, int)}, "same number twice"),
        ({"images": X * 255}, "x ranges from .* must lie in the box"),
        ({"images": X - 0.5}, "undo the normalisation, or pass lower= and upper="),
        ({"images": np.where(X > 0.99, np.nan, X)}, "not finite"),
        ({"images": (255 * X).astype(np.int32)}, "images are int32"),
        ({"images": X[:0], "labels": Y[:0]}, "n at least 1"),
        ({"labels": Y - 1}, "the smallest label is -1"),
        ({"labels": Y + 1}, "must be below the 5 logits"),
        ({"labels": np.append(Y[1:], 3.7)}, "must be whole numbers"),
        ({"labels": np.append(Y[1:], 2**32 + 1)}, "the largest label is 4294967297"),
        ({"labels": np.eye(5)[Y]}, "take y.argmax"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, words):
    arguments = {"images": X, "labels": Y, "index": None, **change}

    def unwanted(threat):
        raise AssertionError("work was begun")

    with pytest.raises(ValueError, match=words):
        suite.over(network, unwanted)(
            KEY, arguments["images"], arguments["labels"], BALL, FIRST, SECOND, index=arguments["index"]
        )


@pytest.mark.slow
def test_a_network_that_is_trained_further_is_evaluated_with_its_new_weights():
    """The sign of the logits turns, by an array and by a number that the function closes over."""
    weights = {"w": jnp.asarray(RNG.normal(size=(36, 3)), jnp.float32), "scale": np.float32(1)}

    def plain(x):
        return weights["scale"] * (x.reshape(len(x), -1) @ weights["w"])

    y = np.asarray(plain(X[:8]).argmax(axis=1))
    evaluate = suite.over(lambda: plain, cases_of_three, batch_size=8)
    programs = []

    def clean():
        found = evaluate(KEY, X[:8], y, BALL).clean
        programs.append(runner.answered._cache_size())
        return found

    np.testing.assert_array_equal(clean(), y)
    np.testing.assert_array_equal(clean(), y)
    weights["w"] = -weights["w"]
    np.testing.assert_array_equal(clean(), np.asarray(plain(X[:8]).argmax(axis=1)))
    assert (clean() != y).any()
    weights["scale"] = np.float32(-1)
    np.testing.assert_array_equal(clean(), y)
    # Other arrays need no other program.
    assert programs[3] == programs[0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: suite.over(network(FIRST, SECOND), cases_of_three), "make lambda: f"),
        (lambda: suite.over(lambda: X, cases_of_three), "network gives a ndarray"),
        (lambda: suite.over(lambda: lambda x: x[:, :1, 0, 0], cases_of_three), "one logit z make"),
        (lambda: suite.over(lambda: lambda x: np.asarray(x), cases_of_three), "must be written in JAX"),
        (lambda: suite.over(lambda: network(FIRST, SECOND), cases_of_three(BALL)), "cases is a tuple"),
        (
            lambda: suite.over(lambda: network(FIRST, SECOND), lambda t: cases_of_three(t)[0]),
            "must give a tuple",
        ),
        (lambda: suite.over(FIRST, cases_of_three), "network is a ArrayImpl, must be a function"),
        (lambda: suite.over(lambda: network(FIRST, SECOND), lambda t: (square(t),)), "must be a Case"),
    ],
)
def test_what_is_no_network_or_no_suite_is_refused_in_one_line(wrong, words):
    with pytest.raises(ValueError, match=words) as caught:
        wrong()(KEY, X, Y, BALL)
    assert "\n" not in str(caught.value)


def test_settings_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match="segment is 0"):
        suite.over(network, cases, segment=0)
    with pytest.raises(ValueError, match=r"batch_size 0"):
        suite.over(network, cases, batch_size=0)
    with pytest.raises(ValueError, match="norm is 'l1'"):
        autoattack.plus(Threat("l1", 1.0), classes=10)
    with pytest.raises(ValueError, match="classes is 1"):
        autoattack.standard(BALL, classes=1)
    with pytest.raises(ValueError, match="names of their own"):
        autoattack.worst_case([autoattack.apgd_ce(BALL)] * 2)
