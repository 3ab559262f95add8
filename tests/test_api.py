"""The front door: it refuses what cannot be meant before any work, and never mixes two networks in one folder."""

import jax.numpy as jnp
import numpy as np
import pytest

import robustjax
from robustjax import api
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
        ({"suite": "fast"}, "suite is 'fast'"),
        ({"norm": "l0"}, "norm is 'l0'"),
    ],
)
def test_wrong_input_is_one_line_before_any_work(change, says):
    given = {"network": linear(W[0]), "x": X, "y": Y, "eps": 0.1} | change
    with pytest.raises(ValueError, match=says) as caught:
        robustjax.evaluate(given.pop("network"), given.pop("x"), given.pop("y"), **given)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("evaluate: ")
