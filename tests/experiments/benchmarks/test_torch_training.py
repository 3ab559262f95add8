"""The training in PyTorch starts from our network, takes the same step and ends on time."""

import json

import jax
import numpy as np
import pytest
import scripts

from robustjax import training
from robustjax.models import resnet8


@pytest.mark.oracle
def test_an_update_is_ours():
    """Without noise, crops and flips a step of both sides changes the same weights alike."""
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import peers
    from experiments.benchmarks.config import TorchTrainingConfig
    from experiments.benchmarks.torch_training import Trainer
    from experiments.shared.settings import Optimizer
    from robustjax.data import of_arrays
    from robustjax.losses.adversarial import adversarial
    from robustjax.types import Batch, Found

    rng = np.random.default_rng(0)
    image, label = rng.integers(60, 196, (8, 8, 8, 3), np.uint8), np.arange(8)
    model = resnet8(width=4, shape=(8, 8, 3))
    params, state = model.init(jax.random.key(0))
    cfg = TorchTrainingConfig(batch_size=8, rate=0.02)
    trainer = Trainer(
        torch, peers.network("resnet8", params, state), cfg, of_arrays(image, label, name="noise"), updates=10
    )
    trainer._rates[:] = cfg.rate  # not the cycle, which begins at 0
    x = image.astype(np.float32) / 255
    trainer._batch = lambda: (torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.arange(8))
    torch.rand_like = lambda like: torch.full(like.shape, 0.5)  # the middle of the noise
    try:
        trainer.run(1)
    finally:
        torch.rand_like = torch._C._VariableFunctions.rand_like

    def attack(key, logits_fn, x, y):
        def risk(z):
            return -jax.nn.log_softmax(logits_fn(z))[np.arange(8), y].sum()

        moved = x + cfg.eps * jax.numpy.sign(jax.grad(risk)(x))
        return Found(moved, risk(moved))

    tx = Optimizer(rate=cfg.rate, schedule="constant").over(10)
    step = training.step(adversarial(model, attack), tx)
    after, _ = step(training.start(jax.random.key(0), model, tx)._replace(params=params), Batch(x, label))
    before = model.init(jax.random.key(0))[0]["head"]["kernel"]
    assert np.abs(after.params["head"]["kernel"] - before).max() > 1e-3
    found = dict(trainer._net.named_parameters())
    # The first convolution follows the blocks of pixels, the head is the last layer.
    np.testing.assert_allclose(
        found["1.weight"].detach().numpy().transpose(2, 3, 1, 0), after.params["conv1"]["kernel"], atol=1e-5
    )
    head = [value for name, value in found.items() if name.endswith("weight")][-1]
    np.testing.assert_allclose(head.detach().numpy().T, after.params["head"]["kernel"], atol=1e-5)


@pytest.mark.oracle
def test_script(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    done = scripts.call(capsys, monkeypatch, "benchmarks.torch_training", "smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["images"] == 16 * found["updates"] > 0
    assert 0 < found["CPU-minutes"] < 0.2
