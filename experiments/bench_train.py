"""Measure adversarial training: images per second of PGD-10 steps, against PyTorch in the same run.

    python experiments/bench_train.py cpu
    python experiments/bench_train.py full --dtype bfloat16 --out bench.jsonl

One update is a PGD attack on the network in evaluation mode and one SGD step in train mode on what it found.
Contenders take turns, so that a noisy machine disturbs all of them; the table shows medians over the turns.
`scan` is the library's own step, its attack a compiled loop; `unrolled` repeats the body in the program;
`pytorch` is the same in eager mode, input gradients only during the attack.
"""

import dataclasses
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
import peers

from robustjax import optimizers, training
from robustjax.attacks import objectives
from robustjax.attacks.compose import against
from robustjax.attacks.pgd import pgd
from robustjax.losses.adversarial import adversarial
from robustjax.models import resnet, small
from robustjax.threats import Threat
from robustjax.types import Ascent, Attack, Batch, Found, Model

Network = Literal["convnet", "convnet_small", "resnet18"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure adversarial training."""

    networks: tuple[Network, ...] = ("convnet", "resnet18")
    batch_size: tuple[int, ...] = (128, 32)  # one for each network
    steps: int = 10  # of the attack
    repeats: int = 5  # turns of every contender
    updates: int = 1  # training steps in a turn
    dtype: Literal["float32", "bfloat16"] = "float32"  # what our network computes in
    unrolled: bool = True  # also measure the attack without a loop
    torch: bool = True  # also measure PyTorch, if it is installed
    peak: int = 2048  # side of the matrix product that measures the peak
    out: str | None = None  # a file to append one line of JSON to

    def check(self) -> None:
        """Refuse what cannot be meant."""
        if len(self.batch_size) != len(self.networks):
            raise ValueError(
                f"--batch-size has {len(self.batch_size)} numbers, must have {len(self.networks)}"
            )
        if min(self.steps, self.repeats, self.updates, self.peak, *self.batch_size) < 1:
            raise ValueError("--steps --repeats --updates --peak --batch-size: must be at least 1")


PRESETS = {
    "cpu": Config(),
    "smoke": Config(networks=("convnet_small",), batch_size=(4,), steps=2, repeats=1, peak=64),
    "full": Config(batch_size=(1024, 512), repeats=10, updates=5, peak=8192, torch=False),
}


class Case(NamedTuple):
    """A network, its images and the adversary it is trained against."""

    factory: Callable[..., Model]
    shape: tuple[int, int, int]
    eps: float


CASES = {
    "convnet": Case(small.convnet, (28, 28, 1), 0.3),
    "convnet_small": Case(small.convnet_small, (28, 28, 1), 0.3),
    "resnet18": Case(resnet.resnet18, (32, 32, 3), 8 / 255),
}


def unrolled(threat: Threat, *, steps: int, step_size: float) -> Ascent:
    """Do what `pgd(..., keep="last")` does, without a loop in the program."""

    def ascend(key, objective, x):
        slope = jax.grad(lambda z: objective(z).sum())
        z = threat.sample(key, x)
        for _ in range(steps):
            z = threat.project(z + step_size * threat.steepest(slope(z), z), x)
        return jax.lax.stop_gradient(Found(z, objective(z)))

    return ascend


def ours(case: Case, model: Model, cfg: Config, attack: Attack, batch: Batch) -> Callable[[], None]:
    """Build one turn of the library: `updates` compiled steps."""
    tx = optimizers.sgd(0.01)
    step = training.step(adversarial(model, attack), tx)
    state = training.start(jax.random.key(0), model, tx)

    def turn() -> None:
        nonlocal state
        for _ in range(cfg.updates):
            state, _ = step(state, batch)
        jax.block_until_ready(state)

    return turn


def pytorch(name: str, case: Case, model: Model, cfg: Config, batch: Batch) -> Callable[[], None]:
    """Build one turn of PyTorch in eager mode, with the same weights and images."""
    import torch
    from torch.nn import functional as f

    place = "cuda" if torch.cuda.is_available() else "cpu"
    net = peers.network(name, *model.init(jax.random.key(0))).to(place)
    tx = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    image = np.array(batch.image).transpose(0, 3, 1, 2)
    x, y = (
        torch.from_numpy(np.ascontiguousarray(a)).to(place) for a in (image, np.array(batch.label, np.int64))
    )

    def update() -> None:
        net.eval()
        z = (x + case.eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        for _ in range(cfg.steps):
            z.requires_grad_(True)
            (slope,) = torch.autograd.grad(f.cross_entropy(net(z), y, reduction="sum"), z)
            z = z.detach() + 0.25 * case.eps * slope.sign()
            z = torch.min(torch.max(z, x - case.eps), x + case.eps).clamp(0, 1)
        net.train()
        tx.zero_grad()
        f.cross_entropy(net(z), y).backward()
        tx.step()

    def turn() -> None:
        for _ in range(cfg.updates):
            update()
        if place == "cuda":
            torch.cuda.synchronize()

    return turn


def in_turns(contenders: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Time every contender `repeats` times, taking turns, after one untimed turn each; seconds."""
    for turn in contenders.values():
        turn()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, turn in contenders.items():
            begin = time.perf_counter()
            turn()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def forward_flops(model: Model, x: jax.Array) -> float:
    """Count the operations of one forward pass per image, from the program before optimisation."""
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    cost: Any = jax.jit(lambda p, s, x: model.apply(p, s, x)[0]).lower(params, state, x).cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"] / x.shape[0]


def peak_flops(side: int, dtype: Any) -> float:
    """Measure the operations per second of a square matrix product, the best of five."""
    a = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a: a @ a)
    times = in_turns({"product": lambda: jax.block_until_ready(product(a))}, 5)["product"]
    return 2 * side**3 / min(times)


