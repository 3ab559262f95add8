"""Batches of data beside outliers for `train`, exact to resume, with outliers chosen anew where a method asks."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import data, evaluation, runtime, training
from robustjax.catalog import augmentations, ood_losses
from robustjax.data import order
from robustjax.data.sources import Split
from robustjax.losses.atom import informative, rejection
from robustjax.runtime.snapshot import in_bytes
from robustjax.types import Model, Pair, frozen


@dataclasses.dataclass
class Batches:
    """Pairs of batches, endless and exact to resume, with outliers chosen anew now and then where a method asks."""

    cfg: Any
    folder: pathlib.Path
    train: Split
    outliers: Split
    fresh: Any
    model: Model
    classes: int
    rows: Any

    def stream(self, start: int, state: Callable[[], training.TrainState]) -> Iterator[Pair]:
        """Yield the pairs from an update on; `state` is asked for the network when outliers are chosen."""
        cfg = self.cfg
        if cfg.loss not in ood_losses.MINED:
            yield from self._pairs(self.outliers, start)
        rejected = evaluation.mapped(self._rejected)
        step = start
        while True:
            first = step - step % cfg.mine_every
            path = self.folder / "mined" / f"{first:08d}.npz"
            if step == first:
                runtime.write_whole(path, in_bytes({"rows": self._mined(rejected, first, state())}))
            with np.load(path) as file:
                chosen = _rows(self.outliers, file["rows"])
            yield from itertools.islice(self._pairs(chosen, step), first + cfg.mine_every - step)
            step = first + cfg.mine_every

    def _pairs(self, outliers: Split, start: int) -> Iterator[Pair]:
        cfg, augment = self.cfg, augmentations.augmentation(self.cfg.augment)
        return data.pairs(
            self.train,
            outliers,
            batch_size=cfg.batch_size,
            outlier_batch_size=cfg.outlier_batch_size,
            seed=cfg.seed,
            start=start,
            augment=augment,
            outlier_augment=self.fresh or augment,
            sharding=self.rows,
        )

    def _mined(self, rejected, first: int, state: training.TrainState) -> np.ndarray:
        """Choose from a pool the quarter that is rejected least, but for the very least."""
        cfg, count = self.cfg, len(self.outliers.label)
        most = min(count, 4 * cfg.outlier_batch_size * cfg.mine_every)
        pool = np.sort(order.permutation(count, seed=cfg.seed, epoch=first, lane=2)[:most])
        params, net = training.for_evaluation(state)
        size = cfg.batch_size + cfg.outlier_batch_size
        batches = data.evaluation(_rows(self.outliers, pool), batch_size=size, sharding=self.rows)
        scores = rejected(jax.random.key(0), batches, params, net)
        return pool[np.asarray(informative(jnp.asarray(scores), count=most // 4, quantile=cfg.quantile))]

    def _rejected(self, keys, batch, params, state):
        del keys
        return rejection(frozen(self.model, params, state)(batch.image))


def _rows(split: Split, rows: np.ndarray) -> Split:
    return dataclasses.replace(
        split, image=split.image[rows], label=split.label[rows], index=split.index[rows]
    )
