"""Measure adversarial training: images per second of whole steps, against PyTorch in the same run.

    python -m experiments.benchmarks.train cpu
    python -m experiments.benchmarks.train full --out bench.jsonl

Steps of PGD training, RATIO and ALOE (see train_steps.py), over networks, batch sizes and dtypes. Contenders take
turns, so that a noisy machine disturbs all of them; the table shows medians over the turns. `scan` is the library's
own step, its attack a compiled loop, over all devices; `unrolled` repeats the body in the program; `pytorch` is the
same in eager mode, channels last and with automatic mixed precision on an accelerator, `compiled` by torch.compile,
both on one device. What does not fit into memory is said and left out. Images are ID and OOD images together.
--profile 20 lists where the time of a turn goes, by layer and operation.
"""

import math
import statistics
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measured_on, peers, profiles, train_steps
from experiments.benchmarks.config import TRAIN_PRESETS as PRESETS
from experiments.benchmarks.config import Dtype, Method, Network, TrainConfig
from experiments.benchmarks.turns import in_turns, peak_flops
from experiments.shared import command_line
from robustjax import runtime
from robustjax.catalog.models import DTYPES
from robustjax.models import resnet, small
from robustjax.models.wideresnet import wideresnet
from robustjax.types import Batch, Model, Pair


class Setup(NamedTuple):
    """A network, its images and the radius it is trained at."""

    factory: Callable[..., Model]
    shape: tuple[int, int, int]
    eps: float


SETUPS: dict[Network, Setup] = {
    "convnet": Setup(small.convnet, (28, 28, 1), 0.3),
    "convnet_small": Setup(small.convnet_small, (28, 28, 1), 0.3),
    "resnet18": Setup(resnet.resnet18, (32, 32, 3), 8 / 255),
    "wideresnet28_10": Setup(wideresnet, (32, 32, 3), 8 / 255),
}
NO_ROOM = ("RESOURCE_EXHAUSTED", "out of memory", "OutOfMemory")  # in what XLA and PyTorch say


def forward_flops(model: Model, x: jax.Array) -> float:
    """Count the operations of one forward pass per image, from the program before optimisation."""
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    cost: Any = jax.jit(lambda p, s, x: model.apply(p, s, x)[0]).lower(params, state, x).cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"] / x.shape[0]


def measure(name: Network, method: Method, count: int, dtype: Dtype, cfg: TrainConfig) -> dict[str, Any]:
    """Measure all contenders on one network."""
    setup = SETUPS[name]
    kept: Any = {"remat": True} if cfg.remat and "resnet" in name else {}
    model = setup.factory(classes=10, shape=setup.shape, dtype=DTYPES[dtype], **kept)
    it = train_steps.method(method, eps=setup.eps, steps=cfg.steps)
    images = np.random.default_rng(0).random((count * (1 + it.ood_ratio), *setup.shape), np.float32)
    labels = np.random.default_rng(1).integers(0, 10, count).astype(np.int32)
    batch = data = Batch(jnp.asarray(images[:count]), jnp.asarray(labels))
    if it.ood_ratio:
        batch = Pair(data, jnp.asarray(images[count:]))
    mesh = runtime.data_mesh(jax.devices()[: math.gcd(count, jax.device_count())])

    turns: dict[str, Callable[[], train_steps.Turn]] = {}
    programs: dict[str, Callable[[], str]] = {}

    def ours(label: str) -> train_steps.Turn:
        loss = train_steps.loss(it, method, model, loop=label == "scan")
        turn, programs[label] = train_steps.ours(model, loss, batch, mesh, cfg.updates)
        return turn

    for label in ("scan", "unrolled") if cfg.unrolled else ("scan",):
        turns[label] = partial(ours, label)
    if cfg.torch and find_spec("torch"):
        net = peers.network(name, *model.init(jax.random.key(0)))
        for label, form in peers.forms(net, dtype=dtype, compiled=cfg.compiled).items():
            turns[label] = lambda form=form: train_steps.theirs(it, net, form, batch, cfg.updates)
    contenders = {label: turn for label, build in turns.items() if (turn := fitting(label, build))}

    rates = {
        label: [cfg.updates * len(images) / s for s in seconds]
        for label, seconds in in_turns(contenders, cfg.repeats).items()
    }
    result = {
        "network": name,
        "method": method,
        "dtype": dtype,
        "batch_size": count,
        "images": len(images),
        "devices": mesh.size,
        "images_per_s": {label: statistics.median(rate) for label, rate in rates.items()},
        "spread": {label: [min(rate), max(rate)] for label, rate in rates.items()},
    }
    if "scan" in rates:
        flops = it.passes * forward_flops(model, data.image) * statistics.median(rates["scan"])
        result["flops"] = flops
        result["utilisation"] = flops / (mesh.size * peak_flops(cfg.peak, DTYPES[dtype]))
        if cfg.profile:
            found = profiles.profile(contenders["scan"], programs["scan"]())
            result["profile"] = [share._asdict() for share in found[: cfg.profile]]
            result["profiled"] = sum(share.milliseconds for share in found)
    return result


def fitting(label: str, build: Callable[[], train_steps.Turn]) -> train_steps.Turn | None:
    """Build a turn and run it once; None if memory does not suffice."""
    try:
        turn = build()
        turn()
    except Exception as error:
        if not any(words in f"{type(error).__name__} {error}" for words in NO_ROOM):
            raise
        runtime.say(f"{label} does not fit into memory")
        return None
    return turn


def main(cfg: TrainConfig) -> int:
    """Measure, print a table, append a line."""
    packages = measured_on.versions("jax", "flax", "torch")
    print(f"PGD-{cfg.steps}, {measured_on.chip()}, {packages}")
    print(
        f"{'network':15s} {'method':6s} {'dtype':8s} {'batch':>5s} {'contender':10s} {'images/s':>9s} {'min':>9s} "
        f"{'max':>9s} {'ours / it':>9s}"
    )
    cases: list[tuple[Network, Method, int, Dtype]] = [
        (name, method, scale * count, dtype)
        for name, count in zip(cfg.networks, cfg.batch_size, strict=True)
        for method in cfg.methods
        for scale in cfg.scales
        for dtype in cfg.dtypes
    ]
    for _, (name, method, count, dtype) in runtime.progress(cases, total=len(cases), label="cases"):
        result = measure(name, method, count, dtype, cfg)
        for label, rate in result["images_per_s"].items():
            low, high = result["spread"][label]
            ratio = result["images_per_s"].get("scan", math.nan) / rate
            print(
                f"{name:15s} {method:6s} {dtype:8s} {count:5d} {label:10s} {rate:9.2f} {low:9.2f} {high:9.2f} "
                f"{ratio:9.2f}"
            )
        if "utilisation" in result:
            share = 100 * result["utilisation"]
            print(f"{'':22s} scan: {result['flops']:.3g} FLOP/s, {share:.1f} % of a matrix product's")
        for row in result.get("profile", ()):
            share = 100 * row["milliseconds"] / result["profiled"]
            print(f"{row['milliseconds']:12.1f} ms {share:6.1f} % {row['calls']:6d} x  {row['what']}")
        # A line for each case: a later one may end the script.
        measured_on.append(cfg.out, cfg, packages, result=result)
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
