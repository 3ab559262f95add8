"""The parts of the first minutes on a GPU: each measures one thing and gives a line of plain data."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import train_steps
from experiments.benchmarks.config import FirstGpuRunConfig
from experiments.benchmarks.turns import in_turns, peak_flops
from experiments.shared import attack_segments
from experiments.shared.settings import PGD, Optimizer
from experiments.shared.validation import accuracies
from robustjax import data, runtime, training
from robustjax.attacks import autoattack
from robustjax.catalog import augmentations, losses, models
from robustjax.data import layouts, order, sources, subsets
from robustjax.smoothing.certify import certify
from robustjax.smoothing.noise import in_pixels
from robustjax.smoothing.votes import votes
from robustjax.threats import Threat
from robustjax.types import Batch, Model, frozen


class Part(NamedTuple):
    """One thing to measure.

    Attributes:
      name: of the line.
      estimate: seconds that it takes on an H100, compiling included: a guess.
      measure: gives the line.
    """

    name: str
    estimate: float
    measure: Callable[[], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Images:
    """The images that were carried along."""

    train: data.Split
    validation: data.Split
    test: data.Split


def parts(cfg: FirstGpuRunConfig, images: Images, bounds: Sequence[dict[str, Any]]) -> list[Part]:
    """List all parts in the order they are worth knowing."""
    shape, classes = images.train.image.shape[1:], len(images.train.info.classes)
    drawn = {name: network(cfg, name, shape, classes) for name in cfg.networks}
    first = cfg.networks[0]
    threat = Threat("linf", cfg.eps)
    cases = partial(autoattack.standard, classes=classes)
    searched = network(
        dataclasses.replace(cfg, dtype="float32"), first, shape, classes
    )  # as evaluations do it
    return [
        Part("device", 10, partial(device, cfg)),
        Part("compilation cache", 15, partial(cache, cfg, shape)),
        *(
            Part(
                f"step {name} {count}",
                25 if name == first else 60,
                partial(step, cfg, name, drawn[name], count, shape, bounds),
            )
            for name in cfg.networks
            for count in cfg.batch_sizes
        ),
        *(
            Part(
                f"segment {first} {case.name}",
                20,
                partial(segment, cfg, searched, cases, place, shape, bounds),
            )
            for place, case in enumerate(cases(threat))
        ),
        Part(f"certificates {first}", 15, partial(certificates, cfg, drawn[first], shape, classes)),
        Part(f"training {first}", 120, partial(train, cfg, drawn[first], images)),
    ]


def opened(path: str) -> Images:
    """Read the images that were carried along; validation is held out of the training images as everywhere.

    Raises:
      ValueError: in one line, if the file is not there or holds something else.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"--data is {path}, must be an npz file with x_train, y_train, x_test and y_test")
    arrays = layouts.arrays(file)
    if missing := [name for name in ("x_train", "y_train", "x_test", "y_test") if name not in arrays]:
        raise ValueError(f"--data is {path}, must hold {missing[0]}: bytes (n, h, w, c), and labels")
    held = order.held_out(np.arange(len(arrays["y_train"])))
    named = partial(sources.of_arrays, name=file.stem)
    return Images(
        named(arrays["x_train"][~held], arrays["y_train"][~held], split="train"),
        named(arrays["x_train"][held], arrays["y_train"][held], split="validation"),
        named(arrays["x_test"], arrays["y_test"], split="test"),
    )


def network(cfg: FirstGpuRunConfig, name: str, shape: tuple[int, ...], classes: int) -> Model:
    """Build a network that computes in the dtype of the run."""
    return models.classifier(name, dataset="cifar10", classes=classes, shape=shape, dtype=cfg.dtype)


def device(cfg: FirstGpuRunConfig) -> dict[str, Any]:
    """Say what the device is, and how fast it multiplies matrices."""
    one = jax.devices()[0]
    held = one.memory_stats() if one.platform != "cpu" else None
    peaks = {
        "bfloat16": (jnp.bfloat16, "default"),
        "float32": (jnp.float32, "default"),
        "float32, all bits": (jnp.float32, "highest"),
    }
    rates = {name: peak_flops(cfg.peak, dtype, precision=how) / 1e12 for name, (dtype, how) in peaks.items()}
    return {
        "kind": one.device_kind,
        "devices": jax.device_count(),
        "memory GB": held and held["bytes_limit"] / 1e9,
        **{f"TFLOP/s {name}": rate for name, rate in rates.items()},
    }