def chip() -> str:
    """Name what the numbers were measured on."""
    device = jax.devices()[0]
    cores = f"{os.cpu_count()} cores {platform.machine()}"
    return cores if device.platform == "cpu" else f"{jax.device_count()} x {device.device_kind}, {cores}"


def measure(name: Network, count: int, cfg: Config) -> dict[str, Any]:
    """Measure all contenders on one network."""
    case = CASES[name]
    dtype = common.DTYPES[cfg.dtype]
    model = case.factory(classes=10, shape=case.shape, dtype=dtype)
    image = jax.random.uniform(jax.random.key(1), (count, *case.shape))
    batch = Batch(image, jax.random.randint(jax.random.key(2), (count,), 0, 10))

    threat, length = Threat("linf", case.eps), 0.25 * case.eps
    ascents = {"scan": pgd(threat, steps=cfg.steps, step_size=length, keep="last")}
    if cfg.unrolled:
        ascents["unrolled"] = unrolled(threat, steps=cfg.steps, step_size=length)
    contenders = {
        label: ours(case, model, cfg, against(ascent, objectives.cross_entropy), batch)
        for label, ascent in ascents.items()
    }
    if cfg.torch and find_spec("torch"):
        contenders["pytorch"] = pytorch(name, case, model, cfg, batch)

    rates = {
        label: [cfg.updates * count / s for s in seconds]
        for label, seconds in in_turns(contenders, cfg.repeats).items()
    }
    # Forward and input gradient per attack step; forward, input and weight gradient for the update.
    flops = (2 * cfg.steps + 3) * forward_flops(model, image)
    return {
        "network": name,
        "batch_size": count,
        "images_per_s": {label: statistics.median(rate) for label, rate in rates.items()},
        "spread": {label: [min(rate), max(rate)] for label, rate in rates.items()},
        "utilisation": flops * statistics.median(rates["scan"]) / peak_flops(cfg.peak, dtype),
    }


def main(cfg: Config) -> int:
    """Measure, print a table, append a line."""
    packages = [p for p in ("jax", "flax", "torch") if find_spec(p)]
    versions = {package: version(package) for package in packages}
    print(f"PGD-{cfg.steps} training, {cfg.dtype}, {chip()}, {versions}")
    print(
        f"{'network':14s} {'batch':>5s} {'contender':10s} {'images/s':>9s} {'min':>9s} {'max':>9s} {'ours / it':>9s}"
    )
    results = []
    for name, count in zip(cfg.networks, cfg.batch_size, strict=True):
        result = measure(name, count, cfg)
        results.append(result)
        for label, rate in result["images_per_s"].items():
            low, high = result["spread"][label]
            ratio = result["images_per_s"]["scan"] / rate
            print(f"{name:14s} {count:5d} {label:10s} {rate:9.2f} {low:9.2f} {high:9.2f} {ratio:9.2f}")
        print(f"{'':20s} model FLOP/s of scan: {100 * result['utilisation']:.1f} % of a matrix product's")
    if cfg.out:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        about = {"date": now, "chip": chip(), "versions": versions, "config": dataclasses.asdict(cfg)}
        with open(cfg.out, "a") as file:
            file.write(json.dumps({**about, "results": results}) + "\n")
    return 0


if __name__ == "__main__":
    common.script(main, PRESETS, __doc__)
