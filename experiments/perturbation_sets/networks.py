"""Data, autoencoders and classifiers as configs name them, and out of run folders."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from experiments.perturbation_sets.config import TRAIN_PRESETS, TrainClassifierConfig, TrainConfig
from experiments.shared.planned import training_images
from robustjax import data, evaluation, runtime
from robustjax.catalog.learned_sets import AUTOENCODERS, PAIRS
from robustjax.catalog.models import classifier
from robustjax.catalog.names import named
from robustjax.data import lit_scenes, multi_illumination, subsets
from robustjax.data.augment import crop, flip
from robustjax.data.paired import paired
from robustjax.models import unet
from robustjax.models.cvae import CVAE
from robustjax.perturbations import pairs
from robustjax.perturbations.learned import encoder
from robustjax.types import Batch, Mask, Model, Network, Params, State

LARGEST = 3.1986  # the largest certificate, in deviations of the noise, of 10,000 samples at alpha = 0.001
PER_IMAGE = (
    "stability",
    "smoothadv",
    "macer",
    "consistency",
    "smoothmix",
)  # methods for one class per image, not per pixel
SEGMENTERS = {"unet": (64, 128, 256, 512, 512), "unet_small": (16, 32, 32)}  # widths

# --- data ---


def splits(cfg: TrainConfig) -> list[data.Split]:
    """Load training, validation and test images, or pairs side by side from a folder.

    Raises:
      ValueError: if the pairs do not fit the data set, or a folder holds too few.
    """
    parts = ("train", "validation", "test")
    scenes = cfg.folder is None and cfg.dataset.startswith(("lit_scenes", "multi_illumination/mip"))
    if scenes != (cfg.folder is None and cfg.pixelwise):
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
        train, valid, test = (data.load(cfg.dataset, part, data_dir=cfg.data_dir) for part in parts)
        if cfg.validation_images is not None:
            train, valid = _fewer_held_out(train, valid, cfg.validation_images)
        return [train, valid, test]
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


def _fewer_held_out(train: data.Split, valid: data.Split, count: int) -> tuple[data.Split, data.Split]:
    """Hold fewer images out; the others come after those that are trained on anyway."""
    if count > len(valid.label):
        raise ValueError(
            f"--validation-images is {count}, must be at most the {len(valid.label)} that {valid.info.name} holds out"
        )
    kept = subsets.subset(valid, count)
    rest = ~np.isin(valid.index, kept.index)
    joined = data.of_arrays(
        np.concatenate([train.image, valid.image[rest]]),
        np.concatenate([train.label, valid.label[rest]]),
        name=train.info.name,
        split="train",
        classes=train.info.classes,
    )
    return joined, kept


def as_images(split: data.Split, rows: Any = slice(None)) -> jax.Array:
    """Turn some images of a split into float32 in [0, 1]."""
    return jnp.asarray(np.asarray(split.image[rows]), jnp.float32) / 255


def batches(split: data.Split, sharding: NamedSharding, *, size: int = 128) -> Iterator[tuple[Batch, Mask]]:
    """Cut a split into evaluation batches of about a size, the same on every device."""
    devices = sharding.mesh.size
    size = min(size, len(split.label))
    return data.evaluation(split, batch_size=-(-size // devices) * devices, sharding=sharding)


class PairsOf(NamedTuple):
    """The pairs that a config names.

    Attributes:
      unlimited: with new perturbations each time.
      limited: with the perturbations that training may see: all, or --limit per image.
      augmented: what training sees, cropped and flipped.
    """

    unlimited: pairs.Pairs
    limited: pairs.Pairs
    augmented: pairs.Pairs


def pairs_of(cfg: TrainConfig) -> PairsOf:
    """Build the pairs that a config names."""
    unlimited = pairs.side_by_side() if cfg.folder else named(PAIRS, cfg.pairs, flag="--pairs")()
    limited = unlimited if cfg.limit is None else pairs.limited(unlimited, count=cfg.limit)
    augmented = limited if cfg.pad is None else pairs.jointly(limited, crop(cfg.pad), flip())
    return PairsOf(unlimited, limited, augmented)


# --- autoencoders ---


def autoencoder(cfg: TrainConfig, shape: tuple[int, ...]) -> CVAE:
    """Build the autoencoder for the pairs that a config makes of images of a shape (h, w, c)."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    one = jax.eval_shape(pairs_of(cfg).unlimited, jax.random.key(0), x)
    return named(AUTOENCODERS, cfg.model, flag="--model")(one.image.shape[1:])


class LearnedSet(NamedTuple):
    """A trained autoencoder out of a run folder.

    Attributes:
      config: of the run.
      model, params, state, step: the autoencoder after `step` updates.
      radii: statistics of the encodings' norms, such as their quartiles; empty if the run is not measured yet.
      splits: training, validation and test images.
    """

    config: TrainConfig
    model: CVAE
    params: Params
    state: State
    step: int
    radii: dict[str, float]
    splits: list[data.Split]

    @property
    def radius(self) -> float:
        """Give the radius of the set: the largest norm of an encoding of validation pairs."""
        if "largest" not in self.radii:
            raise ValueError(
                "the run of perturbation_sets.train has no quality.json yet; let it end, or give the radius"
            )
        return self.radii["largest"]


def open_set(folder: str, *, data_dir: str | None = None) -> LearnedSet:
    """Open a run folder of perturbation_sets.train at its newest checkpoint.

    Raises:
      ValueError: if the folder holds no such run or no whole checkpoint.
    """
    run = runtime.open_run(
        folder, made_by="perturbation_sets.train", needed=("pairs", "model", "beta_at", "limit")
    )
    cfg = run.settings(TrainConfig)
    cfg = dataclasses.replace(cfg, data_dir=data_dir or cfg.data_dir)
    parts = splits(cfg)
    model = autoencoder(cfg, parts[0].image.shape[1:])
    (params, state), step = restored(run, model)
    measured = run.folder / "quality.json"
    radii = json.loads(measured.read_text())["encodings"] if measured.exists() else {}
    return LearnedSet(cfg, model, params, state, step, radii, parts)


