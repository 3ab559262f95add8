"""Train one network on ID and OOD images, so that it detects OOD images, plainly or under attack.

    python -m experiments.ood_detection.train digits --out runs/digits_aloe
    python -m experiments.ood_detection.train fashion_mnist --loss oe --out runs/fashion_oe
    python -m experiments.ood_detection.train cifar10_aloe --ood-sets tiny_imagenet/outliers --out runs/cifar10_aloe

The method is named by --loss: standard, adversarial, trades, logitnorm (which see no OOD images), oe, mixoe,
mixoe_mixup, ceda, acet, half_acet, aoe, aloe, ratio, half_ratio, trades_acet, trades_ceda, ntom, atom, sofl, rowl, ccu;
or module:name, a function of your own (see catalog.ood_losses). --ood-sets names one or more OOD sets, with the part to
take after a colon, or noise (see catalog.ood_sets). Weights are those published unless --weight is given.

Start it again with the same --out and it goes on bit for bit. Evaluate the last checkpoint, as the papers do, with
ood_detection.evaluate; report.html says how training went.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from experiments.ood_detection import networks, train_report, validation
from experiments.ood_detection.config import TRAIN_PRESETS as PRESETS
from experiments.ood_detection.config import TrainConfig
from experiments.shared import command_line
from experiments.shared.planned import Planned, batch_of, images_of, of_step
from robustjax import data, evaluation, optimizers, runtime, training
from robustjax.catalog import augmentations, ood_losses, ood_sets
from robustjax.data import order
from robustjax.data.batches import Augment
from robustjax.data.sources import Split
from robustjax.evaluation.mapped import Evaluate
from robustjax.losses.atom import informative, rejection
from robustjax.losses.ccu import optimizer as ccu_optimizer
from robustjax.types import Loss, Model, Pair, frozen

MAY_DIFFER = ("out", "keep", "tensorboard", "data_dir", "distributed", "cluster")


def main(cfg: TrainConfig) -> int:
    """Train, validate, report."""
    # --- devices and data ---
    cfg.cluster.join(cfg.distributed)
    mesh = runtime.data_mesh()
    rows = runtime.over_data(mesh)
    train = data.load(cfg.dataset, "train", data_dir=cfg.data_dir)
    ood, fresh = ood_sets.balanced_mixture(cfg.ood_sets, train, data_dir=cfg.data_dir)
    held_out = validation.load(cfg)
    classes = len(train.info.classes)

    with (
        runtime.Run(cfg.out, cfg, tensorboard=cfg.tensorboard, may_differ=MAY_DIFFER) as run,
        runtime.Checkpoints(run.folder / "checkpoints", keep=cfg.keep, best="valid_robust") as saved,
        runtime.stopping() as stop,
    ):
        # --- model, loss and optimiser ---
        ccu = cfg.loss == "ccu"
        densities = networks.kept_densities(run, train, ood, seed=cfg.seed) if ccu else None
        model = networks.model_of(cfg, classes=classes, shape=train.image.shape[1:], densities=densities)
        tx = optimizer_of(cfg)
        tx = ccu_optimizer(tx) if ccu else tx
        update = training.scheduled(loss_at(cfg, model, classes, densities), tx)

        # --- the loop ---
        fitted = runtime.fit(
            update,
            training.start(jax.random.key(cfg.seed), model, tx, mesh, ema=cfg.ema),
            Pairs(cfg, run, train, ood, fresh, model, rows),
            total=cfg.updates,
            saved=saved,
            stop=stop,
            run=run,
            validate=validation.validation(cfg, held_out, model, classes=classes, rows=rows),
            choose=False,  # only the last checkpoint is evaluated: the papers choose none by validation
            record_every=cfg.record_every,
            save_every=cfg.validate_every,
            batch_size=cfg.batch_size + cfg.ood_batch_size,
        )
        if fitted.exit_code:
            return fitted.exit_code

    # --- report ---
    if jax.process_index() == 0:
        shown = ood_sets.load(cfg.ood_sets[0], train, split="test", data_dir=cfg.data_dir, count=8)
        images = validation.attacked(cfg, model, fitted.state, shown, classes=classes)
        path = train_report.write(cfg, train, ood, images, runtime.read_metrics(cfg.out))
        runtime.say(f"report: {path}")
    return 0


def planned(cfg: TrainConfig, mesh: Mesh, *, shape: tuple[int, ...], classes: int) -> list[Planned]:
    """List what a run does most of its time, for `benchmarks.plan`: the training step.

    Args:
      cfg: the settings.
      mesh: of devices, which need not be there.
      shape, classes: of the images.
    Raises:
      ValueError: for `--loss ccu`, whose densities are fitted to images first.
    """
    if cfg.loss == "ccu":
        raise ValueError("--loss is ccu, must be another one to be planned")
    model = networks.model_of(cfg, classes=classes, shape=shape, densities=None)
    tx = optimizer_of(cfg)
    step = training.scheduled(loss_at(cfg, model, classes, None), tx)
    batch = Pair(batch_of(cfg.batch_size, shape), images_of(cfg.ood_batch_size, shape))
    return [of_step(step, model, tx, batch, mesh, calls=cfg.updates, ema=cfg.ema)]


# --- the loss and the batches -------------------------------------------------------------------------


def optimizer_of(cfg: TrainConfig) -> optax.GradientTransformation:
    """Build the optimiser of the run, or those of its two stages."""
    if not cfg.ood_restart:
        return cfg.optimizer.over(cfg.updates)
    at = math.ceil(cfg.ood_start * cfg.updates)
    return optimizers.in_stages(cfg.optimizer.over(at), cfg.optimizer.over(cfg.updates - at), at=at)


def loss_at(
    cfg: TrainConfig, model: Model, classes: int, densities: networks.Densities | None
) -> Callable[[jax.Array], Loss]:
    """Build the loss from the number of updates done: radii may grow, and OOD images may count later."""

    def at(t: jax.Array) -> Loss:
        done = t.astype(jnp.float32) / cfg.updates
        grown = jnp.minimum(done / cfg.warmup, 1.0) if cfg.warmup else jnp.float32(1.0)
        weight: Any = cfg.weight
        if cfg.ood_start:
            full = cfg.weight if cfg.weight is not None else ood_losses.method(cfg.loss).weight
            weight = jnp.where(done < cfg.ood_start, 0.0, full)
        given = ood_losses.LossInputs(
            model,
            classes,
            id_ascent=cfg.id_ascent(grown),
            ood_ascent=cfg.ood_ascent(grown),
            weight=weight,
            penalty=None if cfg.penalty == "published" else ood_losses.PENALTIES[cfg.penalty],
            beta=cfg.beta,
            batchnorm=ood_losses.BATCHNORM_MODES[cfg.attack_bn],
            axes=None if densities is None else densities.axes,
        )
        return ood_losses.loss(cfg.loss, given)

    return at


@dataclasses.dataclass
class Pairs:
    """Pairs of batches, endless and exact to resume, with OOD images chosen anew now and then where a method asks."""

    cfg: TrainConfig
    run: runtime.Run
    train: Split
    ood: Split
    fresh: Augment | None  # makes noise anew in every step
    model: Model
    rows: NamedSharding

    def __call__(self, start: int, state: Callable[[], training.TrainState]) -> Iterator[Pair]:
        """Yield the pairs from an update on; `state` is asked for the network when OOD images are chosen."""
        cfg = self.cfg
        if not ood_losses.method(cfg.loss).mines:
            yield from self._pairs(self.ood, start)
        rejected, step = evaluation.mapped(self._rejected), start
        while True:
            first = step - step % cfg.mine_every
            mined = self.run.cached(
                f"mined/{first:08d}", lambda first=first: self._mined(rejected, first, state())
            )
            assert mined is not None
            chosen = _rows(self.ood, mined["rows"])
            yield from itertools.islice(self._pairs(chosen, step), first + cfg.mine_every - step)
            step = first + cfg.mine_every

    def _pairs(self, ood: Split, start: int) -> Iterator[Pair]:
        cfg, augment = self.cfg, augmentations.augmentation(self.cfg.augment)
        ood_augment = augment if cfg.ood_augment is None else augmentations.augmentation(cfg.ood_augment)
        return data.pairs(
            self.train,
            ood,
            batch_size=cfg.batch_size,
            ood_batch_size=cfg.ood_batch_size,
            seed=cfg.seed,
            start=start,
            augment=augment,
            ood_augment=self.fresh or ood_augment,
            sharding=self.rows,
        )

    def _mined(self, rejected: Evaluate, first: int, state: training.TrainState) -> dict[str, np.ndarray]:
        """Choose from a pool the quarter that is rejected least, but for the very least."""
        cfg, count = self.cfg, len(self.ood.label)
        most = min(count, 4 * cfg.ood_batch_size * cfg.mine_every)
        pool = np.sort(order.permutation(count, seed=cfg.seed, epoch=first, lane=2)[:most])
        params, net = training.for_evaluation(state)
        size = cfg.batch_size + cfg.ood_batch_size
        batches = data.evaluation(_rows(self.ood, pool), batch_size=size, sharding=self.rows)
        scores = rejected(jax.random.key(0), batches, params, net)
        chosen = informative(jnp.asarray(scores), count=most // 4, quantile=cfg.quantile)
        return {"rows": pool[np.asarray(chosen)]}

    def _rejected(self, keys, batch, params, state):
        del keys
        return rejection(frozen(self.model, params, state)(batch.image))


def _rows(split: Split, rows: np.ndarray) -> Split:
    return dataclasses.replace(
        split, image=split.image[rows], label=split.label[rows], index=split.index[rows]
    )


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
