"""What a config of perturbation_sets.train names: data, pairs, networks; and opening what it trained."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from experiments.perturbation_sets.config import FAMILIES, MODELS, Config
from experiments.shared import run_folders
from robustjax import data, evaluation, runtime, training
from robustjax.data import lit_scenes, multi_illumination
from robustjax.data.augment import crop, flip
from robustjax.data.paired import paired
from robustjax.models.cvae import CVAE
from robustjax.perturbations import pairs
from robustjax.perturbations.learned import encoder
from robustjax.types import Batch, Mask, Params, State


def splits(cfg: Config) -> list[data.Split]:
    """Load training, validation and test images, or pairs side by side from a folder."""
    parts = ("train", "validation", "test")
    scenes = cfg.folder is None and cfg.dataset.startswith(("lit_scenes", "multi_illumination/mip"))
    if scenes != (cfg.folder is None and cfg.pairs == "relit"):
        raise ValueError(
            f"--pairs is {cfg.pairs!r} with --dataset {cfg.dataset}, must be relit for scenes under many lights "
            "(lit_scenes, multi_illumination/mip5, ...), and only for them"
        )
    if scenes and cfg.dataset == "lit_scenes":
        return [lit_scenes.split(part) for part in parts]
    if scenes:
        level = cfg.dataset.partition("/mip")[2]
        if not level.isdecimal():
            raise ValueError(
                f"--dataset is {cfg.dataset!r}, must end in a level, as in multi_illumination/mip5"
            )
        return [multi_illumination.load(int(level), part, data_dir=cfg.data_dir) for part in parts]
    if cfg.folder is None:
        return [data.load(cfg.dataset, part, data_dir=cfg.data_dir) for part in parts]
    found = paired(cfg.folder)
    if len(found.names) < 10:
        raise ValueError(f"--folder {cfg.folder} holds {len(found.names)} images, must hold at least 10")
    rest = found.number % 10
    chosen = {"train": rest < 8, "validation": rest == 8, "test": rest == 9}
    return [
        data.of_arrays(
            found.image[rows], found.number[rows], name=cfg.folder, split=part, classes=found.names
        )
        for part, rows in chosen.items()
    ]


class Drawn(NamedTuple):
    """How pairs are drawn: without end, from the pool that training has, and as training sees them."""

    fresh: pairs.Pairs
    pool: pairs.Pairs
    learnt: pairs.Pairs


def drawn(cfg: Config) -> Drawn:
    """Build the pairs that a config names."""
    fresh = pairs.side_by_side() if cfg.folder else FAMILIES[cfg.pairs]()
    pool = fresh if cfg.pool is None else pairs.limited(fresh, times=cfg.pool)
    return Drawn(fresh, pool, pool if cfg.pad is None else pairs.jointly(pool, crop(cfg.pad), flip()))


def built(cfg: Config, split: data.Split) -> CVAE:
    """Build the autoencoder for the pairs that a config draws of some images."""
    x = jax.ShapeDtypeStruct((1, *split.image.shape[1:]), jnp.float32)
    views = jax.eval_shape(drawn(cfg).fresh, jax.random.key(0), x)
    return MODELS[cfg.model](views.image.shape[1:])


class Learned(NamedTuple):
    """A trained autoencoder out of a run folder; the radius is None in a run that has not been measured yet."""

    config: Config
    model: CVAE
    params: Params
    state: State
    step: int
    radii: dict[str, float]  # quartiles of the encodings' lengths, their largest, ...
    splits: list[data.Split]

    @property
    def radius(self) -> float:
        """Give the radius of the set: the largest encoding of validation pairs."""
        if "largest" not in self.radii:
            raise ValueError(
                "the run of perturbation_sets.train has no quality.json yet; let it end, or give the radius"
            )
        return self.radii["largest"]


def opened(folder: str, *, data_dir: str | None = None) -> Learned:
    """Open a run folder of perturbation_sets.train at its newest checkpoint.

    Raises:
      ValueError: if the folder holds no such run or no whole checkpoint.
    """
    cfg = run_folders.settings(
        folder, "perturbation_sets.train", needed={"pairs", "model", "beta_at"}, build=_read
    )
    cfg = dataclasses.replace(cfg, data_dir=data_dir or cfg.data_dir)
    parts = splits(cfg)
    model = built(cfg, parts[0])
    params, state, step = run_folders.weights(folder, model.init)
    measured = pathlib.Path(folder) / "quality.json"
    radii = json.loads(measured.read_text())["encodings"] if measured.exists() else {}
    return Learned(cfg, model, params, state, step, radii, parts)


def _read(made: dict[str, Any]) -> Config:
    found: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in made.items()}
    return Config(**found)


def begun(cfg: Config, model: CVAE, state: training.TrainState, mesh: Mesh) -> training.TrainState:
    """Put the parameters of another run into a fresh state, if the config names one."""
    if cfg.begin is None:
        return state
    params, statistics, _ = run_folders.weights(cfg.begin, model.init)
    return state._replace(params=runtime.place(params, mesh), state=runtime.place(statistics, mesh))


def as_images(split: data.Split, rows: Any = slice(None)) -> jax.Array:
    """Turn some images of a split into float32 in [0, 1]."""
    return jnp.asarray(np.asarray(split.image[rows]), jnp.float32) / 255


def updates(cfg: Config, split: data.Split) -> tuple[int, float]:
    """Count the updates of a run, and those that stand for one epoch of its schedules."""
    epoch = cfg.share * max(1, len(split.label) // cfg.batch_size)
    return max(1, math.ceil(cfg.epochs * epoch - 1e-6)), epoch


def batches(split: data.Split, sharding: NamedSharding, *, size: int = 128) -> Iterator[tuple[Batch, Mask]]:
    """Cut a split into batches of about a size for evaluation, the same on every device."""
    devices = sharding.mesh.size
    size = min(size, len(split.label))
    return data.evaluation(split, batch_size=-(-size // devices) * devices, sharding=sharding)


def lengths(
    model: CVAE, pool: pairs.Pairs, valid: data.Split, trained: tuple[Any, Any], passes: int, sharding: NamedSharding
) -> np.ndarray:  # fmt: skip
    """Measure the lengths of the encodings of validation pairs, all images several times with other perturbations."""
    measure = evaluation.mapped(
        lambda keys, batch, params, state: encoder(model, params, state)(*pool(keys, batch.image)).norm
    )
    return np.concatenate(
        [measure(jax.random.key(i), batches(valid, sharding), *trained) for i in range(passes)]
    )
