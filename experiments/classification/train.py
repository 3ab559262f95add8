"""Train a classifier, plainly or against an adversary, and evaluate it under attack.

    python -m experiments.classification.train digits --out runs/digits
    python -m experiments.classification.train mnist --loss trades --beta 6 --out runs/mnist_trades
    python -m experiments.classification.train cifar10 --attack.eps 8/255 --out runs/cifar10
    python -m experiments.classification.train cifar10 --loss trades --extra cifar10_extra --mix cutmix --out runs/more
    python -m experiments.classification.train digits --loss mine:my_loss --out runs/mine
    python -m experiments.classification.train cifar10 --dataset mine --size 64 --augment resized_crop flip

Start it again with the same --out and it goes on from the newest checkpoint, bit for bit as if it had never
stopped. The folder holds config.json, metrics.jsonl, cpu_time.jsonl, checkpoints/, figures/ and report.html. The
checkpoint that is evaluated on the test images is the one with the best accuracy under attack on validation images.

A loss or a model of your own is a function named as module:name; what it gets is in robustjax/catalog/losses.py and
robustjax/catalog/models.py. Several machines: the same command on each, with --distributed (and --cluster.* where no
scheduler tells).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.classification import train_report
from experiments.classification.config import MAY_DIFFER, TrainConfig
from experiments.classification.config import TRAIN_PRESETS as PRESETS
from experiments.shared import command_line
from experiments.shared.cpu_time import CpuTime
from experiments.shared.planned import Planned, batch_of, of_step
from experiments.shared.validation import accuracies
from robustjax import data, runtime, training
from robustjax.analysis import curves
from robustjax.catalog import augmentations, losses, models
from robustjax.data import feeding, sources, subsets
from robustjax.data.extra import enriched
from robustjax.data.random_window import Windows
from robustjax.losses.free import optimizer as free_optimizer
from robustjax.losses.free import parameters as free_parameters
from robustjax.models.initialisation import for_intervals
from robustjax.threats import Threat
from robustjax.types import Batch, Loss, Model, State

RENEWED_OVER = 100  # batches of clean training images, for BatchNorm statistics of averaged weights


def main(cfg: TrainConfig) -> int:
    """Train, validate, attack test images, report."""
    # --- devices and data ---
    cfg.cluster.join(cfg.distributed)
    mesh = runtime.data_mesh()
    sharding = runtime.over_data(mesh)
    load = partial(
        data.load, cfg.dataset, data_dir=cfg.data_dir, size=cfg.size, streamed=cfg.streamed or None
    )
    train = load("train")
    valid, test = (sources.held(subsets.subset(load(part), cfg.images)) for part in ("validation", "test"))
    windows, on_device, workers = decoding(cfg, train)
    feed = partial(
        data.stream,
        train,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        augment=augmentations.augmentation(on_device),
        sharding=sharding,
        windows=windows,
        workers=workers,
    )
    reading = data.reading_state(train, batch_size=cfg.batch_size, seed=cfg.seed, windows=windows)
    stream = feed
    if cfg.extra:
        more = data.load(cfg.extra, "train", data_dir=cfg.data_dir, size=cfg.size)
        kept = {name: value for name, value in feed.keywords.items() if name not in ("windows", "workers")}
        stream = partial(enriched, train, more, share=cfg.extra_share, **kept)

    # --- model, loss and optimiser ---
    classes, shape = len(train.info.classes), train.image.shape[1:]
    model = models.classifier(
        cfg.model, dataset=cfg.dataset, classes=classes, shape=shape, dtype=cfg.dtype, remat=cfg.remat
    )
    if cfg.interval_weights:
        model = for_intervals(model)
    update_loss, tx = loss_at(cfg, model, classes), cfg.optimizer.over(cfg.updates)
    replays = 1
    if cfg.loss == "free":  # the perturbation is trained like a parameter, on every batch several times
        model = free_parameters(model, shape=(cfg.batch_size, *shape))
        tx = free_optimizer(tx, Threat(cfg.attack.norm, cfg.attack.eps), step_size=cfg.attack.eps)
        replays = cfg.replays
    average = training.even(start=cfg.updates - math.ceil(cfg.swa * cfg.updates)) if cfg.swa else None
    evaluation_batch = 2 * cfg.batch_size  # larger, since no activations are kept for weights
    measure = accuracies(
        model,
        cfg.evaluation.worst_case(cfg.evaluation.eps),
        batch_size=evaluation_batch,
        seed=cfg.seed,
        sharding=sharding,
    )

    # --- the loop ---
    may_differ = (*MAY_DIFFER, "keep", "tensorboard")
    with (
        runtime.Run(cfg.out, cfg, tensorboard=cfg.tensorboard, may_differ=may_differ) as run,
        runtime.Checkpoints(run.folder / "checkpoints", keep=cfg.keep, best="valid_robust") as saved,
        runtime.stopping() as stop,
    ):
        spent = CpuTime(run.folder, every=cfg.record_every)

        def batches(begin: int, _: Any) -> Iterator[Batch]:
            spent.start(begin)
            return replayed(stream, begin, replays)

        def validate(state: training.TrainState) -> dict[str, float]:
            with spent.paused():
                return measure(state, valid, "valid")

        fitted = runtime.fit(
            spent.counted(training.scheduled(update_loss, tx, average=average)),
            training.start(jax.random.key(cfg.seed), model, tx, mesh, ema=cfg.ema or bool(cfg.swa)),
            batches,
            total=cfg.updates,
            saved=saved,
            stop=stop,
            run=run,
            renew=partial(renewed, training.renewal(model), feed) if cfg.swa else None,
            validate=validate,
            reading=lambda updates: reading(updates // replays),
            record_every=cfg.record_every,
            save_every=cfg.validate_every,
            batch_size=cfg.batch_size,
        )
        if fitted.exit_code:
            return fitted.exit_code
        state, updates = saved.restore_best(fitted.state) or (fitted.state, fitted.updates)

    # --- test images, over radii ---
    params, net_state = training.for_evaluation(state)
    curve = curves.over_radii(model, cfg.evaluation.worst_case)(
        jax.random.key(cfg.seed + 1),
        params,
        net_state,
        data.evaluation(test, batch_size=evaluation_batch, sharding=sharding),
        [0.0, 0.5 * cfg.evaluation.eps, cfg.evaluation.eps],
    )
    if jax.process_index() == 0:
        train_report.write(cfg, curve, test, updates=updates, note=train.info.note)
    return 0


def decoding(cfg: TrainConfig, train: data.Split) -> tuple[Windows | None, tuple[str, ...], int]:
    """Say what is cut where pictures are decoded, which augmentations are left, and how many workers decode."""
    if not sources.is_streamed(train):
        return None, cfg.augment, 0
    if cfg.extra:
        raise ValueError(
            f"--extra is {cfg.extra}, must be left out: the images of {cfg.dataset} are decoded while needed"
        )
    workers = feeding.usual_workers() if cfg.workers is None else cfg.workers
    return *augmentations.where_decoded(cfg.augment), workers


def planned(cfg: TrainConfig, mesh: Mesh, *, shape: tuple[int, ...], classes: int) -> list[Planned]:
    """List what a run does most of its time, for `benchmarks.plan`: the training step.

    Args:
      cfg: the settings.
      mesh: of devices, which need not be there.
      shape, classes: of the images.
    Raises:
      ValueError: for `--loss free`, whose perturbation is trained along.
    """
    if cfg.loss == "free":
        raise ValueError("--loss is free, must be another one to be planned")
    model = models.classifier(
        cfg.model, dataset=cfg.dataset, classes=classes, shape=shape, dtype=cfg.dtype, remat=cfg.remat
    )
    tx = cfg.optimizer.over(cfg.updates)
    step: Any = training.scheduled(loss_at(cfg, model, classes), tx)
    batch = batch_of(cfg.batch_size, shape)
    return [of_step(step, model, tx, batch, mesh, calls=cfg.updates, ema=cfg.ema or bool(cfg.swa))]


def loss_at(cfg: TrainConfig, model: Model, classes: int) -> Callable[[jax.Array], Loss]:
    """Build the loss from the number of updates done: the radius may grow."""

    def at(t: jax.Array) -> Loss:
        grown = jnp.float32(1.0)
        if cfg.warmup:
            grown = jnp.minimum(t.astype(jnp.float32) / (cfg.warmup * cfg.updates), 1.0)
        eps = cfg.attack.eps * grown
        return losses.training_loss(
            cfg.loss,
            model,
            threat=Threat(cfg.attack.norm, eps),
            ascent=cfg.attack.of_training(eps),
            beta=cfg.beta,
            smoothing=cfg.smoothing,
            progress=grown,
            sigma=cfg.sigma,
            awp=cfg.awp,
            mix=None if cfg.mix == "none" else cfg.mix,
            mix_alpha=cfg.mix_alpha,
            classes=classes,
        )

    at(jnp.int32(0))  # what is wrong with a loss is said before any work
    return at


def renewed(
    renew: Callable[..., State], feed: Callable[..., Iterator[Batch]], state: training.TrainState
) -> training.TrainState:
    """Give averaged weights BatchNorm statistics of their own, over clean training images."""
    params, net_state = training.for_evaluation(state)
    images = (batch.image for batch in itertools.islice(feed(), RENEWED_OVER))
    return state._replace(ema=(params, renew(params, net_state, images)))


def replayed(stream: Callable[..., Iterator[Batch]], begin: int, times: int) -> Iterator[Batch]:
    """Yield every batch several times in a row, from an update on."""
    repeats = (batch for batch in stream(start=begin // times) for _ in range(times))
    return itertools.islice(repeats, begin % times, None)


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
