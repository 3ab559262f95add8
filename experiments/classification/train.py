"""Train a classifier, plainly or against an adversary, and judge it under attack.

    python -m experiments.classification.train digits --out runs/digits
    python -m experiments.classification.train mnist --loss trades --beta 6 --out runs/mnist_trades
    python -m experiments.classification.train cifar10 --attack.eps 8/255 --out runs/cifar10

Start it again with the same --out and it goes on from the newest checkpoint, bit for bit as if it had never
stopped. The folder holds config.json, metrics.jsonl, checkpoints/, figures/ and report.html. The checkpoint
that is judged on the test images is the one with the best accuracy under attack on validation images.

Several machines: the same command on each, with --distributed (and --cluster.* where no scheduler tells).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Literal

import jax
import jax.numpy as jnp

from experiments.shared import command_line, report_pieces
from experiments.shared.settings import PGD, Cluster, Optimizer
from robustjax import data, evaluation, logit, runtime, training
from robustjax.analysis import curves
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.catalog import augmentations
from robustjax.catalog import models as model_names
from robustjax.data import subsets
from robustjax.losses.adversarial import adversarial, half_adversarial
from robustjax.losses.adversarial_loss import AdversarialLoss
from robustjax.losses.awp import awp
from robustjax.losses.fast import fgsm_rs, n_fgsm
from robustjax.losses.free import free, parameters
from robustjax.losses.free import optimizer as free_optimizer
from robustjax.losses.mart import mart
from robustjax.losses.standard import standard
from robustjax.losses.trades import trades
from robustjax.runtime import figures
from robustjax.runtime.report import Report
from robustjax.runtime.stopping import stopping
from robustjax.threats import Threat
from robustjax.types import Ascent, Loss, Model, frozen

LossName = Literal[
    "standard", "adversarial", "half_adversarial", "trades", "mart", "fgsm_rs", "n_fgsm", "free"
]


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a classifier."""

    dataset: str = "digits"  # digits is embedded; others by name once prepared, see data.prepare
    # one of linear, mlp, convnet_small, convnet, resnet18, resnet34, resnet50, preact_resnet18,
    # wideresnet28_10, wideresnet34_10
    model: str = "convnet_small"
    dtype: str = "float32"  # what the network computes in; logits, losses and verdicts stay float32
    remat: bool = False  # recompute what lies inside residual blocks: less memory, a third more time
    loss: LossName = "adversarial"
    attack: PGD = PGD()  # the adversary of training
    warmup: float = 0.0  # share of the run over which the training radius grows from 0 to --attack.eps
    beta: float = 6.0  # weight of the divergence in trades and mart
    awp: float = 0.0  # relative size of the adversarial weight perturbation, 0 for none
    smoothing: float = 0.0  # label smoothing
    replays: int = 4  # how often `free` trains on each batch in a row
    updates: int = 1000
    batch_size: int = 128  # over all devices
    optimizer: Optimizer = Optimizer()
    ema: bool = False  # judge a moving average of the weights
    augment: tuple[str, ...] = ()  # of crop, flip, cutout
    judge: PGD = PGD(steps=20, step=0.1)  # the adversary of validation and test
    validate_every: int = 250  # updates between validations and checkpoints
    images: int | None = 1000  # how many validation and test images to judge, None for all
    record_every: int = 10
    seed: int = 0
    out: str = "runs/classifier"
    data_dir: str | None = None  # where prepared data are; $TFDS_DATA_DIR or ~/tensorflow_datasets
    keep: int = 3  # checkpoints
    tensorboard: bool = False
    distributed: bool = False
    cluster: Cluster = Cluster()

    def check(self) -> None:
        """Refuse numbers that cannot be meant, before any work."""
        for name in ("updates", "batch_size", "validate_every", "record_every", "replays"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"--warmup is {self.warmup:g}, must be a share of the run in [0, 1]")
        if self.smoothing and self.loss in ("trades", "mart", "free"):
            raise ValueError(f"--smoothing is {self.smoothing:g}, must be 0 with --loss {self.loss}")
        if self.awp and self.loss in ("standard", "free"):
            raise ValueError(
                f"--awp is {self.awp:g}, must be 0 with --loss {self.loss}, which attacks nothing first"
            )


def _at(eps: float, **settings) -> PGD:
    return PGD(eps=eps, **settings)


