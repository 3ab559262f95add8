"""Linear relaxation: lines on the right side of every known curve, CROWN as written down by hand, never crossed."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.bounds import curves
from robustjax.bounds.activations import _KNOWN, _PRIMITIVES, curve_of, recognised
from robustjax.bounds.arithmetic import Interval
from robustjax.bounds.enclosure import differences, enclose
from robustjax.bounds.program import traced
from robustjax.threats import Threat

RNG = np.random.default_rng(0)
PRIMITIVES = {
    "exp": jnp.exp, "square": jnp.square, "tanh": jnp.tanh, "logistic": jax.nn.sigmoid,
    "erf": jax.scipy.special.erf, "atan": jnp.arctan, "sinh": jnp.sinh, "abs": jnp.abs,
}  # fmt: skip
POSITIVE = {"log": jnp.log, "sqrt": jnp.sqrt, "rsqrt": jax.lax.rsqrt}


@pytest.mark.slow
def test_lines_touch_every_curve_and_never_cross_it():
    """Between the ends of 300 intervals each, against 201 points of them."""
    low = RNG.uniform(-6, 4, size=300)
    x = Interval(*(jnp.asarray(v, jnp.float32) for v in (low, low + RNG.uniform(0, 2.2, size=300) ** 2)))
    above_zero = Interval(x.low + 6.5, x.high + 6.5)
    shares = jnp.linspace(0, 1, 201)[:, None]
    cases = [(curves.Curve(*known), x) for known in _KNOWN]
    cases += [(curves.Curve(fn, *_PRIMITIVES[name]), x) for name, fn in PRIMITIVES.items()]
    cases += [(curves.Curve(fn, *_PRIMITIVES[name]), above_zero) for name, fn in POSITIVE.items()]

    @jax.jit
    def gaps():
        found = []
        for curve, x in cases:
            z = x.low[None] * (1 - shares) + x.high[None] * shares
            lines, hull = (
                jax.tree.map(lambda a: a[None], of(curve, x)) for of in (curves.lines, curves.hull)
            )
            value = curve.fn(z)
            below = value - (lines.low_slope * z + lines.low_offset)
            above = lines.high_slope * z + lines.high_offset - value
            inside = jnp.minimum(value - hull.low, hull.high - value)
            steep = jnp.maximum(jnp.abs(lines.low_slope), jnp.abs(lines.high_slope))
            scale = (
                1 + jnp.abs(value).max(axis=0, keepdims=True) + steep * jnp.abs(z).max(axis=0, keepdims=True)
            )
            found.append([g / scale for g in (below, above, inside)])
        return found

    for below, above, inside in gaps():
        for gap in (below, above, inside):
            assert gap.min() > -4e-6  # XLA's tanh is good to some units in the last place
        for gap in (below, above):
            assert gap.min(axis=0).max() < 0.02  # of 201 points one is near where the line touches


@pytest.mark.parametrize(
    "fn, breaks",
    [
        (lambda z: z * jax.nn.sigmoid(z), 2),
        (lambda z: jax.nn.gelu(z, approximate=False), 2),
        (lambda z: 0.5 * z * (1 + jax.scipy.special.erf(z / np.sqrt(2).astype(np.float32))), 2),
        (jax.nn.gelu, 2),
        (jax.nn.elu, 1),
        (jax.nn.leaky_relu, 1),
        (jax.nn.softplus, 0),
        (jax.nn.hard_tanh, 2),
        (lambda z: jnp.where(z > 0, z, 0.0), 1),
    ],
)
def test_what_networks_write_in_several_operations_is_one_curve(fn, breaks):
    program = recognised(traced(lambda z: fn(z * 3.0 + jnp.arange(4.0)), jnp.zeros(4)))
    known = [curve for line in program.lines if (curve := curve_of(line)) is not None]
    assert [len(curve.breaks) for curve in known] == [breaks]


def test_a_function_that_only_looks_like_one_is_no_curve():
    program = recognised(traced(lambda z: z * jax.nn.sigmoid(1.5 * z), jnp.zeros(4)))
    assert [line.name for line in program.lines] == ["mul", "logistic", "mul"]


@pytest.mark.parametrize("cut", [20.0, 100.0, 5e4])
@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_a_clipped_relu_is_bounded_beyond_its_end(cut, method):
    fn = lambda z: jnp.minimum(jax.nn.relu(2.0 * z), cut)
    found = enclose(fn, Threat("linf", 1.0, 0.0, 1e6), jnp.full((1, 1), cut), method=method)
    np.testing.assert_allclose([found.low, found.high], cut, rtol=1e-5)


@pytest.mark.slow
def test_operations_of_several_results_and_pooling_windows_against_points():
    def fn(x):
        first, second = jnp.split(x @ WEIGHTS[0][:, :6], 2, axis=1)
        image = (
            jnp.outer(jnp.ones(4), jax.nn.relu(first * second).reshape(-1)).reshape(4, -1, 3).swapaxes(0, 1)
        )
        image = image[..., None]
        apart, shared = (flax.linen.max_pool(s * image, (2, 3), (n, 3)) for s, n in ((1.0, 2), (-1.0, 1)))
        return jnp.concatenate([v.reshape(len(x), -1) for v in (apart, shared)], axis=1)

    threat = Threat("linf", 0.2, 0.0, 1.0)
    points = jax.vmap(lambda key: threat.sample(key, X))(jax.random.split(jax.random.key(0), 2000))
    values = jax.jit(jax.vmap(fn))(points)
    for method in ("crown-ibp", "crown"):
        found = jax.jit(lambda x, method=method: enclose(fn, threat, x, method=method))(X)
        assert (found.low <= values.min(axis=0) + 1e-5).all() and (
            found.high >= values.max(axis=0) - 1e-5
        ).all()


WEIGHTS = [jnp.asarray(RNG.normal(size=s) / np.sqrt(s[0]), jnp.float32) for s in ((4, 7), (7, 6), (6, 3))]


def network(x):
    h = jax.nn.relu(x @ WEIGHTS[0] + 0.1)
    h = jax.nn.relu(h @ WEIGHTS[1] - 0.1)
    return h @ WEIGHTS[2]


def by_hand(x, eps, ibp):
    """Lower bounds by CROWN on `network`, a matrix at a time, in float64."""
    w = [np.asarray(v, np.float64).T for v in WEIGHTS]
    b = [np.full(7, 0.1), np.full(6, -0.1), np.zeros(3)]
    low, high = w[0] @ x + b[0] - eps * np.abs(w[0]).sum(1), w[0] @ x + b[0] + eps * np.abs(w[0]).sum(1)
    ends = [(low, high)]

    def back(weight, offset, depth):
        for i in reversed(range(depth)):
            low, high = ends[i]
            chord = np.where(high > 0, high, 0) - np.where(low > 0, low, 0)
            upper = np.where(low >= 0, 1.0, np.where(high <= 0, 0.0, chord / (high - low)))
            shift = np.where((low < 0) & (high > 0), -upper * low, 0.0)
            lower = np.where(high > -low, 1.0, 0.0)
            up, down = np.maximum(weight, 0), np.minimum(weight, 0)
            offset = offset + down @ shift
            weight = up * lower + down * upper
            offset = offset + weight @ b[i]
            weight = weight @ w[i]
        return weight @ x + offset - eps * np.abs(weight).sum(1)

    if ibp:
        low, high = (np.maximum(v, 0) for v in ends[0])
        middle, reach = w[1] @ (low + high) / 2 + b[1], np.abs(w[1]) @ (high - low) / 2
        ends.append((middle - reach, middle + reach))
    else:
        ends.append((back(w[1], b[1], 1), -back(-w[1], -b[1], 1)))
    return back(w[2], b[2], 2)


X = jnp.asarray(RNG.uniform(size=(3, 4)), jnp.float32)


@pytest.mark.parametrize("method", ["crown-ibp", "crown"])
def test_crown_is_crown(method):
    """Zhang et al. 2018, equations 6 to 8, with the published choice of the slope below ReLU."""
    eps = 0.2
    found = jax.jit(lambda x: enclose(network, Threat("linf", eps, -9.0, 9.0), x, method=method, chunk=4))(X)
    expected = [by_hand(np.asarray(x, np.float64), eps, method == "crown-ibp") for x in X]
    looser = jax.jit(lambda x: enclose(network, Threat("linf", eps, -9.0, 9.0), x))(X).low
    np.testing.assert_allclose(found.low, np.maximum(expected, looser), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_each_method_is_tighter_than_the_one_before_and_none_is_crossed(norm):
    threat = Threat(norm, 0.3 if norm == "linf" else 0.6, 0.0, 1.0)
    points = jax.vmap(lambda key: threat.sample(key, X))(jax.random.split(jax.random.key(0), 4000))
    logits = jax.jit(network)(points)
    between = (logits[..., :, None] - logits[..., None, :]).max(axis=0)
    before = np.inf
    for method in ("ibp", "crown-ibp", "crown", "alpha-crown"):
        found = jax.jit(lambda x, method=method: differences(network, threat, x, method=method))(X)
        assert (found >= between - 1e-5).all() and (found <= before + 1e-5).all()
        before = found


@pytest.mark.parametrize("method", ["crown-ibp", "crown", "alpha-crown"])
def test_what_is_affine_is_exact(method):
    w = WEIGHTS[0]
    found = enclose(lambda x: x @ w - 0.2, Threat("l2", 0.1, -9.0, 9.0), X, method=method)
    reach = 0.1 * np.linalg.norm(w, axis=0, keepdims=True)
    np.testing.assert_allclose(found.low, X @ w - 0.2 - reach, atol=1e-5)
    np.testing.assert_allclose(found.high, X @ w - 0.2 + reach, atol=1e-5)


@pytest.mark.slow
def test_products_quotients_choices_and_pools_against_points():
    """Attention without its network: softmax, LayerNorm's root, both poolings, max of two values."""
    w = jnp.asarray(RNG.normal(size=(2, 8, 8)) / 3, jnp.float32)

    def fn(x):
        h, g = x @ w[0], x @ w[1]
        h = (h - h.mean(axis=1, keepdims=True)) * jax.lax.rsqrt(jnp.var(h, axis=1, keepdims=True) + 0.1)
        pools = jnp.maximum(h, g).reshape(-1, 4, 2).max(axis=2)
        return jnp.concatenate([pools, jax.nn.softmax(g), h * g], axis=1)

    x = jnp.asarray(RNG.uniform(size=(2, 8)), jnp.float32)
    threat = Threat("linf", 0.1, 0.0, 1.0)
    points = jax.vmap(lambda key: threat.sample(key, x))(jax.random.split(jax.random.key(0), 4000))
    values = jax.jit(jax.vmap(fn))(points)
    intervals = jax.jit(lambda x: enclose(fn, threat, x))(x)
    for method in ("crown-ibp", "crown"):
        found = jax.jit(lambda x, method=method: enclose(fn, threat, x, method=method))(x)
        assert (found.low <= values.min(axis=0) + 1e-5).all() and (
            found.high >= values.max(axis=0) - 1e-5
        ).all()
        widths = [np.asarray(v.high - v.low).mean() for v in (found, intervals)]
        assert widths[0] < widths[1]


def test_an_unknown_method_is_refused_in_one_line():
    with pytest.raises(
        ValueError, match="method is 'lirpa', must be one of ibp, crown-ibp, crown, alpha-crown"
    ):
        enclose(network, Threat("linf", 0.1), X, method="lirpa")  # pyright: ignore[reportArgumentType]
