"""Points that travel: recursions against NumPy's, gradients against what they average, torchattacks' points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from robustjax import logit
from robustjax.attacks import at_scales, diverse, ensemble, momentum_iterative, translated
from robustjax.attacks.solver import as_attack
from robustjax.attacks.transferable import plain
from robustjax.threats import Threat

B, SHAPE = 5, (4, 3, 3)
RNG = np.random.default_rng(3)
X = jnp.asarray(RNG.uniform(0.2, 0.8, size=(B, *SHAPE)), jnp.float32)
A = jnp.asarray(RNG.uniform(0.5, 2.0, size=(1, *SHAPE)), jnp.float32)
C = jnp.asarray(RNG.uniform(-0.5, 1.5, size=(1, *SHAPE)), jnp.float32)
KEY = jax.random.key(0)
THREAT = Threat("linf", 0.1)


def bowl(x):
    """Have its top at C: the gradient is -2 A (x - C)."""
    return -(A * jnp.square(x - C)).reshape(len(x), -1).sum(axis=1)


def by_hand(steps, size, momentum, look_ahead):
    """Follow the recursion of Dong et al. and of Lin et al. in float64."""
    origin, a, c = (np.asarray(v, np.float64) for v in (X, A, C))
    x, rolling = origin, np.zeros_like(origin)
    for _ in range(steps):
        at = x + size * momentum * rolling if look_ahead else x
        slope = -2 * a * (at - c)
        rolling = momentum * rolling + slope / np.abs(slope).mean(axis=(1, 2, 3), keepdims=True)
        x = np.clip(np.clip(x + size * np.sign(rolling), origin - 0.1, origin + 0.1), 0, 1)
    return x


@pytest.mark.parametrize("momentum, look_ahead", [(1.0, False), (1.0, True), (0.5, True)])
def test_the_recursion_is_that_of_the_papers(momentum, look_ahead):
    solver = momentum_iterative(THREAT, steps=6, step_size=0.04, momentum=momentum, look_ahead=look_ahead)
    found = jax.jit(lambda: solver(KEY, bowl, X))()
    np.testing.assert_allclose(found.x, by_hand(6, 0.04, momentum, look_ahead), atol=1e-6)
    np.testing.assert_allclose(found.value, bowl(found.x), rtol=1e-6)


def test_neighbours_change_nothing_where_the_gradient_is_the_same_everywhere():
    linear = lambda x: (A * x).reshape(len(x), -1).sum(axis=1)
    same, tuned = (
        jax.jit(lambda n=n: momentum_iterative(THREAT, steps=4, neighbours=n)(KEY, linear, X))()
        for n in (0, 3)
    )
    np.testing.assert_allclose(same.x, THREAT.project(X + 1.0, X), atol=1e-6)  # A is positive
    np.testing.assert_allclose(tuned.x, same.x, atol=1e-6)


def test_the_mean_over_neighbours_corrects_the_gradient():
    """|x|: just beside the kink the neighbours' mean says that it is flat, and the gradient is taken back."""
    x = jnp.full((200, 1), 0.01)
    solver = momentum_iterative(
        Threat("linf", 1.0, -5.0, 5.0), steps=2, neighbours=50, step_size=0.0, momentum=0.0
    )
    both = lambda z: (jnp.abs(z[:, 0]), jnp.abs(z[:, 0]))
    state = jax.jit(lambda: solver.advance(both, solver.init(KEY, x), 1))()
    # The mean sign of 0.01 + 1.5 u, u uniform in [-1, 1], is 0.01 / 1.5; less the sign at 0.01, which is 1.
    error = np.asarray(state.drift)[:, 0].mean() - (0.01 / 1.5 - 1.0)
    assert abs(error) < 4.5 / np.sqrt(200 * 50)


