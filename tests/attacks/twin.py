"""One small network in JAX and in PyTorch, for attacks of other libraries to run beside ours."""

import jax.numpy as jnp
import numpy as np
import pytest

RNG = np.random.default_rng(0)
LAYERS = [(RNG.normal(size=s) / np.sqrt(s[0])).astype(np.float32) for s in ((12, 16), (16, 3))]
X = jnp.asarray(RNG.uniform(0, 1, size=(20, 12)), jnp.float32)


def net(x):
    return 5.0 * jnp.tanh(2.0 * x @ LAYERS[0]) @ LAYERS[1]


Y = net(X).argmax(axis=1)


def foolbox_distances(attack, order, bounds=(0, 1), **settings):
    """Run an attack of foolbox, or skip the test without it, and measure what it found."""
    torch, foolbox = pytest.importorskip("torch"), pytest.importorskip("foolbox")
    first, second = (torch.from_numpy(w) for w in LAYERS)

    class Net(torch.nn.Module):
        def forward(self, x):
            return 5.0 * torch.tanh(2.0 * x @ first) @ second

    there = foolbox.PyTorchModel(Net().eval(), bounds=bounds, device="cpu")
    x, y = torch.tensor(np.asarray(X)), torch.tensor(np.asarray(Y), dtype=torch.long)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # thousands of tiny products
    _, points, success = getattr(foolbox.attacks, attack)(**settings)(there, x, y, epsilons=None)
    torch.set_num_threads(threads)
    assert success.all()
    return np.linalg.norm(points.numpy() - np.asarray(X), order, axis=1)