def settings_of_set(folder: str) -> TrainConfig:
    """Give the settings of the set that a folder runs/cvae_PRESET will hold.

    Raises:
      ValueError: if the folder is named otherwise.
    """
    preset = folder.rpartition("/")[2].removeprefix("cvae_")
    if preset not in TRAIN_PRESETS:
        raise ValueError(
            f"set is {folder!r}, must be cvae_PRESET of a preset of perturbation_sets.train to be planned: "
            f"{', '.join(TRAIN_PRESETS)}"
        )
    return TRAIN_PRESETS[preset]


def set_of_shapes(folder: str, shape: tuple[int, ...], classes: int) -> LearnedSet:
    """Describe the set of a folder runs/cvae_PRESET by shapes alone, where neither data nor weights need be there.

    Args:
      folder: its name.
      shape: of the images in the files, one picture of a scene.
      classes: of the images.
    """
    cfg = settings_of_set(folder)
    stacked = stacked_shape(cfg, shape)
    one = data.of_arrays(
        np.zeros((1, *stacked), np.uint8),
        np.zeros(1, int),
        name=cfg.dataset,
        classes=[str(i) for i in range(classes)],
    )
    model = autoencoder(cfg, stacked)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    return LearnedSet(cfg, model, params, state, 0, {}, [one, one, one])


def stacked_shape(cfg: TrainConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Say the shape of an example: of scenes all pictures, one below the other."""
    return (multi_illumination.LIGHTS * shape[0], *shape[1:]) if cfg.pixelwise else shape


def examples_of(cfg: TrainConfig) -> int:
    """Say how many examples are trained on.

    Raises:
      ValueError: if it is not known.
    """
    if cfg.dataset.startswith("multi_illumination/"):
        return multi_illumination.TRAINING_SCENES
    return training_images(cfg.dataset, cfg.validation_images)


def restored(run: runtime.OpenedRun, model: CVAE | Model) -> tuple[tuple[Params, State], int]:
    """Read parameters and state of a network from the newest checkpoint of a run, and the updates done."""
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    tree, step = run.restore({"params": params, "state": state})
    return (tree["params"], tree["state"]), step


def encoding_norms(
    model: CVAE,
    made: pairs.Pairs,
    valid: data.Split,
    trained: tuple[Params, State],
    sharding: NamedSharding,
    *,
    samples: int,
) -> np.ndarray:
    """Measure the norms of the encodings of pairs made of validation images, several of each image."""
    measure = evaluation.mapped(
        lambda keys, batch, params, state: encoder(model, params, state)(*made(keys, batch.image)).norm
    )
    return np.concatenate(
        [measure(jax.random.key(i), batches(valid, sharding), *trained) for i in range(samples)]
    )


# --- classifiers and segmenters ---


def classifier_for(cfg: TrainClassifierConfig, learned_set: LearnedSet) -> Model:
    """Build the classifier or segmenter for the images of a set.

    Raises:
      ValueError: if the model or the method does not fit the images of the set.
    """
    made, shape = learned_set.config, learned_set.model.shape
    classes = len(learned_set.splits[0].info.classes)
    if made.pixelwise != (cfg.model in SEGMENTERS):
        raise ValueError(
            f"--model is {cfg.model!r}, must be {' or '.join(SEGMENTERS)} for scenes, and only for them"
        )
    if made.pixelwise and cfg.method in PER_IMAGE:
        raise ValueError(f"--method {cfg.method} is for classifiers, must be another one for scenes")
    if made.pixelwise:
        return unet.segmenter(classes=classes, shape=shape, widths=SEGMENTERS[cfg.model])
    if made.folder:
        raise ValueError(f"--set {cfg.set} was learned from a folder, whose images have no classes")
    return classifier(cfg.model, dataset=made.dataset, classes=classes, shape=shape)


def radius_of(cfg: TrainClassifierConfig, learned_set: LearnedSet) -> float:
    """Say which ball is meant: of the radius in the config, or of the set's own."""
    return learned_set.radius if cfg.radius is None else cfg.radius


def sigma_of(cfg: TrainClassifierConfig, radius: float) -> float:
    """Choose the noise: as in the config, or so that the largest certificate of 10,000 samples is the radius."""
    return cfg.sigma or radius / LARGEST


class TrainedClassifier(NamedTuple):
    """A network out of a run folder of perturbation_sets.train_classifier, and the set it was trained on."""

    config: TrainClassifierConfig
    learned_set: LearnedSet
    network: Network


def open_classifier(folder: str, *, data_dir: str | None = None) -> TrainedClassifier:
    """Open a run folder of perturbation_sets.train_classifier at its newest checkpoint.

    Raises:
      ValueError: if the folder holds no such run or no whole checkpoint.
    """
    run = runtime.open_run(
        folder, made_by="perturbation_sets.train_classifier", needed=("set", "method", "attack_steps")
    )
    cfg = run.settings(TrainClassifierConfig)
    learned_set = open_set(cfg.set, data_dir=data_dir or cfg.data_dir)
    model = classifier_for(cfg, learned_set)
    (params, state), step = restored(run, model)
    about = {"run": folder, "set": cfg.set, "model": cfg.model, "method": cfg.method, "updates": step}
    network = Network(model, params, state, about, f"{cfg.model} trained by {cfg.method} on {cfg.set}")
    return TrainedClassifier(cfg, learned_set, network)
