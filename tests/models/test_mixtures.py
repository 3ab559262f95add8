"""Mixtures of an accurate and a robust network, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, log_softmax

from robustjax.models import layernames, recognition, weights
from robustjax.models.adaptive_smoothing import Part, Weighting, adaptive_smoothing
from robustjax.models.mixednuts import Sharpening, mixednuts
from robustjax.models.preactivated import Preactivated
from robustjax.models.published_mixtures import MIXTURES, stored
from robustjax.types import Model


def constant(logits):
    """A network that gives the same logits, plus the first numbers of an image."""

    def apply(params, state, x, *, train=False, key=None):
        return jnp.asarray(logits)[None] + x[:, 0, : len(logits), 0], state

    return Model(lambda key: ({}, {}), apply, lambda params, state, x: {"stage0": x.mean(axis=(1, 2))})


def mapped(z, scale, power, shift):
    z = np.asarray(z, np.float64)
    top = np.sort(z)[::-1][:250]
    z = (z - top.mean()) / np.sqrt(top.var(ddof=1) + 1e-8) + shift
    u = z * 0.5 * (1 + erf(z / np.sqrt(2)))
    return scale * np.sign(u) * np.abs(u) ** power


@pytest.mark.parametrize("classes", [5, 300])  # 300: the 250 largest alone have a say
def test_sharpening(classes):
    z = np.random.default_rng(0).normal(size=classes).astype(np.float32)
    found = Sharpening(0.6, 3.5, -0.7)(jnp.asarray(z)[None])[0]
    expected = mapped(z, 0.6, 3.5, -0.7)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_mixture_of_a_decision_and_probabilities():
    accurate, robust = np.array([0.0, 3.0, 1.0], np.float32), np.array([2.0, 0.0, 1.0], np.float32)
    model = mixednuts(
        constant(accurate),
        constant(robust),
        sharpening=Sharpening(5.0, 4.0, -1.1),
        alpha=0.9,
        gradient_alpha=0.7,
    )
    run = jax.jit(lambda x: model.apply({"0": {}, "1": {}}, {"0": {}, "1": {}}, x)[0][0])
    x = jnp.zeros((1, 1, 3, 1))
    q = np.exp(log_softmax(mapped(robust, 5.0, 4.0, -1.1)))
    expected = np.log(0.1 * np.array([0, 1, 0]) + 0.9 * q)
    np.testing.assert_allclose(run(x), expected, rtol=1e-5)
    # Of 0.3 p + 0.63 r + 0.07 q; q's part is small and left to the comparison with the authors' code.
    slope = np.asarray(jax.jit(jax.jacobian(run))(x))[:, 0, 0, :, 0]
    p, r = (np.exp(log_softmax(z)) for z in (accurate, robust))
    parts = [w * (np.diag(s) - np.outer(s, s)) for w, s in ((0.3, p), (0.63, r))]
    smooth = 0.3 * p + 0.63 * r + 0.07 * q
    rough = sum(parts) / smooth[:, None]
    assert np.abs(slope - rough).max() < 0.3 * np.abs(rough).max()
    assert np.abs(slope).min() > 0


@pytest.mark.parametrize(
    ("alpha", "power", "says"), [(1.0, 2.0, "within"), (0.0, 2.0, "within"), (0.5, 0.5, "at least 1")]
)
def test_constants_that_cannot_be(alpha, power, says):
    with pytest.raises(ValueError, match=says):
        mixednuts(
            constant([0.0]),
            constant([0.0]),
            sharpening=Sharpening(1, power, 0),
            alpha=alpha,
            gradient_alpha=0.5,
        )


def smoothed(weighting):
    parts = [Part(Preactivated("conv1", 4, (4, 8), (1, 1), 3), None, None) for _ in range(2)]
    return adaptive_smoothing(*parts, widths=(8,), shape=(8, 8, 3), weighting=weighting)


def test_a_weight_for_each_image():
    """With a span of 0 the weight is a number; with gamma_mean far up it is the largest, and all is still finite."""
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 8, 8, 3)), jnp.float32)
    fixed = smoothed(Weighting(span=0.0, least=0.25, accurate_scale=2.0))
    params, state = jax.jit(fixed.init)(jax.random.key(0))
    module = Preactivated("conv1", 4, (4, 8), (1, 1), 3)
    alone = jax.jit(lambda n: module.apply({"params": params[n], **state[n]}, x), static_argnums=0)
    p, q = jax.nn.softmax(2 * alone("0")), jax.nn.softmax(alone("1"))
    found = jax.jit(fixed.apply)(params, state, x)[0]
    np.testing.assert_allclose(jnp.exp(found), 0.75 * p + 0.25 * q, rtol=1e-5)
    sure = smoothed(Weighting(gamma_mean=200.0, span=0.04, least=0.96))
    logits, slope = jax.jit(jax.value_and_grad(lambda x: sure.apply(params, state, x)[0][:, 0].sum()))(x)
    assert np.isfinite(logits) and np.isfinite(slope).all() and np.abs(slope).max() > 0
    with pytest.raises(ValueError, match="must be within 0 to 1"):
        smoothed(Weighting(span=0.6, least=0.6))
    with pytest.raises(ValueError, match="must be positive"):
        smoothed(Weighting(robust_scale=0.0))


def test_names_of_members():
    names = layernames.bare(
        [
            "comp_model.models.0.root.conv.weight",
            "_comp_model.models.0.root.conv.weight",
            "comp_model.policy_net.linear.weight",
            "comp_model.bn.running_mean",
            "comp_model.alpha_bias",
        ]
    )
    assert set(names) == {
        "models.0.root.conv.weight",
        "models.2.linear.weight",
        "models.2.bn.running_mean",
        "models.2.alpha_bias",
    }
    names = layernames.bare(
        ["std_model.mean", "rob_model.model.head.weight", "_alpha", "rob_map.scale", "std_map.approx.scale"]
    )
    assert set(names) == {
        "models.0.mean",
        "models.1.head.weight",
        "models.2._alpha",
        "models.2.rob_map.scale",
    }


@pytest.mark.parametrize("name", list(MIXTURES))
def test_stored_constants_must_be_those_of_the_architecture(name):
    given = {key: np.asarray(value) for key, value in stored(name).items() if value is not None}
    assert weights.settled(name, {**given, "a.weight": np.ones(1)}) == {"a.weight": np.ones(1)}
    first = next(iter(given))
    with pytest.raises(ValueError, match=f"{first} is"):
        weights.settled(name, {first: given[first] + 0.5})


def test_mixtures_are_recognised_by_their_networks(monkeypatch):
    """Two of them differ in numbers alone, and are named together."""
    known = {"bit": ("bit_r152x2",), "wide": ("gowal70_16",), "ra": ("rawideresnet70_16",)}
    rule = lambda shapes: known.get(next(iter(shapes)).split(".")[0], ())
    monkeypatch.setattr(recognition, "RULES", (rule,))
    both = lambda second: {"models.0.bit.w": (1,), "models.0.head.conv.weight": (100, 4, 1, 1), second: (1,)}
    assert recognition.recognised(both("models.1.wide.w")) == ("mixednuts_cifar100",)
    assert recognition.recognised(both("models.1.ra.w")) == ("mixednuts_cifar10",)
    three = both("models.1.wide.w") | {"models.2.conv1x1.weight": (1,)}
    expected = ("adaptive_smoothing_cifar100_edm", "adaptive_smoothing_cifar100_trades")
    assert recognition.recognised(three) == expected