def cache(cfg: FirstGpuRunConfig, shape: tuple[int, ...]) -> dict[str, Any]:
    """Compile a program twice, forgetting it in between: the second time it comes from disk, if that works here."""
    weight = jnp.ones((int(np.prod(shape)), 64), jnp.float32)

    def loss(weight: Any, x: Any) -> Any:
        return sum(jnp.tanh(x.reshape(len(x), -1) @ weight * i).sum() for i in range(1, 40))

    def seconds() -> float:
        jax.clear_caches()
        begin = time.perf_counter()
        jax.jit(jax.grad(loss)).lower(weight, jnp.ones((8, *shape), jnp.float32)).compile()
        return time.perf_counter() - begin

    place = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    first, again = seconds(), seconds()
    return {"folder": place, "s first": first, "s again": again, "again / first": again / first}


def step(
    cfg: FirstGpuRunConfig,
    name: str,
    model: Model,
    count: int,
    shape: tuple[int, ...],
    bounds: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Time a step of PGD training beside its bound."""
    rng = np.random.default_rng(cfg.seed)
    x, y = rng.random((count, *shape), np.float32), rng.integers(0, 10, count).astype(np.int32)
    it = train_steps.method("pgd", eps=cfg.eps, steps=cfg.steps)
    mesh = runtime.data_mesh(jax.devices()[:1])
    begin = time.perf_counter()
    turn, _ = train_steps.ours(
        model, train_steps.loss(it, "pgd", model), Batch(jnp.asarray(x), jnp.asarray(y)), mesh, cfg.updates
    )
    turn()
    compiling = time.perf_counter() - begin
    times = [s / cfg.updates for s in in_turns({"ours": turn}, cfg.turns)["ours"]]
    seconds = statistics.median(times)
    found = {
        "network": name,
        "images": count,
        "ms": 1e3 * seconds,
        "min": 1e3 * min(times),
        "max": 1e3 * max(times),
    }
    found |= {"images/s": count / seconds, "s compiling and one turn": compiling}
    return found | beside(1e3 * seconds, "training step", name, count, cfg.dtype, bounds)


def segment(
    cfg: FirstGpuRunConfig,
    model: Model,
    cases: Any,
    place: int,
    shape: tuple[int, ...],
    bounds: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Time an attack of AutoAttack: a segment on a full batch of rows, none of which is over early."""
    rows, threat = cfg.batch_sizes[-1], Threat("linf", cfg.eps)
    listed = tuple(cases(threat))
    case = listed[place]
    arguments = jax.jit(model.init)(jax.random.key(cfg.seed))
    state, fresh = attack_segments.shapes(case, listed, model, arguments, rows, shape)
    x = jax.random.uniform(jax.random.key(cfg.seed), (rows, *shape))
    y = frozen(model, *arguments)(x).argmax(axis=1).astype(jnp.int32)  # all are classified correctly
    clean = jax.jit(attack_segments.answers(listed, model))(*arguments, x, y)
    fresh = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), fresh)
    number = jnp.arange(rows, dtype=jnp.int32)
    fresh = fresh._replace(load=jnp.ones(rows, bool), x=x, data=y, clean=clean, number=number)
    begin = jax.jit(lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), _plain(state)))
    radius, key = jax.tree.map(jnp.float32, threat), jax.random.key(cfg.seed)
    segments = attack_segments.Segments(cases, place, model, None)
    program = segments.program(case, cfg.iterations, until=float("inf"))

    def turn() -> None:
        jax.block_until_ready(program(_keyed(begin(), state), fresh, key, radius, arguments))

    began = time.perf_counter()
    turn()
    compiling = time.perf_counter() - began
    times = in_turns({"ours": turn}, cfg.turns)["ours"]
    each = 1e3 * statistics.median(times) / cfg.iterations
    found = {"attack": case.name, "images": rows, "iterations": cfg.iterations, "ms each": each}
    found |= {"images/s": 1e3 * rows / each, "s compiling and one turn": compiling}
    return found | beside(each, case.name, cfg.networks[0], rows, None, bounds, iterations=10)


def certificates(
    cfg: FirstGpuRunConfig, model: Model, shape: tuple[int, ...], classes: int
) -> dict[str, Any]:
    """Time certificates by randomised smoothing."""
    arguments = jax.jit(model.init)(jax.random.key(cfg.seed))
    count = votes(frozen(model, *arguments), in_pixels(cfg.sigma), classes=classes, chunk_size=cfg.chunk_size)
    run = certify(count, sigma=cfg.sigma, alpha=0.001, selection_samples=cfg.chunk_size, samples=cfg.samples)
    keys = jax.random.split(jax.random.key(cfg.seed), 1)
    x = jax.random.uniform(jax.random.key(1), (cfg.certificates, *shape))
    began = time.perf_counter()
    run(keys, x[:1])
    compiling = time.perf_counter() - began
    seconds = []
    for i in range(cfg.certificates):
        began = time.perf_counter()
        run(keys, x[i : i + 1])
        seconds.append(time.perf_counter() - began)
    each = statistics.median(seconds)
    samples = cfg.samples + cfg.chunk_size
    return {"s each": each, "samples/s": samples / each, "at 100,000 samples/min": 60 / each * samples / 1e5,
            "s compiling and the first": compiling}  # fmt: skip