def test_scales_average_by_the_chain_rule():
    found = at_scales(scales=3)(jax.random.split(KEY, B), bowl, X)
    expected = sum(-2 * A * (X / 2**i - C) / 2**i for i in range(3)) / 3
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_smoothing_is_a_convolution_of_the_gradient():
    found = translated(size=3, sigma=1.0)(jax.random.split(KEY, B), bowl, X)
    line = np.exp(-0.5 * np.array([-1.0, 0.0, 1.0]) ** 2)
    kernel = np.outer(line, line) / np.outer(line, line).sum()
    slope = np.asarray(-2 * A * (X - C), np.float64)
    expected = scipy.ndimage.convolve(slope, kernel[None, :, :, None], mode="constant")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_diverse_images_are_smaller_ones_on_black():
    """With a stand-in for the gradient that shows what is shown; ones stay ones in a rectangle."""
    show = lambda keys, objective, x: objective(x)
    ones, keys = jnp.ones((60, 12, 8, 1)), jax.random.split(KEY, 60)
    shown = jax.jit(lambda: diverse(show, smallest=0.5, chance=0.75)(keys, lambda z: z, ones))
    images = np.asarray(shown())[..., 0]
    moved = (images < 1).any(axis=(1, 2))
    assert 30 <= moved.sum() <= 57  # 45 of 60 expected; 4.5 standard deviations are 15
    for image in images[moved]:
        rows, columns = image.max(axis=1), image.max(axis=0)
        np.testing.assert_allclose(image, np.outer(rows, columns), atol=1e-5)
        assert 5.0 <= rows.sum() <= 12.01 and 3.0 <= columns.sum() <= 8.01
    slope = jax.jit(lambda: diverse(plain, chance=0.0)(jax.random.split(KEY, B), bowl, X))()
    np.testing.assert_allclose(slope, -2 * A * (X - C), rtol=1e-5)


def test_an_ensemble_is_the_mean_of_logits():
    first, second = (lambda x, w=w: x.reshape(len(x), -1)[:, :3] * w for w in (1.0, 5.0))
    np.testing.assert_allclose(ensemble(first, second)(X), 3.0 * first(X), rtol=1e-6)
    np.testing.assert_allclose(ensemble(first, second, weights=(3, 1))(X), 2.0 * first(X), rtol=1e-6)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: ensemble(), "no network is given"),
        (lambda: ensemble(bowl, weights=(1.0, 2.0)), "must be 1 numbers"),
        (
            lambda: ensemble(lambda x: x[:, :2], lambda x: x[:, :3])(X.reshape(B, -1)),
            "must have the same classes",
        ),
        (lambda: translated(size=4), "size is 4, must be odd"),
        (lambda: diverse(smallest=0.0), "smallest is 0.0"),
        (lambda: at_scales(scales=0), "scales is 0"),
        (lambda: momentum_iterative(THREAT, keep="first"), "keep is 'first'"),
        (lambda: momentum_iterative(THREAT, neighbours=-1), "neighbours is -1"),
        (lambda: momentum_iterative(Threat("linf", jnp.inf)), "must be finite"),
        (lambda: translated()(jax.random.split(KEY, 2), bowl, jnp.zeros((2, 5))), "must be images"),
    ],
)
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.oracle
@pytest.mark.parametrize(
    "name, settings, ours",
    [
        ("MIFGSM", {}, {}),
        ("NIFGSM", {}, {"look_ahead": True}),
        ("SINIFGSM", {"m": 4}, {"look_ahead": True, "gradient": at_scales(scales=4)}),
        (
            "TIFGSM",
            {"diversity_prob": 0.0, "len_kernel": 3, "nsig": 1},
            {"momentum": 0.0, "gradient": translated(size=3, sigma=1.0)},
        ),
    ],
)
def test_points_are_those_of_torchattacks(name, settings, ours):
    """Where nothing is left to chance, to rounding."""
    torch, torchattacks = pytest.importorskip("torch"), pytest.importorskip("torchattacks")
    draw = np.random.default_rng(0)
    layers = [(draw.normal(size=s) / np.sqrt(s[0])).astype(np.float32) for s in ((36, 16), (16, 4))]
    net = lambda x: 5.0 * jnp.tanh(2.0 * x.reshape(len(x), -1) @ layers[0]) @ layers[1]
    y = np.asarray(net(X).argmax(axis=1))

    class Net(torch.nn.Module):
        def forward(self, x):
            flat = x.permute(0, 2, 3, 1).flatten(1)
            return 5.0 * torch.tanh(2.0 * flat @ torch.from_numpy(layers[0])) @ torch.from_numpy(layers[1])

    attack = getattr(torchattacks, name)(Net().eval(), eps=0.1, alpha=0.02, steps=8, **settings)
    theirs = attack(
        torch.from_numpy(np.asarray(X).transpose(0, 3, 1, 2).copy()), torch.from_numpy(y.astype(np.int64))
    )
    solver = momentum_iterative(THREAT, steps=8, step_size=0.02, **ours)
    found = jax.jit(lambda: as_attack(solver, logit.cross_entropy)(KEY, net, X, jnp.asarray(y)))()
    np.testing.assert_allclose(found.x, theirs.detach().numpy().transpose(0, 2, 3, 1), atol=1e-5)
