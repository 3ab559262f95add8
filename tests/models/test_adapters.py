"""Flax modules, linen and nnx, behind `Model`: normalised inside, pure, float32 out, state only moved by training."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import robustjax
from robustjax import checks
from robustjax.models import layers
from robustjax.models.adapters import from_flax, from_nnx
from robustjax.types import frozen

SHAPE = (4, 4, 2)


class Net(nn.Module):
    """Everything an adapter must handle: statistics, noise, taps and a low precision."""

    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(3, (1, 1), dtype=self.dtype)(x)
        x = layers.batch_norm(x, train=train, name="norm", dtype=self.dtype)
        self.sow("features", "stage0", x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = x.reshape(x.shape[0], -1)
        self.sow("features", "stage1", x)
        return nn.Dense(5, dtype=self.dtype)(x)


class Identity(nn.Module):
    """Give back what the network sees."""

    @nn.compact
    def __call__(self, x, train):
        return x


def images(count=6, seed=0):
    return jax.random.uniform(jax.random.key(seed), (count, *SHAPE))


def test_normalisation_is_inside():
    model = from_flax(Identity(), shape=SHAPE, mean=(0.5, 0.25), std=(0.5, 2.0))
    params, state = model.init(jax.random.key(0))
    x = images()
    expected = (np.asarray(x, np.float64) - [0.5, 0.25]) / [0.5, 2.0]
    np.testing.assert_allclose(model.apply(params, state, x)[0], expected, rtol=1e-6, atol=1e-7)
    assert state == {}
    plain = from_flax(Identity(), shape=SHAPE)
    chex.assert_trees_all_equal(plain.apply({}, {}, x)[0], x)


def test_evaluation_returns_the_very_state():
    model = from_flax(Net(), shape=SHAPE)
    params, state = model.init(jax.random.key(0))
    assert set(state) == {"batch_stats"}
    out, after = model.apply(params, state, images())
    assert after is state
    assert out.shape == (6, 5)


def test_training_moves_the_statistics_as_defined():
    model = from_flax(Net(), shape=SHAPE)
    params, state = model.init(jax.random.key(0))
    before = jax.tree.map(np.array, state)
    x = images()
    _, after = model.apply(params, state, x, train=True, key=jax.random.key(1))
    chex.assert_trees_all_equal(state, before)
    conv = params["Conv_0"]
    seen = np.asarray(x, np.float64) @ np.asarray(conv["kernel"][0, 0]) + np.asarray(conv["bias"])
    statistics = after["batch_stats"]["norm"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * seen.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * seen.var((0, 1, 2)), rtol=1e-4)


def test_the_key_draws_the_noise():
    model = from_flax(Net(), shape=SHAPE)
    params, state = model.init(jax.random.key(0))
    first, again, other = (
        model.apply(params, state, images(), train=True, key=jax.random.key(seed))[0] for seed in (1, 1, 2)
    )
    chex.assert_trees_all_equal(first, again)
    assert jnp.abs(first - other).max() > 0


def test_features_are_pooled_in_order_of_depth():
    model = from_flax(Net(), shape=SHAPE, mean=(0.5, 0.5), std=(0.5, 0.5))
    params, state = model.init(jax.random.key(0))
    x = images()
    for features in (model.features, jax.jit(model.features)):
        taps = features(params, state, x)
        assert list(taps) == ["stage0", "stage1"]
        chex.assert_shape([taps["stage0"], taps["stage1"]], [(6, 3), (6, 48)])
    conv = params["Conv_0"]
    seen = (np.asarray(x, np.float64) - 0.5) / 0.5 @ np.asarray(conv["kernel"][0, 0]) + np.asarray(
        conv["bias"]
    )
    np.testing.assert_allclose(taps["stage0"], seen.mean((1, 2)) / np.sqrt(1 + 1e-5), rtol=1e-4, atol=1e-5)
    logits = taps["stage1"] @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None]
    np.testing.assert_allclose(model.apply(params, state, x)[0], logits, rtol=1e-4, atol=1e-5)


def test_half_precision_computes_low_and_returns_high():
    full, half = (from_flax(Net(dtype), shape=SHAPE) for dtype in (jnp.float32, jnp.bfloat16))
    params, state = half.init(jax.random.key(0))
    assert {a.dtype for a in jax.tree.leaves((params, state))} == {jnp.dtype(jnp.float32)}
    low, (after, high) = half.apply(params, state, images()), full.apply(params, state, images())[::-1]
    assert low[0].dtype == high.dtype == jnp.float32
    assert 0 < jnp.abs(low[0] - high).max() < 0.1
    chex.assert_trees_all_equal_structs(after, low[1])
    slope = jax.grad(lambda x: frozen(half, params, state)(x).sum())(images())
    assert slope.dtype == jnp.float32
    assert {a.dtype for a in half.features(params, state, images()).values()} == {jnp.dtype(jnp.float32)}


def test_every_transformation(variant):
    model = from_flax(Net(), shape=SHAPE)
    params, state = model.init(jax.random.key(0))
    logits_fn = frozen(model, params, state)
    chex.assert_trees_all_close(variant(logits_fn)(images()), logits_fn(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(mean=(0.5,)), "mean is"),
        (dict(std=(0.5, 0.5, 0.5)), "std is"),
        (dict(std=(0.5, 0.0)), "must be positive"),
        (dict(std=(0.5, float("nan"))), "must be positive"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        from_flax(Identity(), shape=SHAPE, **settings)


class Told(nn.Module):
    """A module that is told by another name, the other way round."""

    @nn.compact
    def __call__(self, x, deterministic):
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=deterministic)(x.reshape(x.shape[0], -1)))


class Bare(nn.Module):
    """A module that is not told at all."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def test_modules_are_told_to_train_by_their_own_argument():
    for module in (Told(), Bare(), nn.Sequential([Bare(), nn.Dense(2)])):
        model = from_flax(module, shape=SHAPE)
        params, state = model.init(jax.random.key(0))
        once, again = (model.apply(params, state, images())[0] for _ in range(2))
        chex.assert_trees_all_equal(once, again)
        noisy = model.apply(params, state, images(), train=True, key=jax.random.key(1))[0]
        assert (jnp.abs(noisy - once).max() > 0.01) == isinstance(module, Told)