_SMALL = Optimizer(name="adam", rate=2e-3, weight_decay=0.0)
PRESETS = {
    "digits": Config(
        attack=_at(0.2), judge=_at(0.2, steps=20, step=0.1), warmup=0.3, optimizer=_SMALL, images=None
    ),
    "mnist": Config(
        dataset="mnist",
        attack=_at(0.3),
        judge=_at(0.3, steps=40, step=0.05),
        warmup=0.2,
        updates=6000,
        optimizer=_SMALL,
        validate_every=1000,
        record_every=50,
    ),
    "fashion_mnist": Config(
        dataset="fashion_mnist",
        attack=_at(0.1),
        judge=_at(0.1, steps=40, step=0.05),
        warmup=0.2,
        updates=6000,
        optimizer=_SMALL,
        validate_every=1000,
        record_every=50,
    ),
    "cifar10": Config(
        dataset="cifar10",
        model="resnet18",
        attack=_at(8 / 255),
        judge=_at(8 / 255, steps=20, step=0.1),
        updates=12000,
        optimizer=Optimizer(rate=0.2),
        ema=True,
        augment=("crop", "flip"),
        validate_every=1000,
        record_every=50,
    ),
    "smoke": Config(
        model="mlp",
        attack=_at(0.1, steps=2, step=0.5),
        judge=_at(0.1, steps=2, step=0.5),
        optimizer=_SMALL,
        updates=12,
        batch_size=32,
        validate_every=6,
        record_every=2,
        images=64,
    ),
}


def main(cfg: Config) -> int:
    """Train, validate, judge on test images, report."""
    # --- devices and data ---
    cfg.cluster.join(cfg.distributed)
    mesh = runtime.data_mesh()
    batches = runtime.over_data(mesh)
    train = data.load(cfg.dataset, "train", data_dir=cfg.data_dir)
    valid = subsets.first(data.load(cfg.dataset, "validation", data_dir=cfg.data_dir), cfg.images)
    test = subsets.first(data.load(cfg.dataset, "test", data_dir=cfg.data_dir), cfg.images)

    # --- model, loss and optimiser ---
    model = model_names.classifier(
        cfg.model,
        dataset=cfg.dataset,
        classes=len(train.info.classes),
        shape=train.image.shape[1:],
        dtype=cfg.dtype,
        remat=cfg.remat,
    )
    tx = cfg.optimizer.over(cfg.updates)
    trained, stream = model, plain_stream(cfg, train, batches)
    if cfg.loss == "free":
        trained = parameters(model, shape=(cfg.batch_size, *train.image.shape[1:]))
        tx = free_optimizer(tx, Threat(cfg.attack.norm, cfg.attack.eps), step_size=cfg.attack.eps)
        stream = replayed(stream, cfg.replays)
    update = training.scheduled(loss_at(cfg, model), tx)
    validate = evaluation.mapped(judged(trained, cfg.judge))

    # --- the loop ---
    with (
        runtime.Run(cfg.out, cfg, tensorboard=cfg.tensorboard, may_differ=MAY_DIFFER) as run,
        runtime.Checkpoints(run.folder / "checkpoints", keep=cfg.keep, best="valid_robust") as saved,
        stopping() as stop,
    ):
        state = training.start(jax.random.key(cfg.seed), trained, tx, mesh, ema=cfg.ema)
        state, begin = saved.restore(state) or (state, 0)
        run.resume(begin)
        bar = runtime.progress(
            stream(begin),
            total=max(cfg.updates, begin),
            start=begin,
            label="train",
            batch_size=cfg.batch_size,
        )
        for i, batch in bar:
            state, metrics = update(state, batch)
            if i % cfg.record_every == 0 or i + 1 == cfg.updates:
                run.record(i, metrics)
                bar.show(metrics)
            if (i + 1) % cfg.validate_every == 0 or i + 1 == cfg.updates:
                scores = accuracies(validate, state, valid, cfg, batches, "valid")
                run.record(i, scores)
                saved.save(i + 1, state, scores)
            if stop.agreed(i + 1) and i + 1 < cfg.updates:
                saved.save(i + 1, state)
                saved.wait()
                runtime.say(f"stopped after {i + 1} updates, saved; the same command goes on from there")
                return stop.exit_code
        state, at = saved.restore_best(state) or (state, cfg.updates)

    # --- the verdict ---
    report(cfg, trained, state, at, train, test, batches)
    return 0


MAY_DIFFER = ("out", "keep", "tensorboard", "data_dir", "distributed", "cluster")


def loss_at(cfg: Config, model: Model) -> Callable[[jax.Array], Loss]:
    """Build the loss from the number of updates done: the radius may grow."""

    def at(t: jax.Array) -> Loss:
        grown = jnp.float32(1.0)
        if cfg.warmup:
            grown = jnp.minimum(t.astype(jnp.float32) / (cfg.warmup * cfg.updates), 1.0)
        eps = cfg.attack.eps * grown
        threat = Threat(cfg.attack.norm, eps)
        ascent = pgd(threat, steps=cfg.attack.steps, step_size=cfg.attack.step * eps, keep="last")
        ascent = compose.restarts(ascent, cfg.attack.restarts) if cfg.attack.restarts > 1 else ascent
        adversary = compose.against(ascent, objectives.cross_entropy)

        def against_one_step(ascent: Ascent) -> Loss:
            one_step = compose.against(ascent, objectives.cross_entropy)
            return adversarial(model, one_step, smoothing=cfg.smoothing)

        loss = {
            "standard": lambda: standard(model, smoothing=cfg.smoothing),
            "adversarial": lambda: adversarial(model, adversary, smoothing=cfg.smoothing),
            "half_adversarial": lambda: half_adversarial(model, adversary, smoothing=cfg.smoothing),
            "trades": lambda: trades(model, ascent, beta=cfg.beta),
            "mart": lambda: mart(model, adversary, beta=cfg.beta),
            "fgsm_rs": lambda: against_one_step(fgsm_rs(threat)),
            "n_fgsm": lambda: against_one_step(n_fgsm(threat)),
            "free": lambda: free(model),
        }[cfg.loss]()
        return awp(loss, gamma=cfg.awp) if cfg.awp and isinstance(loss, AdversarialLoss) else loss

    return at


