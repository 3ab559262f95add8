"""Networks of Equinox, Haiku and PyTorch give here what they give at home, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robustjax
from robustjax import api, checks
from robustjax.attacks import autoattack
from robustjax.attacks.pgd import pgd
from robustjax.threats import Threat
from robustjax.traced import operations

pytestmark = pytest.mark.oracle
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(6, 8, 6, 3)).astype(np.float32)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
SEEN = ((X - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)


@pytest.fixture(autouse=True)
def _promotion_as_others_expect_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


def one_line(call, *words):
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


# --- Equinox ---------------------------------------------------------------------------------------------


@pytest.fixture
def eqx():
    return pytest.importorskip("equinox")


def eqx_net(eqx, stateful=True):
    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm
        drop: eqx.nn.Dropout
        head: eqx.nn.Linear

        def __init__(self, key):
            first, second = jax.random.split(key)
            self.conv = eqx.nn.Conv2d(3, 4, 3, key=first)
            self.norm = eqx.nn.BatchNorm(4, axis_name="these", mode="batch")
            self.drop = eqx.nn.Dropout(0.5)
            self.head = eqx.nn.Linear(4, 5, key=second)

        def __call__(self, x, state, *, key=None):
            x, state = self.norm(self.conv(x), state)
            return self.head(self.drop(jax.nn.relu(x).mean((1, 2)), key=key)), state

    net, state = eqx.nn.make_with_state(Net)(jax.random.key(0))
    # One pass in train mode, so that the statistics are not those of a new network.
    return net, in_train_mode(net)(SEEN.transpose(0, 3, 1, 2), state, jax.random.split(jax.random.key(1), 6))[
        1
    ]


def in_train_mode(net):
    def one(image, state, key):
        return net(image, state, key=key)

    return jax.vmap(one, in_axes=(0, None, 0), out_axes=(0, None), axis_name="these")


def test_a_stateful_equinox_module(eqx):
    net, state = eqx_net(eqx)
    network = robustjax.from_equinox(net, state, mean=MEAN, std=STD)
    still = eqx.nn.inference_mode(net)
    expected = [still(image, state)[0] for image in SEEN.transpose(0, 3, 1, 2)]
    np.testing.assert_allclose(jax.jit(network.logits_fn)(X), expected, rtol=1e-4, atol=1e-5)
    assert net.drop.inference is False and net.norm.inference is False


def test_an_equinox_module_trains_as_a_model(eqx):
    net, state = eqx_net(eqx)
    network = robustjax.from_equinox(net, state, mean=MEAN, std=STD)
    out, after = network.model.apply(network.params, network.state, X, train=True, key=jax.random.key(3))
    keys = jax.random.split(jax.random.key(3), 6)
    expected, moved = in_train_mode(net)(SEEN.transpose(0, 3, 1, 2), state, keys)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(jax.tree.leaves(after), jax.tree.leaves(moved)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    slope = jax.grad(lambda p: network.model.apply(p, network.state, X)[0].sum())(network.params)
    np.testing.assert_allclose(slope.head.bias, 6.0)
    assert eqx.combine(network.params, net).head.bias is network.params.head.bias


def test_equinox_modules_without_state_and_of_another_layout(eqx):
    mlp = eqx.nn.MLP(8 * 6 * 3, 5, 16, 1, key=jax.random.key(0))

    class Flat(eqx.Module):
        mlp: eqx.nn.MLP

        def __call__(self, x):
            assert x.shape == (8, 6, 3)
            return self.mlp(x.reshape(-1))

    network = robustjax.from_equinox(Flat(mlp), layout="hwc")
    np.testing.assert_allclose(network(X), [mlp(x.reshape(-1)) for x in X], rtol=1e-4, atol=1e-5)
    sequential = eqx.nn.Sequential([eqx.nn.Lambda(jnp.ravel), mlp, eqx.nn.Dropout(0.5)])
    network = robustjax.from_equinox(sequential)
    flat = X.transpose(0, 3, 1, 2).reshape(6, -1)
    np.testing.assert_allclose(network(X), [mlp(x) for x in flat], rtol=1e-4, atol=1e-5)


def test_equinox_errors_state_the_convention(eqx):
    net, state = eqx_net(eqx)
    one_line(
        lambda: checks.logits("evaluate", robustjax.from_equinox(net, state, layout="hwc"), X),
        "evaluate: ", "one image of shape (8, 6, 3) (hwc; for chw pass layout='chw')",
    )  # fmt: skip
    one_line(lambda: robustjax.from_equinox(net)(X), "pass one to from_equinox if it is stateful")
    one_line(lambda: robustjax.from_equinox(print), "must be an equinox.Module")
    one_line(lambda: robustjax.from_equinox(net, layout="nchw"), "must be chw or hwc")
    one_line(lambda: robustjax.evaluate(net, X, np.arange(6) % 5), "make robustjax.from_equinox")


# --- Haiku -----------------------------------------------------------------------------------------------


@pytest.fixture
def hk():
    return pytest.importorskip("haiku")


def test_haiku_with_state_and_dropout(hk):
    def net(x, is_training):
        x = hk.BatchNorm(True, True, 0.9)(hk.Conv2D(4, 3)(x), is_training)
        x = hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x
        return hk.Linear(5)(x.mean((1, 2)))

    pair = hk.transform_with_state(net)
    model = robustjax.from_haiku(pair, shape=X.shape[1:], mean=MEAN, std=STD)
    params, state = model.init(jax.random.key(0))
    _, state = model.apply(params, state, X, train=True, key=jax.random.key(1))
    expected, _ = pair.apply(params, state, None, SEEN, is_training=False)
    network = robustjax.Network(model, params, state)
    np.testing.assert_allclose(network(X), expected, rtol=1e-4, atol=1e-5)
    assert model.apply(params, state, X)[1] is state
    expected, moved = pair.apply(params, state, jax.random.key(2), SEEN, is_training=True)
    out, after = model.apply(params, state, X, train=True, key=jax.random.key(2))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(jax.tree.leaves(after), jax.tree.leaves(moved)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def test_haiku_without_state(hk):
    pair = hk.transform(lambda x: hk.nets.MLP([7, 5])(hk.Flatten()(x)))
    model = robustjax.from_haiku(pair, shape=X.shape[1:])
    params, state = model.init(jax.random.key(0))
    assert state == {}
    expected = pair.apply(params, None, X)
    np.testing.assert_allclose(
        jax.jit(robustjax.Network(model, params, state).logits_fn)(X), expected, rtol=1e-4, atol=1e-5
    )
    one_line(lambda: robustjax.from_haiku(print, shape=X.shape[1:]), "must be what haiku.transform")
    bare = robustjax.from_haiku(hk.without_apply_rng(pair), shape=X.shape[1:])
    one_line(lambda: bare.apply(params, {}, X), "from_haiku: ", "not without_apply_rng")


# --- PyTorch ---------------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def torch_net(torch):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Dropout(0.5),
        torch.nn.Flatten(), torch.nn.Linear(4 * 48, 5),
    )  # fmt: skip
    net(torch.from_numpy(SEEN.transpose(0, 3, 1, 2).copy()))
    return net


def test_a_torch_module_forward_and_backward(torch):
    net = torch_net(torch)
    logits_fn = robustjax.from_torch(net, mean=MEAN, std=STD)
    weight = RNG.normal(size=(6, 5)).astype(np.float32)
    value, slope = jax.jit(jax.value_and_grad(lambda x: (logits_fn(x) * weight).sum()))(X)
    assert net.training and all(part.training for part in net)
    assert all(p.grad is None for p in net.parameters())
    net.eval()
    x = torch.from_numpy(X.copy()).requires_grad_(True)
    seen = (x - torch.tensor(MEAN)) / torch.tensor(STD)
    theirs = (net(seen.permute(0, 3, 1, 2).contiguous()) * torch.from_numpy(weight)).sum()
    theirs.backward()
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-4)
    np.testing.assert_allclose(slope, x.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_a_torch_module_under_every_transformation(torch, variant):
    logits_fn = robustjax.from_torch(torch_net(torch).eval())
    expected = logits_fn(X)
    np.testing.assert_allclose(variant(logits_fn)(X), expected, rtol=1e-4, atol=1e-5)
    slope = lambda x: jax.grad(lambda z: jnp.square(logits_fn(z)).sum())(x)
    np.testing.assert_allclose(variant(slope)(X), slope(X), rtol=1e-4, atol=1e-5)


def test_the_operations_of_a_torch_module_are_counted(torch):
    """A convolution: 2 x 48 pixels x 9 x 3 x 4; the linear layer: 2 x 192 x 5; for each of 6 images."""
    logits_fn = robustjax.from_torch(torch_net(torch))
    expected = 6 * (2 * 48 * 9 * 3 * 4 + 2 * 4 * 48 * 5)
    counted = operations(jax.make_jaxpr(logits_fn)(X).jaxpr)
    assert expected < counted < 1.3 * expected  # which looks at the images and adds 0
    opaque = lambda x: jax.pure_callback(
        lambda x: x, jax.ShapeDtypeStruct((6, 5), jnp.float32), x[:, 0, :5, 0]
    )
    assert operations(jax.make_jaxpr(opaque)(X).jaxpr) == np.inf


def test_a_torch_module_in_loops_of_large_batches(torch):
    """A callback inside a loop, with arrays that are too large to be copied in passing, must not wait for itself."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )
    logits_fn = robustjax.from_torch(net)
    x = jnp.asarray(RNG.uniform(size=(256, 32, 32, 3)), jnp.float32)

    @jax.jit
    def ascent(x):
        slope = jax.grad(lambda z: logits_fn(z)[:, 0].sum())
        return jax.lax.fori_loop(0, 5, lambda i, z: z + 0.01 * jnp.sign(slope(z)) + 0 * (z @ jnp.eye(3)), x)

    before, after = logits_fn(x)[:, 0], logits_fn(ascent(x))[:, 0]
    assert (after > before).all()