def train(cfg: FirstGpuRunConfig, model: Model, images: Images) -> dict[str, Any]:
    """Train by N-FGSM with a moving average of the weights, and attack test images; resumed if it was killed."""
    mesh = runtime.data_mesh(jax.devices()[:1])
    sharding, batch_size = runtime.over_data(mesh), min(cfg.batch_sizes[-1], len(images.train.label))
    each = len(images.train.label) // batch_size
    tx = Optimizer(rate=cfg.rate).over(cfg.epochs * each)
    threat = Threat("linf", cfg.eps)
    ascent = PGD(eps=cfg.eps, steps=1, step=1.0).of_training(cfg.eps)
    loss = losses.training_loss("n_fgsm", model, threat=threat, ascent=ascent)
    update = training.step(loss, tx, average=training.exponential(0.99))
    attack = PGD(eps=cfg.eps, steps=20, step=0.1).worst_case(cfg.eps)
    measure = accuracies(model, attack, batch_size=batch_size, seed=cfg.seed, sharding=sharding)
    valid, test = (subsets.subset(split, cfg.images) for split in (images.validation, images.test))
    seconds: list[float] = []

    def timed(state: Any, batch: Any) -> Any:
        began = time.perf_counter()
        state, metrics = update(state, batch)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - began)
        return state, metrics

    def validate(state: training.TrainState) -> dict[str, float]:
        found = measure(state, valid, "valid")
        runtime.say(f"  {sum(seconds):.1f} s of training: " + in_words(found))
        return found

    with runtime.Checkpoints(Path(cfg.out) / "checkpoints", keep=1) as saved:
        fitted = runtime.fit(
            timed,
            training.start(jax.random.key(cfg.seed), model, tx, mesh, ema=True),
            lambda begin, _: data.stream(
                images.train, batch_size=batch_size, seed=cfg.seed, start=begin, sharding=sharding,
                augment=augmentations.augmentation(("crop", "flip")), resident=True,
            ),
            total=cfg.epochs * each,
            saved=saved,
            validate=validate,
            save_every=max(1, cfg.epochs // 5) * each,
            batch_size=batch_size,
        )  # fmt: skip
    found = measure(fitted.state, test, "test")
    usual = statistics.median(seconds) if seconds else float("nan")
    # The first step compiles.
    told = {
        "epochs": cfg.epochs,
        "s of an epoch": usual * each,
        "images/s": batch_size / usual,
        "s of steps": sum(seconds),
    }
    return told | {f"{name} %": 100 * value for name, value in found.items()}


def in_words(found: dict[str, Any]) -> str:
    """Write a line for a reader."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in found.items()
    )


def beside(
    measured: float,
    program: str,
    name: str,
    count: int,
    dtype: str | None,
    bounds: Sequence[dict[str, Any]],
    *,
    iterations: int = 1,
) -> dict[str, Any]:
    """Look up the bound of a program on one chip of this kind: milliseconds, and the share that it is of the time.

    Args:
      measured: milliseconds.
      program: the beginning of its name in the plan.
      name, count, dtype: network, images, and what it computes in; None for any.
      bounds: lines of the plan.
      iterations: in one call of what was planned.
    """
    kind = jax.devices()[0].device_kind.lower()
    for line in bounds:
        chip, _, sides = line["topology"].partition(":")
        source = line["config"].get("source") or {}
        same = name == (line["config"].get("model") or source.get("architecture"))
        alone = all(side == "1" for side in sides.split("x"))
        same = same and chip in kind and alone and line["images"] == count
        same = same and (dtype is None or line["config"].get("dtype") == dtype)
        if same and line["program"].startswith(program):
            least = line["bound ms"] / iterations
            return {"bound ms": least, "bound / measured": least / measured}
    return {}


def _plain(state: Any) -> Any:
    """Replace typed keys by their words, by shapes."""
    return jax.tree.map(
        lambda a: jax.eval_shape(jax.random.key_data, a) if _is_key(a) else a, state, is_leaf=_is_key
    )


def _keyed(words: Any, like: Any) -> Any:
    """Wrap the words of typed keys."""
    return jax.tree.map(lambda a, b: jax.random.wrap_key_data(a) if _is_key(b) else a, words, like)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
