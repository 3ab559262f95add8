"""Measure networks out of run folders and checkpoints as tradeoffs.compare measures its own."""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared import classifiers, network_source
from experiments.tradeoffs.config import CompareConfig, TrainingNorm, checkpoint
from experiments.tradeoffs.trainer import ATTACKED, NOISE_LEVELS
from robustjax import data, runtime
from robustjax.analysis import reliance
from robustjax.data import subsets
from robustjax.data.scenes import Scenes
from robustjax.types import Network


class Pretrained(NamedTuple):
    """A trained classifier, the threat of its training, and test images.

    `sets` holds at least "original"; more variants, such as those of ImageNet-9, give more measures.
    """

    network: Network
    norm: TrainingNorm
    eps: float  # 0 for training on clean images
    sets: dict[str, list[Scenes]]
    images: str  # which they are, for the report


class Measured(NamedTuple):
    """What was measured of a trained classifier, per test image."""

    name: str
    norm: TrainingNorm
    eps: float
    arrays: dict[str, np.ndarray]
    images: str


def from_runs(cfg: CompareConfig) -> Iterator[Pretrained]:
    """Open run folders of classification.train, with the test images of their own data set."""
    for folder in cfg.runs:
        network, test = classifiers.open_classifier(folder, data_dir=cfg.data_dir)
        attack = network.about["attack"]
        eps = 0.0 if network.about["loss"] == "standard" else float(attack["eps"])
        yield Pretrained(network._replace(title=folder), attack["norm"], eps, *shown(cfg, test))


def from_checkpoints(cfg: CompareConfig) -> Iterator[Pretrained]:
    """Open PyTorch weights, with the test images of the data set named beside them."""
    for words in cfg.checkpoints:
        source, norm, eps = checkpoint(words)
        test = data.load(source.dataset or "", "test", data_dir=cfg.data_dir)
        name = f"{pathlib.PurePath(source.checkpoint or '').stem} ({source.architecture})"
        network, flag = network_source.open_checkpoint(source, test)
        if flag is not None and flag.raised:
            runtime.say(f"{name}: {flag.name}: {flag.says}")
        yield Pretrained(network._replace(title=name), norm, eps, *shown(cfg, test))


def shown(cfg: CompareConfig, test: data.Split) -> tuple[dict[str, list[Scenes]], str]:
    """Take the test images that are measured; say which they are."""
    some = subsets.subset(test, cfg.test)
    return {"original": [scenes(some)]}, subsets.in_words(some.info)


def scenes(test: data.Split) -> Scenes:
    """Take the images of a data set as scenes without known backgrounds."""
    image = np.asarray(test.image)
    # Ink on black paper is its own mask; of other images the object is unknown.
    paper = image.shape[-1] == 1 and np.median(image) < 64
    return Scenes(
        name=test.info.name,
        label=test.label.astype(np.int32),
        place=np.full(len(test.label), -1, np.int32),
        classes=test.info.classes,
        places=(),
        image=lambda rows: image[rows],
        mask=(lambda rows: image[rows][..., 0] > 64) if paper else None,
        index=test.index,
    )


def measured(cfg: CompareConfig, run: runtime.Run) -> Iterator[Measured]:
    """Measure trained classifiers, each unless the run folder holds its measurements."""
    attack = cfg.evaluation.worst_case(cfg.evaluation.eps)
    for network, norm, eps, sets, images in (*from_runs(cfg), *from_checkpoints(cfg)):

        def measure(network=network, sets=sets) -> dict[str, np.ndarray]:
            runtime.say(f"measuring {network.title}")
            measured = reliance.measurement(network.model, attack, levels=NOISE_LEVELS, attacked=ATTACKED)
            one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (network.params, network.state))
            return measured(jax.random.key(1), *one, sets)

        words = [part for part in pathlib.PurePath(network.title).parts if part.strip("./")]
        arrays = run.cached(f"settings/{'_'.join(words)}", measure)
        assert arrays is not None
        yield Measured(network.title, norm, eps, arrays, images)
