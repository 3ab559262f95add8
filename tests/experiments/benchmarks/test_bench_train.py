"""The benchmark of training runs, and both sides take the same step."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from experiments.benchmarks import peers, profiles, train, train_steps
from robustjax.models import small
from robustjax.models.wideresnet import wideresnet
from robustjax.types import Batch, Pair


@pytest.mark.slow
def test_smoke(tmp_path, capsys, monkeypatch):
    words = ("smoke", "--no-torch", "--methods", "aloe", "--out", tmp_path / "lines.jsonl")
    done = scripts.call(capsys, monkeypatch, "benchmarks.train", *words)
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "lines.jsonl").read_text().splitlines()
    result = json.loads(line)["result"]
    assert (result["method"], result["images"]) == ("aloe", 12) and result["images_per_s"]["scan"] > 0
    # Which layers are the slowest three is the machine's affair; that each is one of the network's is ours.
    assert len(result["profile"]) == 3
    layers = {row["what"].split()[0] for row in result["profile"] if row["what"] != profiles.REST}
    assert layers and layers <= {"conv0", "conv1", "hidden", "head"}, result["profile"]
    assert 0 < sum(row["milliseconds"] for row in result["profile"]) <= result["profiled"]


def test_a_profile_gives_each_moment_to_the_operation_that_began_last():
    """A convolution ends in the background: its event is short, its time lasts until the next event."""
    program = """
      %conv.1 = f32[2] convolution(%a), metadata={op_name="jit(one)/while/body/jvp(ConvNet)/conv0/conv"}
      %conv.2 = f32[2] convolution(%a), metadata={op_name="jit(one)/transpose(jvp(ConvNet))/conv0/jit(f)/conv"}
      %add.3 = f32[2] add(%a), metadata={op_name="jit(one)/jvp()/add"}"""
    events = [
        (0.0, 1e5, "conv.1"),
        (4e6, 1e5, "conv.2"),
        (6e6, 1e6, "add.3"),
        (8e6, 1e5, "conv.1"),
        (9e6, 1e6, "x"),
    ]
    forward, rest, backward = profiles.shares(events, profiles.sources(program))
    assert (forward.milliseconds, forward.calls, *forward.what.split()) == (
        5.0,
        2,
        "conv0",
        "forward",
        "conv",
    )
    assert (backward.milliseconds, backward.calls, *backward.what.split()) == (
        2.0,
        1,
        "conv0",
        "backward",
        "conv",
    )
    assert (rest.milliseconds, rest.calls, rest.what) == (3.0, 2, profiles.REST)
    assert profiles.shares([], {}) == []


def test_what_does_not_fit_is_left_out(capsys):
    def too_large():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")

    def wrong():
        raise RuntimeError("shapes differ")

    assert train.fitting("scan", lambda: too_large) is None
    assert "scan does not fit" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="shapes differ"):
        train.fitting("scan", lambda: wrong)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["pgd", "ratio", "aloe"])
def test_both_sides_take_the_same_step(name, monkeypatch):
    """With radii of zero nothing is random: the weights after one step agree."""
    pytest.importorskip("torch")
    it = train_steps.method(name, eps=0.1, steps=1)._replace(eps=0.0, ood_eps=0.0)
    model = small.convnet_small()
    params, state = model.init(jax.random.key(0))
    draw = np.random.default_rng(0)
    images = draw.random((4 * (1 + it.ood_ratio), 28, 28, 1)).astype(np.float32)
    batch = data = Batch(jnp.asarray(images[:4]), jnp.arange(4, dtype=jnp.int32))
    if it.ood_ratio:
        batch = Pair(data, jnp.asarray(images[4:]))
    net = peers.network("convnet_small", params, state)
    train_steps.theirs(it, net, peers.forms(net)["pytorch"], batch, 1)()
    slope = jax.jit(jax.grad(train_steps.loss(it, name, model), has_aux=True))
    grads, _ = slope(params, state, batch, jax.random.key(0))
    # One step of Nesterov momentum from rest moves by (1 + momentum) times the gradient with its decay.
    for key, layer in (("conv0", net[0]), ("conv1", net[2])):
        moved = -train_steps.RATE * 1.9 * (grads[key]["kernel"] + 5e-4 * params[key]["kernel"])
        theirs = layer.weight.detach().numpy().transpose(2, 3, 1, 0) - params[key]["kernel"]
        np.testing.assert_allclose(theirs, moved, atol=2e-2 * float(np.abs(moved).max()))


@pytest.mark.oracle
def test_the_wide_peer_is_the_same_function():
    torch = pytest.importorskip("torch")
    model = wideresnet(depth=10, width=1, shape=(8, 8, 3))
    params, state = model.init(jax.random.key(0))
    draw = np.random.default_rng(0)
    state = jax.tree.map(lambda a: jnp.asarray(draw.uniform(0.5, 1.5, a.shape), jnp.float32), state)
    x = draw.uniform(size=(2, 8, 8, 3)).astype(np.float32)
    net = peers.network("wideresnet10_1", params, state)
    with torch.no_grad():
        theirs = net(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()
    np.testing.assert_allclose(model.apply(params, state, x)[0], theirs, atol=2e-4, rtol=1e-4)
