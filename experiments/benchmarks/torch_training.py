"""Train by N-FGSM in PyTorch's eager mode for so many CPU minutes, and attack the result as ours is attacked.

    python -m experiments.classification.train cifar10_small --out runs/ours
    python -m experiments.benchmarks.torch_training cifar10_small --minutes 30 --out runs/torch

The network, its first weights, the batches' size, augmentation, schedule, weight decay and weight average are those of
the preset of classification.train; the attack sees the network in evaluation mode, as there. The number of updates is
what fits into --minutes of CPU time by the speed of the first ones, so that the schedule ends with the time. Images are
then attacked by `robustjax.evaluate`, which calls PyTorch. A run that is killed begins anew.
"""

import copy
import pathlib
import time
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import measured_on, peers
from experiments.benchmarks.config import TORCH_TRAINING_PRESETS as PRESETS
from experiments.benchmarks.config import TorchTrainingConfig
from experiments.shared import command_line
from experiments.shared.settings import Optimizer
from robustjax import data, evaluate, from_torch, runtime
from robustjax.catalog import models
from robustjax.data import subsets
from robustjax.runtime import strict_json

WARM, TIMED = 5, 20  # updates before the clock starts, and those that tell the speed


def main(cfg: TorchTrainingConfig) -> int:
    """Measure the speed, train, attack, say."""
    torch = _torch()
    train = data.load(cfg.dataset, "train", data_dir=cfg.data_dir)
    test = subsets.subset(data.load(cfg.dataset, "test", data_dir=cfg.data_dir), cfg.images)
    constants = models.NORMALISATIONS.get(cfg.dataset)
    model = models.classifier(
        cfg.model, dataset=cfg.dataset, classes=len(train.info.classes), shape=train.image.shape[1:]
    )
    net = peers.network(cfg.model, *model.init(jax.random.key(cfg.seed)), constants)

    # --- how many updates fit ---
    trial = Trainer(torch, copy.deepcopy(net), cfg, train, updates=WARM + TIMED)
    trial.run(WARM)
    began = time.process_time()
    trial.run(TIMED)
    each = (time.process_time() - began) / TIMED
    updates = max(1, int(60 * cfg.minutes / each))
    runtime.say(
        f"{cfg.batch_size / each:.0f} images a CPU-second: {updates} updates in {cfg.minutes:g} CPU-minutes"
    )

    # --- train ---
    trainer = Trainer(torch, net, cfg, train, updates=updates)
    began = time.process_time()
    for _ in runtime.progress(range(updates), total=updates, label="train", batch_size=cfg.batch_size):
        trainer.run(1)
    minutes = (time.process_time() - began) / 60

    # --- attack ---
    found = evaluate(
        from_torch(trainer.average), test.image, test.label, eps=cfg.eps, suite=cfg.suite, seed=cfg.seed
    )
    print(found)
    out = pathlib.Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "updates": updates,
        "images": updates * cfg.batch_size,
        "CPU-minutes": round(minutes, 2),
        "threads": torch.get_num_threads(),
        "clean": found.clean._asdict(),
        "robust": found.robust._asdict(),
        "suite": cfg.suite,
        "eps": cfg.eps,
    }
    packages = measured_on.versions("jax", "torch")
    strict_json.write(out / "results.json", {**facts, "packages": packages, "chip": measured_on.chip()})
    runtime.say(f"results: {out / 'results.json'}")
    return 0


class Trainer:
    """N-FGSM in eager mode: noise, one step of the sign of the gradient, one update on the result."""

    def __init__(
        self, torch: Any, net: Any, cfg: TorchTrainingConfig, train: data.Split, *, updates: int
    ) -> None:
        self._torch, self._cfg = torch, cfg
        self._images, self._labels = (
            np.asarray(train.image),
            torch.from_numpy(np.asarray(train.label, np.int64)),
        )
        self._random = np.random.default_rng(cfg.seed)
        torch.manual_seed(cfg.seed)
        self._net = net
        self.average = copy.deepcopy(net)
        settings = Optimizer(rate=cfg.rate)
        self._rates = np.array(jax.vmap(settings.rates(updates))(np.arange(updates)))
        self._sgd = torch.optim.SGD(
            net.parameters(),
            lr=cfg.rate,
            momentum=settings.momentum,
            nesterov=True,
            weight_decay=settings.weight_decay,
        )
        self._done, self._order = 0, np.empty(0, np.int64)

    def run(self, updates: int) -> None:
        """Make so many updates."""
        torch, net, cfg = self._torch, self._net, self._cfg
        cross_entropy = torch.nn.functional.cross_entropy
        for _ in range(updates):
            x, y = self._batch()
            noisy = (x + 2 * cfg.eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1).requires_grad_()
            net.eval()
            (slope,) = torch.autograd.grad(cross_entropy(net(noisy), y, reduction="sum"), noisy)
            x = (noisy.detach() + cfg.eps * slope.sign()).clamp(0, 1)
            net.train()
            for group in self._sgd.param_groups:
                group["lr"] = float(self._rates[self._done])
            self._sgd.zero_grad()
            cross_entropy(net(x), y).backward()
            self._sgd.step()
            self._done += 1
            self._average()

    def _batch(self) -> tuple[Any, Any]:
        """Take the next images, cropped out of a border of four pixels and flipped half the time."""
        count = self._cfg.batch_size
        if len(self._order) < count:
            self._order = self._random.permutation(len(self._images))
        rows, self._order = self._order[:count], self._order[count:]
        image = self._images[rows]
        side = image.shape[1]
        padded = np.pad(image, ((0, 0), (4, 4), (4, 4), (0, 0)))
        tops, lefts = self._random.integers(0, 9, (2, count))
        cut = np.stack(
            [
                one[top : top + side, left : left + side]
                for one, top, left in zip(padded, tops, lefts, strict=True)
            ]
        )
        flipped = np.where(self._random.random(count)[:, None, None, None] < 0.5, cut[:, :, ::-1], cut)
        x = self._torch.from_numpy(flipped.transpose(0, 3, 1, 2).astype(np.float32) / 255)
        return x, self._labels[rows]

    def _average(self) -> None:
        """Move the average of weights and BatchNorm statistics as `training.exponential` does."""
        decay = min(0.999, (1 + self._done) / (10 + self._done))
        with self._torch.no_grad():
            own, new = self.average.state_dict(), self._net.state_dict()
            for name, value in own.items():
                if value.is_floating_point():
                    value.mul_(decay).add_(new[name], alpha=1 - decay)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise ValueError("PyTorch is not installed: pip install -e '.[peers]'") from None
    return torch


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
