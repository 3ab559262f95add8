"""Networks that others trained, measured like those of tradeoffs.compare."""

import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared import classifiers, network_source
from experiments.shared.fields import fraction
from experiments.tradeoffs.cells import unpacked
from experiments.tradeoffs.networks import ATTACKED, LEVELS
from robustjax import data, runtime
from robustjax.analysis import reliance
from robustjax.data import subsets
from robustjax.data.scenes import Scenes
from robustjax.runtime.snapshot import in_bytes
from robustjax.types import Model


class Subject(NamedTuple):
    """A classifier to be measured like our own; whatever brings networks has to make these.

    `sets` holds at least "original"; more variants, such as those of ImageNet-9, give more measures.
    """

    name: str
    norm: str  # of its training
    eps: float  # 0 for plain training
    model: Model
    params: Any
    state: Any
    sets: dict[str, list[Scenes]]


def of_runs(cfg: Any) -> Iterator[Subject]:
    """Open run folders of classification.train, with the test images of their own data set."""
    for folder in cfg.runs:
        it = classifiers.trained(folder, data_dir=cfg.data_dir)
        attack = it.config["attack"]
        eps = 0.0 if it.config["loss"] == "standard" else float(attack["eps"])
        sets = {"original": [scenes(subsets.first(it.test, cfg.test))]}
        yield Subject(folder, attack["norm"], eps, it.model, it.params, it.state, sets)


def of_checkpoints(cfg: Any) -> Iterator[Subject]:
    """Open PyTorch weights, with the test images of the data set named beside them."""
    for words in cfg.checkpoints:
        source, norm, eps = checkpoint(words)
        test = data.load(source.dataset or "", "test", data_dir=cfg.data_dir)
        found = network_source.imported(source, test)
        name = f"{pathlib.PurePath(source.checkpoint or '').stem} ({source.architecture})"
        sets = {"original": [scenes(subsets.first(test, cfg.test))]}
        yield Subject(name, norm, eps, found.model, found.params, found.state, sets)


def checkpoint(words: str) -> tuple[network_source.Source, str, float]:
    """Read file:architecture:dataset:normalisation:norm:eps: the source, and the threat of its training."""
    parts = words.rsplit(":", 5)
    file, architecture, dataset, constants, norm, eps = parts if len(parts) == 6 else [""] * 6
    try:
        radius = fraction([eps])
    except ValueError:
        radius = -1.0
    if not (radius >= 0 and norm in ("l2", "linf") and constants in network_source.CONSTANTS):
        raise ValueError(
            f"--checkpoints has {words!r}, must be file:architecture:dataset:normalisation:norm:eps, normalisation "
            f"of {', '.join(network_source.CONSTANTS)} and norm l2 or linf, as net.pt:resnet18:cifar10:none:linf:8/255"
        )
    source: Any = {
        "checkpoint": file,
        "architecture": architecture,
        "dataset": dataset,
        "normalisation": constants,
    }
    return network_source.Source(**source), norm, radius


def scenes(test: data.Split) -> Scenes:
    """See the images of a data set as scenes without known backgrounds."""
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


def measured(cfg: Any, folder: pathlib.Path) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Measure classifiers that others trained, unless the folder knows them: facts (name, norm, eps) and arrays."""
    judge = cfg.judge.worst_case(cfg.judge.eps)
    for subject in (*of_runs(cfg), *of_checkpoints(cfg)):
        words = [part for part in pathlib.PurePath(subject.name).parts if part.strip("./")]
        path = folder / "cells" / f"{'_'.join(words)}.npz"
        if not path.exists():
            runtime.say(f"measuring {subject.name}")
            measure = reliance.measurement(subject.model, judge, levels=LEVELS, attacked=ATTACKED)
            one = jax.tree.map(lambda a: jnp.asarray(a)[None], (subject.params, subject.state))
            found = measure(jax.random.key(1), *one, subject.sets)
            runtime.write_whole(path, in_bytes(found, compressed=True))
        yield {"name": subject.name, "norm": subject.norm, "eps": subject.eps}, unpacked(path)