def test_an_attack_on_a_linear_torch_module_reaches_closed_form(torch):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8 * 6 * 3, 2))
    threat = Threat("linf", 0.03, -10.0, 10.0)
    objective = lambda x: logits_fn(x) @ jnp.array([1.0, -1.0])
    logits_fn = robustjax.from_torch(net)
    found = jax.jit(lambda key, x: pgd(threat, steps=3, step_size=0.03)(key, objective, x))(
        jax.random.key(0), X
    )
    slope = (net[1].weight[0] - net[1].weight[1]).abs().sum().item()
    np.testing.assert_allclose(found.value, objective(X) + 0.03 * slope, rtol=1e-4)


def test_weights_are_read_in_every_call(torch):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 3))
    compiled = jax.jit(robustjax.from_torch(net))
    before = compiled(X)
    with torch.no_grad():
        net[1].bias += 1
    np.testing.assert_allclose(compiled(X), before + 1, rtol=1e-5)


def test_a_torch_module_without_gradient_has_one_of_zero(torch):
    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 2)

    logits_fn = robustjax.from_torch(Constant())
    assert not jax.grad(lambda x: logits_fn(x).sum())(X).any()


def test_torch_errors_state_the_convention(torch):
    net = torch_net(torch)
    one_line(lambda: robustjax.from_torch(print), "must be a torch.nn.Module")
    one_line(lambda: robustjax.evaluate(net, X, np.arange(6) % 5), "make robustjax.from_torch")
    one_line(
        lambda: checks.logits("evaluate", robustjax.from_torch(net), X[:, :4]),
        "from_torch: RuntimeError", "(b, c, h, w), here (1, 3, 4, 6)",
    )  # fmt: skip
    one_line(lambda: robustjax.from_torch(torch.nn.Identity())(X), "must return logits (b, k)")


def test_the_suite_on_a_torch_module_agrees_with_the_same_network_in_jax(torch, monkeypatch):
    def cases(threat, classes):
        return autoattack.apgd_ce(threat, steps=10), autoattack.random_search(threat, queries=50)

    monkeypatch.setitem(api.SUITES, "standard", cases)
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    )
    x = RNG.uniform(size=(12, 4, 4, 1)).astype(np.float32)
    w1, b1, w2, b2 = (p.detach().numpy() for p in net.parameters())
    ours = lambda x: jax.nn.relu(x.reshape(x.shape[0], -1) @ w1.T + b1) @ w2.T + b2
    y = np.asarray(ours(x)).argmax(axis=1)
    theirs, own = (
        robustjax.evaluate(f, x, y, eps=0.05, batch_size=12, masking=False)
        for f in (robustjax.from_torch(net), ours)
    )
    np.testing.assert_array_equal(theirs.results.robust, own.results.robust)
    assert 0 < own.robust.value < 1
