"""Networks of ood_detection: built from settings, and opened from run folders, a checkpoint or a function."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_detection.config import EvaluateConfig, TrainConfig, file_name
from experiments.shared import classifiers, network_source
from robustjax import data, runtime
from robustjax.catalog import models as model_names
from robustjax.catalog import ood_losses
from robustjax.data import subsets
from robustjax.data.sources import Split
from robustjax.losses import gaussian_mixture
from robustjax.losses.ccu import mixed
from robustjax.runtime.pytree_files import named
from robustjax.types import Model, Network

FITTED = 10_000  # images that a density is fitted to, at most


class Densities(NamedTuple):
    """What CCU knows of images: coordinates, and a mixture of Gaussians for ID and for OOD images."""

    axes: gaussian_mixture.Axes
    inside: gaussian_mixture.Mixture
    outside: gaussian_mixture.Mixture


def fitted(id_images: Split, ood_images: Split, *, seed: int, components: int = 100) -> Densities:
    """Fit CCU's densities to images in memory."""
    ours, theirs = (
        jnp.asarray(subsets.subset(s, FITTED).image, jnp.float32) / 255 for s in (id_images, ood_images)
    )
    axes = gaussian_mixture.principal(ours)
    first, second = jax.random.split(jax.random.key(seed))
    count = min(components, len(ours), len(theirs))
    return Densities(
        axes,
        gaussian_mixture.fitted(first, axes, ours, components=count),
        gaussian_mixture.fitted(second, axes, theirs, components=count),
    )


def kept_densities(run: runtime.Run, id_images: Split, ood_images: Split, *, seed: int) -> Densities:
    """Read the densities of a run folder; fit and keep them first if there are none."""

    def make() -> dict[str, np.ndarray]:
        densities = fitted(id_images, ood_images, seed=seed)
        return {name: np.asarray(leaf) for name, leaf in named(densities).items()}

    arrays = run.cached("densities", make)
    assert arrays is not None
    return _densities(arrays)


def _densities(arrays: dict[str, np.ndarray]) -> Densities:
    part = {name: jnp.asarray(value) for name, value in arrays.items()}
    inside, outside = (
        gaussian_mixture.Mixture(part[f"{side}.mean"], part[f"{side}.log_variance"])
        for side in ("inside", "outside")
    )
    axes = gaussian_mixture.Axes(part["axes.forward"], part["axes.log_volume"])
    return Densities(axes, inside, outside)


def model_of(cfg: TrainConfig, *, classes: int, shape: tuple[int, ...], densities: Densities | None) -> Model:
    """Build the model of a config, with the outputs and the densities that its method needs."""
    model = model_names.classifier(
        cfg.model,
        dataset=cfg.dataset,
        classes=ood_losses.outputs(cfg.loss, classes),
        shape=shape,
        dtype=cfg.dtype,
    )
    return mixed(model, *densities) if densities is not None else model


def trained(folder: str, test: Split) -> Network:
    """Open a run folder of ood_detection.train at its last checkpoint, the one to evaluate.

    Raises:
      ValueError: if the folder holds no such run, or no whole checkpoint.
    """
    opened = runtime.open_run(folder, made_by="ood_detection.train", needed=("loss", "ood_sets"))
    cfg, densities = opened.settings(TrainConfig), None
    if cfg.loss == "ccu":
        with np.load(opened.folder / "densities.npz") as file:
            densities = _densities(dict(file))
    shape = test.image.shape[1:]
    model = model_of(cfg, classes=len(test.info.classes), shape=shape, densities=densities)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    like: Any = {"ema": (params, state)} if cfg.ema else {"params": params, "state": state}
    tree, updates = opened.restore(like, best="valid_robust")
    params, state = tree["ema"] if cfg.ema else (tree["params"], tree["state"])
    about = {"run": folder, "model": cfg.model, "loss": cfg.loss, "checkpoint": updates, "method": cfg.loss}
    return Network(model, params, state, about, opened.folder.name)


class Evaluated(NamedTuple):
    """What ood_detection.evaluate evaluates.

    Attributes:
      networks: each with the method that trained it in `about`, and the name of its folder of scores as title.
      dataset: the ID data that they were trained on.
      test: its test images.
    """

    networks: list[Network]
    dataset: str
    test: Split


def evaluated(cfg: EvaluateConfig) -> Evaluated:
    """Open the networks to evaluate, which must share their ID data.

    Raises:
      ValueError: if one is not there, or is on other data.
    """
    if cfg.source.checkpoint or cfg.source.function:
        return _imported(cfg.source, cfg.images, cfg.seed)
    networks: list[Network] = []
    dataset, test = "", None
    for folder in cfg.runs or (cfg.source.run or "",):
        made = runtime.open_run(
            folder,
            made_by="ood_detection.train or classification.train",
            needed=("loss", "dataset", "data_dir"),
        ).config
        if test is not None and made["dataset"] != dataset:
            raise ValueError(f"--runs {folder} is on {made['dataset']}, must be on {dataset} as the others")
        if pathlib.Path(folder).name in [other.title for other in networks]:
            name = pathlib.Path(folder).name
            raise ValueError(f"--runs has two folders named {name}, must differ in their last part")
        if test is None:
            dataset = made["dataset"]
            whole = data.load(dataset, "test", data_dir=cfg.data_dir or made["data_dir"])
            test = subsets.subset(whole, cfg.images)
        networks.append(
            trained(folder, test) if "ood_sets" in made else _classifier(folder, data_dir=cfg.data_dir)
        )
    assert test is not None
    return Evaluated(networks, dataset, test)


def _classifier(folder: str, *, data_dir: str | None) -> Network:
    network, _ = classifiers.open_classifier(folder, data_dir=data_dir)
    about = network.about | {"method": "standard"}
    return network._replace(about=about, title=pathlib.Path(folder).name)


def _imported(source: network_source.Source, images: subsets.Wanted, seed: int) -> Evaluated:
    network, _, test, flags = network_source.open_network(source, images, seed)
    for flag in flags:
        if flag.raised:
            runtime.say(f"warning: {flag.name}: {flag.says}")
    title = pathlib.Path(source.checkpoint).stem if source.checkpoint else file_name(source.function or "")
    network = network._replace(about=network.about | {"method": "standard"}, title=title)
    return Evaluated([network], source.dataset_of(), test)