def plain_stream(cfg: Config, train, sharding):
    """Make the function from the first update to the endless batches from there on."""

    def stream(start: int) -> Iterator:
        return data.stream(
            train,
            batch_size=cfg.batch_size,
            seed=cfg.seed,
            start=start,
            augment=augmentations.augmentation(cfg.augment),
            sharding=sharding,
        )

    return stream


def replayed(stream, times: int):
    """Yield every batch several times in a row, counted in updates."""

    def again(start: int) -> Iterator:
        repeats = (batch for batch in stream(start // times) for _ in range(times))
        return itertools.islice(repeats, start % times, None)

    return again


def judged(model: Model, cfg: PGD):
    """Build the per-example verdict of validation: right on the image, right under attack."""
    attack = cfg.worst_case(cfg.eps)

    def verdict(keys, batch, params, state):
        logits_fn = frozen(model, params, state)
        point = attack(keys, logits_fn, batch.image, batch.label).x
        clean = logit.correct(logits_fn(batch.image), batch.label)
        return {"clean": clean, "robust": clean * logit.correct(logits_fn(point), batch.label)}

    return verdict


def accuracies(validate, state, split, cfg: Config, sharding, prefix: str) -> dict[str, float]:
    """Measure the clean and robust accuracy of a split."""
    params, net_state = training.for_evaluation(state)
    batches = data.evaluation(split, batch_size=judge_batch(cfg), sharding=sharding)
    hits = validate(jax.random.key(cfg.seed), batches, params, net_state)
    return {f"{prefix}_{name}": float(value.mean()) for name, value in hits.items()}


def judge_batch(cfg: Config) -> int:
    """Choose the batch size of evaluations: a little larger, since no activations are kept for weights."""
    return 2 * cfg.batch_size


def report(cfg: Config, model: Model, state, at: int, train, test, sharding) -> None:
    """Judge the chosen checkpoint on test images over radii, and write the page."""
    params, net_state = training.for_evaluation(state)
    curve_of = curves.over_radii(model, lambda eps: cfg.judge.worst_case(eps))
    radii = [0.0, 0.5 * cfg.judge.eps, cfg.judge.eps]
    batches = data.evaluation(test, batch_size=judge_batch(cfg), sharding=sharding)
    curve = curve_of(jax.random.key(cfg.seed + 1), params, net_state, batches, radii)
    if jax.process_index() != 0:
        return
    rows = report_pieces.accuracy_rows(curve)
    for row in rows:
        runtime.say(
            f"test  {cfg.judge.norm} {row['radius']:.4g}: {row['accuracy %']:.1f} % ({row['95 % interval']})"
        )
    page = Report(f"{cfg.loss} training of {cfg.model} on {cfg.dataset}", cfg)
    page.text(
        f"Checkpoint after {at} updates, the best under attack on {cfg.dataset}'s validation images; "
        f"judged on {test.info.count} test images. {train.info.note}".strip()
    )
    page.table(rows, caption=f"Test accuracy under attack: {cfg.judge.in_words()}")
    page.section("Attacked images")
    page.picture(
        report_pieces.attacked_images(test, curve),
        caption="The first test images, attacked at the full radius.",
        name="attacked",
    )
    page.section("Training")
    measured = runtime.read_metrics(cfg.out)
    names = [name for name in dict.fromkeys(itertools.chain(*measured)) if name != "step"]
    if all(line.get("loss") == line.get("risk") for line in measured):
        names.remove("risk")  # it is the whole loss
    drawn = figures.training(measured, names=names)
    page.picture(drawn, caption="What was measured on the way.", name="training")
    page.scope(
        attacked=[f"{cfg.model} on the first {test.info.count} test images of {cfg.dataset}"],
        attacks=[f"{cfg.judge.in_words()}, at radius {cfg.judge.eps:.4g} and its half"],
        not_attacked=[
            "black-box and minimal-norm attacks",
            "other norms and larger radii",
            "gradient-masking checks",
        ],
    )
    path = page.write(f"{cfg.out}/report.html")
    runtime.say(f"report: {path}")


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
