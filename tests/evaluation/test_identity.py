"""Two networks of one name are told apart, one network on two machines is not."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.attacks import autoattack
from robustjax.evaluation import suite
from robustjax.evaluation.identity import difference, identity
from robustjax.runtime import strict_json
from robustjax.threats import Threat
from robustjax.types import Model, Network

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(50, 4, 4, 1)).astype(np.float32)
W = RNG.normal(size=(16, 3)).astype(np.float32)


def model(apply):
    return Model(
        lambda key: ({}, {}), lambda p, s, x, *, train=False, key=None: (apply(p, x), s), lambda p, s, x: {}
    )


def network(w, *, closed=False):
    """Build a linear network, with its weights as parameters or closed over."""
    flat = lambda w, x: x.reshape(x.shape[0], -1) @ w
    if closed:
        return Network(model(lambda p, x: flat(jnp.asarray(w), x)), {}, {}, {})
    return Network(model(flat), jnp.asarray(w), {}, {})


def described(net, rows=slice(None), **more):
    found = identity(net, X[rows], np.arange(50)[rows], **more)
    return json.loads(strict_json.text(found))


def test_the_same_network_is_itself_in_parts_and_after_rounding():
    whole = described(network(W, closed=True))
    assert difference(whole, described(network(W, closed=True), slice(10, 30))) is None
    rounded = np.asarray(jnp.asarray(W, jnp.bfloat16).astype(jnp.float32))
    assert difference(whole, described(network(rounded, closed=True))) is None
    assert difference(described(network(W)), described(network(W))) is None
    assert difference(None, whole) is None  # reports of earlier versions


def test_another_network_is_told_by_its_parameters_or_answers():
    trained = W + 0.05 * RNG.normal(size=W.shape).astype(np.float32)
    closed = [described(network(w, closed=True)) for w in (W, trained)]
    assert "it answers otherwise" in difference(*closed)
    slightly = W.copy()
    slightly[0, 0] = np.nextafter(slightly[0, 0], 2)
    assert difference(described(network(W)), described(network(slightly))) == "its parameters are others"
    nan = Network(
        model(lambda p, x: jnp.where(x[:, :1, 0, 0] > 0.5, jnp.nan, x.reshape(len(x), -1) @ W)), {}, {}, {}
    )
    assert difference(described(network(W, closed=True)), described(nan)) == "it gives NaN for other images"
    random = described(network(trained, closed=True), random=True)
    assert difference(described(network(W, closed=True)), random) is None


def test_a_suite_goes_on_from_reports_about_its_own_network_only():
    cases = lambda threat: (autoattack.apgd_ce(threat, steps=3),)
    y, threat, key = np.asarray(X.reshape(50, -1) @ W).argmax(axis=1), Threat("linf", 0.05), jax.random.key(0)
    logits = lambda w: lambda: lambda x: x.reshape(x.shape[0], -1) @ w
    first = suite.over(logits(W), cases)(key, X, y, threat)
    again = suite.over(logits(W), cases)(key, X, y, threat, given=first)
    assert (again.already == first.broken).all()
    with pytest.raises(
        ValueError, match=r"another network, which predicts otherwise for \d+ of 50 images"
    ) as caught:
        suite.over(logits(-W), cases)(key, X, y, threat, given=first)
    assert "\n" not in str(caught.value)
