"""Translators and critics beside PyTorch networks of the published layers, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models import critics, pix2pixhd, translator

pytestmark = pytest.mark.oracle


def turned(kernel, *, transposed=False):
    """From (h, w, i, o) to PyTorch's order."""
    return np.asarray(kernel).transpose((2, 3, 0, 1) if transposed else (3, 2, 0, 1))


def set_conv(layer, ours, *, transposed=False):
    import torch

    layer.weight.data = torch.from_numpy(turned(ours["kernel"], transposed=transposed).copy())
    if layer.bias is not None:
        layer.bias.data = torch.from_numpy(np.asarray(ours["bias"]).copy())


def set_norm(layer, ours, state):
    import torch

    layer.weight.data, layer.bias.data = (
        torch.from_numpy(np.asarray(ours[k]).copy()) for k in ("scale", "bias")
    )
    layer.running_mean, layer.running_var = (
        torch.from_numpy(np.asarray(state[k]).copy()) for k in ("mean", "var")
    )


def general(model, seed=0):
    """Weights in general position, running statistics included."""
    params, state = model.init(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    state = jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.5, 1.5, a.shape), jnp.float32), state)
    return jax.tree.map(lambda a: a + 0.1 * jnp.asarray(rng.normal(size=a.shape), jnp.float32), params), state


def images(*shape):
    return np.random.default_rng(7).uniform(size=shape).astype(np.float32)


def as_torch(x):
    import torch

    return torch.from_numpy(2 * x - 1).permute(0, 3, 1, 2)


def as_ours(out):
    return out.detach().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("train", [False, True])
def test_the_unet(train):
    torch = pytest.importorskip("torch")
    nn, depth, width = torch.nn, 4, 3
    model = translator.unet_translator(shape=(16, 16, 2), width=width)
    params, state = general(model)
    widths = [2, *(width * min(2**i, 8) for i in range(depth))]

    def block(i, x):
        """One level of the network as it nests: what is given is what level i - 1 has made."""
        down = nn.Conv2d(widths[i], widths[i + 1], 4, 2, 1, bias=False)
        set_conv(down, params[f"down{i}"])
        inner = down(x if i == 0 else torch.nn.functional.leaky_relu(x, 0.2))
        if 0 < i < depth - 1:
            norm = nn.BatchNorm2d(widths[i + 1])
            set_norm(norm, params[f"down_norm{i}"], state["batch_stats"][f"down_norm{i}"])
            inner = norm.train(train)(inner)
        outer = block(i + 1, inner) if i < depth - 1 else inner
        ins = widths[i + 1] * (1 if i == depth - 1 else 2)
        up = nn.ConvTranspose2d(ins, widths[i], 4, 2, 1, bias=i == 0)
        set_conv(up, params[f"up{i}"], transposed=True)
        out = up(torch.relu(outer))
        if i == 0:
            return torch.tanh(out)
        norm = nn.BatchNorm2d(widths[i])
        set_norm(norm, params[f"up_norm{i}"], state["batch_stats"][f"up_norm{i}"])
        return torch.cat([x, norm.train(train)(out)], 1)

    x = images(3, 16, 16, 2)
    ours, _ = jax.jit(lambda x: model.apply(params, state, x, train=train))(x)
    np.testing.assert_allclose(2 * np.asarray(ours) - 1, as_ours(block(0, as_torch(x))), atol=2e-5)


def test_the_patch_critic():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    model = critics.patch_critic(shape=(32, 32, 1), width=3, layers=2)
    params, state = general(model)
    x = images(2, 32, 32, 2)
    z, maps, ins = as_torch(x), [], 2
    for i, (width, stride) in enumerate(((3, 2), (6, 2), (12, 1), (1, 1))):
        conv = nn.Conv2d(ins, width, 4, stride, 1, bias=i in (0, 3))
        set_conv(conv, params["scale0"][f"conv{i}"])
        z, ins = conv(z), width
        if i in (1, 2):
            norm = nn.BatchNorm2d(width).eval()
            set_norm(norm, params["scale0"][f"norm{i}"], state["batch_stats"]["scale0"][f"norm{i}"])
            z = norm(z)
        z = z if i == 3 else torch.nn.functional.leaky_relu(z, 0.2)
        maps.append(z)
    (ours,) = jax.jit(lambda x: model.apply(params, state, x)[0])(x)
    for a, b in zip(ours, maps, strict=True):
        np.testing.assert_allclose(a, as_ours(b), atol=2e-5)


def test_the_multiscale_critic():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    model = critics.multiscale_critic(shape=(16, 16, 1), width=2, layers=1)
    params, state = general(model)
    x = images(2, 16, 16, 2)
    ours = jax.jit(lambda x: model.apply(params, state, x)[0])(x)
    z = as_torch(x)
    for scale in range(2):
        y, ins = z, 2
        for i, (width, stride) in enumerate(((2, 2), (4, 1), (1, 1))):
            conv = nn.Conv2d(ins, width, 4, stride, 2)
            set_conv(conv, params[f"scale{scale}"][f"conv{i}"])
            y, ins = conv(y), width
            y = nn.InstanceNorm2d(width)(y) if i == 1 else y
            y = y if i == 2 else torch.nn.functional.leaky_relu(y, 0.2)
            np.testing.assert_allclose(ours[scale][i], as_ours(y), atol=5e-5)
        z = nn.AvgPool2d(3, 2, 1, count_include_pad=False)(z)


def test_the_global_generator():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    model = pix2pixhd.global_generator(shape=(16, 16, 1), width=4, halvings=2, blocks=1)
    params, state = general(model)
    trunk = params["trunk"]

    def conv(x, ours, ins, outs, side, stride=1, pad=0, mirror=0):
        layer = nn.Conv2d(ins, outs, side, stride, pad)
        set_conv(layer, ours)
        return layer(nn.ReflectionPad2d(mirror)(x) if mirror else x)

    def lit(x):
        return torch.relu(nn.InstanceNorm2d(x.shape[1])(x))

    x = images(2, 16, 16, 1)
    z = lit(conv(as_torch(x), trunk["stem"], 1, 4, 7, mirror=3))
    for i in range(2):
        z = lit(conv(z, trunk[f"down{i}"], 4 * 2**i, 8 * 2**i, 3, 2, 1))
    inner = lit(conv(z, trunk["block0"]["conv0"], 16, 16, 3, mirror=1))
    z = z + nn.InstanceNorm2d(16)(conv(inner, trunk["block0"]["conv1"], 16, 16, 3, mirror=1))
    for i in (1, 0):
        up = nn.ConvTranspose2d(8 * 2**i, 4 * 2**i, 3, 2, 1, output_padding=1)
        set_conv(up, trunk[f"up{i}"], transposed=True)
        z = lit(up(z))
    z = torch.tanh(conv(z, params["last"], 4, 1, 7, mirror=3))
    ours = jax.jit(lambda x: model.apply(params, state, x)[0])(x)
    np.testing.assert_allclose(2 * np.asarray(ours) - 1, as_ours(z), atol=5e-5)


def test_nt_xent_is_cross_entropy_over_similarities():
    torch = pytest.importorskip("torch")
    from robustjax.losses.contrastive import nt_xent

    first, second = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    z = torch.nn.functional.normalize(torch.from_numpy(np.concatenate([first, second])), dim=1)
    logits = (z @ z.T / 0.3).fill_diagonal_(-1e9)
    target = torch.arange(8).roll(4)
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="none").reshape(2, 4).mean(0)
    found = nt_xent(jnp.asarray(first), jnp.asarray(second), temperature=0.3)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)
