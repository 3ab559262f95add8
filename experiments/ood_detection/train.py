"""Train one network on data and outliers, so that it knows one from the other, plainly or under attack.

    python -m experiments.ood_detection.train digits --out runs/digits_aloe
    python -m experiments.ood_detection.train fashion_mnist --loss oe --out runs/fashion_oe
    python -m experiments.ood_detection.train cifar10_aloe --outliers tiny_imagenet/outliers --out runs/cifar10_aloe

The method is named by --loss: standard, adversarial, trades (which see no outliers), oe, ceda, acet, half_acet,
aoe, aloe, ratio, half_ratio, trades_acet, trades_ceda, ntom, atom, sofl, rowl, ccu. --outliers names one or more
sets, with the part to take after a colon, or noise (see catalog.outlier_sets). Weights are those published unless
--weight is given.

Start it again with the same --out and it goes on bit for bit. The last checkpoint is the one to judge, with
ood_detection.evaluate, as in the papers; report.html says how training went.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from experiments.ood_detection import batches as outlier_batches
from experiments.ood_detection import run_folders, train_report, validation
from experiments.shared import command_line
from experiments.shared.settings import PGD, Cluster, Optimizer
from robustjax import data, runtime, training
from robustjax.catalog import ood_losses, outlier_sets
from robustjax.losses import batchnorm_modes
from robustjax.losses.ccu import optimizer as ccu_optimizer
from robustjax.runtime.stopping import stopping
from robustjax.types import Loss, Model

BATCHNORM_MODES = {
    "running": batchnorm_modes.running,
    "own_batch": batchnorm_modes.own_batch,
    "joint_batch": batchnorm_modes.joint_batch,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a network on data and outliers."""

    dataset: str = "digits"
    outliers: tuple[str, ...] = ("letters", "noise/permuted", "noise/uniform")  # to train on
    model: str = "mlp"  # as in classification.train
    dtype: str = "float32"
    loss: ood_losses.Method = "aloe"
    weight: float | None = None  # of the outliers' term; the published one of the method by default
    penalty: Literal[
        "published", "kl_from_uniform", "ce_to_uniform", "log_confidence", "negative_entropy", "logit_spread"
    ] = "published"  # what must be small on outliers, where the method has a choice
    beta: float = 6.0  # of trades, trades_acet and trades_ceda
    begin: float = 0.0  # share of the run before outliers count; SOFL was published with half
    attack: PGD = PGD()  # around data, in training
    outlier_attack: PGD = PGD()  # around outliers, in training
    iterate: Literal["last", "best"] = "last"  # which point of a training attack counts
    attack_bn: Literal["running", "own_batch", "joint_batch"] = "running"  # statistics that attacks see
    warmup: float = 0.0  # share of the run over which both radii grow from 0
    mine_every: int = 400  # updates between two choices of outliers (ntom, atom): the papers take an epoch
    quantile: float = 0.125  # share of the least rejected outliers that are left out then
    updates: int = 2000
    batch_size: int = 64  # data, over all devices
    outlier_batch_size: int = 128
    optimizer: Optimizer = Optimizer(schedule="cosine", weight_decay=1e-4)
    ema: bool = False
    augment: tuple[str, ...] = ()  # of crop, flip, cutout; outliers too
    judge: PGD = PGD(steps=20, step=0.125)  # of validation, on both sides
    validate_every: int = 500
    images: int | None = 500  # validation images, data and outliers; None for all
    record_every: int = 10
    seed: int = 0
    out: str = "runs/ood"
    data_dir: str | None = None
    keep: int = 2
    tensorboard: bool = False
    distributed: bool = False
    cluster: Cluster = Cluster()

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        for name in (
            "updates", "batch_size", "outlier_batch_size", "mine_every", "validate_every", "record_every",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        for name in ("begin", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} is {getattr(self, name):g}, must be a share of the run in [0, 1]")
        if not 0 <= self.quantile < 0.75:
            raise ValueError(f"--quantile is {self.quantile:g}, must be in [0, 0.75): a quarter is chosen")
        if not self.outliers:
            raise ValueError("--outliers is empty, must name at least one set of outliers")
        if self.loss in ood_losses.MINED and len(self.outliers) == 1 and "noise/" in self.outliers[0]:
            raise ValueError(
                f"--outliers is noise alone, must be images to choose from with --loss {self.loss}"
            )
        if self.loss in ("half_acet", "atom") and self.outlier_batch_size % 2:
            raise ValueError(
                f"--outlier-batch-size is {self.outlier_batch_size}, must be even for {self.loss}"
            )
        if self.loss == "half_ratio" and self.batch_size % 2:
            raise ValueError(f"--batch-size is {self.batch_size}, must be even for half_ratio")


def _both(eps: float, steps: int, step: float, **settings: Any) -> dict[str, Any]:
    attack = PGD(eps=eps, steps=steps, step=step, **settings)
    judge = PGD(eps=eps, steps=40, step=2.5 / 40)
    return {"attack": attack, "outlier_attack": attack, "judge": judge}


_ADAM = Optimizer(name="adam", rate=1e-3, schedule="cosine", weight_decay=0.0)
_CIFAR: dict[str, Any] = {
    "dataset": "cifar10",
    "outliers": ("tiny_imagenet/outliers",),
    "augment": ("crop", "flip"),
    "validate_every": 2000,
    "record_every": 50,
}
_GREY: dict[str, Any] = {
    "outliers": ("letters/28", "noise/acet", "noise/permuted", "noise/uniform"),
    "model": "convnet_small",
    "updates": 4000,
    "optimizer": _ADAM,
    "warmup": 0.2,
    "validate_every": 1000,
    "record_every": 50,
}
_SMOKE: dict[str, Any] = _both(0.1, 1, 1.0) | {"judge": PGD(steps=1, step=1.0)}
# Of the papers: ALOE has 100 epochs of 782 batches of 64 on 50,000 images; here a tenth of them is held out.
_EPOCHS = 100 * 706
PRESETS = {
    "digits": Config(**_both(0.15, 5, 0.5), warmup=0.1),
    "mnist": Config(dataset="mnist", **_GREY, **_both(0.1, 5, 0.5)),
    "fashion_mnist": Config(dataset="fashion_mnist", **_GREY, **_both(0.05, 5, 0.5)),
    "cifar10": Config(
        **_CIFAR, **_both(8 / 255, 5, 0.25), model="densenet40", updates=8000, iterate="best", warmup=0.1
    ),
    "cifar10_aloe": Config(**_CIFAR, **_both(1 / 255, 2, 1.0), model="densenet100", updates=_EPOCHS),
    "cifar10_atom": Config(
        **_CIFAR,
        **_both(8 / 255, 5, 0.25),
        model="densenet100",
        loss="atom",
        iterate="best",
        mine_every=706,
        updates=_EPOCHS,
        optimizer=Optimizer(schedule="piecewise", weight_decay=1e-4),
    ),
    "smoke": Config(
        **_SMOKE,
        outliers=("letters",),
        updates=6,
        batch_size=16,
        outlier_batch_size=16,
        validate_every=4,
        mine_every=3,
        record_every=2,
        images=32,
    ),
}  # fmt: skip
MAY_DIFFER = ("out", "keep", "tensorboard", "data_dir", "distributed", "cluster")


def main(cfg: Config) -> int:
    """Train, validate, report."""
    # --- devices and data ---
    cfg.cluster.join(cfg.distributed)
    mesh = runtime.data_mesh()
    rows = runtime.over_data(mesh)
    train = data.load(cfg.dataset, "train", data_dir=cfg.data_dir)
    outliers, fresh = outlier_sets.balanced_mixture(cfg.outliers, train, data_dir=cfg.data_dir)
    held_out = validation.Held(cfg)
    classes = len(train.info.classes)

    with (
        runtime.Run(cfg.out, cfg, tensorboard=cfg.tensorboard, may_differ=MAY_DIFFER) as run,
        runtime.Checkpoints(run.folder / "checkpoints", keep=cfg.keep, best="valid_robust") as saved,
        stopping() as stop,
    ):
        # --- model, loss and optimiser ---
        densities = None
        if cfg.loss == "ccu":
            densities = run_folders.kept(run.folder)
            if densities is None:
                densities = run_folders.fitted(train, outliers, seed=cfg.seed)
                run_folders.keep(run.folder, densities)
        made, shape = vars(cfg), train.image.shape[1:]
        model = run_folders.network(made, classes=classes, shape=shape, densities=densities)
        tx = cfg.optimizer.over(cfg.updates)
        tx = ccu_optimizer(tx) if cfg.loss == "ccu" else tx
        update = training.scheduled(loss_at(cfg, model, classes, densities), tx)
        validate = held_out.judges(cfg, model, classes)

        # --- the loop ---
        state = training.start(jax.random.key(cfg.seed), model, tx, mesh, ema=cfg.ema)
        state, begin = saved.restore(state) or (state, 0)
        run.resume(begin)
        batches = outlier_batches.Batches(cfg, run.folder, train, outliers, fresh, model, classes, rows)
        bar = runtime.progress(
            batches.stream(begin, lambda: state),
            total=max(cfg.updates, begin),
            start=begin,
            label="train",
            batch_size=cfg.batch_size + cfg.outlier_batch_size,
        )
        for i, batch in bar:
            state, measured = update(state, batch)
            done = i + 1 == cfg.updates
            if i % cfg.record_every == 0 or done:
                run.record(i, measured)
                bar.show(measured)
            if (i + 1) % cfg.validate_every == 0 or done:
                scores = validate(state, rows)
                run.record(i, scores)
                # Only the last checkpoint is to be judged: the papers choose none by validation.
                saved.save(i + 1, state, scores if done else None)
            if stop.agreed(i + 1) and not done:
                saved.save(i + 1, state)
                saved.wait()
                runtime.say(f"stopped after {i + 1} updates, saved; the same command goes on from there")
                return stop.exit_code

    # --- what came of it ---
    if jax.process_index() == 0:
        shown = outlier_sets.load(cfg.outliers[0], train, split="test", data_dir=cfg.data_dir, count=8)
        images, margins = held_out.pictured(cfg, model, classes, state, shown)
        path = train_report.write(cfg, train, outliers, images, margins, runtime.read_metrics(cfg.out))
        runtime.say(f"report: {path}")
    return 0


# --- losses and batches -------------------------------------------------------------------------------


def loss_at(
    cfg: Config, model: Model, classes: int, densities: run_folders.Densities | None
) -> Callable[[jax.Array], Loss]:
    """Build the loss from the number of updates done: radii may grow, and outliers may count later."""
    penalty = None if cfg.penalty == "published" else ood_losses.PENALTIES[cfg.penalty]

    def at(t: jax.Array) -> Loss:
        done = t.astype(jnp.float32) / cfg.updates
        grown = jnp.minimum(done / cfg.warmup, 1.0) if cfg.warmup else jnp.float32(1.0)
        weight: Any = cfg.weight
        if cfg.begin:
            full = cfg.weight if cfg.weight is not None else ood_losses.PUBLISHED.get(cfg.loss, 1.0)
            weight = jnp.where(done < cfg.begin, 0.0, full)
        return ood_losses.loss(
            cfg.loss,
            model,
            classes=classes,
            around_data=validation.climber(cfg.attack, cfg.attack.eps * grown, cfg.iterate),
            around_outliers=validation.climber(
                cfg.outlier_attack, cfg.outlier_attack.eps * grown, cfg.iterate
            ),
            weight=weight,
            penalty=penalty,
            beta=cfg.beta,
            batchnorm=BATCHNORM_MODES[cfg.attack_bn],
            axes=None if densities is None else densities.axes,
        )

    return at


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