# --- nnx -------------------------------------------------------------------------------------------------


class Nnx(nnx.Module):
    """As `Net`, in the other half of flax."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (1, 1), rngs=rngs)
        self.norm = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.heads = nnx.List([nnx.Linear(48, 5, rngs=rngs)])

    def __call__(self, x):
        x = self.drop(self.norm(self.conv(x)))
        return self.heads[0](x.reshape(x.shape[0], -1))


def nnx_net():
    net = Nnx(nnx.Rngs(0))
    net(images())  # in train mode, so that the statistics are not those of a new network
    return net


def test_an_nnx_module_gives_what_it_gives_in_evaluation_mode_and_is_left_alone():
    net = nnx_net()
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngState))))
    network = from_nnx(net, mean=(0.5, 0.25), std=(0.5, 2.0))
    out = network.logits_fn(images())
    trained = network.model.apply(network.params, network.state, images(), train=True, key=jax.random.key(0))
    assert net.norm.use_running_average is False and net.drop.deterministic is False
    after = nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngState)))
    chex.assert_trees_all_equal(before, jax.tree.map(np.array, after))
    net.eval()
    chex.assert_trees_all_close(
        out,
        net((images() - jnp.array([[[[0.5, 0.25]]]])) / jnp.array([[[[0.5, 2.0]]]])),
        rtol=1e-4,
        atol=1e-5,
    )
    assert jnp.abs(out - trained[0]).max() > 0.01


def test_an_nnx_module_trains_as_a_model():
    network = from_nnx(nnx_net())
    params, state = network.model.init(jax.random.key(7))
    chex.assert_trees_all_equal((params, state), (network.params, network.state))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((params, state)))
    first, again, other = (
        network.model.apply(params, state, images(), train=True, key=jax.random.key(seed))
        for seed in (1, 1, 2)
    )
    chex.assert_trees_all_equal(first, again)
    assert jnp.abs(first[0] - other[0]).max() > 0.01
    seen = np.asarray(images() @ params["conv"]["kernel"][0, 0] + params["conv"]["bias"][None, None, None])
    old, new = state["norm"]["mean"], first[1]["norm"]["mean"]
    np.testing.assert_allclose(new, 0.9 * old + 0.1 * seen.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal_structs(state, first[1])

    @jax.jit
    def slope(params):
        return jax.grad(
            lambda p: network.model.apply(p, state, images(), train=True, key=jax.random.key(1))[0].sum()
        )(params)

    # Of the sum of logits, the gradient with respect to the last bias is the number of images.
    np.testing.assert_allclose(slope(params)["heads"][0]["bias"], 6.0)
    with pytest.raises(ValueError, match=r"draws random numbers .* in train mode, give apply a key"):
        network.model.apply(params, state, images(), train=True)


def test_an_nnx_module_under_every_transformation(variant):
    logits_fn = from_nnx(nnx_net()).logits_fn
    chex.assert_trees_all_close(variant(logits_fn)(images()), logits_fn(images()), rtol=1e-4, atol=1e-5)


class Stubborn(nnx.Module):
    """BatchNorm and dropout that no mode of the module reaches."""

    def __init__(self, rngs, what):
        self.norm, self.what = nnx.BatchNorm(2, rngs=rngs), what
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = self.norm(x, use_running_average=self.what != "norm")
        return self.drop(x, deterministic=self.what != "drop").mean((1, 2))


@pytest.mark.parametrize(
    ("what", "says"),
    [("norm", "changes norm/mean in evaluation mode"), ("drop", "draws random numbers (drop/rngs")],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_an_nnx_module_that_stays_in_train_mode_is_refused(what, says, compiled):
    logits_fn = from_nnx(Stubborn(nnx.Rngs(0), what)).logits_fn
    with pytest.raises(ValueError) as caught:
        (jax.jit(logits_fn) if compiled else logits_fn)(images())
    assert says in str(caught.value) and "\n" not in str(caught.value)


class Taps(nnx.Module):
    """Show an activation."""

    def __init__(self):
        pass

    def __call__(self, x, train=False):
        self.sow(nnx.Intermediate, "stage0", x)
        return x.sum(axis=(1, 2)) + (1.0 if train else 0.0)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")
def test_an_nnx_module_shows_what_it_sows():
    network = from_nnx(Taps())
    taps = network.model.features({}, {}, images())
    np.testing.assert_allclose(taps["stage0"], images().mean(axis=(1, 2)), rtol=1e-5)
    plain, train = (network.model.apply({}, {}, images(), train=mode)[0] for mode in (False, True))
    np.testing.assert_allclose(train - plain, 1.0, rtol=1e-5)


def test_what_is_no_nnx_module_or_fails_is_told_in_one_line():
    with pytest.raises(ValueError, match=r"module is a function, must be a flax.nnx module"):
        from_nnx(lambda x: x)
    with pytest.raises(ValueError, match=r"^evaluate: .*from_nnx: .* channels last") as caught:
        checks.logits("evaluate", from_nnx(nnx_net()), np.zeros((3, 2, 4, 4), np.float32))
    assert "\n" not in str(caught.value)


def test_the_front_door_names_the_adapter():
    with pytest.raises(ValueError, match=r"of a flax.linen network make robustjax.from_flax"):
        robustjax.evaluate(Net(), np.zeros((3, *SHAPE), np.float32), [0, 1, 2])
