"""The front door: wrong input is refused before any work, and never mixes two networks in one folder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import robustjax
from robustjax import api, checks
from robustjax.attacks import autoattack

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(6, 4, 4, 1)).astype(np.float32)
Y = np.arange(6) % 2
W = RNG.normal(size=(2, 16, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setitem(
        api.SUITES, "standard", lambda threat, classes: (autoattack.apgd_ce(threat, steps=5),)
    )


def linear(w):
    return lambda x: x.reshape(x.shape[0], -1) @ jnp.asarray(w)


def exact(w, eps):
    slope = (w[:, 1] - w[:, 0]) * np.where(Y == 0, 1, -1)[:, None]
    flat = X.reshape(6, -1)
    low, high = (np.clip(flat + side, 0, 1) - flat for side in (-eps, eps))
    worst = (slope * flat).sum(axis=1) + np.where(slope > 0, slope * high, slope * low).sum(axis=1)
    return (worst < 0).mean()


@pytest.mark.parametrize("eps", [0.01, 0.1])
def test_the_result_is_that_of_closed_form_and_prints_it(eps):
    for w in W:
        found = robustjax.evaluate(linear(w), X, Y, eps=eps, masking=False)
        assert found.robust.value == pytest.approx(exact(w, eps))
        assert f"robust    {100 * found.robust.value:6.1f} %" in repr(found)


def test_progress_of_another_network_is_not_taken_up(tmp_path, monkeypatch):
    """A call that was killed leaves its progress; another network on the same images starts at its own beginning."""
    monkeypatch.setattr(api.suites, "over", lambda *a, **k: lambda *args, memory, **more: _kill(memory))
    with pytest.raises(KeyboardInterrupt):
        robustjax.evaluate(linear(W[0]), X, Y, eps=0.1, masking=False, out=tmp_path)
    assert len(list(tmp_path.glob("progress_*.npz"))) == 1
    monkeypatch.undo()
    monkeypatch.setitem(
        api.SUITES, "standard", lambda threat, classes: (autoattack.apgd_ce(threat, steps=5),)
    )
    found = robustjax.evaluate(linear(W[1]), X, Y, eps=0.1, masking=False, out=tmp_path)
    assert found.robust.value == pytest.approx(exact(W[1], 0.1))


def _kill(memory):
    memory.write({"anything": np.zeros(1)})
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": 255 * X}, "divide them by 255"),
        ({"y": Y + 1}, "labels from 1 need y - 1"),
        ({"y": np.eye(2)[Y]}, "argmax"),
        ({"eps": 8}, "eps / 255"),
        ({"network": lambda x: x}, "must give"),
        ({"suite": "quick"}, "suite is 'quick'"),
        ({"norm": "l1", "suite": "fast"}, "suite is 'fast' in l1, must be standard"),
        ({"norm": "l3"}, "norm is 'l3'"),
        ({"norm": "l0"}, "in l0 it counts pixels"),
        ({"norm": "l0", "eps": 2, "suite": "plus"}, "suite is 'plus' in l0, must be standard"),
    ],
)
def test_wrong_input_is_one_line_before_any_work(change, says):
    given = {"network": linear(W[0]), "x": X, "y": Y, "eps": 0.1} | change
    with pytest.raises(ValueError, match=says) as caught:
        robustjax.evaluate(given.pop("network"), given.pop("x"), given.pop("y"), **given)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("evaluate: ")


def test_a_network_in_train_mode_is_refused_before_any_attack():
    def network(x):
        z = linear(W[0])(x)
        return z - z.mean(axis=0, keepdims=True)

    with pytest.raises(ValueError, match=r"^evaluate: .* BatchNorm in train mode"):
        robustjax.evaluate(network, X, Y, eps=0.1)


@pytest.mark.slow
def test_images_without_an_answer_are_counted_over_the_whole_set():
    """All images are looked at, not the probes alone: here one of 200 that no probe is."""
    x = np.random.default_rng(1).uniform(size=(200, 4, 4, 1)).astype(np.float32)
    hidden = next(i for i in range(200) if i not in checks.evenly(200))
    x[:, 0, 0, 0] = 0.25
    x[hidden, 0, 0, 0] = 0.5

    def network(x):
        return jnp.where(x[:, :1, 0, 0] > 0.45, jnp.nan, linear(W[0])(x))

    y = np.asarray(linear(W[0])(x)).argmax(axis=1)
    found = robustjax.evaluate(network, x, y, eps=0.001, masking=False)
    assert "warning: NaN or infinite logits: NaN or infinite at 1 of 200 images" in repr(found)
    assert found.clean.value == pytest.approx(199 / 200)


@pytest.mark.slow
def test_infinite_logits_are_no_answer():
    """A logit of plus infinity leaves cross-entropy without a gradient, so it must not count as robust."""
    pixel = X[:, 0, 0, 0]

    def network(x):
        return linear(W[0])(x).at[:, 0].set(jnp.where(x[:, 0, 0, 0] > pixel.mean(), jnp.inf, 100.0))

    found = robustjax.evaluate(network, X, np.zeros(6, int), eps=1e-6, masking=False)
    assert found.robust.value == pytest.approx((pixel <= pixel.mean()).mean())


@pytest.mark.parametrize(
    ("network", "y", "flag"),
    [
        (lambda x: jax.nn.softmax(linear(W[0])(x)), Y, "probabilities"),
        (lambda x: linear(W[0])(x) + RNG.normal(size=(1, 2)).astype(np.float32), Y, "random outputs"),
        (lambda x: linear(W[0])(x) * 0, Y, "constant outputs"),
        (lambda x: jnp.pad(linear(W[0])(x), ((0, 0), (0, 98))), np.zeros(6, int), "class counts"),
    ],
)
def test_what_makes_the_number_doubtful_is_in_the_table(network, y, flag):
    found = robustjax.evaluate(network, X, y, eps=0.01, masking=False)
    assert f"warning: {flag}: " in repr(found)
    assert [one.name for one in found.flags if one.raised] == [flag]


class Reached(Exception):
    """The attacks would begin."""


FLAT = lambda x: x.reshape(len(x), -1)[:, :4]
NETWORKS = [
    FLAT,
    lambda x: FLAT(x)[:, :1],
    lambda x: FLAT(x).astype(jnp.int32),
    lambda x: (FLAT(x), x),
    lambda x: np.asarray(x),
    lambda x: FLAT(x) * jnp.nan,
    lambda x: FLAT(x) - FLAT(x).mean(axis=0),
    lambda x: x,
    lambda x: {}["w"],
    lambda x: FLAT(x).tolist(),
    lambda x: FLAT(x)[:1],
    lambda x, y: FLAT(x),
    None,
    3,
    "network",
    jax.nn.relu,
]
SIDE = st.sampled_from([0, 1, 2, 3, 5])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    network=st.sampled_from(NETWORKS),
    x=arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.float16, np.uint8, np.int32, np.bool_, np.complex64]),
        st.tuples(SIDE, SIDE, SIDE, SIDE) | st.tuples(SIDE, SIDE, SIDE),
        elements=st.sampled_from([0, 1]),
    ),
    scale=st.sampled_from([1, 255, -1, np.nan]),
    y=st.lists(st.sampled_from([0, 1, 3, 4, -1, 0.5, 2**32, "cat", None]), max_size=5),
    eps=st.sampled_from([0.1, 8, 0, -1, np.nan, np.inf, "8/255", None, [0.1]]),
    norm=st.sampled_from(["linf", "l2", "l1", "l0", 2]),
)
def test_whatever_comes_in_the_attacks_begin_or_one_line_says_why_not(network, x, scale, y, eps, norm):
    def over(*given, **settings):
        raise Reached

    if scale != 1 and x.dtype.kind == "f":
        x = x * x.dtype.type(scale)
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(api.suites, "over", over)
        try:
            robustjax.evaluate(network, x, y, norm=norm, eps=eps)
        except Reached:
            assert (
                network in (FLAT,)
                and eps == (8 if norm == "l0" else 0.1)
                and all(label in (0, 1, 3) for label in y)
            )
        except ValueError as error:
            assert str(error).startswith("evaluate: ") and "\n" not in str(error)
        else:
            raise AssertionError("it came to an end without attacks")
